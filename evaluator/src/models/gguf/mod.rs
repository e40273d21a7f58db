//! A GGUF file: configuration, weights and tokenizer of a model in one. Weights stay in the file, quantised.

mod config;
mod tokenizer;

use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::quantized::gguf_file::{Content, Value};
use shared::gguf::{Head, HeadError, Listed};
use thiserror::Error;

use super::map::Map;
use super::stored::{Place, Stored};
use config::Family;

/// GGML's types that are read, by its numbers. The rest of what it has are no weights, or newer.
const KINDS: &[(u32, &str)] = &[
    (0, "F32"),
    (1, "F16"),
    (30, "BF16"),
    (8, "Q8_0"),
    (7, "Q5_1"),
    (6, "Q5_0"),
    (3, "Q4_1"),
    (2, "Q4_0"),
    (14, "Q6_K"),
    (13, "Q5_K"),
    (12, "Q4_K"),
    (11, "Q3_K"),
    (10, "Q2_K"),
];

/// Those that are not, for their names.
const OTHER_KINDS: &[(u32, &str)] = &[
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
];

/// Where a tensor begins must be a multiple of this: the widest number that a block holds.
const ALIGNMENT: u64 = 4;

/// Why a GGUF file cannot be used. Each line names the file.
#[derive(Debug, Error)]
pub enum GgufError {
    /// Its head.
    #[error("{}: {source}", path.display())]
    Head {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: HeadError,
    },
    /// A model of a kind we have no page for.
    #[error("{}: general.architecture \"{found}\" is not supported; supported are: {}", path.display(), config::supported())]
    Architecture {
        /// The file.
        path: PathBuf,
        /// What it names.
        found: String,
    },
    /// A quantisation that is not read.
    #[error("{}: tensor `{tensor}` is of type {kind}; supported are: {}", path.display(), kinds())]
    Kind {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its type.
        kind: String,
    },
    /// A tensor that does not lie in the file.
    #[error("{}: tensor `{tensor}` ends at byte {end}, but the file has {length}; is it complete?", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Where it would end.
        end: u64,
        /// The file's length.
        length: u64,
    },
    /// No such tensor.
    #[error("{}: tensor `{tensor}` is missing", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// A tensor whose shape contradicts the file's own numbers.
    #[error("{}: tensor `{tensor}` has shape {found:?}, the file's keys ask for {expected:?}", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// As listed.
        found: Vec<usize>,
        /// By the keys.
        expected: Vec<usize>,
    },
    /// Anything else that the file says, or does not say.
    #[error("{}: {problem}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

fn kinds() -> String {
    KINDS.iter().map(|(_, name)| *name).collect::<Vec<_>>().join(", ")
}

/// A GGUF file, checked as a whole: every tensor is of a kind that is read, belongs to its architecture, and lies in
/// the file.
#[derive(Debug)]
pub struct Gguf {
    path: PathBuf,
    family: &'static Family,
    content: Content,
    map: Arc<Map>,
}

