//! What a user can get wrong: each refused with exit code 2 and one line that says what, where, and what would be
//! right; a run that was under way loses nothing by it and goes on once the mistake is mended.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use tests::{Case, Family, Process, generations, generations_done, run, until};

/// A run killed on its way, and the files it must not lose.
struct Halfway {
    case: Case,
    files: BTreeMap<PathBuf, Vec<u8>>,
}

/// The files of a run folder that hold its work.
fn work_of(case: &Case, folder: &str) -> BTreeMap<PathBuf, Vec<u8>> {
    let paths = fs::read_dir(case.path(folder)).unwrap().map(|entry| entry.unwrap().path());
    let kept = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        name.starts_with("checkpoint")
            || ["events.jsonl", "prompt.safetensors", "run.toml"].contains(&name.as_str())
    };
    paths.filter(kept).map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

impl Halfway {
    fn new(case: Case) -> Self {
        let mut process = Process::start(&mut case.tune("run", &[]));
        let folder = case.path("run");
        until("a few generations", || {
            assert!(process.is_running(), "over too soon\n{}", process.report());
            (generations_done(&folder) >= 3).then_some(())
        });
        process.kill();
        let files = work_of(&case, "run");
        assert!(files.len() >= 2, "{files:?}");
        Self { case, files }
    }

    /// Resumes with a mistake in it.
    #[track_caller]
    fn refused(&self, more: &[&str], parts: &[&str]) {
        run(self.case.tune("run", &["--resume"]).args(more)).expect_refusal(parts);
        assert!(self.files == work_of(&self.case, "run"), "the refused command changed the run's work");
    }

    /// Resumes without the mistake.
    #[track_caller]
    fn goes_on(&self) {
        run(&mut self.case.tune("run", &["--resume"])).expect(0);
        assert_eq!(generations(&self.case.path("run")).len(), self.case.generations());
    }
}

fn bert() -> Case {
    Case::masked(Family::Bert, "add")
}

/// A fresh run refused: nothing that looks like a run may be left behind.
#[track_caller]
fn refused(case: &Case, more: &[&str], parts: &[&str]) {
    run(&mut case.tune("run", more)).expect_refusal(parts);
    assert_eq!(generations_done(&case.path("run")), 0);
    assert!(!case.path("run").join("prompt.safetensors").exists());
}

#[test]
fn missing_model_folder() {
    let halfway = Halfway::new(bert());
    fs::rename(halfway.case.path("model"), halfway.case.path("moved")).unwrap();
    halfway.refused(&[], &["model", "no folder"]);
    halfway.refused(&["--set", "model.path=./elsewhere"], &["elsewhere", "no folder"]);
    fs::rename(halfway.case.path("moved"), halfway.case.path("model")).unwrap();
    halfway.goes_on();
}

#[test]
fn missing_model_file() {
    let halfway = Halfway::new(bert());
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        fs::remove_file(halfway.case.path("model").join(file)).unwrap();
        halfway.refused(&[], &["model", file, "missing"]);
        halfway.case.put_model(Family::Bert, "model");
    }
    halfway.goes_on();
}

#[test]
fn truncated_safetensors() {
    let halfway = Halfway::new(bert());
    let path = halfway.case.path("model/model.safetensors");
    let whole = fs::read(&path).unwrap();
    for length in [0, 5, 1_000, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        halfway.refused(&[], &["model.safetensors"]);
    }
    fs::write(&path, &whole).unwrap();
    halfway.goes_on();
}

