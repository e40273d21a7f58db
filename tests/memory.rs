//! What `zeroth model inspect` says of memory against what a run takes, as the system counts it; and a stated limit.
#![cfg(target_os = "linux")] // no other system says what a process has taken

use std::fs;

use serde_json::{Map, Value, json};
use tests::{Case, Dice, Family, root, run};

/// Predictions may be off by so much of what is measured.
const TOLERANCE: f64 = 0.15;

/// A committed tiny model made large: its list of tensors with other sizes, and more layers.
struct Grown {
    tiny: &'static str,
    /// A size of the tiny model, and what becomes of it.
    sizes: &'static [(u64, u64)],
    /// Keys of its configuration that change.
    config: fn(&mut Value),
}

const LAYERS: usize = 5;

const BERT: Grown = Grown {
    tiny: "bert-tiny",
    sizes: &[(129, 8000), (40, 640), (72, 1280)],
    config: |config| {
        config["hidden_size"] = json!(640);
        config["intermediate_size"] = json!(1280);
        config["vocab_size"] = json!(8000);
    },
};

const LLAMA: Grown = Grown {
    tiny: "llama-tiny",
    sizes: &[(338, 8000), (36, 768), (12, 256), (52, 1024)],
    config: |config| {
        config["hidden_size"] = json!(768);
        config["intermediate_size"] = json!(1024);
        config["vocab_size"] = json!(8000);
    },
};

impl Grown {
    /// Writes it into the case's folder `model`, its numbers random.
    fn write(&self, case: &Case) {
        let golden = root().join("tests/golden/models").join(self.tiny);
        let file = |name: &str| case.path("model").join(name);
        fs::write(file("tokenizer.json"), fs::read(golden.join("tokenizer.json")).unwrap()).unwrap();
        let mut config: Value =
            serde_json::from_slice(&fs::read(golden.join("config.json")).unwrap()).unwrap();
        (self.config)(&mut config);
        config["num_hidden_layers"] = json!(LAYERS);
        fs::write(file("config.json"), config.to_string()).unwrap();

        let tiny = fs::read(golden.join("model.safetensors")).unwrap();
        let length = u64::from_le_bytes(tiny[..8].try_into().unwrap()) as usize;
        let tiny: Map<String, Value> = serde_json::from_slice(&tiny[8..8 + length]).unwrap();
        let (mut list, mut bytes) = (Map::new(), 0);
        for (name, entry) in tiny.iter().filter(|(name, _)| *name != "__metadata__") {
            let copies = match name.find(".0.") {
                Some(_) => (0..LAYERS).map(|layer| name.replace(".0.", &format!(".{layer}."))).collect(),
                None if name.contains(".1.") || name.contains(".2.") => Vec::new(),
                None => vec![name.clone()],
            };
            let shape: Vec<u64> =
                entry["shape"].as_array().unwrap().iter().map(|size| self.size(size)).collect();
            for copy in copies {
                let end = bytes + 4 * shape.iter().product::<u64>();
                list.insert(copy, json!({"dtype": "F32", "shape": shape, "data_offsets": [bytes, end]}));
                bytes = end;
            }
        }
        let list = Value::Object(list).to_string();
        let mut dice = Dice(1);
        let mut written = (list.len() as u64).to_le_bytes().to_vec();
        written.extend(list.into_bytes());
        written.extend((0..bytes / 4).flat_map(|_| (dice.roll(0, 2001) as f32 * 4e-5 - 0.04).to_le_bytes()));
        fs::write(file("model.safetensors"), written).unwrap();
    }

    fn size(&self, tiny: &Value) -> u64 {
        let tiny = tiny.as_u64().unwrap();
        self.sizes.iter().find(|(from, _)| *from == tiny).map_or(tiny, |(_, to)| *to)
    }
}

const PROMPT: usize = 20;
const DIM: usize = 250;

