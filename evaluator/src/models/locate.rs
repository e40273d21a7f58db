//! Finds a model: a folder, a GGUF file, or an id of the hub.

use std::path::{Path, PathBuf};

pub use shared::model::{
    CONFIG, FilesError, INDEX, Located, POOLING, TOKENIZER, WEIGHTS, in_folder, in_gguf, is_gguf,
};
use thiserror::Error;

use super::hub::{Hub, HubError};

/// Why there is no model to be had.
#[derive(Debug, Error)]
pub enum LocateError {
    /// A folder that is no model.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// A file where a folder is expected.
    #[error(
        "{path} is a file; a model is a folder with {CONFIG}, {TOKENIZER} and {WEIGHTS}, or a .gguf file"
    )]
    NotAFolder {
        /// The file.
        path: PathBuf,
    },
    /// Neither a folder nor something the hub could know.
    #[error("model \"{asked}\": no folder {path}, and not a hub id (written ORGANISATION/NAME)")]
    Nowhere {
        /// What the run file says.
        asked: String,
        /// Where that would lie.
        path: PathBuf,
    },
    /// A revision is a word of the hub.
    #[error("model {path}: revision \"{revision}\" is for hub ids; take it out")]
    RevisionOfFolder {
        /// The folder or file.
        path: PathBuf,
        /// The revision given.
        revision: String,
    },
    /// Plausible as a hub id, but it did not come.
    #[error("model \"{asked}\": no folder {path}, and as a hub id: {source}")]
    Hub {
        /// What the run file says.
        asked: String,
        /// Where a folder of that name would lie.
        path: PathBuf,
        /// What the hub or its cache said.
        source: HubError,
    },
}

/// Finds the model that a run file names; relative paths are relative to `base_dir`, the run file's folder.
///
/// A hub id is taken from the hub's cache if it is complete there, and fetched into it otherwise (see
/// [`Hub::from_env`]).
///
/// # Errors
/// See [`LocateError`]; each names what was looked for and where.
pub fn locate(path_or_id: &str, base_dir: &Path, revision: Option<&str>) -> Result<Located, LocateError> {
    locate_with(path_or_id, base_dir, revision, Hub::from_env)
}

/// [`locate`] without the network: a folder, or what the hub's cache holds complete.
///
/// # Errors
/// As [`locate`].
pub fn locate_here(
    path_or_id: &str,
    base_dir: &Path,
    revision: Option<&str>,
) -> Result<Located, LocateError> {
    locate_with(path_or_id, base_dir, revision, || Ok(Hub::from_env()?.offline()))
}

/// [`locate`] with a hub of the caller's; it is only asked for when the path is no folder.
///
/// # Errors
/// As [`locate`].
pub fn locate_with(
    path_or_id: &str,
    base_dir: &Path,
    revision: Option<&str>,
    hub: impl FnOnce() -> Result<Hub, HubError>,
) -> Result<Located, LocateError> {
    let path = base_dir.join(path_or_id);
    let gguf = is_gguf(&path);
    if gguf || path.is_dir() {
        return match revision {
            Some(revision) => Err(LocateError::RevisionOfFolder { path, revision: revision.to_owned() }),
            None if gguf => Ok(in_gguf(&path)?),
            None => Ok(in_folder(&path)?),
        };
    }
    if path.exists() {
        return Err(LocateError::NotAFolder { path });
    }
    let asked = path_or_id.to_owned();
    if !is_hub_id(path_or_id) {
        return Err(LocateError::Nowhere { asked, path });
    }
    let found = hub().and_then(|hub| hub.snapshot(path_or_id, revision.unwrap_or("main")));
    let folder = found.map_err(|source| LocateError::Hub { asked: asked.clone(), path, source })?;
    let commit = folder.file_name().map(|name| name.to_string_lossy().into_owned());
    Ok(Located { name: asked, revision: commit, ..in_folder(&folder)? })
}

/// Whether `text` could be an id of the hub: two names of letters, digits, `.`, `_`, `-`, and a slash
/// between.
fn is_hub_id(text: &str) -> bool {
    let is_name = |name: &str| {
        let first_is_fine = name.starts_with(|letter: char| letter.is_ascii_alphanumeric() || letter == '_');
        first_is_fine && name.chars().all(|letter| letter.is_ascii_alphanumeric() || "._-".contains(letter))
    };
    text.split_once('/').is_some_and(|(organisation, name)| is_name(organisation) && is_name(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            std::fs::write(folder.path().join(file), "{}").unwrap();
        }
        folder
    }

    fn no_hub() -> Result<Hub, HubError> {
        panic!("the hub must not be asked")
    }

    fn refused(asked: &str, base: &Path, revision: Option<&str>) -> String {
        locate_with(asked, base, revision, no_hub).unwrap_err().to_string()
    }

    #[test]
    fn finds_a_folder_relative_to_the_run_file() {
        let base = tempfile::tempdir().unwrap();
        let inner = base.path().join("tiny");
        std::fs::create_dir(&inner).unwrap();
        for file in [CONFIG, TOKENIZER, WEIGHTS] {
            std::fs::write(inner.join(file), "{}").unwrap();
        }
        let located = locate_with("./tiny", base.path(), None, no_hub).unwrap();
        assert_eq!((located.name.as_str(), located.revision), ("tiny", None));
        assert_eq!(located.weights.len(), 1);
        assert!(located.weights[0].is_file());
        let absolute = locate_with(inner.to_str().unwrap(), Path::new("/nowhere"), None, no_hub).unwrap();
        assert_eq!(absolute.weights, [inner.join(WEIGHTS)]);
        assert!(refused("tiny", base.path(), Some("main")).contains("revision \"main\""));
    }

    #[test]
    fn refuses_what_is_no_model() {
        let folder = folder(&["weights.bin", "m.GGUF"]);
        assert!(refused("absent.gguf", folder.path(), None).contains("absent.gguf: No such file"));
        assert!(refused("m.GGUF", folder.path(), Some("main")).contains("revision \"main\""));
        assert!(refused("weights.bin", folder.path(), None).contains("is a file"));
        for wrong in ["nothing", "a/b/c", "/no/folder", "../x/y", "./a/b", "a b/c", "a/", "~/model", ""] {
            let error = refused(wrong, &folder.path().join("deep"), None);
            assert!(error.contains("no folder") && error.contains("not a hub id"), "{wrong}: {error}");
        }
    }

    #[test]
    fn an_id_that_does_not_come_says_that_there_is_no_folder_either() {
        let cache = tempfile::tempdir().unwrap();
        let hub = || Ok(Hub::new(cache.path().to_owned(), true, None, None));
        let error = locate_with("models/minilm", Path::new("/nowhere"), None, hub).unwrap_err().to_string();
        assert!(error.contains("no folder /nowhere/models/minilm"), "{error}");
        assert!(error.contains("HF_HUB_OFFLINE"), "{error}");
    }
}
