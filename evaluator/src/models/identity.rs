//! Whose weights these are: the fingerprint by which two machines know that they run the same model.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use thiserror::Error;

use super::locate::{CONFIG, Located, POOLING, TOKENIZER};
use crate::backbone::Pooling;

/// Bytes read at a time.
const CHUNK: usize = 1 << 20;

/// A model's name and the sha256 of its files, in hexadecimal. Two evaluators run the same model if the three
/// hashes agree; the name is for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The hub id, or the folder's name.
    pub name: String,
    /// The commit, if it came from the hub.
    pub revision: Option<String>,
    /// Of the weights; of shards, of their bytes one after the other in the order of their names.
    pub weights_sha256: String,
    /// Of `config.json`, and of what says that rows are pooled otherwise than by their mean.
    pub config_sha256: String,
    /// Of `tokenizer.json`.
    pub tokenizer_sha256: String,
}

/// A model's file could not be read.
#[derive(Debug, Error)]
#[error("cannot read {path}: {source}")]
pub struct IdentifyError {
    /// The file.
    pub path: PathBuf,
    /// What happened.
    pub source: std::io::Error,
}

/// Reads all of the model's files once.
///
/// # Errors
/// A file that cannot be read.
pub fn identify(model: &Located, pooling: Pooling) -> Result<Identity, IdentifyError> {
    let of = |files: &[&str]| sha256(&files.iter().map(|file| model.folder.join(file)).collect::<Vec<_>>());
    Ok(Identity {
        name: model.name.clone(),
        revision: model.revision.clone(),
        weights_sha256: sha256(&model.weights)?,
        config_sha256: match pooling {
            Pooling::Mean => of(&[CONFIG])?, // with or without a file that says so
            Pooling::First | Pooling::Last => of(&[CONFIG, POOLING])?,
        },
        tokenizer_sha256: of(&[TOKENIZER])?,
    })
}

/// The sha256 of the files' bytes, one after the other.
fn sha256(paths: &[PathBuf]) -> Result<String, IdentifyError> {
    let mut hash = Sha256::new();
    for path in paths {
        feed(&mut hash, path).map_err(|source| IdentifyError { path: path.clone(), source })?;
    }
    Ok(hash.finalize().iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

fn feed(hash: &mut Sha256, path: &Path) -> std::io::Result<()> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; CHUNK];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(()),
            read => hash.update(buffer.get(..read).unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_sha256sum_and_shards_are_one_stream() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            std::fs::write(folder.path().join(name), text).unwrap();
            folder.path().join(name)
        };
        file(CONFIG, "");
        file(TOKENIZER, "abc");
        let weights = vec![file("1", "a"), file("2", "bc")];
        let folder_path = folder.path().to_owned();
        let model = Located { name: "m".to_owned(), revision: None, folder: folder_path, weights };
        let identity = identify(&model, Pooling::Mean).unwrap();
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!((identity.config_sha256.as_str(), identity.tokenizer_sha256.as_str()), (empty, abc));
        assert_eq!(identity.weights_sha256, abc);
        std::fs::remove_file(&model.weights[1]).unwrap();
        assert!(
            identify(&model, Pooling::Mean)
                .unwrap_err()
                .to_string()
                .contains(model.weights[1].to_str().unwrap())
        );
    }
}
