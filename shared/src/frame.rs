//! Files that survive a crash: framed and checksummed values, written beside and renamed into place.
//!
//! A frame is magic, version, payload length, CRC-32 of the payload, payload (bincode). Writing keeps the file before
//! it as `NAME.previous`; between any two steps one of the two can be read, or `NAME.new`, which is whole before either
//! is touched.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// First bytes of each frame.
const MAGIC: &[u8; 8] = b"ZEROTH\x00\x01";

/// Version of what is inside; raise it when an older program would misread a newer file.
const VERSION: u32 = 4;

/// Bytes before the payload: magic, version, length, checksum.
pub const HEADER: usize = 8 + 4 + 8 + 4;

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
    /// Another kind of file.
    #[error("{}: not a file of this program", path.display())]
    NotOurs {
        /// The file.
        path: PathBuf,
    },
    /// Written by another version of this program.
    #[error("{}: version {found} of the format; this program reads version {VERSION}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// In the file.
        found: u32,
    },
    /// Shorter or longer than its header says.
    #[error("{}: cut short or grown: {found} bytes of {wanted}", path.display())]
    Length {
        /// The file.
        path: PathBuf,
        /// Bytes there are, header included.
        found: u64,
        /// Bytes there should be.
        wanted: u64,
    },
    /// Damaged.
    #[error("{}: checksum does not agree: the file is corrupt", path.display())]
    Checksum {
        /// The file.
        path: PathBuf,
    },
    /// Whole, but not what was asked for; or a value that has no such form.
    #[error("{}: {reason}", path.display())]
    Codec {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// Makes the frame of `value`, for [`write_frame`]; `into` is emptied before and its memory used again.
///
/// # Errors
/// When the value has no such form.
pub fn encode<T: Serialize>(value: &T, into: &mut Vec<u8>) -> Result<(), String> {
    into.clear();
    into.resize(HEADER, 0); // the payload is encoded behind it: a checkpoint is too large to be held twice
    bincode::serde::encode_into_std_write(value, into, bincode::config::standard())
        .map_err(|error| format!("cannot be encoded: {error}"))?;
    let (header, payload) = into.split_at_mut(HEADER);
    let (length, checksum) = (payload.len() as u64, crc32fast::hash(payload));
    let parts: [&[u8]; 4] = [MAGIC, &VERSION.to_le_bytes(), &length.to_le_bytes(), &checksum.to_le_bytes()];
    header.copy_from_slice(&parts.concat());
    Ok(())
}

/// Writes a frame to `path`; what was there stays as `NAME.previous`.
///
/// # Errors
/// When the file system refuses; `path` or its previous file is then as it was.
pub fn write_frame(path: &Path, frame: &[u8]) -> Result<(), FrameError> {
    let beside = write_beside(path, frame).map_err(io_error(path))?;
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

/// Reads what [`write_frame`] wrote.
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
    let payload = payload(path, &bytes)?;
    let (value, used) =
        decode(payload).map_err(|error| codec(path, format!("cannot be decoded: {error}")))?;
    if used != payload.len() {
        return Err(codec(path, "holds more than was expected".to_owned()));
    }
    Ok(value)
}

/// Decodes with a limit on what lengths in the payload are believed. bincode takes it as a constant alone, so it is the
/// next of some steps: a byte of the payload stands for 16 at most.
fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<(T, usize), bincode::error::DecodeError> {
    let (needed, standard) = (payload.len().saturating_mul(16), bincode::config::standard());
    macro_rules! steps {
        ($($bits:literal)*) => {$(
            if needed <= 1 << $bits {
                return bincode::serde::decode_from_slice(payload, standard.with_limit::<{ 1 << $bits }>());
            }
        )*};
    }
    steps!(16 20 24 28 32 36);
    bincode::serde::decode_from_slice(payload, standard)
}

/// What a frame holds, its header checked.
fn payload<'a>(path: &Path, bytes: &'a [u8]) -> Result<&'a [u8], FrameError> {
    let path = || path.to_owned();
    let length = |wanted| FrameError::Length { path: path(), found: bytes.len() as u64, wanted };
    if !bytes.starts_with(&MAGIC[..bytes.len().min(MAGIC.len())]) {
        return Err(FrameError::NotOurs { path: path() });
    }
    let Some((header, payload)) = bytes.split_first_chunk::<HEADER>() else {
        return Err(length(HEADER as u64));
    };
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let found = word(8);
    if found != VERSION {
        return Err(FrameError::Version { path: path(), found });
    }
    let wanted = u64::from(word(12)) | u64::from(word(16)) << 32;
    if payload.len() as u64 != wanted {
        return Err(length(wanted.saturating_add(HEADER as u64)));
    }
    if crc32fast::hash(payload) != word(20) {
        return Err(FrameError::Checksum { path: path() });
    }
    Ok(payload)
}

