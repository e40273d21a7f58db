//! Which model a run is for, as far as its coordinator can tell. It needs no weights; where the model that the run
//! file names lies on its machine all the same, that model and no other is the run's.

use shared::messages::ModelIdentity;
use shared::model;
use shared::spec::ModelSpec;

use crate::error::Error;

/// The fingerprint of the model's files on this machine.
///
/// # Errors
/// In words, why there is none.
pub fn here(spec: &ModelSpec) -> Result<ModelIdentity, String> {
    model::identify(&files_here(spec)?).map_err(|error| error.to_string())
}

#[cfg(feature = "embedded")]
use crate::embedded::files_here;

#[cfg(not(feature = "embedded"))]
fn files_here(spec: &ModelSpec) -> Result<model::Located, String> {
    let folder = std::path::Path::new(&spec.path);
    if folder.is_dir() {
        model::in_folder(folder).map_err(|error| error.to_string())
    } else if model::is_gguf(folder) && folder.is_file() {
        model::in_gguf(folder).map_err(|error| error.to_string())
    } else {
        Err(format!("model \"{}\": no folder here", spec.path))
    }
}

/// What evaluators call the model of `model.path`: a folder's or file's last name, or the hub id.
pub fn called(path: &str) -> String {
    let folder = std::path::Path::new(path);
    let name = match (folder.is_absolute(), model::is_gguf(folder)) {
        (_, true) => folder.file_stem(),
        (true, false) => folder.file_name(),
        (false, false) => None,
    };
    name.map_or_else(|| path.to_owned(), |name| name.to_string_lossy().into_owned())
}

/// The model that a run's evaluators must have: the one it was begun with and the one that is here, which must be
/// the same; `None` when neither is known.
///
/// # Errors
/// [`Error::Input`], naming both.
pub fn expected(
    begun_with: Option<&ModelIdentity>,
    here: Option<&ModelIdentity>,
) -> Result<Option<ModelIdentity>, Error> {
    match (begun_with, here) {
        (Some(begun_with), Some(here)) if !begun_with.same_model(here) => Err(Error::Input(format!(
            "model.path is {here}, but this run was begun with {begun_with}; name that one, or choose another \
             run.folder"
        ))),
        (begun_with, here) => Ok(begun_with.or(here).cloned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(weights: &str) -> ModelIdentity {
        ModelIdentity { weights_sha256: weights.to_owned(), ..ModelIdentity::default() }
    }

    #[test]
    fn a_model_is_called_by_its_last_name_or_its_hub_id() {
        for (path, name) in
            [("/models/bert", "bert"), ("org/bert", "org/bert"), ("/models/q.Q8_0.gguf", "q.Q8_0")]
        {
            assert_eq!(called(path), name);
        }
    }

    #[test]
    fn what_a_run_was_begun_with_must_be_what_is_here() {
        let (a, b) = (model("aa"), model("bb"));
        assert_eq!(expected(None, None).unwrap(), None);
        assert_eq!(expected(Some(&a), None).unwrap(), Some(a.clone()));
        assert_eq!(expected(None, Some(&b)).unwrap(), Some(b.clone()));
        let named = ModelIdentity { name: "elsewhere".to_owned(), ..a.clone() };
        assert_eq!(expected(Some(&a), Some(&named)).unwrap(), Some(a.clone()));
        let text = expected(Some(&a), Some(&b)).unwrap_err().to_string();
        assert!(text.contains("weights aa") && text.contains("weights bb"), "{text}");
    }
}
