//! A model's files: which they are, and the fingerprint by which two machines know that they hold the same model.
//!
//! Here, because whoever has the files can take it: an evaluator of the model it has loaded, a coordinator of the
//! folder its run file names. Nothing is loaded for it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::gguf::{Head, HeadError};
use crate::hash;
use crate::messages::ModelIdentity;

/// The model's sizes and family.
pub const CONFIG: &str = "config.json";
/// The tokenizer, as the `tokenizers` library writes it.
pub const TOKENIZER: &str = "tokenizer.json";
/// The weights in one file.
pub const WEIGHTS: &str = "model.safetensors";
/// The list of shards, where the weights are several files.
pub const INDEX: &str = "model.safetensors.index.json";
/// The weights as PyTorch saves them; read where there are no safetensors.
pub const PICKLE: &str = "pytorch_model.bin";
/// The list of their shards.
pub const PICKLE_INDEX: &str = "pytorch_model.bin.index.json";
/// How a sentence encoder's rows become one, where sentence-transformers has written it.
pub const POOLING: &str = "1_Pooling/config.json";

/// A complete model on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// The hub id, or the folder's last name.
    pub name: String,
    /// The commit, if it came from the hub.
    pub revision: Option<String>,
    /// Where `config.json` and `tokenizer.json` lie, or the GGUF file that stands for both.
    pub folder: PathBuf,
    /// The weights: one file, or the shards in the order of their names.
    pub weights: Vec<PathBuf>,
}

impl Located {
    /// The file that is the whole model, where it is a GGUF file.
    pub fn gguf(&self) -> Option<&Path> {
        self.weights.first().map(PathBuf::as_path).filter(|path| is_gguf(path))
    }
}

/// Whether a path names a GGUF file.
pub fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
}

