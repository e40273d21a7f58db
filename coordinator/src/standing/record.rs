//! What a standing coordinator keeps of each run, beside the run's own folder: `runs/ID.json` in its folder, written at
//! once or not at all. What a run needs to go on is in its run folder; this says that there is such a run.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use shared::frame;
use shared::spec::{RunFile, RunSpec};

use crate::error::Error;
use crate::folder::Lock;
use crate::progress::Progress;

/// Where the records lie, within the coordinator's folder.
const RECORDS: &str = "runs";

/// The largest run file that is taken, in bytes.
const LARGEST: usize = 1 << 20;

/// A run file as a client has handed it in.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Submission {
    /// The run file's own name: for messages, and the task's name where it gives none.
    pub name: String,
    /// TOML.
    pub run_file: String,
    /// `KEY=VALUE` overrides.
    pub set: Vec<String>,
    /// Whether to go on from a checkpoint that its run folder holds.
    pub resume: bool,
}

impl Submission {
    /// The run it asks for, as run `id` of the coordinator in `home`. Relative paths are relative to `home`.
    ///
    /// # Errors
    /// [`Error::Input`], as `tune` would say it of a file of this name.
    pub fn spec(&self, home: &Path, id: u64) -> Result<RunSpec, Error> {
        if self.run_file.len() > LARGEST {
            let length = self.run_file.len();
            return Err(Error::Input(format!("a run file of {length} bytes; at most {LARGEST} are read")));
        }
        let name = Path::new(&self.name).file_name().unwrap_or("run.toml".as_ref());
        let path = home.join(name);
        let theirs = |error: shared::spec::SpecError| {
            let text = error.to_string(); // places begin with the file, which to its owner is not in `home`
            let prefix = path.display().to_string();
            let rest = text.strip_prefix(&prefix).map(|rest| format!("{}{rest}", name.display()));
            Error::Input(rest.unwrap_or(text))
        };
        let mut file = RunFile::parse(&self.run_file, &path).map_err(theirs)?;
        file.apply_overrides(&self.set).map_err(theirs)?;
        let mut spec = file.resolve().map_err(theirs)?;
        let own = format!("{}-{id}", spec.task.name.replace(['/', '\\'], "-"));
        spec.run.folder =
            if file.has("run.folder") { inside(home, &spec.run.folder)? } else { home.join(own) };
        Ok(spec)
    }
}

/// A run folder that a client has chosen, without `.` and `..`: it must lie in `home`, and not among the records.
fn inside(home: &Path, folder: &Path) -> Result<PathBuf, Error> {
    let mut plain = PathBuf::new();
    for component in folder.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => drop(plain.pop()),
            other => plain.push(other),
        }
    }
    let below = plain.strip_prefix(home).ok().filter(|below| !below.as_os_str().is_empty());
    match below {
        Some(below) if !below.starts_with(RECORDS) => Ok(plain),
        _ => Err(Error::Input(format!(
            "`run.folder`: {} is not a place for a run; one lies inside {}, but not in its {RECORDS}",
            folder.display(),
            home.display()
        ))),
    }
}

/// What is kept of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    /// What was asked for.
    pub(super) submission: Submission,
    /// The task's name.
    pub(super) task: String,
    /// The run folder.
    pub(super) folder: PathBuf,
    /// Whether a client has cancelled it: it is not begun again, though it may not have ended yet.
    pub(super) cancelled: bool,
    /// Where the run stood when it ended; `None` while it has not.
    pub(super) last: Option<Progress>,
}

/// The folder of a standing coordinator, held by this process.
#[derive(Debug)]
pub(super) struct Home {
    path: PathBuf,
    _lock: Lock,
}

impl Home {
    /// Makes or opens the folder and reads its records.
    ///
    /// # Errors
    /// [`Error::Input`] when another coordinator is at work there, or a record is none.
    pub(super) fn open(path: &Path) -> Result<(Self, BTreeMap<u64, Record>), Error> {
        let unusable = |error| Error::Input(format!("--folder {}: {error}", path.display()));
        fs::create_dir_all(path.join(RECORDS)).map_err(unusable)?;
        let path = path.canonicalize().map_err(unusable)?;
        let lock = Lock::take(
            &path,
            "--folder",
            "another coordinator is at work in this folder; choose another --folder",
        )?;
        let home = Self { path, _lock: lock };
        let records = home.records()?;
        Ok((home, records))
    }

    /// Where it is, absolute.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the record of run `id`.
    ///
    /// # Errors
    /// What the file system says.
    pub(super) fn write(&self, id: u64, record: &Record) -> Result<(), Error> {
        let text = serde_json::to_vec_pretty(record).map_err(Error::failed)?;
        frame::write_bytes_atomic(&self.record(id), &text).map_err(Error::failed)
    }

