//! One real process: started, listened to, waited for, signalled, and never left behind.

use std::env;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use serde_json::Value;

use crate::until;

/// Where cargo put a binary of the workspace: beside the test itself.
///
/// # Panics
/// When it is not there, with the command that builds it.
pub fn binary(name: &str) -> PathBuf {
    let test = env::current_exe().expect("a test has a path");
    let profile = test.ancestors().nth(2).expect("a test lies in target/PROFILE/deps");
    let path = profile.join(name);
    assert!(
        path.is_file(),
        "{} is not built; `cargo test --workspace --release` builds it, `cargo build --release` too",
        path.display()
    );
    path
}

/// A process in progress; killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    command: String,
    folder: PathBuf,
    out: Output,
    err: Output,
    ended: Option<ExitStatus>,
}

/// A process's end and all that it said.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
    report: String,
}

/// What a pipe has said so far.
#[derive(Debug)]
struct Output {
    lines: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Ended {
    Process::start(command).wait()
}

impl Process {
    /// Starts a command, its standard input closed.
    pub fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::null());
        Self::spawn(command)
    }

    /// Starts a command and writes `input` to it.
    pub fn start_with_input(command: &mut Command, input: &str) -> Self {
        command.stdin(Stdio::piped());
        let mut process = Self::spawn(command);
        let mut pipe = process.child.stdin.take().expect("stdin is piped");
        pipe.write_all(input.as_bytes()).expect("the process reads its input");
        process
    }

    fn spawn(command: &mut Command) -> Self {
        let folder = command.get_current_dir().map_or_else(|| env::current_dir().unwrap(), Path::to_owned);
        // Tests must not depend on what the person who runs them has set.
        let ours =
            env::vars_os().map(|(name, _)| name).filter(|name| name.to_string_lossy().starts_with("ZEROTH_"));
        for name in ours.chain(["HF_TOKEN".into(), "OTEL_EXPORTER_OTLP_ENDPOINT".into()]) {
            command.env_remove(name);
        }
        command.env("HF_HUB_OFFLINE", "1").stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let (out, err) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
        Self {
            command: format!("{command:?}"),
            folder,
            out: Output::of(out),
            err: Output::of(err),
            child,
            ended: None,
        }
    }

    /// The first line of standard error that contains `text`, as soon as it is there.
    ///
    /// # Panics
    /// When the process ends without it.
    pub fn err_line(&mut self, text: &str) -> String {
        self.nth_err_line(text, 0)
    }

    /// As [`Self::err_line`], the `n`th such line from 0.
    ///
    /// # Panics
    /// When the process ends without it.
    pub fn nth_err_line(&mut self, text: &str, n: usize) -> String {
        self.nth_line(text, n, |process| &mut process.err)
    }

    /// The first line of standard output that contains `text`, as soon as it is there.
    ///
    /// # Panics
    /// When the process ends without it.
    pub fn out_line(&mut self, text: &str) -> String {
        self.nth_line(text, 0, |process| &mut process.out)
    }

    fn nth_line(&mut self, text: &str, n: usize, of: impl Fn(&mut Self) -> &mut Output) -> String {
        until(&format!("line {n} with {text:?} of {}", self.command), || {
            let over = !self.is_running();
            if over {
                of(self).join(); // everything it has said is here now
            }
            let found = of(self).lines().into_iter().filter(|line| line.contains(text)).nth(n);
            assert!(found.is_some() || !over, "ended without saying {text:?}\n{}", self.report());
            found
        })
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().expect("a child can be waited for");
        }
        self.ended.is_none()
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How many lines of standard error contain `text` by now.
    pub fn err_lines(&self, text: &str) -> usize {
        self.err.lines().iter().filter(|line| line.contains(text)).count()
    }

    /// Sends a signal by its name: `INT`, `TERM`, `STOP`, `CONT`.
    pub fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.child.id());
        let status = Command::new("sh").args(["-c", &kill]).status().expect("there is a shell");
        assert!(status.success(), "{kill}: {status}\n{}", self.report());
    }

    /// SIGKILL, while it is running.
    ///
    /// # Panics
    /// When it has ended before: then the fault did not strike.
    pub fn kill(mut self) -> Ended {
        assert!(self.is_running(), "ended before it could be killed\n{}", self.report());
        self.child.kill().expect("a child can be killed");
        let ended = self.wait();
        assert_eq!(ended.signal, Some(9), "the kill came too late\n{}", ended.report);
        ended
    }

    /// SIGKILL, unless it has ended in the meantime.
    pub fn kill_or_ended(mut self) -> Ended {
        if self.is_running() {
            self.child.kill().expect("a child can be killed");
        }
        self.wait()
    }

    /// Waits for its end.
    pub fn wait(mut self) -> Ended {
        until(&format!("the end of {}", self.command), || (!self.is_running()).then_some(()));
        self.out.join();
        self.err.join();
        let status = self.ended.expect("just awaited");
        Ended {
            code: status.code(),
            signal: status.signal(),
            out: self.out.text(),
            err: self.err.text(),
            report: self.report(),
        }
    }

    /// Everything a reader of a failed test wants to know.
    pub fn report(&self) -> String {
        let mut listing = String::new();
        list(&self.folder, &self.folder, &mut listing);
        let status = self.ended.map_or("running".to_owned(), |status| status.to_string());
        format!(
            "command: {}\nfolder:  {}\n{listing}status:  {status}\nstdout:\n{}stderr:\n{}",
            self.command,
            self.folder.display(),
            self.out.text(),
            self.err.text()
        )
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended long ago
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("---- a process of the failing test ----\n{}", self.report());
        }
    }
}