/// Reads `path` or, when that cannot be, the file before it and why.
///
/// The file before it may be damaged too, if a run went on from it while `path` was damaged and was killed between the
/// two renames of its next write. What that write had finished is then `NAME.new`, newer than both; it is put in place, for
/// the next write would begin by emptying it.
///
/// # Errors
/// The first reason, when none can be read.
pub fn read_or_previous<T: DeserializeOwned>(path: &Path) -> Result<(T, Option<FrameError>), FrameError> {
    let reason = match read(path) {
        Ok(value) => return Ok((value, None)),
        Err(reason) => reason,
    };
    let other = match read(&previous(path)) {
        Ok(value) => return Ok((value, Some(reason))),
        Err(FrameError::Missing { .. }) => return Err(reason),
        Err(other) => other,
    };
    match read(&unfinished(path)) {
        Ok(value) => {
            // Who may not write here will not empty it either.
            let _ = put_in_place(&unfinished(path), path);
            Ok((value, Some(reason)))
        }
        // a missing current file is no news; what is wrong with the one before it is
        Err(_) => Err(if matches!(reason, FrameError::Missing { .. }) { other } else { reason }),
    }
}

/// `NAME.previous`.
fn previous(path: &Path) -> PathBuf {
    with_suffix(path, ".previous")
}

/// `NAME.new`: what is being written.
fn unfinished(path: &Path) -> PathBuf {
    with_suffix(path, ".new")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn write_beside(path: &Path, bytes: &[u8]) -> io::Result<PathBuf> {
    let beside = unfinished(path);
    let mut file = File::create(&beside)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    if let Err(error) = written {
        let _ = fs::remove_file(&beside); // half a file is of no use, and may take the last of the disk
        return Err(error);
    }
    Ok(beside)
}

fn put_in_place(beside: &Path, path: &Path) -> io::Result<()> {
    fs::rename(beside, path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all() // the rename itself is durable after this
}

fn codec(path: &Path, reason: String) -> FrameError {
    FrameError::Codec { path: path.to_owned(), reason }
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

    fn write_atomic(path: &Path, value: &Value) -> Result<(), FrameError> {
        let mut frame = b"used before".to_vec();
        encode(value, &mut frame).unwrap();
        write_frame(path, &frame)
    }

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
        fs::write(unfinished(&path), b"half").unwrap();
        assert_eq!(read_or_previous::<Value>(&path).unwrap().0, value(2));
        // killed between the two renames: only the previous file is there
        fs::rename(&path, previous(&path)).unwrap();
        let (found, reason) = read_or_previous::<Value>(&path).unwrap();
        assert_eq!(found, value(2));
        assert!(matches!(reason, Some(FrameError::Missing { .. })));
    }

    #[test]
    fn a_damaged_file_and_a_crash_in_the_next_write_leave_what_was_written_last() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint.bin");
        write_atomic(&path, &value(1)).unwrap();
        write_atomic(&path, &value(2)).unwrap();
        fs::write(&path, b"rot").unwrap();
        assert_eq!(read_or_previous::<Value>(&path).unwrap().0, value(1));

        // the run goes on from 1, writes 3 and is killed after the first rename
        let other = folder.path().join("other.bin");
        write_atomic(&other, &value(3)).unwrap();
        fs::rename(&other, unfinished(&path)).unwrap();
        fs::rename(&path, previous(&path)).unwrap();
        assert_eq!(read_or_previous::<Value>(&path).unwrap().0, value(3));
        // and killed again, as soon as the next write has emptied the file beside
        fs::write(unfinished(&path), b"").unwrap();
        assert_eq!(read_or_previous::<Value>(&path).unwrap().0, value(3));
        fs::remove_file(&path).unwrap();

        // with all three damaged it is the damage that is told, not that the current file is missing
        fs::write(unfinished(&path), b"half").unwrap();
        let error = read_or_previous::<Value>(&path).unwrap_err();
        assert!(
            error.to_string().ends_with("checkpoint.bin.previous: not a file of this program"),
            "{error}"
        );
    }

    #[test]
    fn each_kind_of_damage_has_its_type() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint.bin");
        write_atomic(&path, &value(1)).unwrap();
        let whole = fs::read(&path).unwrap();
        let read = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            read::<Value>(&path).unwrap_err()
        };
        let with = |at: usize, byte: u8| {
            let mut bytes = whole.clone();
            bytes[at] = byte;
            bytes
        };
        assert!(matches!(read(b"{\"json\": 1}"), FrameError::NotOurs { .. }));
        assert!(matches!(read(&with(8, 9)), FrameError::Version { found: 9, .. }));
        assert!(matches!(read(&with(8, 0)), FrameError::Version { found: 0, .. }));
        assert!(matches!(read(b""), FrameError::Length { found: 0, wanted: 24, .. }));
        assert!(matches!(read(&whole[..20]), FrameError::Length { found: 20, wanted: 24, .. }));
        let (found, wanted) = (whole.len() as u64 - 1, whole.len() as u64);
        let cut = read(&whole[..whole.len() - 1]);
        assert!(
            matches!(cut, FrameError::Length { found: f, wanted: w, .. } if (f, w) == (found, wanted)),
            "{cut}"
        );
        assert!(matches!(read(&with(19, 0xff)), FrameError::Length { .. }));
        assert!(matches!(read(&with(24, whole[24] ^ 1)), FrameError::Checksum { .. }));
        fs::write(&path, &whole).unwrap();
        assert!(matches!(super::read::<u8>(&path), Err(FrameError::Codec { .. })));
        assert!(matches!(super::read::<(Value, Value)>(&path), Err(FrameError::Codec { .. })));
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