    fn record(&self, id: u64) -> PathBuf {
        self.path.join(RECORDS).join(format!("{id}.json"))
    }

    fn records(&self) -> Result<BTreeMap<u64, Record>, Error> {
        let folder = self.path.join(RECORDS);
        let mut records = BTreeMap::new();
        for entry in fs::read_dir(&folder).map_err(Error::file(&folder))? {
            let path = entry.map_err(Error::file(&folder))?.path();
            let name =
                path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".json"));
            let Some(id) = name.and_then(|name| name.parse().ok()) else {
                continue; // what a write that was cut off has left, or nothing of ours
            };
            let text = fs::read(&path).map_err(Error::file(&path))?;
            let record = serde_json::from_slice(&text).map_err(|error| {
                let path = path.display();
                Error::Input(format!(
                    "{path}: no record of a run: {error}; mend it, or remove it to forget the run"
                ))
            })?;
            records.insert(id, record);
        }
        Ok(records)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn submission(run_file: &str) -> Submission {
        Submission { name: "films.toml".to_owned(), run_file: run_file.to_owned(), ..Submission::default() }
    }

    const RIGHT: &str = "[model]\npath = \"m\"\n[task]\ntrain = \"pool.jsonl\"\ntemplate = \"{text} {mask}\"\nwords = [\"a\", \"b\"]\n";

    #[test]
    fn paths_are_relative_to_the_coordinators_folder_and_each_run_has_its_own() {
        let spec = submission(RIGHT).spec(Path::new("/home"), 7).unwrap();
        assert_eq!(spec.task.train, Path::new("/home/pool.jsonl"));
        assert_eq!(spec.run.folder, Path::new("/home/films-7"));
        let named = Submission { set: vec!["task.name=a/b".to_owned()], ..submission(RIGHT) };
        assert_eq!(named.spec(Path::new("/home"), 8).unwrap().run.folder, Path::new("/home/a-b-8"));
    }

    #[test]
    fn what_is_wrong_is_said_of_the_clients_file() {
        let say = |text: &str| submission(text).spec(Path::new("/home"), 1).unwrap_err();
        let error = say("[model]\npth = \"m\"\n");
        assert_eq!(error.to_string(), "films.toml:2: unknown key `model.pth`; did you mean `model.path`?");
        assert_eq!(error.exit_code(), 2);
        assert_eq!(say("").to_string(), "films.toml: `model.path` is missing");
        let nowhere = Submission { name: "../..".to_owned(), ..submission("") };
        assert!(nowhere.spec(Path::new("/home"), 1).unwrap_err().to_string().starts_with("run.toml:"));
        let long = say(&" ".repeat(LARGEST + 1)).to_string();
        assert!(long.contains("at most 1048576"), "{long}");
    }

    #[test]
    fn a_run_folder_lies_inside_the_coordinators() {
        let chosen = |folder: &str| {
            let set = vec![format!("run.folder={folder}")];
            Submission { set, ..submission(RIGHT) }.spec(Path::new("/home"), 1).map(|spec| spec.run.folder)
        };
        assert_eq!(chosen("x/../y/./z").unwrap(), Path::new("/home/y/z"));
        assert_eq!(chosen("/home/y").unwrap(), Path::new("/home/y"));
        for wrong in ["..", "../x", "y/../../x", "/etc", ".", "runs", "runs/x", "/homes"] {
            let error = chosen(wrong).unwrap_err().to_string();
            assert!(error.contains("inside /home"), "{wrong}: {error}");
        }
    }

    #[test]
    fn records_come_back_and_a_damaged_one_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let (home, none) = Home::open(folder.path()).unwrap();
        assert!(none.is_empty());
        let last = Progress { calls: 7, best_loss: Some(0.1 + 0.2), ..Progress::default() };
        let record = |last| Record {
            submission: submission(RIGHT),
            task: "films".to_owned(),
            folder: home.path().join("films-3"),
            cancelled: false,
            last,
        };
        home.write(3, &record(None)).unwrap();
        home.write(12, &record(Some(last.clone()))).unwrap();
        fs::write(folder.path().join("runs/4.json.new"), "{").unwrap();
        let busy = Home::open(folder.path()).unwrap_err();
        assert!(busy.exit_code() == 2 && busy.to_string().contains("another coordinator"), "{busy}");
        let (three, twelve) = (record(None), record(Some(last)));
        drop(home);
        let (home, records) = Home::open(folder.path()).unwrap();
        assert_eq!(records, BTreeMap::from([(3, three), (12, twelve)]));
        drop(home);
        fs::write(folder.path().join("runs/3.json"), "{").unwrap();
        let error = Home::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("3.json: no record of a run"), "{error}");
    }
}