impl Ended {
    /// Checks the exit code.
    ///
    /// # Panics
    /// With the whole report, when it is another.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "another exit code was expected\n{}", self.report);
        assert!(!self.err.contains('\u{1b}'), "colours are for terminals\n{}", self.report);
        self
    }

    /// Checks that a user's mistake was refused as it should be: exit code 2 and one line that says all of `parts`.
    ///
    /// # Panics
    /// With the whole report, when it was not.
    #[track_caller]
    pub fn expect_refusal(self, parts: &[&str]) -> Self {
        assert_eq!(self.err.lines().count(), 1, "one line was expected on stderr\n{}", self.report);
        self.expect_late_refusal(parts)
    }

    /// The same for a mistake that shows only when work has begun: lines of progress may stand before.
    ///
    /// # Panics
    /// With the whole report, when it was not.
    #[track_caller]
    pub fn expect_late_refusal(self, parts: &[&str]) -> Self {
        let ended = self.expect(2);
        let (said, last) = match ended.err.trim_end().rsplit_once('\n') {
            Some((before, last)) => (before, last),
            None => ("", ended.err.trim_end()),
        };
        assert!(said.lines().all(|line| line.contains(" calls  ")), "more than progress\n{}", ended.report);
        assert!(last.starts_with("error: "), "{}", ended.report);
        for part in parts {
            assert!(last.contains(part), "stderr does not say {part:?}\n{}", ended.report);
        }
        assert_eq!(ended.out, "", "{}", ended.report);
        ended
    }

    /// The last line of standard output, as JSON.
    ///
    /// # Panics
    /// With the whole report, when it is none.
    #[track_caller]
    pub fn json(&self) -> Value {
        let last = self.out.lines().last().unwrap_or_default();
        serde_json::from_str(last).unwrap_or_else(|error| panic!("{last:?}: {error}\n{}", self.report))
    }

    /// Everything a reader of a failed test wants to know.
    pub fn report(&self) -> &str {
        &self.report
    }
}

impl Output {
    fn of(pipe: impl Read + Send + 'static) -> Self {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&lines);
        let reader = thread::spawn(move || {
            for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
                kept.lock().unwrap().push(String::from_utf8_lossy(&line).into_owned());
            }
        });
        Self { lines, reader: Some(reader) }
    }

    fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    fn text(&self) -> String {
        self.lines().iter().map(|line| format!("{line}\n")).collect()
    }

    fn join(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the reader of a pipe does not panic");
        }
    }
}

/// Names and sizes below a folder.
fn list(root: &Path, folder: &Path, listing: &mut String) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            list(root, &path, listing);
        } else {
            let name = path.strip_prefix(root).unwrap_or(&path).display();
            let size = path.metadata().map_or(0, |metadata| metadata.len());
            let _ = writeln!(listing, "  {size:>8}  {name}"); // writing to a string cannot fail
        }
    }
}