impl Gguf {
    /// Reads a file's head and maps the rest.
    ///
    /// # Errors
    /// See [`GgufError`].
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        let damaged =
            |problem: String| GgufError::Content { path: path.to_owned(), problem: one_line(&problem) };
        let head = Head::read(path).map_err(|source| GgufError::Head { path: path.to_owned(), source })?;
        let found = head.text("general.architecture").unwrap_or_default();
        let family = Family::of(found)
            .ok_or_else(|| GgufError::Architecture { path: path.to_owned(), found: found.to_owned() })?;
        head.tensors.iter().try_for_each(|listed| check_kind(path, listed))?;
        let map = Map::open(path).map_err(|error| damaged(error.to_string()))?;
        let content = Content::read(&mut Cursor::new(map.bytes())).map_err(|e| damaged(e.to_string()))?;
        let gguf = Self { path: path.to_owned(), family, content, map: Arc::new(map) };
        for listed in &head.tensors {
            gguf.place(&listed.name)?;
            if !gguf.belongs(&listed.name) {
                return Err(gguf.wrong(format!(
                    "tensor `{}` is none of architecture \"{}\" as it is supported",
                    listed.name, family.architecture
                )));
            }
        }
        Ok(gguf)
    }

    /// How each tensor is stored, and how many numbers it has.
    pub(super) fn kinds(&self) -> impl Iterator<Item = (String, u64)> {
        self.content
            .tensor_infos
            .values() // summed up: their order does not matter
            .map(|info| (format!("{:?}", info.ggml_dtype).to_lowercase(), info.shape.elem_count() as u64))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn wrong(&self, problem: String) -> GgufError {
        GgufError::Content { path: self.path.clone(), problem }
    }

    fn value(&self, key: &str) -> Option<&Value> {
        self.content.metadata.get(key)
    }

    /// A tensor's shape and place, once it is sure that it lies in the file and its rows are whole blocks.
    fn place(&self, tensor: &str) -> Result<(Vec<usize>, Place), GgufError> {
        let missing = || GgufError::Missing { path: self.path.clone(), tensor: tensor.to_owned() };
        let info = self.content.tensor_infos.get(tensor).ok_or_else(missing)?;
        let (shape, kind) = (info.shape.dims().to_vec(), info.ggml_dtype);
        let width = shape.last().copied().unwrap_or(0);
        if width == 0 || !width.is_multiple_of(kind.block_size()) {
            let text = format!(
                "tensor `{tensor}` has rows of {width} numbers, no multiple of {}",
                kind.block_size()
            );
            return Err(self.wrong(text));
        }
        let start = self.content.tensor_data_offset.saturating_add(info.offset);
        if !start.is_multiple_of(ALIGNMENT) {
            return Err(
                self.wrong(format!("tensor `{tensor}` begins at byte {start}, no multiple of {ALIGNMENT}"))
            );
        }
        let count = shape.iter().try_fold(1_u64, |count, &size| count.checked_mul(size as u64));
        let bytes =
            count.and_then(|count| (count / kind.block_size() as u64).checked_mul(kind.type_size() as u64));
        let (end, length) = (start.saturating_add(bytes.unwrap_or(u64::MAX)), self.map.bytes().len() as u64);
        if end > length {
            return Err(GgufError::Truncated {
                path: self.path.clone(),
                tensor: tensor.to_owned(),
                end,
                length,
            });
        }
        let rows = shape.iter().rev().skip(1).product();
        Ok((shape, Place { start: start as usize, kind, rows, width, interleaved: None }))
    }

    /// The tensor that Hugging Face's checkpoints call `name`, of the shape expected.
    fn expect(&self, name: &str, expected: &[usize]) -> Result<Place, GgufError> {
        let tensor = self.family.tensor(name).unwrap_or_else(|| name.to_owned());
        let (found, place) = self.place(&tensor)?;
        if found != expected {
            let (path, expected) = (self.path.clone(), expected.to_vec());
            return Err(GgufError::Shape { path, tensor, found, expected });
        }
        let rows = expected.first().copied().unwrap_or(0);
        let interleaved = match self.family.interleaved(&tensor) {
            Some(key) => {
                // a file that names no key heads has as many as query heads
                let heads = self.number(key)?.or(self.number("attention.head_count")?).unwrap_or(1).max(1);
                Some(rows / heads).filter(|head| *head > 0 && head.is_multiple_of(2))
            }
            None => None,
        };
        Ok(Place { interleaved, ..place })
    }

    /// Whether there is the tensor that Hugging Face's checkpoints call `name`.
    pub(super) fn contains(&self, name: &str) -> bool {
        self.family.tensor(name).is_some_and(|tensor| self.content.tensor_infos.contains_key(&tensor))
    }

    /// Matrices of one shape, one below the other.
    pub(super) fn stored(&self, names: &[String], shape: [usize; 2]) -> Result<Stored, GgufError> {
        let parts = names.iter().map(|name| self.expect(name, &shape)).collect::<Result<_, _>>()?;
        Ok(Stored::new(Arc::clone(&self.map), parts))
    }

    /// A tensor's values, row-major.
    pub(super) fn values(&self, name: &str, expected: &[usize]) -> Result<Vec<f32>, GgufError> {
        let mut place = self.expect(name, expected)?;
        if expected.len() == 1 {
            // a vector is stored as a row, but each of its numbers belongs to an output; no block spans them
            if place.interleaved.is_some() && place.kind.block_size() != 1 {
                return Err(self.wrong(format!("tensor `{name}` is quantised; a vector of f32 is expected")));
            }
            (place.rows, place.width) = match place.interleaved {
                Some(_) => (place.width, 1),
                None => (1, place.width),
            };
        }
        Ok(Stored::new(Arc::clone(&self.map), vec![place]).values())
    }
}

fn check_kind(path: &Path, listed: &Listed) -> Result<(), GgufError> {
    if KINDS.iter().any(|(kind, _)| *kind == listed.kind) {
        return Ok(());
    }
    let name = OTHER_KINDS.iter().find(|(kind, _)| *kind == listed.kind).map(|(_, name)| (*name).to_owned());
    let kind = name.unwrap_or_else(|| listed.kind.to_string());
    Err(GgufError::Kind { path: path.to_owned(), tensor: listed.name.clone(), kind })
}

fn one_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}
