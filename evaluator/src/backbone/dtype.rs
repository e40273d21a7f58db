//! What the blocks' linear layers are computed in, and whether this processor can.

pub use shared::spec::Dtype;

use super::ModelError;
use crate::kernel::{Instructions, instructions};

/// Refuses a type that this processor has no instructions for.
///
/// # Errors
/// [`ModelError::Processor`].
pub(super) fn runs_here(dtype: Dtype) -> Result<(), ModelError> {
    runs_on(&instructions(), dtype)
}

fn runs_on(processor: &Instructions, dtype: Dtype) -> Result<(), ModelError> {
    let (has, lacks) = match dtype {
        Dtype::F32 => (true, ""), // any processor does
        Dtype::F16 => (false, "products of 16-bit floats"),
        Dtype::Bf16 => (processor.bf16, "AVX512-BF16 (avx512_bf16)"),
        Dtype::Int8 => (processor.int8, "AVX512-VNNI (avx512_vnni)"),
    };
    if has { Ok(()) } else { Err(ModelError::Processor { dtype, lacks }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_without_the_instructions_is_told_what_it_lacks_and_what_to_use() {
        let old = Instructions { bf16: false, int8: false };
        assert!(runs_on(&old, Dtype::F32).is_ok());
        for (dtype, lacks) in [(Dtype::Bf16, "avx512_bf16"), (Dtype::Int8, "avx512_vnni")] {
            let text = runs_on(&old, dtype).unwrap_err().to_string();
            assert!(text.contains(lacks) && text.ends_with("use model.dtype = \"f32\""), "{text}");
            assert!(runs_on(&Instructions { bf16: true, int8: true }, dtype).is_ok());
        }
        let ice_lake = Instructions { bf16: false, int8: true };
        assert!(runs_on(&ice_lake, Dtype::Int8).is_ok());
        assert!(runs_on(&ice_lake, Dtype::Bf16).is_err());
    }
}