/// Why a folder is no model, or one that cannot be told from others.
#[derive(Debug, Error)]
pub enum FilesError {
    /// A folder without one of the files every model has.
    #[error(
        "model folder {folder}: {file} is missing; \
         a model is {CONFIG}, {TOKENIZER} and {WEIGHTS} (or {INDEX} with its shards; {PICKLE} does too)"
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
         expected {{\"weight_map\": {{\"TENSOR\": \"FILE\"}}}} with files of the same folder"
    )]
    BadIndex {
        /// The index file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The configuration does not say how large the model is.
    #[error("{path}: {problem}; num_hidden_layers and hidden_size are needed, or what the family calls them")]
    NoShape {
        /// `config.json`.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A GGUF file that cannot be used.
    #[error("{path}: {source}")]
    BadGguf {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: HeadError,
    },
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
}

/// The model of a folder, after a look that its files are there.
///
/// # Errors
/// [`FilesError::Missing`], [`FilesError::BadIndex`] or [`FilesError::Unreadable`].
pub fn in_folder(folder: &Path) -> Result<Located, FilesError> {
    let missing = |file: &str| FilesError::Missing { folder: folder.to_owned(), file: file.to_owned() };
    for file in [CONFIG, TOKENIZER] {
        if !folder.join(file).is_file() {
            return Err(missing(file));
        }
    }
    let files = weight_files(folder)?.ok_or_else(|| missing(WEIGHTS))?;
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

/// The model that one GGUF file is, after a look that it is there.
///
/// # Errors
/// [`FilesError::Unreadable`].
pub fn in_gguf(path: &Path) -> Result<Located, FilesError> {
    std::fs::File::open(path).map_err(|source| FilesError::Unreadable { path: path.to_owned(), source })?;
    let name = path.file_stem().unwrap_or(path.as_os_str());
    Ok(Located {
        name: name.to_string_lossy().into_owned(),
        revision: None,
        folder: path.to_owned(),
        weights: vec![path.to_owned()],
    })
}

/// The names of the files that hold the weights, by what is there.
fn weight_files(folder: &Path) -> Result<Option<Vec<String>>, FilesError> {
    for (file, index) in [(WEIGHTS, INDEX), (PICKLE, PICKLE_INDEX)] {
        if folder.join(file).is_file() {
            return Ok(Some(vec![file.to_owned()]));
        }
        if folder.join(index).is_file() {
            return shards(&folder.join(index)).map(Some);
        }
    }
    Ok(None)
}

/// The file names that an index lists, sorted.
///
/// # Errors
/// [`FilesError::BadIndex`]: unreadable, no shard, or a name that leads out of the folder.
pub fn shards(path: &Path) -> Result<Vec<String>, FilesError> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let bad = |problem: String| FilesError::BadIndex { path: path.to_owned(), problem };
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

/// Reads all of the model's files once, and its shape out of the configuration. The hash of weights in shards is
/// that of their bytes one after the other, that of the configuration covers a pooling other than the mean too; a GGUF
/// file is its own configuration and tokenizer.
///
/// # Errors
/// [`FilesError::Unreadable`], [`FilesError::NoShape`] or [`FilesError::BadGguf`].
pub fn identify(model: &Located) -> Result<ModelIdentity, FilesError> {
    if let Some(file) = model.gguf() {
        return identify_gguf(model, file);
    }
    let of = |files: &[&str]| sha256(&files.iter().map(|file| model.folder.join(file)).collect::<Vec<_>>());
    let (layers, hidden) = shape(&model.folder.join(CONFIG))?;
    let pools_the_mean = pools_the_mean(&model.folder.join(POOLING));
    Ok(ModelIdentity {
        name: model.name.clone(),
        revision: model.revision.clone(),
        weights_sha256: sha256(&model.weights)?,
        config_sha256: of(if pools_the_mean { &[CONFIG] } else { &[CONFIG, POOLING] })?,
        tokenizer_sha256: of(&[TOKENIZER])?,
        layers,
        hidden,
    })
}

fn identify_gguf(model: &Located, file: &Path) -> Result<ModelIdentity, FilesError> {
    let bad = |source: HeadError| FilesError::BadGguf { path: file.to_owned(), source };
    let no_shape = || HeadError::Damaged("it does not say how many layers it has, and how wide".to_owned());
    let (layers, hidden) = Head::read(file).map_err(bad)?.shape().ok_or_else(|| bad(no_shape()))?;
    let hash = sha256(&model.weights)?;
    Ok(ModelIdentity {
        name: model.name.clone(),
        revision: None,
        weights_sha256: hash.clone(),
        config_sha256: hash.clone(),
        tokenizer_sha256: hash,
        layers,
        hidden,
    })
}

/// Whether rows are pooled by their mean: with or without a file that says so.
fn pools_the_mean(path: &Path) -> bool {
    let Ok(text) = std::fs::read(path) else { return true };
    let modes: Value = serde_json::from_slice(&text).unwrap_or_default();
    ["pooling_mode_mean_tokens", "pooling_mode_mean_sqrt_len_tokens"].iter().any(|mode| modes[mode] == true)
}

/// Layers that take a prompt and their width, by the names that the families have for them; the first that is there
/// counts (an encoder-decoder's `num_hidden_layers` is not always its encoder's).
fn shape(path: &Path) -> Result<(u32, u32), FilesError> {
    let no_shape = |problem: String| FilesError::NoShape { path: path.to_owned(), problem };
    let text =
        std::fs::read(path).map_err(|source| FilesError::Unreadable { path: path.to_owned(), source })?;
    let config: Value = serde_json::from_slice(&text).map_err(|error| no_shape(error.to_string()))?;
    let number = |names: &[&str]| {
        let found = names.iter().find_map(|name| config[name].as_u64());
        let found = found.and_then(|number| u32::try_from(number).ok());
        found.ok_or_else(|| no_shape(format!("none of {} is a number", names.join(", "))))
    };
    Ok((
        number(&["encoder_layers", "num_hidden_layers", "num_layers", "n_layer"])?,
        number(&["hidden_size", "d_model", "n_embd"])?,
    ))
}

/// The sha256 of the files' bytes, one after the other.
fn sha256(paths: &[PathBuf]) -> Result<String, FilesError> {
    let mut all = Sha256::new();
    for path in paths {
        hash::feed(&mut all, path).map_err(|source| FilesError::Unreadable { path: path.clone(), source })?;
    }
    Ok(hash::hex(all))
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

    #[test]
    fn names_the_missing_file_and_the_folder() {
        for (there, missing) in [
            (&[][..], CONFIG),
            (&[CONFIG], TOKENIZER),
            (&[CONFIG, TOKENIZER], WEIGHTS),
            (&[CONFIG, WEIGHTS], TOKENIZER),
        ] {
            let folder = folder(there);
            let error = in_folder(folder.path()).unwrap_err().to_string();
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
        assert!(matches!(&error, FilesError::Missing { file, .. } if file == "c.safetensors"), "{error}");
        std::fs::write(folder.path().join("c.bin"), "").unwrap();
        std::fs::write(folder.path().join(PICKLE_INDEX), r#"{"weight_map": {"x": "c.bin"}}"#).unwrap();
        assert!(in_folder(folder.path()).is_err(), "safetensors come first");
        std::fs::rename(folder.path().join(INDEX), folder.path().join("away")).unwrap();
        assert_eq!(in_folder(folder.path()).unwrap().weights, [folder.path().join("c.bin")]);
        std::fs::write(folder.path().join(PICKLE), "").unwrap();
        assert_eq!(in_folder(folder.path()).unwrap().weights, [folder.path().join(PICKLE)]);
        for wrong in [
            "[]",
            "{",
            r#"{"weight_map": {}}"#,
            r#"{"weight_map": {"x": "../a"}}"#,
            r#"{"weight_map": {"x": "/a"}}"#,
        ] {
            index(wrong);
            let error = in_folder(folder.path()).unwrap_err();
            assert!(matches!(error, FilesError::BadIndex { .. }), "{wrong}: {error}");
        }
    }

    #[test]
    fn hashes_are_those_of_sha256sum_and_shards_are_one_stream() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            std::fs::write(folder.path().join(name), text).unwrap();
            folder.path().join(name)
        };
        file(CONFIG, r#"{"num_hidden_layers": 3, "hidden_size": 40}"#);
        file(TOKENIZER, "");
        let weights = vec![file("1", "a"), file("2", "bc")];
        let folder_path = folder.path().to_owned();
        let model = Located { name: "m".to_owned(), revision: None, folder: folder_path, weights };
        let identity = identify(&model).unwrap();
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!((identity.weights_sha256.as_str(), identity.tokenizer_sha256.as_str()), (abc, empty));
        assert_eq!(identity.config_sha256, sha256(&[folder.path().join(CONFIG)]).unwrap());
        assert_eq!((identity.layers, identity.hidden), (3, 40));

        std::fs::create_dir(folder.path().join("1_Pooling")).unwrap();
        file(POOLING, r#"{"pooling_mode_mean_tokens": true, "pooling_mode_cls_token": false}"#);
        assert_eq!(identify(&model).unwrap(), identity, "the mean is the default");
        file(POOLING, r#"{"pooling_mode_cls_token": true}"#);
        assert_ne!(identify(&model).unwrap().config_sha256, identity.config_sha256);

        for (config, expected) in [
            (r#"{"n_layer": 2, "n_embd": 24}"#, (2, 24)),
            (r#"{"num_layers": 4, "d_model": 32, "num_decoder_layers": 5}"#, (4, 32)),
            (r#"{"encoder_layers": 2, "num_hidden_layers": 3, "d_model": 16}"#, (2, 16)),
        ] {
            file(CONFIG, config);
            let identity = identify(&model).unwrap();
            assert_eq!((identity.layers, identity.hidden), expected, "{config}");
        }
        std::fs::remove_file(&model.weights[1]).unwrap();
        assert!(identify(&model).unwrap_err().to_string().contains(model.weights[1].to_str().unwrap()));
        file(CONFIG, "{}");
        let error = identify(&model).unwrap_err().to_string();
        assert!(error.contains("config.json") && error.contains("num_hidden_layers"), "{error}");
    }
}
