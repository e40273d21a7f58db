//! The head of a GGUF file: what it says of its model, and which tensors it lists. Here, because a coordinator wants
//! a model's layers and width without loading it; values that are no numbers or texts are passed over.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use thiserror::Error;

/// What begins every GGUF file.
const MAGIC: &[u8; 4] = b"GGUF";
/// Versions whose lengths are 64-bit and whose numbers are little-endian.
const VERSIONS: [u32; 2] = [2, 3];
/// Dimensions of a tensor at most.
const DIMENSIONS: u32 = 4;

/// Why a file is no GGUF file that can be read.
#[derive(Debug, Error)]
pub enum HeadError {
    /// Another kind of file.
    #[error("it is no GGUF file: it does not begin with \"GGUF\"")]
    Magic,
    /// A version with another layout.
    #[error("GGUF version {0} is not supported; supported are: 2, 3")]
    Version(u32),
    /// It ends too early, or lengths in it are wrong.
    #[error("it ends within its head; is it complete?")]
    Short,
    /// A value that the format does not have.
    #[error("its head is damaged: {0}")]
    Damaged(String),
    /// It cannot be read.
    #[error("{0}")]
    Io(io::Error),
}

/// A tensor as the head lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// How its numbers are stored, by GGML's numbers of types.
    pub kind: u32,
}

/// What the head says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    texts: BTreeMap<String, String>,
    numbers: BTreeMap<String, u64>,
    /// The tensors in the file's order.
    pub tensors: Vec<Listed>,
}

impl Head {
    /// Reads the head of a file.
    ///
    /// # Errors
    /// See [`HeadError`].
    pub fn read(path: &Path) -> Result<Self, HeadError> {
        let file = File::open(path).map_err(HeadError::Io)?;
        let left = file.metadata().map_err(HeadError::Io)?.len();
        let mut reader = Reader { inner: BufReader::new(file), left };
        let mut magic = [0; 4];
        // a file shorter than that is none of ours either
        reader.fill(&mut magic).map_err(|error| if left < 4 { HeadError::Magic } else { error })?;
        if &magic != MAGIC {
            return Err(HeadError::Magic);
        }
        let version = reader.u32()?;
        if !VERSIONS.contains(&version) {
            return Err(HeadError::Version(version));
        }
        let (tensors, pairs) = (reader.u64()?, reader.u64()?);
        let mut head = Self::default();
        for _ in 0..pairs {
            let (key, kind) = (reader.text()?, reader.u32()?);
            match kind {
                STRING => drop(head.texts.insert(key, reader.text()?)),
                ARRAY => reader.pass_array()?,
                _ => drop(head.numbers.insert(key, reader.number(kind)?)),
            }
        }
        for _ in 0..tensors {
            head.tensors.push(reader.tensor()?);
        }
        if head.number("general.alignment") == Some(0) {
            return Err(HeadError::Damaged("general.alignment is 0".to_owned()));
        }
        Ok(head)
    }

    /// A text of the head.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.texts.get(key).map(String::as_str)
    }

    /// A whole number of the head.
    pub fn number(&self, key: &str) -> Option<u64> {
        self.numbers.get(key).copied()
    }

    /// The model's layers and width.
    pub fn shape(&self) -> Option<(u32, u32)> {
        let of = |key: &str| {
            let architecture = self.text("general.architecture")?;
            self.number(&format!("{architecture}.{key}"))?.try_into().ok()
        };
        Some((of("block_count")?, of("embedding_length")?))
    }
}

