//! A small disk of a test's own (tmpfs), which can be filled and made read-only; needs root on Linux.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A mounted disk; unmounted when dropped.
#[derive(Debug)]
pub struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// Makes the folder `path` and mounts a disk of so many KiB there; `None`, and a line that says so, where that is
    /// not allowed.
    pub fn mount(path: &Path, kib: u32) -> Option<Self> {
        fs::create_dir_all(path).expect("a folder of the test's own");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={kib}k"), "zeroth-test"]).arg(path);
        match mount.output() {
            Ok(output) if output.status.success() => Some(Self { path: path.to_owned() }),
            Ok(output) => {
                println!(
                    "SKIPPED: no disk can be mounted: {}",
                    String::from_utf8_lossy(&output.stderr).trim()
                );
                None
            }
            Err(error) => {
                println!("SKIPPED: no disk can be mounted: mount: {error}");
                None
            }
        }
    }

    fn ballast(&self) -> PathBuf {
        self.path.join("ballast")
    }

    /// Takes all that is left of it.
    ///
    /// # Panics
    /// When it takes more than a small disk can hold.
    pub fn fill(&self) {
        let mut ballast = File::options().create(true).append(true).open(self.ballast()).expect("a new file");
        for size in [4096, 1] {
            let mut written = 0;
            while ballast.write_all(&vec![b'x'; size]).is_ok() {
                written += size;
                assert!(written < 1 << 30, "{}: this disk does not end", self.path.display());
            }
        }
    }

    /// Gives back what [`SmallDisk::fill`] took.
    ///
    /// # Panics
    /// When it cannot.
    pub fn free(&self) {
        fs::remove_file(self.ballast()).expect("it was filled");
    }

    /// Whether files can be changed. Files that are open for writing stay in the way of read-only.
    ///
    /// # Panics
    /// When the system refuses.
    pub fn writable(&self, writable: bool) {
        let mode = if writable { "remount,rw" } else { "remount,ro" };
        let status =
            Command::new("mount").args(["-o", mode]).arg(&self.path).status().expect("there is mount");
        assert!(status.success(), "mount -o {mode}: {status}");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["--lazy"]).arg(&self.path).status(); // a failed test may still be on it
    }
}
