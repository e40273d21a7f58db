//! Files that survive a crash: framed and checksummed values, written beside and renamed into place.
//!
//! A frame is magic, version, payload length, CRC-32 of the payload, payload (bincode). Writing keeps the file before
//! it as `NAME.previous`; between any two steps one of the two can be read.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// First bytes of each frame.
const MAGIC: &[u8; 8] = b"ZEROTH\x00\x01";

/// Version of what is inside; raise it when an older program would misread a newer file.
const VERSION: u32 = 1;

/// Bytes before the payload: magic, version, length, checksum.
const HEADER: usize = 8 + 4 + 8 + 4;

/// Why a frame cannot be written or read; each names the file.
#[derive(Debug, Error)]
pub enum FrameError {
    /// There is no such file.
    #[error("{}: no such file", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file system refuses.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What it says.
        source: io::Error,
    },
    /// Not a frame of ours, or damaged.
    #[error("{}: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Written by a newer program.
    #[error("{}: version {found} of the format; this program reads version {VERSION}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// In the file.
        found: u32,
    },
}

/// Writes `value` to `path`; what was there stays as `NAME.previous`.
///
/// # Errors
/// When the file system refuses; `path` or its previous file is then as it was.
pub fn write_atomic<T: Serialize>(path: &Path, value: &T) -> Result<(), FrameError> {
    let damaged = |reason: String| FrameError::Damaged { path: path.to_owned(), reason };
    let payload = bincode::serde::encode_to_vec(value, bincode::config::standard())
        .map_err(|error| damaged(format!("cannot be encoded: {error}")))?;
    let mut bytes = Vec::with_capacity(HEADER + payload.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&(payload.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&crc32fast::hash(&payload).to_le_bytes());
    bytes.extend_from_slice(&payload);
    let beside = write_beside(path, &bytes).map_err(io_error(path))?;
    match fs::rename(path, previous(path)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error(path)(error)),
        _ => {}
    }
    put_in_place(&beside, path).map_err(io_error(path))
}

/// Writes `bytes` to `path` at once or not at all.
///
/// # Errors
/// When the file system refuses; `path` is then as it was.
pub fn write_bytes_atomic(path: &Path, bytes: &[u8]) -> Result<(), FrameError> {
    let beside = write_beside(path, bytes).map_err(io_error(path))?;
    put_in_place(&beside, path).map_err(io_error(path))
}

/// Reads what [`write_atomic`] wrote.
///
/// # Errors
/// See [`FrameError`].
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T, FrameError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(FrameError::Missing { path: path.to_owned() });
        }
        Err(error) => return Err(io_error(path)(error)),
    };
    let damaged = |reason: &str| FrameError::Damaged { path: path.to_owned(), reason: reason.to_owned() };
    let payload = bytes.get(HEADER..).ok_or_else(|| damaged("cut short: not even a header"))?;
    if &bytes[..8] != MAGIC {
        return Err(damaged("not a file of this program"));
    }
    let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let found = word(8);
    if found != VERSION {
        return Err(FrameError::Version { path: path.to_owned(), found });
    }
    let length = u64::from(word(12)) | u64::from(word(16)) << 32;
    if payload.len() as u64 != length {
        return Err(damaged(&format!("cut short or grown: {} bytes of {length}", payload.len())));
    }
    if crc32fast::hash(payload) != word(20) {
        return Err(damaged("checksum does not agree: the file is corrupt"));
    }
    let decoded = bincode::serde::decode_from_slice(payload, bincode::config::standard());
    let (value, used) = decoded.map_err(|error| damaged(&format!("cannot be decoded: {error}")))?;
    if used != payload.len() {
        return Err(damaged("holds more than was expected"));
    }
    Ok(value)
}

/// Reads `path` or, when that cannot be, the file before it and why.
///
/// # Errors
/// The first reason, when neither can be read.
pub fn read_or_previous<T: DeserializeOwned>(path: &Path) -> Result<(T, Option<FrameError>), FrameError> {
    match read(path) {
        Ok(value) => Ok((value, None)),
        Err(reason) => match read(&previous(path)) {
            Ok(value) => Ok((value, Some(reason))),
            Err(FrameError::Missing { .. }) => Err(reason),
            // a missing current file is no news; what is wrong with the one before it is
            Err(other) => Err(if matches!(reason, FrameError::Missing { .. }) { other } else { reason }),
        },
    }
}

/// `NAME.previous`.
fn previous(path: &Path) -> PathBuf {
    with_suffix(path, ".previous")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn write_beside(path: &Path, bytes: &[u8]) -> io::Result<PathBuf> {
    let beside = with_suffix(path, ".new");
    let mut file = File::create(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    Ok(beside)
}

fn put_in_place(beside: &Path, path: &Path) -> io::Result<()> {
    fs::rename(beside, path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all() // the rename itself is durable after this
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> FrameError {
    let path = path.to_owned();
    move |source| FrameError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(n: u64) -> (u64, Vec<f64>, Option<String>) {
        (n, vec![0.1, f64::NAN.to_bits() as f64], Some("text".to_owned()))
    }

    type Value = (u64, Vec<f64>, Option<String>);

    #[test]
    fn every_state_a_crash_can_leave_is_readable() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint.bin");
        assert!(matches!(read_or_previous::<Value>(&path), Err(FrameError::Missing { .. })));
        write_atomic(&path, &value(1)).unwrap();
        write_atomic(&path, &value(2)).unwrap();
        assert_eq!(read::<Value>(&path).unwrap(), value(2));
        assert_eq!(read::<Value>(&previous(&path)).unwrap(), value(1));

        // killed while writing beside: the current file is untouched
        fs::write(with_suffix(&path, ".new"), b"half").unwrap();
        assert_eq!(read_or_previous::<Value>(&path).unwrap().0, value(2));
        // killed between the two renames: only the previous file is there
        fs::rename(&path, previous(&path)).unwrap();
        let (found, reason) = read_or_previous::<Value>(&path).unwrap();
        assert_eq!(found, value(2));
        assert!(matches!(reason, Some(FrameError::Missing { .. })));
    }

    #[test]
    fn any_damage_is_noticed_and_the_previous_file_serves() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint.bin");
        write_atomic(&path, &value(1)).unwrap();
        write_atomic(&path, &value(2)).unwrap();
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x40;
            fs::write(&path, &bytes).unwrap();
            assert!(read::<Value>(&path).is_err(), "byte {at} flipped");
            fs::write(&path, &whole[..at]).unwrap();
            let (found, reason) = read_or_previous::<Value>(&path).unwrap();
            assert_eq!(found, value(1));
            assert!(reason.unwrap().to_string().contains("checkpoint.bin"));
        }
    }
}
