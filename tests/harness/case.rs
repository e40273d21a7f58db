//! A run file, its data and a tiny model in a temporary folder, and the commands that work on them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::{Dice, binary, root};

/// The committed tiny models: `tests/golden/models/README.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Three layers, WordPiece, 64 tokens at most.
    Bert,
    /// The same sizes, byte-level BPE, 62 tokens at most.
    Roberta,
    /// Masked LM: layers with a window and without.
    ModernBert,
    /// Masked LM: disentangled attention, Unigram.
    Deberta,
    /// Masked LM: BERT's encoder under BART's configuration, 45 tokens at most.
    Cpt,
    /// Next token: nothing around the text.
    Gpt2,
    /// Next token: a leading special token.
    Llama,
    /// Encoder and decoder, 48 tokens at most.
    Bart,
    /// Encoder and decoder, Unigram.
    T5,
}

impl Family {
    fn golden(self) -> PathBuf {
        let name = match self {
            Self::Bert => "bert-tiny",
            Self::Roberta => "roberta-tiny",
            Self::ModernBert => "modernbert-tiny",
            Self::Deberta => "deberta-v3-tiny",
            Self::Cpt => "cpt-tiny",
            Self::Gpt2 => "gpt2-tiny",
            Self::Llama => "llama-tiny",
            Self::Bart => "bart-tiny",
            Self::T5 => "t5-tiny",
        };
        root().join("tests/golden/models").join(name)
    }
}

/// One temporary folder: `run.toml`, `pool.jsonl`, `test.jsonl`, and the model's copy in `model/`.
#[derive(Debug)]
pub struct Case {
    folder: TempDir,
    keys: BTreeMap<String, String>,
}

/// Candidates in a generation of a [`Case`], unless a test sets another number.
const POPULATION: usize = 6;

/// Generations of a [`Case`], unless a test sets another budget.
const GENERATIONS: usize = 24;

impl Case {
    /// A two-class task for the masked-LM read-out.
    pub fn masked(family: Family, injection: &str) -> Self {
        Self::words(family, injection, "masked-lm", "{text} . It was {mask} .")
    }

    /// The same task for the next-token read-out.
    pub fn next_token(family: Family, injection: &str) -> Self {
        Self::words(family, injection, "next-token", "{text} . It was")
    }

    /// The same task for an encoder-decoder model.
    pub fn seq2seq(family: Family, injection: &str) -> Self {
        Self::words(family, injection, "seq2seq", "{text} . It was {mask} .")
    }

