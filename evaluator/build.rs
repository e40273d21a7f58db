//! Compiles the CUDA kernels to PTX where the feature asks for them; else there is nothing to do.
#![cfg_attr(feature = "cuda", allow(clippy::expect_used))] // a build that cannot go on says why

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "cuda")]
    cuda::kernels();
}

#[cfg(feature = "cuda")]
mod cuda {
    use std::env;
    use std::path::PathBuf;

    /// By `nvcc`, for the GPU that candle's kernels are compiled for.
    pub(super) fn kernels() {
        println!("cargo::rerun-if-changed=src/device/cuda/kernels.cu");
        let folder = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
        cudaforge::KernelBuilder::new()
            .source_files(["src/device/cuda/kernels.cu"])
            .arg("-std=c++17")
            .arg("-O3")
            .build_ptx()
            .and_then(|ptx| ptx.write(folder.join("ptx.rs")))
            .expect("src/device/cuda/kernels.cu compiles with nvcc");
    }
}
