//! What the system says of this process: the memory it may take and has taken, the processor's time it has used, the
//! files it may open. Linux alone says it.

use std::fs;
use std::path::Path;
use std::time::Duration;

/// Ticks a second of the times in `/proc`, the same on all of Linux's architectures.
const TICKS: u64 = 100;

/// Bytes that this process may take, by its control group and by what the machine has left.
pub fn memory_limit() -> Option<u64> {
    let proc = Path::new("/proc");
    let group = of_groups(Path::new("/sys/fs/cgroup"), &fs::read_to_string("/proc/self/cgroup").ok()?);
    let left = kilobytes(&proc.join("meminfo"), "MemAvailable:");
    // what this process holds already is its own to use
    let own = kilobytes(&proc.join("self/status"), "VmRSS:").unwrap_or(0);
    group.into_iter().chain(left.map(|left| left + own)).min()
}

/// Bytes that this process has had in memory at most so far, pages of mapped files and its code included.
pub fn peak_memory() -> Option<u64> {
    kilobytes(Path::new("/proc/self/status"), "VmHWM:")
}

/// Processor time that this process's threads have used so far, in steps of 10 ms.
pub fn cpu_time() -> Option<Duration> {
    let text = fs::read_to_string("/proc/self/stat").ok()?;
    let (_, after_name) = text.rsplit_once(')')?; // the name may hold anything
    let mut times = after_name.split_whitespace().skip(11).map(str::parse::<u64>);
    let ticks = times.next()?.ok()? + times.next()?.ok()?;
    Some(Duration::from_millis(ticks * 1000 / TICKS))
}

/// How many files, sockets among them, this process may have open.
pub fn open_files_limit() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/limits").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    let soft = line.split_whitespace().next()?;
    if soft == "unlimited" { Some(u64::MAX) } else { soft.parse().ok() }
}

/// The least of what the process's control group and those around it allow. `named` is the process's own list of them:
/// `0::/a/b` of the second version, `4:memory:/a/b` of the first.
fn of_groups(root: &Path, named: &str) -> Option<u64> {
    let own = |line: &str| {
        let (kind, path) = line.split_once(':')?.1.split_once(':')?;
        let (root, file) = match kind {
            "" => (root.to_owned(), "memory.max"),
            kind if kind.split(',').any(|kind| kind == "memory") => {
                (root.join("memory"), "memory.limit_in_bytes")
            }
            _ => return None,
        };
        let folder = root.join(path.trim_start_matches('/'));
        let around = folder.ancestors().take_while(|folder| folder.starts_with(&root));
        around.filter_map(|folder| fs::read_to_string(folder.join(file)).ok()?.trim().parse().ok()).min()
    };
    named.lines().filter_map(own).min()
}

/// A line `name 123 kB`, in bytes.
fn kilobytes(path: &Path, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_limit_around_the_process_counts() {
        let root = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let limit = |named: &str| of_groups(root.path(), named);
        assert_eq!(limit("0::/"), None);
        write("a/memory.max", "5000\n");
        write("a/b/memory.max", "max\n");
        write("a/c/memory.max", "900\n");
        assert_eq!(limit("0::/a/b\n"), Some(5000));
        assert_eq!(limit("0::/a/c\n"), Some(900));
        assert_eq!(limit("0::/elsewhere\n"), None);
        write("memory/d/memory.limit_in_bytes", "700\n");
        assert_eq!(limit("5:cpu:/d\n4:hugetlb,memory:/d\n0::/a/c\n"), Some(700));
        assert_eq!(limit("nonsense"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_machine_says_something() {
        let limit = memory_limit().unwrap();
        assert!((1 << 20..1 << 50).contains(&limit), "{limit}");
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "MemTotal:  12 kB\nMemAvailable:   34 kB\nMemFree: 5 pages\n").unwrap();
        assert_eq!(kilobytes(file.path(), "MemAvailable:"), Some(34 * 1024));
        assert_eq!(kilobytes(file.path(), "MemFree:"), None);
        assert!(open_files_limit().unwrap() > 3);
        let before = cpu_time().unwrap();
        while cpu_time().unwrap() == before {
            std::hint::black_box([0u8; 64]);
        }
    }
}
