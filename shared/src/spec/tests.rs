//! The run file: what is accepted, what each mistake is answered with, and that the documentation agrees.

use std::path::Path;

use super::*;

const GOOD: &str = r#"
[model]
path = "some/model"
[task]
train = "train.jsonl"
words = ["bad", "great"]
template = "{text} It was {mask}."
"#;

fn resolve(text: &str) -> Result<RunSpec, SpecError> {
    RunFile::parse(text, Path::new("/runs/sst2.toml"))?.resolve()
}

/// The error of the good file with one more line in a section, or with a line replaced.
fn message(section: &str, line: &str) -> String {
    let key = line.split(' ').next().unwrap_or_default();
    let kept: String =
        GOOD.lines().filter(|l| !l.starts_with(&format!("{key} "))).map(|l| format!("{l}\n")).collect();
    let header = format!("[{section}]\n");
    let text = if kept.contains(&header) {
        kept.replace(&header, &format!("{header}{line}\n"))
    } else {
        format!("{kept}{header}{line}\n")
    };
    resolve(&text).unwrap_err().to_string()
}

#[test]
fn defaults_are_those_of_the_documentation() {
    let spec = resolve(GOOD).unwrap();
    let written: toml::Table = toml::from_str(&toml::to_string(&spec).unwrap()).unwrap();
    for key in KEYS {
        let Ok(value) = format!("v = {}", key.default).parse::<toml::Table>() else { continue }; // "" or prose
        let (section, name) = key.name.split_once('.').unwrap();
        if key.name == "run.folder" || key.name == "task.template" {
            continue; // one is spelled with placeholders, the other is given above
        }
        let later = ["search.covariance", "search.learning_rates", "search.reevaluate", "search.racing"];
        if later.contains(&key.name) {
            let given = format!("{GOOD}[search]\n{name} = {}\n", key.default);
            assert_eq!(resolve(&given).unwrap().search, spec.search, "{}", key.name);
            assert!(
                written[section].get(name).is_none(),
                "{} is not written where it has its default",
                key.name
            );
            continue;
        }
        assert_eq!(written[section][name].to_string(), value["v"].to_string(), "{}", key.name);
    }
    assert_eq!(spec.run.max_batch_tokens, BatchTokens::default(), "evaluators have no run file");
    assert_eq!(spec.run.folder, Path::new("/runs/runs/sst2-42"));
    assert_eq!(spec.task.train, Path::new("/runs/train.jsonl"));
}

#[test]
fn the_resolved_file_reads_back_the_same() {
    let spec = resolve(GOOD).unwrap();
    assert_eq!(toml::from_str::<RunSpec>(&toml::to_string(&spec).unwrap()).unwrap(), spec);
}

