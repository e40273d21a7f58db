//! Results of earlier benches, one JSON object a line, the newest of each kind: what the next run is compared with.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::{Value, json};
use shared::frame;

use crate::embedded::Row;
use crate::error::Error;

/// What must be equal for two results to be compared. `model` says which one a name is of; shapes have none. Lines of
/// versions that did not say it are of another kind than any of a model, and stay.
const KIND: [&str; 12] = [
    "machine",
    "device",
    "shape",
    "model",
    "injection",
    "dtype",
    "examples",
    "text_rows",
    "prompt_tokens",
    "population",
    "threads",
    "max_batch_tokens",
];

/// The file and what is in it.
pub(super) struct Saved {
    path: PathBuf,
    machine: String,
    rows: Vec<Value>,
}

impl Saved {
    /// Reads `path`, or the file in the user's cache; checks that it can be written, before anything is timed.
    pub(super) fn open(path: Option<&Path>) -> Result<Self, Error> {
        let path = match path {
            Some(path) => path.to_owned(),
            None => cached().ok_or_else(|| {
                Error::Input("there is no HOME to keep results under; say --save FILE".to_owned())
            })?,
        };
        let wrong = |problem: String| Error::Input(format!("{}: {problem}", path.display()));
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        folder
            .map_or(Ok(()), fs::create_dir_all)
            .map_err(|error| wrong(format!("{error}; say --save FILE")))?;
        let opened = fs::OpenOptions::new().append(true).create(true).open(&path);
        opened.map_err(|error| wrong(format!("cannot be written: {error}; say --save FILE")))?;
        let text = fs::read_to_string(&path).map_err(|error| wrong(error.to_string()))?;
        let row = |(number, line): (usize, &str)| {
            let row = serde_json::from_str(line).ok().filter(Value::is_object);
            row.ok_or_else(|| wrong(format!("line {}: no result of a bench; delete it", number + 1)))
        };
        let rows = text.lines().enumerate().map(row).collect::<Result<_, _>>()?;
        Ok(Self { path, machine: machine(), rows })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Seconds a call of the last run of that kind, of the `model` if it is of one.
    pub(super) fn before(&self, row: &Row, model: Option<&str>) -> Option<f64> {
        let new = self.kept(row, model);
        self.rows.iter().find(|old| same_kind(old, &new))?["seconds"].as_f64()
    }

    /// Puts a row in the place of the last one of its kind.
    pub(super) fn keep(&mut self, row: &Row, model: Option<&str>) -> Result<(), Error> {
        let mut new = self.kept(row, model);
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        new["unix_seconds"] = json!(since.map_or(0, |since| since.as_secs()));
        self.rows.retain(|old| !same_kind(old, &new));
        self.rows.push(new);
        let text: String = self.rows.iter().map(|row| format!("{row}\n")).collect();
        frame::write_bytes_atomic(&self.path, text.as_bytes()).map_err(Error::input)
    }

    fn kept(&self, row: &Row, model: Option<&str>) -> Value {
        let mut kept = serde_json::to_value(row).unwrap_or_default();
        kept["machine"] = json!(self.machine);
        kept["version"] = json!(env!("CARGO_PKG_VERSION"));
        if let Some(model) = model {
            kept["model"] = json!(model);
        }
        if let Some(object) = kept.as_object_mut() {
            object.remove("logits");
        }
        kept
    }
}

fn same_kind(one: &Value, other: &Value) -> bool {
    KIND.iter().all(|key| of_kind(one, key) == of_kind(other, key))
}

/// A result that says no device is of the processor: there was no other.
fn of_kind<'a>(row: &'a Value, key: &str) -> Option<&'a Value> {
    row.get(key).filter(|value| key != "device" || **value != "cpu")
}

/// `zeroth/bench.jsonl` in the user's cache.
fn cached() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|folder| !folder.is_empty()).map(PathBuf::from);
    let cache = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")))?;
    Some(cache.join("zeroth").join("bench.jsonl"))
}

/// The processor's name and the cores this process may use.
fn machine() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let name = name.map_or(std::env::consts::ARCH, |(_, name)| name.trim());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{name}, {cores} cores")
}
