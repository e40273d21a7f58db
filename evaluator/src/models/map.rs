//! A file mapped into memory: its pages come when they are read, and go again when memory is short.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::path::Path;

use memmap2::{Mmap, UncheckedAdvice};

/// A file's bytes, read-only.
#[derive(Debug)]
pub struct Map(Mmap);

impl Map {
    /// Maps a file as it is now.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        // SAFETY: the mapping is private to this type, read-only, and lives as long as the slices lent from it. What
        // the compiler cannot know is that nobody writes to the file meanwhile. We never do. Whoever else changes a
        // model in place while a process runs on it gets other numbers, or SIGBUS where the file became shorter; a
        // file that is replaced by renaming, as downloads are, stays whole here. Numbers are only ever taken from
        // these bytes by value, and every bit pattern is one, so nothing else depends on them.
        let map = unsafe { Mmap::map(&file)? };
        Ok(Self(map))
    }

    /// Lets go of the memory that a range's pages take, neighbours on its first and last page included. They come
    /// back when they are read; a system that does not let go of them keeps them, and only memory is lost.
    pub fn forget(&self, start: usize, length: usize) {
        // SAFETY: the pages are the file's, read-only and never written: what is read next comes from it again, the
        // same bytes on the assumption made in `open`. memmap2 sees to it that the range lies in the mapping's pages.
        let _ = unsafe { self.0.unchecked_advise_range(UncheckedAdvice::DontNeed, start, length) };
    }

    /// All bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kilobytes of a mapping that are in memory, as the system counts them.
    #[cfg(target_os = "linux")]
    fn resident(map: &Map) -> u64 {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let own = &maps[maps.find(&format!("{:x}-", map.bytes().as_ptr().addr())).unwrap()..];
        let line = own.lines().find(|line| line.starts_with("Rss:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    #[test]
    fn what_was_forgotten_reads_the_same() {
        let bytes: Vec<u8> = (0..1_000_003_usize).map(|i| (i % 251) as u8).collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &bytes).unwrap();
        let map = Map::open(file.path()).unwrap();
        for (start, length) in [(0, bytes.len()), (5, 1), (4095, 4098), (999_000, 1_003), (7, 0)] {
            assert_eq!(map.bytes(), bytes);
            map.forget(start, length);
        }
        assert_eq!(map.bytes(), bytes);
        #[cfg(target_os = "linux")]
        {
            assert!(resident(&map) > 900, "all of it has just been read");
            map.forget(0, bytes.len());
            assert_eq!(resident(&map), 0);
        }
    }
}