#[test]
fn each_mistake_is_one_line_with_file_line_key_and_what_would_be_right() {
    let cases = [
        (
            "search",
            "populaton = 20",
            "sst2.toml:9: unknown key `search.populaton`; did you mean `search.population`?",
        ),
        ("search", "tokens = 20", "sst2.toml:9: unknown key `search.tokens`; did you mean `prompt.tokens`?"),
        ("serch", "dim = 20", "sst2.toml:9: unknown key `serch.dim`; did you mean `search.dim`?"),
        (
            "search",
            "population = \"many\"",
            "sst2.toml:9: `search.population`: a whole number from 0 is expected",
        ),
        (
            "search",
            "budget = 10",
            "sst2.toml:9: `search.budget`: a budget of 10 calls is smaller than one population",
        ),
        ("search", "racing = 1", "sst2.toml:9: `search.racing`: true or false is expected, not 1"),
        ("search", "sigma = -1.0", "sst2.toml:9: `search.sigma`: a number above 0 is expected"),
        (
            "search",
            "bounds = 5.0",
            "sst2.toml:9: `search.bounds`: two numbers are expected, as [-5.0, 5.0], not 5.0",
        ),
        ("search", "bounds = [-1.0, 0.0, 1.0]", "two numbers are expected"),
        (
            "search",
            "bounds = [5.0, -5.0]",
            "sst2.toml:9: `search.bounds`: a finite number below 0 and one above 0 are expected, where the search",
        ),
        ("search", "bounds = [1, 2]", "below 0 and one above 0 are expected"),
        ("search", "bounds = [-inf, 2.0]", "below 0 and one above 0 are expected"),
        ("search", "bounds = [-1.0, \"2\"]", "below 0 and one above 0 are expected"),
        (
            "search",
            "bounds = [-1.0, 1.0]\nlearning_rates = \"adapted\"",
            "sst2.toml:9: `search.bounds`: learning rates are adapted without search.bounds alone",
        ),
        ("search", "incumbent = \"bst\"", "\"bst\" is none of: best, mean, generation-best"),
        ("model", "read_out = \"next-token\"", "\"next-token\" reads no mask; take {mask} out"),
        ("model", "read_out = \"similarity\"", "take {mask} out"),
        ("task", "template = \"{txt} {mask}\"", "unknown placeholder {txt}"),
        ("task", "template = \"{text}\"", "needs {mask} in the template"),
        ("task", "words = [\"one\"]", "at least two classes"),
        ("task", "words = [\"one\", \"one\"]", "stands twice"),
        ("task", "loss = \"l2\"", "none of: ce, hinge, metric"),
        ("task", "shots = 0", "a whole number from 1"),
        (
            "search",
            "dim = 5000",
            "sst2.toml:9: `search.dim`: a whole number from 1 to 4096 is expected, not 5000",
        ),
        ("search", "dim = 1979-05-27", "sst2.toml:9: `search.dim`: a date, or a number beyond"),
        ("search", "population = 3", "at least 4 candidates are needed"),
        ("search", "population = 70000", "a whole number from 1 to 65536 is expected"),
        ("run", "threads = 1000000", "sst2.toml:9: `run.threads`: a whole number from 1 to 4096 is expected"),
        ("run", "threads = -1", "a whole number from 0 is expected, not -1"),
        ("model", "temperature = 1e-50", "sst2.toml:3: `model.temperature`: a number from"),
        ("model", "temperature = 1e300", "sst2.toml:3: `model.temperature`: a number from"),
    ];
    for (section, line, expected) in cases {
        let message = message(section, line);
        assert!(message.contains(expected), "{line}: {message}");
        assert!(!message.contains('\n') && message.contains("sst2.toml"), "{message}");
    }
    assert_eq!(resolve("").unwrap_err().to_string(), "/runs/sst2.toml: `model.path` is missing");
    let outside = |text: &str| resolve(text).unwrap_err().to_string();
    assert!(outside("dim = 3").ends_with("sst2.toml:1: unknown key `dim`; did you mean `search.dim`?"));
    assert!(outside("\n[serch]").ends_with("sst2.toml:2: unknown key `serch`; did you mean `search`?"));
    assert!(outside("search = 3").contains("sst2.toml:1: `search`: is a section: write [search]"));
    assert!(outside("[[search]]\ndim = 3").contains("sst2.toml:1: `search`: is a section: write [search]"));
    assert!(resolve("[model\n").unwrap_err().to_string().contains("sst2.toml:1: not valid TOML"));
}

#[test]
fn overrides_replace_what_the_file_says_and_are_named_in_errors() {
    let set = |options: &[&str]| {
        let mut file = RunFile::parse(GOOD, Path::new("/runs/sst2.toml")).unwrap();
        file.apply_overrides(&options.iter().map(|&o| o.to_owned()).collect::<Vec<_>>())?;
        file.resolve()
    };
    let spec = set(&["search.dim=7", "task.words=[\"a\", \"b\", \"c\"]", "prompt.injection=prefix"]).unwrap();
    assert_eq!((spec.search.dim, spec.task.words.len(), spec.prompt.injection), (7, 3, Injection::Prefix));
    let f1 = set(&["search.racing=true", "task.loss=metric", "task.metric=f1"]);
    assert!(
        f1.unwrap_err().to_string().starts_with("--set search.racing=true: `search.racing`: F1 is no sum")
    );
    assert!(set(&["search.racing=true", "task.loss=metric"]).unwrap().search.racing);
    assert!(set(&["search.dmi=7"]).unwrap_err().to_string().contains("did you mean `search.dim`"));
    assert!(set(&["dim=7"]).unwrap_err().to_string().ends_with("did you mean `search.dim`?"));
    assert!(set(&["search=7"]).unwrap_err().to_string().contains("--set search.KEY=VALUE"));
    assert!(set(&["dim"]).unwrap_err().to_string().contains("key=value"));
    assert!(set(&["search.dim=x"]).unwrap_err().to_string().starts_with("--set search.dim=x: `search.dim`"));
}