    fn words(family: Family, injection: &str, read_out: &str, template: &str) -> Self {
        let case = Self::new(family, injection);
        let case = case.set("model.read_out", &format!("{read_out:?}"));
        let case = case.set("task.template", &format!("{template:?}"));
        case.set("task.words", r#"["bad", "great"]"#)
    }

    /// The same task for the sentence-similarity read-out.
    pub fn similarity(family: Family, injection: &str) -> Self {
        let case = Self::new(family, injection);
        let case = case.set("model.read_out", r#""similarity""#).set("model.temperature", "0.2");
        let case = case.set("task.template", r#""{text}""#);
        case.set("task.words", r#"["it was terrible !", "it was great"]"#)
    }

    fn new(family: Family, injection: &str) -> Self {
        let case = Self { folder: tempfile::tempdir().unwrap(), keys: BTreeMap::new() };
        case.put_model(family, "model");
        case.pool_rows(40);
        case.test_rows(30);
        let budget = (POPULATION * GENERATIONS).to_string();
        case.set("model.path", r#""model""#)
            .set("task.train", r#""pool.jsonl""#)
            .set("task.test", r#""test.jsonl""#)
            .set("task.shots", "4")
            .set("prompt.tokens", "3")
            .set("prompt.injection", &format!("{injection:?}"))
            .set("search.dim", "8")
            .set("search.population", &POPULATION.to_string())
            .set("search.alpha", "1.0")
            .set("search.budget", &budget)
            .set("search.seed", "7")
            .set("run.threads", "1")
    }

    /// Sets a key of the run file, its value written as TOML.
    pub fn set(mut self, key: &str, value: &str) -> Self {
        self.keys.insert(key.to_owned(), value.to_owned());
        self.write("run.toml", &self.run_file_text());
        self
    }

    /// Takes a key out of the run file.
    pub fn unset(mut self, key: &str) -> Self {
        self.keys.remove(key);
        self.write("run.toml", &self.run_file_text());
        self
    }

    /// Makes the training set large enough for a run that takes seconds: time to strike in its middle.
    pub fn long(self, generations: usize) -> Self {
        self.pool_rows(240);
        self.set("task.shots", "48").set("search.budget", &(POPULATION * generations).to_string())
    }

    /// A file of the case's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file of the case's folder.
    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// Puts a tiny model into a folder of the case, over what lies there.
    pub fn put_model(&self, family: Family, name: &str) {
        std::fs::create_dir_all(self.path(name)).unwrap();
        for file in ["config.json", "tokenizer.json", "model.safetensors"] {
            self.put_model_file(family, file, name);
        }
    }

    /// Puts one file of a tiny model into a folder of the case.
    pub fn put_model_file(&self, family: Family, file: &str, name: &str) {
        // Read and written, not copied: the copy must be writable whatever the original's mode.
        let bytes = std::fs::read(family.golden().join(file)).unwrap();
        std::fs::write(self.path(name).join(file), bytes).unwrap();
    }

    /// Replaces the pool by one of `rows` examples.
    pub fn pool_rows(&self, rows: usize) {
        self.write("pool.jsonl", &examples(rows, 1));
    }

    /// Replaces the test set by one of `rows` examples.
    pub fn test_rows(&self, rows: usize) {
        self.write("test.jsonl", &examples(rows, 2));
    }

    /// Generations that the budget covers.
    pub fn generations(&self) -> usize {
        let number = |key: &str| self.keys[key].parse::<usize>().unwrap();
        number("search.budget") / number("search.population")
    }

    /// `zeroth` with these arguments, in the case's folder.
    pub fn zeroth(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary("zeroth"));
        command.current_dir(self.folder.path()).args(arguments);
        command
    }

    /// `zeroth tune --json` into a run folder of the case.
    pub fn tune(&self, folder: &str, more: &[&str]) -> Command {
        let mut command =
            self.zeroth(&["tune", "run.toml", "--json", "--set", &format!("run.folder={folder}")]);
        command.args(more);
        command
    }

    fn run_file_text(&self) -> String {
        let mut text = String::new();
        for section in ["model", "task", "prompt", "search", "run"] {
            let _ = writeln!(text, "[{section}]"); // writing to a string cannot fail
            for (key, value) in &self.keys {
                if let Some(name) = key.strip_prefix(section).and_then(|rest| rest.strip_prefix('.')) {
                    let _ = writeln!(text, "{name} = {value}");
                }
            }
        }
        text
    }
}

/// Two classes in turn, in words that the tiny tokenizers know.
fn examples(rows: usize, seed: u64) -> String {
    let mut dice = Dice(seed);
    let mut text = String::new();
    for row in 0..rows {
        let label = row % 2;
        let of = |words: &[&str], dice: &mut Dice| words[dice.roll(0, words.len())].to_owned();
        let what = of(&["movie", "film", "world", "tech", "business"], &mut dice);
        let much = of(&["not", "about", "all of it", "no more"], &mut dice);
        let how = of([&["terrible", "bad"], &["great", "good"]][label], &mut dice);
        let rest =
            of(&["", " and it was about sports", " ; yes", " in the world of business , or not"], &mut dice);
        let _ = writeln!(text, r#"{{"text": "the {what} was {much} {how}{rest} {row}", "label": {label}}}"#);
    }
    text
}
