//! Every command that README.md and docs/ show is run, with the reader's files replaced by tiny ones; every run file
//! they show, and every example, is read. A command that no rule here covers fails the test.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use shared::spec::RunFile;
use tests::{Case, Coordinator, Family, Process, Standing, binary, evaluator, root, run};

/// A fenced block: its file and line, its language, its lines.
struct Block {
    place: String,
    language: String,
    lines: Vec<String>,
}

fn pages() -> Vec<PathBuf> {
    let mut pages = vec![root().join("README.md")];
    let docs = fs::read_dir(root().join("docs")).into_iter().flatten();
    pages.extend(
        docs.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|e| e == "md")),
    );
    pages.sort();
    pages
}

fn blocks() -> Vec<Block> {
    let mut blocks = Vec::new();
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap_or_else(|error| panic!("{}: {error}", page.display()));
        let mut open: Option<Block> = None;
        for (number, line) in text.lines().enumerate() {
            match (line.trim_start().strip_prefix("```"), &mut open) {
                (Some(_), Some(_)) => blocks.extend(open.take()),
                (Some(language), None) => {
                    let place = format!("{}:{}", page.display(), number + 1);
                    open = Some(Block { place, language: language.trim().to_owned(), lines: Vec::new() });
                }
                (None, Some(block)) => block.lines.push(line.to_owned()),
                (None, None) => {}
            }
        }
        assert!(open.is_none(), "{}: a block is not closed", page.display());
    }
    blocks
}

/// The commands of a shell block: continued lines joined, comments and prompts taken off.
fn commands(block: &Block) -> Vec<String> {
    let joined = block.lines.join("\n").replace("\\\n", " ");
    let bare = |line: &str| {
        let line = line.trim().trim_start_matches("$ ");
        line.split(" #").next().unwrap_or_default().trim().to_owned()
    };
    joined.lines().map(bare).filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
}

/// Commands that are not ours to run inside a test, and what is checked instead.
const ELSEWHERE: [(&str, &str); 9] = [
    ("git clone ", ""),                        // nothing of ours
    ("cd ", ""),                               // nothing of ours
    ("cargo test --workspace", ".ci/run"),     // this test is part of it; the gate must call the same
    (".ci/run", ".ci/run"),                    // calls this test
    ("target/release/zeroth model pull ", ""), // needs the network: see tests/model.rs
    ("python3 -m venv ", ""),                  // makes what tests/python_client.rs makes for itself
    ("python-client/bin/", ""),                // its client is run by tests/python_client.rs
    ("kubectl ", ""), // wants a cluster; scripts/check-deploy renders each folder shown
    ("scripts/", ""), // takes minutes or the network: see `scripts_can_be_run`
];

/// Builds that are shown, word for word: the first is what this test stands on, the second is type-checked by
/// scripts/check-cuda.
const BUILDS: [&str; 2] =
    ["cargo build --release", "cargo build --release -p evaluator -p coordinator --features cuda"];

/// What follows each `option` in a command.
fn given<'a>(command: &'a str, option: &str) -> Vec<&'a str> {
    let words: Vec<&str> = command.split_whitespace().collect();
    words.windows(2).filter(|pair| pair[0] == option).map(|pair| pair[1]).collect()
}

/// A build that is shown names crates and features that there are.
fn check_build(command: &str) {
    for name in given(command, "-p") {
        let file = root().join(name).join("Cargo.toml");
        let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let manifest: toml::Table = text.parse().unwrap();
        for feature in given(command, "--features") {
            assert!(
                manifest["features"].get(feature).is_some(),
                "{name} has no feature {feature}: `{command}`"
            );
        }
    }
}

/// A bench on a device that this machine may not have: its options are those that `--help` knows, its device and shape
/// among those that it names.
fn check_bench(command: &str) {
    let help = run(Command::new(binary("zeroth")).args(["bench", "evaluator", "--help"])).expect(0).out;
    let known: Vec<&str> = help.split(|c: char| c.is_whitespace() || c == ',' || c == '.').collect();
    let options = command.split_whitespace().filter(|word| word.starts_with("--"));
    let named =
        ["--device", "--shape", "--dtype", "--injection"].map(|option| given(command, option)).concat();
    for word in options.chain(named) {
        assert!(known.contains(&word), "`zeroth bench evaluator --help` does not know {word}: `{command}`");
    }
}

/// Whether a shell command is covered without being run here.
fn covered_elsewhere(command: &str) -> bool {
    if BUILDS.contains(&command) {
        check_build(command);
        return true;
    }
    if command.starts_with("target/release/zeroth bench evaluator ") && command.contains(" --device ") {
        check_bench(command);
        return true;
    }
    let Some((_, gate)) = ELSEWHERE.iter().find(|(start, _)| command.starts_with(start)) else {
        return false;
    };
    if *gate == ".ci/run" && command != ".ci/run" {
        let text = fs::read_to_string(root().join(".ci/run")).expect(".ci/run is there");
        assert!(text.contains(command), ".ci/run does not call the documented `{command}`");
    }
    if command.starts_with("scripts/") {
        let script = root().join(command.split_whitespace().next().unwrap());
        assert!(script.is_file(), "{} is documented, but not there", script.display());
    }
    true
}

