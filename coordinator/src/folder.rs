//! The run folder: one run's files, locked while a coordinator writes them.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use shared::frame::{self, FrameError};
use shared::spec::RunSpec;
use tracing::warn;

use crate::checkpoint::Checkpoint;
use crate::error::Error;

/// A run's folder, held by this process until the last clone is dropped.
#[derive(Clone, Debug)]
pub struct RunFolder {
    path: PathBuf,
    _lock: Arc<Lock>,
}

impl RunFolder {
    /// Makes or opens the folder of `spec` and locks it; gives the checkpoint to go on from, if there is one.
    ///
    /// A checkpoint that cannot be read is passed over for the one before it, and a warning says so.
    ///
    /// # Errors
    /// [`Error::Input`] when the folder belongs to another run, is in use, or holds a run that `resume` does not
    /// ask for.
    pub fn open(spec: &RunSpec, hash: &str, resume: bool) -> Result<(Self, Option<Checkpoint>), Error> {
        let path = spec.run.folder.clone();
        let folder = Self::hold(path)?;
        let checkpoint = folder.checkpoint()?;
        if let Some(checkpoint) = &checkpoint {
            let here = folder.path.display();
            if checkpoint.spec_hash != hash {
                return Err(Error::Input(format!(
                    "{here}: holds the checkpoint of another run (its run.toml says which); choose another \
                     run.folder, or remove this one"
                )));
            }
            if !resume {
                return Err(Error::Input(format!(
                    "{here}: holds this run already, {} calls in; continue it with --resume, or choose another \
                     run.folder",
                    checkpoint.search.calls()
                )));
            }
        }
        if checkpoint.is_none() {
            // what a resumed run was begun with stays: it may yet be refused, for another model say
            folder.describe(spec)?;
        }
        Ok((folder, checkpoint))
    }

    /// Makes the folder where there is none, and locks it.
    pub(crate) fn hold(path: PathBuf) -> Result<Self, Error> {
        fs::create_dir_all(&path).map_err(|e| Error::Input(format!("run.folder {}: {e}", path.display())))?;
        let busy =
            "another coordinator is at work in this run folder; wait for it, or choose another run.folder";
        Ok(Self { _lock: Arc::new(Lock::take(&path, "run.folder", busy)?), path })
    }

    /// Writes the run file as resolved.
    ///
    /// # Errors
    /// What the file system says.
    pub fn describe(&self, spec: &RunSpec) -> Result<(), Error> {
        let text = toml::to_string(spec).map_err(Error::failed)?;
        frame::write_bytes_atomic(&self.run_file(), text.as_bytes()).map_err(Error::failed)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The resolved run specification.
    pub fn run_file(&self) -> PathBuf {
        self.path.join("run.toml")
    }

    /// The trace.
    pub fn events(&self) -> PathBuf {
        self.path.join("events.jsonl")
    }

    /// The tuned prompt.
    pub fn artefact(&self) -> PathBuf {
        self.path.join("prompt.safetensors")
    }

    fn checkpoint_file(&self) -> PathBuf {
        self.path.join("checkpoint.bin")
    }

    /// Writes a checkpoint, encoded by [`frame::encode`]; the one before it stays beside it.
    ///
    /// # Errors
    /// What the file system says.
    pub fn save(&self, checkpoint: &[u8]) -> Result<(), Error> {
        frame::write_frame(&self.checkpoint_file(), checkpoint).map_err(Error::failed)
    }

    /// The checkpoint to go on from, if there is one.
    ///
    /// # Errors
    /// Both files are damaged, or of another kind or version.
    pub(crate) fn checkpoint(&self) -> Result<Option<Checkpoint>, Error> {
        match frame::read_or_previous(&self.checkpoint_file()) {
            Ok((checkpoint, None)) => Ok(Some(checkpoint)),
            Ok((checkpoint, Some(FrameError::Missing { .. }))) => Ok(Some(checkpoint)), // killed between two renames
            Ok((checkpoint, Some(reason))) => {
                warn!("{reason}; going on from the checkpoint before it");
                Ok(Some(checkpoint))
            }
            Err(FrameError::Missing { .. }) => Ok(None),
            Err(error) => Err(Error::Input(format!(
                "{error}, and the checkpoint before it cannot be read either; remove {} to begin anew",
                self.path.display()
            ))),
        }
    }
}

/// A folder taken for this process alone, by a file `lock` in it. The operating system lets go of it when the process
/// ends, however it ends.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "it is held, not read")] File);

impl Lock {
    /// Takes `folder`.
    ///
    /// # Errors
    /// [`Error::Input`], saying that it is `busy`, while another process holds it, or what keeps the folder that `key`
    /// names from being written.
    pub fn take(folder: &Path, key: &str, busy: &str) -> Result<Self, Error> {
        let path = folder.join("lock");
        let file = File::create(&path).map_err(|error| {
            Error::Input(format!("{key} {}: {error}; it must be writable, with some room", folder.display()))
        })?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(Error::Input(format!("{}: {busy}", folder.display()))),
            Err(TryLockError::Error(error)) => Err(Error::File { path, source: error }),
        }
    }
}