#[test]
fn config_that_is_no_config() {
    let case = bert();
    for (text, part) in [("{", "config.json"), ("{}", "config.json"), (r#"{"model_type": "mamba"}"#, "mamba")]
    {
        case.write("model/config.json", text);
        refused(&case, &[], &["config.json", part]);
    }
}

#[test]
fn another_models_tokenizer() {
    let halfway = Halfway::new(bert());
    halfway.case.put_model_file(Family::Roberta, "tokenizer.json", "model");
    halfway.refused(&[], &["tokenizer.json", "another model"]);
    halfway.case.put_model(Family::Bert, "model");
    halfway.goes_on();
    // The other way round every id exists in the model, and means something else.
    let case = Case::masked(Family::Roberta, "add");
    case.put_model_file(Family::Bert, "tokenizer.json", "model");
    refused(&case, &[], &["tokenizer.json", "another model"]);
    case.write("model/tokenizer.json", "{}");
    refused(&case, &[], &["tokenizer.json"]);
}

/// The same weights in name only: a run goes on with the model that it began with, or not at all.
#[test]
fn another_model_on_resume() {
    let halfway = Halfway::new(bert());
    halfway.case.put_model(Family::Roberta, "model");
    halfway.refused(&[], &["model"]);
    halfway.case.put_model(Family::Bert, "model");
    halfway.goes_on();
}

#[test]
fn dataset_rows() {
    let halfway = Halfway::new(bert());
    let case = &halfway.case;
    let good = fs::read_to_string(case.path("pool.jsonl")).unwrap();
    for (row, parts) in [
        (r#"{"text": "the movie"}"#, ["pool.jsonl:41:", "\"label\" is missing"]),
        (
            r#"{"text": "the movie", "label": 2}"#,
            ["pool.jsonl:41:", "label 2 is none of this task's 2 classes"],
        ),
        (r#"{"text": "the movie", "label": -1}"#, ["pool.jsonl:41:", "label -1"]),
        (r#"{"text": "the movie", "label": "bad"}"#, ["pool.jsonl:41:", "bad"]),
        (r#"{"label": 1}"#, ["pool.jsonl:41:", "\"text\" is missing"]),
        (r#"{"text": "the movie", "label": 1"#, ["pool.jsonl:41:", "not valid JSON"]),
    ] {
        case.write("pool.jsonl", &format!("{good}{row}\n"));
        halfway.refused(&[], &parts);
    }
    case.write("pool.jsonl", &good);
    case.write("test.jsonl", "{\"text\": \"the movie\"}\n");
    halfway.refused(&[], &["test.jsonl:1:", "label"]);
    case.write("test.csv", "text,label\nthe movie,1\nthe film\n");
    halfway.refused(&["--set", "task.test=test.csv"], &["test.csv:3:", "label"]);
    halfway.refused(&["--set", "task.train=absent.jsonl"], &["absent.jsonl"]);
    case.test_rows(30);
    halfway.goes_on();
}

#[test]
fn label_words() {
    let case = bert();
    refused(
        &case,
        &["--set", r#"task.words=["bad", "greatest movie"]"#],
        &["task.words", "greatest movie", "one token"],
    );
    refused(&case, &["--set", r#"task.words=["bad", "好"]"#], &["task.words", "好", "vocabulary"]);
    refused(&case, &["--set", r#"task.words=["bad", "bad"]"#], &["task.words", "twice"]);
    refused(&case, &["--set", r#"task.words=["bad"]"#], &["task.words", "two classes"]);
    run(&mut case.tune("run", &[])).expect(0); // what was refused stands in nobody's way
}

#[test]
fn more_shots_than_the_pool_holds() {
    let halfway = Halfway::new(bert());
    halfway.refused(&["--set", "task.shots=11"], &["pool.jsonl", "class 0 has 20 examples", "task.shots"]);
    halfway.goes_on();
}

#[test]
fn examples_longer_than_the_model_allows() {
    let case = bert();
    // With the template's 7 tokens: 62 fit the model's 64 positions, but not beside the prompt's 3.
    for words in [55, 90] {
        let long = "good ".repeat(words);
        let row = |label: usize| format!("{{\"text\": \"{long}\", \"label\": {label}}}\n");
        let test = fs::read_to_string(case.path("test.jsonl")).unwrap();
        case.write("test.jsonl", &format!("{test}{}", row(1)));
        let tokens = format!("{} tokens", words + 7);
        let ended = run(&mut case.tune("run", &[]));
        ended.expect_late_refusal(&["test.jsonl:31: ", &tokens, "at most 61", "shorten or split"]);
        assert_eq!(generations_done(&case.path("run")), 0, "it must be found before the budget is spent");
        case.test_rows(30);
        // One of them, which the seed draws for training or for dev; and the same in a table, where lines differ.
        let pool = fs::read_to_string(case.path("pool.jsonl")).unwrap();
        for number in [2, 3] {
            let all_long = |i: usize| if i < number { String::new() } else { row(i % 2) };
            let (kept, long) = (pool.lines().take(number), (0..40).map(all_long).collect::<String>());
            case.write("pool.jsonl", &format!("{}\n\n{long}", kept.collect::<Vec<_>>().join("\n")));
            let ended = run(&mut case.tune("run", &[]));
            let ended = ended.expect_refusal(&["pool.jsonl:", &tokens, "at most 61", "shorten or split"]);
            let line = ended.err.split("pool.jsonl:").nth(1).and_then(|rest| rest.split(':').next());
            assert!((number + 2..=41).contains(&line.unwrap().parse().unwrap()), "{}", ended.report());
        }
        case.pool_rows(40);
    }
    let table = format!("label,text\n\n1,\"the movie\nwas\"\n0,{}\n", "good ".repeat(90));
    case.write("test.csv", &table);
    let set = ["--set", "task.test=test.csv"];
    run(&mut case.tune("run", &set)).expect_late_refusal(&["test.csv:5: 97 tokens"]);
    run(&mut case.tune("run", &["--resume"])).expect(0);
    run(&mut case.zeroth(&["score", "run", "--data", "test.csv"])).expect_refusal(&["test.csv:5: 97 tokens"]);
    let input = format!("the movie\nthe film\n{}\n", "good ".repeat(90));
    let mut predict = case.zeroth(&["predict", "run"]);
    let ended = Process::start_with_input(&mut predict, &input).wait();
    ended.expect_refusal(&["standard input, line 3: 97 tokens", "shorten or split"]);
}

#[test]
fn keys_of_the_run_file() {
    let halfway = Halfway::new(bert());
    let case = &halfway.case;
    let good = fs::read_to_string(case.path("run.toml")).unwrap();
    let lines = good.lines().count();
    for (line, parts) in [
        ("thread = 2", ["unknown key `run.thread`", "run.threads"]),
        ("budget = 10", ["unknown key `run.budget`", "search.budget"]),
        ("max_batch_tokens = \"many\"", ["run.max_batch_tokens", "whole number"]),
        ("threads = ", ["not valid TOML", "run.toml"]),
    ] {
        case.write("run.toml", &format!("{good}{line}\n"));
        let place = format!("run.toml:{}", lines + 1);
        halfway.refused(&[], &[&place, parts[0], parts[1]]);
    }
    case.write("run.toml", &good);
    halfway.goes_on();
    run(&mut case.zeroth(&["tune", "absent.toml"])).expect_refusal(&["absent.toml"]);
}

#[test]
fn overrides() {
    let halfway = Halfway::new(bert());
    halfway.refused(&["--set", "search.budgte=100"], &["--set", "search.budgte", "search.budget"]);
    halfway.refused(&["--set", "search.budget"], &["--set", "search.budget", "="]);
    halfway.refused(&["--set", "search.sigma=-1"], &["--set", "search.sigma", "above 0"]);
    halfway.refused(&["--set", "search.method=sgd"], &["search.method", "sgd", "bbtv2"]);
    halfway.refused(&["--set", "task.template=It was {mask} ."], &["task.template", "{text}"]);
    halfway.refused(&["--set", "task.template={text} it was"], &["task.template", "{mask}"]);
    halfway.refused(&["--set", "task.template={txt} {mask}"], &["task.template", "{txt}"]);
    halfway.refused(&["--set", "search.budget=5"], &["search.budget", "5", "population of 6"]);
    halfway.goes_on();
}

/// The command line itself: clap's own words, on the same exit code.
#[test]
fn options() {
    let case = bert();
    for arguments in
        [&["tune"][..], &["tun", "run.toml"], &["tune", "run.toml", "--listen", "here"], &["status"]]
    {
        let ended = run(&mut case.zeroth(arguments)).expect(2);
        assert!(!ended.err.contains("panicked") && ended.err.contains("error:"), "{}", ended.report());
    }
}

#[test]
fn run_folder_of_another_run() {
    let halfway = Halfway::new(bert());
    halfway.refused(&["--set", "search.seed=8"], &["run", "another run", "run.folder"]);
    halfway.refused(&["--set", "search.sigma=0.3"], &["another run"]);
    run(&mut halfway.case.tune("run", &[])).expect_refusal(&["--resume", "run.folder"]);
    assert!(halfway.files == work_of(&halfway.case, "run"));
    halfway.goes_on();
    let finished = work_of(&halfway.case, "run");
    run(&mut halfway.case.tune("run", &["--set", "search.seed=8"])).expect_refusal(&["another run"]);
    assert!(finished == work_of(&halfway.case, "run"));
}

#[test]
fn run_folder_in_use() {
    let case = bert().long(40);
    let process = Process::start(&mut case.tune("run", &[]));
    until("the run to begin", || (generations_done(&case.path("run")) >= 1).then_some(()));
    for more in [&[][..], &["--resume"]] {
        run(&mut case.tune("run", more)).expect_refusal(&["run", "another coordinator"]);
    }
    process.wait().expect(0);
    assert_eq!(generations(&case.path("run")).len(), case.generations());
}

#[test]
fn run_folder_that_is_a_file() {
    let case = bert();
    case.write("taken", "");
    run(&mut case.tune("taken", &[])).expect_refusal(&["run.folder", "taken"]);
}

#[test]
fn artefacts() {
    let case = bert();
    run(&mut case.tune("run", &[])).expect(0);
    let path = case.path("run/prompt.safetensors");
    let whole = fs::read(&path).unwrap();
    let predict = |source: &str| run(&mut case.zeroth(&["predict", source, "--text", "the movie"]));
    predict("run").expect(0);
    predict("absent").expect_refusal(&["absent"]);
    predict("model/model.safetensors").expect_refusal(&["model.safetensors"]);
    for length in [0, 7, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        predict("run").expect_refusal(&["prompt.safetensors"]);
    }
    let mut damaged = whole.clone();
    *damaged.last_mut().unwrap() ^= 1; // a number of the prompt itself
    fs::write(&path, &damaged).unwrap();
    predict("run").expect_refusal(&["prompt.safetensors"]);
    fs::write(&path, &whole).unwrap();
    case.put_model(Family::Roberta, "other");
    let other = run(&mut case.zeroth(&["predict", "run", "--model", "other", "--text", "the movie"]));
    other.expect_refusal(&["model"]);
}

/// A device that this build, without features, has not; and names that are none.
#[test]
fn a_device_that_is_not_there() {
    let case = bert();
    refused(&case, &["--set", "model.device=cuda"], &["this build has no CUDA: build with --features cuda"]);
    refused(&case, &["--set", "model.device=metal"], &["this build has no Metal"]);
    refused(&case, &["--set", "model.device=gpu"], &["model.device", "none of: cpu, cuda, cuda:N, metal"]);
    refused(&case, &["--set", "model.dtype=f16"], &["model.dtype = \"f16\""]);
    let mut alone = tests::evaluator(&case, "http://127.0.0.1:9", "gpu");
    run(alone.args(["--device", "cuda:1"])).expect_refusal(&["this build has no CUDA"]);
}