fn case(grown: &Grown, injection: &str) -> Case {
    let case = Case::masked(Family::Bert, injection);
    grown.write(&case);
    let case = match grown.tiny {
        "llama-tiny" => case
            .set("model.read_out", r#""next-token""#)
            .set("task.template", r#""{text} :""#)
            .set("task.words", r#"[" yes", " no"]"#),
        _ => case,
    };
    case.set("prompt.tokens", &PROMPT.to_string())
        .set("search.dim", &DIM.to_string())
        .set("search.budget", "30") // one sweep
        .set("run.threads", "2")
        .set("task.shots", "8")
}

#[test]
fn inspect_predicts_what_a_run_takes() {
    for (grown, injection, projections, rows) in
        [(&BERT, "add", "memory", 1024), (&BERT, "prefix", "regenerate", 256), (&LLAMA, "add", "auto", 1024)]
    {
        let case = case(grown, injection).set("run.projections", &format!("{projections:?}"));
        let case = case.set("run.max_batch_tokens", &rows.to_string());
        let planned = run(&mut case.zeroth(&["tune", "run.toml", "--json", "--dry-run"])).expect(0).json();
        let measured =
            run(&mut case.tune("run", &[])).expect(0).json()["peak_memory_bytes"].as_f64().unwrap();
        let (rows, tokens) = (rows.to_string(), planned["train_tokens"].to_string());
        let (prompt, dim) = (PROMPT.to_string(), DIM.to_string());
        let options = [
            ["--max-batch-tokens", &rows],
            ["--train-tokens", &tokens],
            ["--examples", "16"],
            ["--prompt-tokens", &prompt],
            ["--dim", &dim],
            ["--threads", "2"],
            ["--projections", projections],
        ];
        let arguments = [&["model", "inspect", "model", "--json"], options.as_flattened()].concat();
        let facts = run(&mut case.zeroth(&arguments)).expect(0).json();
        let predicted = facts["memory_bytes"].as_f64().unwrap();
        let off = predicted / measured - 1.0;
        let text = format!(
            "{} {injection} {projections}: {predicted} for {measured}, {:.1} %",
            grown.tiny,
            100.0 * off
        );
        println!("{text}");
        assert!(off.abs() <= TOLERANCE, "{text}\n{facts}");
        // neither tables nor projections are small enough to be overlooked
        assert!(facts["table_bytes"].as_f64().unwrap() > 0.05 * measured, "{facts}");
        let kept = facts["projection_bytes"].as_f64().unwrap();
        assert_eq!(kept > 0.2 * measured, projections != "regenerate", "{facts}");
    }
}

#[test]
fn a_stated_limit_is_kept_to_or_refused() {
    let case = case(&BERT, "add").set("search.budget", "12");
    let limited = |memory: &str, more: &[&str]| {
        let memory = format!("run.memory={memory}");
        run(&mut case
            .tune("limited", &[&["--set", &memory, "--set", "run.max_batch_tokens=auto"], more].concat()))
    };
    limited("60MiB", &[]).expect_refusal(&["run.memory allows 60 MiB", "this run takes", "raise it"]);
    limited("60", &[]).expect_refusal(&["run.memory", "write it as 4GiB"]);
    limited("60GiB", &["--set", "run.projections=some"]).expect_refusal(&["run.projections", "regenerate"]);
    // 62 MiB of projections beside 65 of weights
    let facts = |memory: &str| {
        let options = ["--memory", memory, "--prompt-tokens", "20", "--dim", "250", "--threads", "2"];
        let all =
            [&["model", "inspect", "model", "--json", "--max-batch-tokens", "auto"], &options[..]].concat();
        run(&mut case.zeroth(&all)).expect(0).json()
    };
    let number = |facts: &Value, key: &str| facts[key].as_u64().unwrap();
    let (roomy, tight) = (facts("4GiB"), facts("190MiB"));
    assert!(number(&roomy, "projection_bytes") > 60 << 20, "{roomy}");
    assert_eq!(
        (number(&tight, "projection_bytes"), number(&roomy, "max_batch_tokens")),
        (0, 1024),
        "{tight}"
    );
    assert!(number(&tight, "memory_bytes") <= 190 << 20, "{tight}");
    let measured = limited("190MiB", &[]).expect(0).json()["peak_memory_bytes"].as_u64().unwrap();
    assert!(measured as f64 <= (190 << 20) as f64 * (1.0 + TOLERANCE), "{measured}");
}

#[test]
fn a_larger_population_takes_no_more_memory() {
    let case = Case::masked(Family::Bert, "add").set("prompt.tokens", "30").set("search.dim", "4");
    let case = case.set("run.threads", "2").set("task.shots", "2");
    let taken = |population: usize| {
        let settings = ["population", "budget"].map(|key| format!("search.{key}={population}"));
        let settings = settings.each_ref().map(|setting| ["--set", setting]);
        let ended = run(&mut case.tune(&format!("of-{population}"), settings.as_flattened()));
        ended.expect(0).json()["peak_memory_bytes"].as_u64().unwrap()
    };
    // thirty rows of forty numbers a candidate, five times: 24 kB
    let (few, many) = (taken(40), taken(3000));
    println!("{few} {many}");
    assert!(many < few + (12 << 20), "{few} bytes with 40 candidates, {many} with 3000");
}
