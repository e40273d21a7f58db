//! Has the model here before anything else: fetched from the hub, or brought by another process.

use std::path::Path;
use std::time::Duration;

use crate::models::hub::HubError;
use crate::models::locate::{self, LocateError, Located};
use tokio::task::{JoinError, spawn_blocking};

/// Between two looks at a volume that another process fills; volumes tell nobody of new files.
const LOOK: Duration = Duration::from_secs(1);

/// Why the model is not here.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// It is not where it should be, or cannot be fetched.
    #[error(transparent)]
    Locate(#[from] LocateError),
    /// Looking for it panicked.
    #[error("looking for the model: {0}")]
    Look(#[from] JoinError),
}

/// Finds the model called `name`, fetching it where it is the hub's. With `wait`, one that is not there yet is waited for
/// as long as it takes.
///
/// # Errors
/// See [`FetchError`].
pub async fn fetch(name: &str, revision: Option<&str>, wait: bool) -> Result<Located, FetchError> {
    let mut told = false;
    loop {
        let (asked, at) = (name.to_owned(), revision.map(str::to_owned));
        let found = spawn_blocking(move || locate::locate(&asked, Path::new(""), at.as_deref())).await?;
        match found {
            Err(absent) if wait && may_come(&absent) => {
                if !told {
                    tracing::info!("waiting for the model: {absent}");
                    told = true;
                }
                tokio::time::sleep(LOOK).await;
            }
            other => return Ok(other?),
        }
    }
}

/// Whether another process may be at work bringing it.
fn may_come(error: &LocateError) -> bool {
    match error {
        LocateError::Nowhere { .. } | LocateError::Files(_) => true,
        LocateError::Hub { source, .. } => matches!(source, HubError::Offline { .. }),
        LocateError::NotAFolder { .. } | LocateError::RevisionOfFolder { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::locate::{CONFIG, TOKENIZER, WEIGHTS};

    #[tokio::test]
    async fn a_model_that_another_process_brings_is_waited_for_until_it_is_complete() {
        let volume = tempfile::tempdir().unwrap();
        let folder = volume.path().join("model");
        let name = folder.to_str().unwrap().to_owned();
        assert!(matches!(
            fetch(&name, None, false).await,
            Err(FetchError::Locate(LocateError::Nowhere { .. }))
        ));

        std::fs::create_dir(&folder).unwrap();
        for file in [CONFIG, TOKENIZER] {
            std::fs::write(folder.join(file), "{}").unwrap();
        }
        assert!(matches!(fetch(&name, None, false).await, Err(FetchError::Locate(LocateError::Files(_)))));

        let waiting = tokio::spawn(async move { fetch(&name, None, true).await });
        std::fs::write(folder.join(WEIGHTS), "{}").unwrap();
        assert_eq!(waiting.await.unwrap().unwrap().folder, folder);
    }

    #[tokio::test]
    async fn what_no_waiting_mends_is_told_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("weights.bin");
        std::fs::write(&file, "").unwrap();
        let error = fetch(file.to_str().unwrap(), None, true).await.unwrap_err();
        assert!(matches!(error, FetchError::Locate(LocateError::NotAFolder { .. })), "{error}");
    }
}