/// For each key another value than the good file's, and whether the result depends on it; `None`: it has but one value.
const OTHERS: &[(&str, Option<&str>, bool)] = &[
    ("model.path", Some("another/model"), false), // the model's own hashes are compared instead
    ("model.revision", Some("v2"), false),
    ("model.dtype", Some("bf16"), true),
    ("model.device", Some("cuda:1"), true),
    ("model.read_out", None, true), // `similarity` goes with another template
    ("model.temperature", Some("0.1"), true),
    ("task.name", Some("other"), false),
    ("task.train", Some("other.jsonl"), false), // its hash is given instead
    ("task.test", Some("test.jsonl"), false),
    ("task.template", Some("{text} {mask}"), true),
    ("task.words", Some("[\"great\", \"bad\"]"), true),
    ("task.shots", Some("8"), true),
    ("task.loss", Some("hinge"), true),
    ("task.metric", Some("f1"), true),
    ("prompt.tokens", Some("5"), true),
    ("prompt.injection", Some("prefix"), true),
    ("prompt.init", Some("none"), true),
    ("search.method", Some("bbt"), true),
    ("search.dim", Some("10"), true),
    ("search.population", Some("10"), true),
    ("search.sigma", Some("1"), true),
    ("search.alpha", Some("1"), true),
    ("search.budget", Some("100"), true),
    ("search.seed", Some("1"), true),
    ("search.projection", Some("uniform"), true),
    ("search.incumbent", Some("mean"), true),
    ("search.select", Some("loss"), true),
    ("search.dev_every", Some("6"), true),
    ("search.covariance", Some("separable"), true),
    ("search.learning_rates", Some("adapted"), true),
    ("search.bounds", Some("[-1, 2.5]"), true),
    ("search.reevaluate", Some("true"), true),
    ("search.racing", Some("true"), true),
    ("search.deadline", Some("2.5"), true),
    ("run.folder", Some("elsewhere"), false),
    ("run.threads", Some("3"), false),
    ("run.max_batch_tokens", Some("auto"), false),
    ("run.memory", Some("4GiB"), false),
    ("run.projections", Some("regenerate"), false),
    ("run.lease_timeout_s", Some("1"), false),
    ("run.write_timeout_s", Some("1"), false),
];

#[test]
fn the_hash_changes_with_the_result_alone() {
    let names: Vec<_> = OTHERS.iter().map(|other| other.0).collect();
    assert_eq!(names, KEYS.iter().map(|key| key.name).collect::<Vec<_>>(), "every key says what it changes");
    let spec = resolve(GOOD).unwrap();
    for (key, value, defines) in OTHERS {
        let Some(value) = value else { continue };
        let mut file = RunFile::parse(GOOD, Path::new("/runs/sst2.toml")).unwrap();
        file.apply_overrides(&[format!("{key}={value}")]).unwrap();
        let changed = file.resolve().unwrap();
        assert_ne!(changed, spec, "{key} is taken");
        assert_eq!(changed.hash("pool") != spec.hash("pool"), *defines, "{key}");
    }
    assert_ne!(spec.hash("another pool"), spec.hash("pool"));
    let similarity =
        RunSpec { model: ModelSpec { read_out: ReadOut::Similarity, ..spec.model.clone() }, ..spec.clone() };
    assert_ne!(similarity.hash("pool"), spec.hash("pool"));
}

#[test]
fn what_a_file_leaves_out_follows_from_its_name_and_its_read_out() {
    let text = GOOD
        .replace("template = \"{text} It was {mask}.\"", "")
        .replace("[model]", "[model]\nread_out = \"similarity\"");
    assert_eq!(resolve(&text).unwrap().task.template.source(), "{text}");
    let folder = |name: &str| {
        let mut file = RunFile::parse(GOOD, Path::new("/runs/sst2.toml")).unwrap();
        file.apply_overrides(&[format!("task.name={name}"), "search.seed=7".to_owned()]).unwrap();
        file.resolve().unwrap().run.folder
    };
    assert_eq!(folder("mr"), Path::new("/runs/runs/mr-7"));
    assert_eq!(folder("../../mr"), Path::new("/runs/runs/..-..-mr-7"));
}

/// `docs/run-file.md` as it should be.
fn documentation() -> String {
    let mut text = "# The run file\n\nA run file is TOML. Relative paths are relative to the file itself; `--set KEY=VALUE` overrides a key. \
                    Unknown keys are refused.\n\nThis page is made from `shared/src/spec/keys.rs`; a test keeps the two alike \
                    (`ZEROTH_BLESS=1 cargo test --release -p shared documentation` writes it anew).\n"
        .to_owned();
    let mut section = "";
    for key in KEYS {
        let (here, name) = key.name.split_once('.').unwrap();
        if here != section {
            text += &format!("\n## [{here}]\n\n| key | default | meaning |\n| --- | --- | --- |\n");
            section = here;
        }
        let default = match key.default {
            "" => "must be given".to_owned(),
            prose if prose.contains("'s") || prose == "none" => prose.to_owned(),
            value => format!("`{value}`"),
        };
        text += &format!("| `{name}` | {default} | {} |\n", key.meaning);
    }
    text
}

#[test]
fn documentation_agrees_with_the_keys() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/run-file.md");
    if std::env::var_os("ZEROTH_BLESS").is_some() {
        std::fs::write(&path, documentation()).unwrap();
    }
    assert_eq!(
        std::fs::read_to_string(&path).unwrap(),
        documentation(),
        "run it with ZEROTH_BLESS=1 to write it anew"
    );
}
