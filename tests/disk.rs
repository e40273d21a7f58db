//! A run folder that cannot be written for a while, or for good: the run goes on, says so once, and loses nothing.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use tests::{
    Case, Family, Process, SmallDisk, artefact, binary, generations, generations_done, root, run, until,
};

const GOES_ON: &str = "the run goes on, and tries again with each generation";
const AGAIN: &str = "can be written again; nothing was lost";

/// A run of some seconds, and what it comes to in the folder `whole`.
fn case() -> Case {
    let case = Case::masked(Family::Bert, "add").long(120);
    run(&mut case.tune("whole", &[])).expect(0);
    case
}

#[track_caller]
fn assert_as_whole(case: &Case, folder: &str) {
    let (one, other) = (case.path("whole"), case.path(folder));
    assert_eq!(generations(&one), generations(&other), "losses of {folder}");
    assert!(artefact(&one) == artefact(&other), "the artefact of {folder} differs");
}

fn run_to(process: &mut Process, folder: &Path, done: usize) {
    until("generations", || {
        assert!(process.is_running(), "over too soon\n{}", process.report());
        (generations_done(folder) >= done).then_some(())
    });
}

#[test]
fn a_disk_that_is_full_for_a_while() {
    let case = case();
    let Some(disk) = SmallDisk::mount(&case.path("run"), 512) else { return };
    let mut process = Process::start(&mut case.tune("run", &[]));
    for done in [5, 40] {
        run_to(&mut process, &case.path("run"), done);
        disk.fill();
        process.nth_err_line(GOES_ON, usize::from(done > 5));
        disk.free();
        process.nth_err_line(AGAIN, usize::from(done > 5));
    }
    let ended = process.wait().expect(0);
    let said = |what: &str| ended.err.lines().filter(|line| line.contains(what)).count();
    assert_eq!((said(GOES_ON), said(AGAIN)), (2, 2), "once an episode\n{}", ended.report());
    assert_as_whole(&case, "run");
}

#[test]
fn a_disk_that_stays_full_to_the_end() {
    let case = case();
    let Some(disk) = SmallDisk::mount(&case.path("run"), 512) else { return };
    let mut process = Process::start(&mut case.tune("run", &["--set", "run.write_timeout_s=2"]));
    run_to(&mut process, &case.path("run"), 100);
    disk.fill();
    let ended = process.wait().expect(1);
    let errors: Vec<&str> = ended.err.lines().filter(|line| line.starts_with("error: ")).collect();
    let [error] = errors[..] else { panic!("one line says so\n{}", ended.report()) };
    for part in ["prompt.safetensors", "No space left", "2 s, run.write_timeout_s", "--resume"] {
        assert!(error.contains(part), "{part}\n{}", ended.report());
    }
    disk.free();
    run(&mut case.tune("run", &["--resume"])).expect(0);
    assert_as_whole(&case, "run");
}

#[test]
fn a_disk_that_is_full_when_the_run_is_done() {
    let case = case();
    let Some(disk) = SmallDisk::mount(&case.path("run"), 512) else { return };
    let mut process = Process::start(&mut case.tune("run", &[]));
    run_to(&mut process, &case.path("run"), 100);
    disk.fill();
    process.err_line("trying again for 600 s");
    disk.free();
    process.wait().expect(0);
    assert_as_whole(&case, "run");
}

/// Who runs the tests as root may write everywhere: then the run is somebody else's. `None` where that cannot be.
fn as_nobody(case: &Case, command: &mut Command) -> Option<()> {
    const NOBODY: u32 = 65534;
    if fs::metadata("/proc/self").ok()?.uid() != 0 {
        return Some(());
    }
    let sees = Command::new(binary("zeroth")).arg("--version").uid(NOBODY).gid(NOBODY).output();
    if !sees.is_ok_and(|output| output.status.success()) {
        println!("SKIPPED: {} is hidden from everybody but root", root().display());
        return None;
    }
    command.uid(NOBODY).gid(NOBODY);
    fs::set_permissions(case.path(""), Permissions::from_mode(0o755)).unwrap();
    fs::create_dir_all(case.path("run")).unwrap();
    chown(case.path("run"), Some(NOBODY), Some(NOBODY)).unwrap();
    Some(())
}

fn may_write(folder: &Path, may: bool) {
    fs::set_permissions(folder, Permissions::from_mode(if may { 0o755 } else { 0o555 })).unwrap();
}

#[test]
fn a_folder_that_is_read_only_for_a_while() {
    let case = case();
    let mut command = case.tune("run", &[]);
    let Some(()) = as_nobody(&case, &mut command) else { return };
    let mut process = Process::start(&mut command);
    run_to(&mut process, &case.path("run"), 5);
    may_write(&case.path("run"), false);
    let said = process.err_line(GOES_ON);
    assert!(said.contains("checkpoint.bin") && said.contains("ermission denied"), "{said}");
    may_write(&case.path("run"), true);
    process.err_line(AGAIN);
    process.wait().expect(0);
    assert_as_whole(&case, "run");
}

#[test]
fn a_folder_that_is_read_only_from_the_beginning() {
    let case = Case::masked(Family::Bert, "add");
    let mut command = case.tune("run", &[]);
    let Some(()) = as_nobody(&case, &mut command) else { return };
    fs::create_dir_all(case.path("run")).unwrap();
    may_write(&case.path("run"), false);
    run(&mut command).expect_refusal(&["run.folder", "ermission denied"]);
    may_write(&case.path("run"), true);
}