/// A tiny finished run in `run/`, and the words of a documented command replaced by its files.
struct Stage {
    case: Case,
    tunes: usize,
    /// The standing coordinator that was shown last, and an evaluator for it.
    standing: Option<(Standing, Process)>,
}

/// Commands whose first argument is a standing coordinator's address.
const CLIENTS: [&str; 5] = ["submit", "status", "watch", "cancel", "fetch"];

impl Stage {
    fn new() -> Self {
        let case = Case::masked(Family::Bert, "add").set("search.budget", "24");
        run(&mut case.tune("run", &[])).expect(0);
        Self { case, tunes: 0, standing: None }
    }

    /// The command as it can be run in the case's folder.
    fn adapt(&mut self, command: &str, url: &str) -> String {
        let mut words = Vec::new();
        let mut last = "";
        for word in command.split_whitespace() {
            words.push(match word {
                _ if ["--listen", "--metrics", "--health"].contains(&last) => "127.0.0.1:0".to_owned(),
                _ if last == "--folder" => ".".to_owned(),
                _ if last == "--to" => "fetched.safetensors".to_owned(),
                _ if word.ends_with("/zeroth") || word.ends_with("/zeroth-evaluator") => {
                    word.rsplit('/').next().unwrap().to_owned()
                }
                _ if word.ends_with(".toml") => "run.toml".to_owned(),
                _ if word.ends_with("prompt.safetensors") => "run/prompt.safetensors".to_owned(),
                _ if word.starts_with("runs/") || word.contains("/runs/") => "run".to_owned(),
                _ if last == "--model" || last == "inspect" => "model".to_owned(),
                _ if word.ends_with(".jsonl") || word.ends_with(".csv") || word.ends_with(".tsv") => {
                    "test.jsonl".to_owned()
                }
                _ if word.starts_with("http://") || word.starts_with("https://") => url.to_owned(),
                _ => word.to_owned(),
            });
            if word == "tune" && last.rsplit('/').next() == Some("zeroth") {
                self.tunes += 1;
                words.push(format!("--set run.folder=documented-{}", self.tunes));
            }
            if word == "submit" && !command.contains("--watch") {
                words.push("--set search.budget=1000000".to_owned()); // what is shown next finds it under way
            }
            last = word;
        }
        words.join(" ").trim_end_matches('&').to_owned()
    }

    fn shell(&self, command: &str) -> Command {
        let folder = binary("zeroth").parent().unwrap().display().to_string();
        let path = std::env::var("PATH").unwrap_or_default();
        let mut shell = Command::new("sh");
        shell.args(["-c", command]).current_dir(self.case.path("")).env("PATH", format!("{folder}:{path}"));
        shell.env("XDG_CACHE_HOME", self.case.path("cache"));
        shell
    }

    /// Runs a documented command of `zeroth` or `zeroth-evaluator` with whatever it needs around it.
    fn run(&mut self, place: &str, command: &str) {
        if command.contains("zeroth serve ") {
            return self.serve(place, command);
        }
        let needs_coordinator = command.contains("--coordinator");
        let coordinator = needs_coordinator.then(|| {
            self.tunes += 1;
            Coordinator::start(&self.case, &format!("documented-{}", self.tunes), &[])
        });
        let standing = self.standing.as_ref().map(|(standing, _)| standing.url()).unwrap_or_default();
        let called = command.split_whitespace().any(|word| CLIENTS.contains(&word));
        let own = coordinator.as_ref().map(Coordinator::url);
        let url = own.unwrap_or(if called { standing } else { String::new() });
        let adapted = self.adapt(command, &url);
        let mut process = Process::start(&mut self.shell(&adapted));
        let helper = command.contains("--listen").then(|| {
            let line = process.err_line("listening on ");
            let address = line.split("listening on ").nth(1).and_then(|rest| rest.split(';').next()).unwrap();
            Process::start(&mut evaluator(&self.case, &format!("http://{address}"), "helper"))
        });
        let ended = process.wait();
        assert_eq!(ended.code, Some(0), "{place}: `{command}`, run as `{adapted}`\n{}", ended.report());
        if let Some(helper) = helper {
            helper.wait().expect(0);
        }
    }
}

impl Stage {
    /// Starts a documented standing coordinator, for the commands after it.
    fn serve(&mut self, place: &str, command: &str) {
        self.close();
        let adapted = self.adapt(command, "");
        let words: Vec<&str> = adapted.split_whitespace().collect();
        let ["zeroth", "serve", "--listen", address, "--folder", ".", more @ ..] = &words[..] else {
            panic!("{place}: `{command}`: write --listen and --folder first")
        };
        let standing = Standing::start_at(&self.case, address, more);
        let helper = Process::start(&mut evaluator(&self.case, &standing.url(), "helper"));
        self.standing = Some((standing, helper));
    }

