//! A file mapped into memory: its pages come when they are read, and go again when memory is short.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::path::Path;

use memmap2::Mmap;

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

    /// All bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}