const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// Bytes of a number of that type, where it is one.
fn size(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

fn unknown(kind: u32) -> HeadError {
    HeadError::Damaged(format!("a value of type {kind}"))
}

struct Reader {
    inner: BufReader<File>,
    /// Bytes up to the file's end: no length in it is believed beyond that.
    left: u64,
}

impl Reader {
    /// Counts `bytes` as read.
    fn take(&mut self, bytes: u64) -> Result<(), HeadError> {
        self.left = self.left.checked_sub(bytes).ok_or(HeadError::Short)?;
        Ok(())
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), HeadError> {
        self.take(buffer.len() as u64)?;
        self.inner.read_exact(buffer).map_err(HeadError::Io)
    }

    fn pass(&mut self, bytes: u64) -> Result<(), HeadError> {
        self.take(bytes)?;
        let mut left = bytes;
        while left > 0 {
            let there = self.inner.fill_buf().map_err(HeadError::Io)?.len() as u64;
            if there == 0 {
                return Err(HeadError::Short);
            }
            let passed = there.min(left);
            self.inner.consume(passed as usize);
            left -= passed;
        }
        Ok(())
    }

    fn u32(&mut self) -> Result<u32, HeadError> {
        let mut bytes = [0; 4];
        self.fill(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn u64(&mut self) -> Result<u64, HeadError> {
        let mut bytes = [0; 8];
        self.fill(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn text(&mut self) -> Result<String, HeadError> {
        let length = self.u64()?;
        if length > self.left {
            return Err(HeadError::Short);
        }
        let mut bytes = vec![0; length as usize];
        self.fill(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// A number's bytes as a whole number; nobody asks for those of a broken one.
    fn number(&mut self, kind: u32) -> Result<u64, HeadError> {
        let mut bytes = [0; 8];
        let size = size(kind).ok_or_else(|| unknown(kind))? as usize;
        self.fill(bytes.get_mut(..size).unwrap_or_default())?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn pass_array(&mut self) -> Result<(), HeadError> {
        let (kind, count) = (self.u32()?, self.u64()?);
        if kind == STRING {
            return (0..count).try_for_each(|_| {
                let length = self.u64()?;
                self.pass(length)
            });
        }
        let bytes = count.checked_mul(size(kind).ok_or_else(|| unknown(kind))?);
        self.pass(bytes.ok_or(HeadError::Short)?)
    }

    fn tensor(&mut self) -> Result<Listed, HeadError> {
        let (name, dimensions) = (self.text()?, self.u32()?);
        if dimensions > DIMENSIONS {
            return Err(HeadError::Damaged(format!("tensor `{name}` has {dimensions} dimensions")));
        }
        self.pass(8 * u64::from(dimensions))?;
        let kind = self.u32()?;
        self.pass(8)?; // where its numbers begin
        Ok(Listed { name, kind })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with one text, one number, an array of each kind and one tensor.
    fn file() -> Vec<u8> {
        let text = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
        let number = |number: u32| number.to_le_bytes().to_vec();
        let long = |number: u64| number.to_le_bytes().to_vec();
        [
            [b"GGUF".to_vec(), number(3), long(1), long(5)].concat(),
            [text("general.architecture"), number(STRING), text("llama")].concat(),
            [text("llama.block_count"), number(4), number(7)].concat(),
            [text("llama.embedding_length"), number(4), number(40)].concat(),
            [text("texts"), number(ARRAY), number(STRING), long(2), text("a"), text("bc")].concat(),
            [text("numbers"), number(ARRAY), number(4), long(2), number(1), number(2)].concat(),
            [text("weights"), number(2), long(4), long(3), number(12), long(0)].concat(),
        ]
        .concat()
    }

    fn read(bytes: &[u8]) -> Result<Head, HeadError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        Head::read(file.path())
    }

    #[test]
    fn reads_shape_and_tensors() {
        let head = read(&file()).unwrap();
        assert_eq!(head.shape(), Some((7, 40)));
        assert_eq!(head.tensors, [Listed { name: "weights".to_owned(), kind: 12 }]);
    }

    #[test]
    fn a_file_cut_anywhere_is_refused() {
        let whole = file();
        for length in 0..whole.len() {
            let error = read(&whole[..length]).unwrap_err();
            assert!(matches!(error, HeadError::Short | HeadError::Magic), "{length}: {error}");
        }
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        assert!(matches!(read(b"{\"model_type\": 1}"), Err(HeadError::Magic)));
        let mut other = file();
        other[4] = 1;
        assert!(matches!(read(&other), Err(HeadError::Version(1))));
        let mut endless = file();
        endless[24..32].copy_from_slice(&u64::MAX.to_le_bytes()); // the first key's length
        assert!(matches!(read(&endless), Err(HeadError::Short)));
    }
}
