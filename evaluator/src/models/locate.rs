//! Finds a model: a folder, or an id of the hub. A GGUF file is refused with a clear word for now.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use thiserror::Error;

use super::hub::{Hub, HubError};

/// The model's sizes and family.
pub const CONFIG: &str = "config.json";
/// The tokenizer, as the `tokenizers` library writes it.
pub const TOKENIZER: &str = "tokenizer.json";
/// The weights in one file.
pub const WEIGHTS: &str = "model.safetensors";
/// The list of shards, where the weights are several files.
pub const INDEX: &str = "model.safetensors.index.json";

/// How a sentence encoder's rows become one, where sentence-transformers has written it.
pub const POOLING: &str = "1_Pooling/config.json";

/// A complete model on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// The hub id, or the folder's last name.
    pub name: String,
    /// The commit, if it came from the hub.
    pub revision: Option<String>,
    /// Where `config.json` and `tokenizer.json` lie.
    pub folder: PathBuf,
    /// The weights: one file, or the shards in the order of their names.
    pub weights: Vec<PathBuf>,
}

/// Why there is no model to be had.
#[derive(Debug, Error)]
pub enum LocateError {
    /// A folder without one of the files every model has.
    #[error(
        "model folder {folder}: {file} is missing; \
         a model is {CONFIG}, {TOKENIZER} and {WEIGHTS} (or {INDEX} with its shards)"
    )]
    Missing {
        /// The folder.
        folder: PathBuf,
        /// The file that is not there.
        file: String,
    },
    /// The list of shards cannot be used.
    #[error(
        "{path}: {problem}; \
         expected {{\"weight_map\": {{\"TENSOR\": \"FILE.safetensors\"}}}} with files of the same folder"
    )]
    BadIndex {
        /// The index file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// GGUF files are not read yet.
    #[error(
        "{path}: GGUF files are not supported yet; give a folder with {CONFIG}, {TOKENIZER} and {WEIGHTS}"
    )]
    Gguf {
        /// The file.
        path: PathBuf,
    },
    /// A file where a folder is expected.
    #[error("{path} is a file; a model is a folder with {CONFIG}, {TOKENIZER} and {WEIGHTS}")]
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
    #[error("model folder {path}: revision \"{revision}\" is for hub ids; take it out")]
    RevisionOfFolder {
        /// The folder.
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
    if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf")) {
        return Err(LocateError::Gguf { path });
    }
    if path.is_dir() {
        return match revision {
            Some(revision) => Err(LocateError::RevisionOfFolder { path, revision: revision.to_owned() }),
            None => in_folder(&path),
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

/// The model of a folder, after a look that its files are there.
///
/// # Errors
/// [`LocateError::Missing`] or [`LocateError::BadIndex`].
pub fn in_folder(folder: &Path) -> Result<Located, LocateError> {
    let missing = |file: &str| LocateError::Missing { folder: folder.to_owned(), file: file.to_owned() };
    for file in [CONFIG, TOKENIZER] {
        if !folder.join(file).is_file() {
            return Err(missing(file));
        }
    }
    let files = if folder.join(WEIGHTS).is_file() {
        vec![WEIGHTS.to_owned()]
    } else if folder.join(INDEX).is_file() {
        shards(&folder.join(INDEX))?
    } else {
        return Err(missing(WEIGHTS));
    };
    if let Some(file) = files.iter().find(|file| !folder.join(file).is_file()) {
        return Err(missing(file));
    }
    let last =
        folder.canonicalize().ok().and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
    Ok(Located {
        name: last.unwrap_or_else(|| folder.to_string_lossy().into_owned()),
        revision: None,
        folder: folder.to_owned(),
        weights: files.iter().map(|file| folder.join(file)).collect(),
    })
}

/// The file names that an index lists, sorted.
///
/// # Errors
/// [`LocateError::BadIndex`]: unreadable, no shard, or a name that leads out of the folder.
pub(super) fn shards(path: &Path) -> Result<Vec<String>, LocateError> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let bad = |problem: String| LocateError::BadIndex { path: path.to_owned(), problem };
    let text = std::fs::read(path).map_err(|error| bad(error.to_string()))?;
    let index: Index = serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))?;
    let files: BTreeSet<String> = index.weight_map.into_values().collect();
    for file in &files {
        let parts: Vec<_> = Path::new(file).components().collect();
        if !matches!(parts[..], [Component::Normal(_)]) {
            return Err(bad(format!("\"{file}\" is not the name of a file beside it")));
        }
    }
    if files.is_empty() {
        return Err(bad("it lists no file".to_owned()));
    }
    Ok(files.into_iter().collect())
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
    fn names_the_missing_file_and_the_folder() {
        for (there, missing) in [
            (&[][..], CONFIG),
            (&[CONFIG], TOKENIZER),
            (&[CONFIG, TOKENIZER], WEIGHTS),
            (&[CONFIG, WEIGHTS], TOKENIZER),
        ] {
            let folder = folder(there);
            let error = refused(folder.path().to_str().unwrap(), Path::new("."), None);
            assert!(error.contains(&format!("{}: {missing} is missing", folder.path().display())), "{error}");
        }
    }

    #[test]
    fn reads_shards_in_the_order_of_their_names() {
        let folder = folder(&[CONFIG, TOKENIZER, "b.safetensors", "a.safetensors"]);
        let index = |text: &str| std::fs::write(folder.path().join(INDEX), text).unwrap();
        index(r#"{"metadata": {}, "weight_map": {"x": "b.safetensors", "y": "a.safetensors"}}"#);
        let located = in_folder(folder.path()).unwrap();
        assert_eq!(
            located.weights,
            [folder.path().join("a.safetensors"), folder.path().join("b.safetensors")]
        );

        index(r#"{"weight_map": {"x": "c.safetensors"}}"#);
        let error = in_folder(folder.path()).unwrap_err();
        assert!(matches!(&error, LocateError::Missing { file, .. } if file == "c.safetensors"), "{error}");
        for wrong in [
            "[]",
            "{",
            r#"{"weight_map": {}}"#,
            r#"{"weight_map": {"x": "../a"}}"#,
            r#"{"weight_map": {"x": "/a"}}"#,
        ] {
            index(wrong);
            let error = in_folder(folder.path()).unwrap_err();
            assert!(matches!(error, LocateError::BadIndex { .. }), "{wrong}: {error}");
        }
    }

    #[test]
    fn refuses_what_is_no_model() {
        let folder = folder(&["weights.bin", "m.GGUF"]);
        assert!(refused("m.GGUF", folder.path(), None).contains("not supported yet"));
        assert!(refused("absent.gguf", folder.path(), None).contains("not supported yet"));
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