    /// Ends it as a user would.
    fn close(&mut self) {
        if let Some((standing, _helper)) = self.standing.take() {
            standing.process.signal("TERM");
            standing.process.wait().expect(0);
        }
    }
}

fn is_ours(command: &str) -> bool {
    command.split(['|', ';']).any(|part| {
        let name = part.split_whitespace().next().unwrap_or_default();
        matches!(name.rsplit('/').next(), Some("zeroth" | "zeroth-evaluator"))
    })
}

#[test]
fn every_command_shown_runs() {
    let mut stage = Stage::new();
    let mut ran = 0;
    for block in
        blocks().iter().filter(|block| matches!(block.language.as_str(), "sh" | "bash" | "shell" | "console"))
    {
        for command in commands(block) {
            if is_ours(&command) && !covered_elsewhere(&command) {
                stage.run(&block.place, &command);
                ran += 1;
            } else {
                assert!(covered_elsewhere(&command), "{}: no rule runs or covers `{command}`", block.place);
            }
        }
    }
    stage.close();
    assert!(ran >= 5, "only {ran} commands of ours were found: has the blocks' language changed?");
}

#[test]
fn every_run_file_shown_is_right() {
    let mut read = 0;
    for block in blocks().iter().filter(|block| block.language == "toml") {
        let text = block.lines.join("\n");
        if text.contains("[model]") && text.contains("[task]") {
            let file = RunFile::parse(&text, &root().join("shown.toml"));
            let resolved = file.and_then(|file| file.resolve());
            assert!(resolved.is_ok(), "{}: {}", block.place, resolved.unwrap_err());
            read += 1;
        }
    }
    assert!(read >= 1, "no complete run file is shown");
}

#[test]
fn every_example_is_right() {
    let entries = fs::read_dir(root().join("examples")).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|e| e == "toml")).collect();
    assert!(files.len() >= 3, "{files:?}");
    for file in files {
        let resolved = RunFile::read(&file).and_then(|file| file.resolve());
        assert!(resolved.is_ok(), "{}: {}", file.display(), resolved.unwrap_err());
    }
}

/// Scripts that a reader is sent to: executable, and their shells or Pythons can read them.
#[test]
fn scripts_can_be_run() {
    use std::os::unix::fs::PermissionsExt;
    for name in ["quickstart", "fetch-minilm", "measure-accuracy", "bench-cma", "bench-coco"] {
        let path = root().join("scripts").join(name);
        let mode =
            fs::metadata(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).permissions();
        assert!(mode.mode() & 0o111 != 0, "{} is not executable", path.display());
        let text = fs::read_to_string(&path).unwrap();
        let first = text.lines().next().unwrap_or_default();
        if first.contains("sh") && !first.contains("python") {
            let shell = if first.contains("bash") { "bash" } else { "sh" };
            run(Command::new(shell).arg("-n").arg(&path)).expect(0);
        }
    }
}

/// The options that scripts/bench-peers names at its top are those that it takes, and a line of its `--json` begins with
/// the keys that are promised; neither needs a peer.
#[test]
fn bench_peers_takes_what_it_says() {
    let script = root().join("scripts/bench-peers");
    let python = || {
        let mut python = Command::new("python3");
        python.arg("-B").env("COLUMNS", "1000");
        python
    };
    let help = run(python().arg(&script).arg("--help")).expect(0).out;
    let (usage, described) = help.split_once("\n\n").expect("usage, then the description");
    let option = |word: &str| word.trim_matches(['[', ']', '.']).starts_with("--");
    let options = |text: &str| {
        let words = text.split_whitespace().filter(|word| option(word));
        let mut found: Vec<String> =
            words.map(|word| word.trim_matches(['[', ']', '.']).to_owned()).collect();
        found.sort();
        found
    };
    let synopsis = described.split("\n\n").nth(1).expect("the synopsis");
    assert_eq!(options(usage), options(synopsis), "{help}");
    assert_eq!(options(usage).len(), 9, "{usage}");
    for command in blocks().iter().flat_map(commands).filter(|line| line.starts_with("scripts/bench-peers")) {
        for word in command.split_whitespace().filter(|word| option(word)) {
            assert!(options(usage).contains(&word.to_owned()), "`{command}`: {word}\n{usage}");
        }
    }
    let row = "import json, runpy, sys; \
               print(json.dumps(runpy.run_path(sys.argv[1])['row']('s', 'add', 'f32', 'p', 3.0, 1.5)))";
    let row = run(python().arg("-c").arg(row).arg(&script)).expect(0).out;
    assert_eq!(
        row.trim(),
        r#"{"shape": "s", "injection": "add", "dtype": "f32", "peer": "p", "peer_seconds": 3.0, "seconds": 1.5, "ratio": 2.0}"#
    );
}
