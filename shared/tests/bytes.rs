//! Every decoder of this crate that reads the network or a disk, under wrong bytes (`abuse/`).
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test's helpers, too, end by panicking

use std::fs;
use std::path::Path;

use prost::Message;
use proto::v1;
use shared::artefact::{self, Artefact, Metadata};
use shared::frame;
use shared::gguf::Head;
use shared::ids::{ContextVersion, Layer, LeaseId, RunId};
use shared::messages::{
    Answer, Canary, CanaryOutcome, ContextUpdate, ExampleSet, Hello, Lease, ModelIdentity, Order, Outcome,
    Prepare, Prompted, Ready, Refusal, Refused, Report, Start, Work,
};
use shared::spec::{Dtype, Init, Injection, Method, ProjectionKind, ReadOut, RunFile};
use shared::task::{Example, Loss, Metric, Template, dataset};

mod abuse;

use abuse::{Bound, abuse};

fn example(text: &str, pair: Option<&str>) -> Example {
    Example { text: text.to_owned(), text_pair: pair.map(str::to_owned), label: 1, line: 7 }
}

fn orders_of() -> Vec<Order> {
    let lease = |work| {
        Order::Lease(Lease {
            id: LeaseId(9),
            run: RunId(1),
            version: ContextVersion(3),
            work,
            trace: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
        })
    };
    let inline = ExampleSet::Inline(vec![example("a", Some("b")), example("c", None)]);
    let z = vec![0.5; 20];
    vec![
        Order::Prepare(Box::new(Prepare {
            run: RunId(1),
            read_out: ReadOut::MaskedLm,
            temperature: 0.05,
            template: "{text} It was {mask}.".to_owned(),
            words: vec!["bad".to_owned(), "good".to_owned()],
            injection: Injection::Add,
            tokens: 50,
            init: Init::Vocabulary,
            loss: Loss::Ce,
            projection: ProjectionKind::Normal,
            dim: 500,
            seed: u64::MAX,
            train: vec![example("a", None), example("b", Some("c"))],
            dev: vec![example("d", Some(""))],
        })),
        Order::Start(Start {
            run: RunId(1),
            projection_stds: vec![0.5; 3],
            version: ContextVersion(2),
            context: vec![z.clone(); 3],
        }),
        Order::SetContext(ContextUpdate {
            run: RunId(1),
            version: ContextVersion(3),
            layer: Layer(7),
            z: z.clone(),
        }),
        lease(Work::Evaluate {
            layer: Layer(2),
            candidates: vec![z.clone(); 3],
            examples: 4..9,
            canary: Some(Canary { z, example: 3 }),
        }),
        lease(Work::Score { prompt: Prompted::Context, examples: inline }),
        Order::Forget(RunId(1)),
        Order::Drain,
    ]
}

fn reports_of() -> Vec<Report> {
    let outcome = Outcome { losses: vec![0.5; 5], predicted: vec![1, 0, 1, 1, 300], logits: vec![1.0; 10] };
    let refusal = Refusal::Example { line: 7, problem: "too long".to_owned() };
    vec![
        Report::Ready(Box::new(Ready {
            run: RunId(1),
            layer_stds: vec![0.5; 3],
            initial: vec![0.25; 12],
            initial_ids: vec![7, 8],
            label_ids: vec![300, 400],
            train_tokens: 90,
            flops: vec![1e9; 3],
            memory_bytes: 1 << 30,
        })),
        Report::Answer(Answer {
            lease: LeaseId(9),
            outcomes: vec![outcome; 4],
            canary: Some(CanaryOutcome { loss: 0.5, predicted: 1 }),
        }),
        Report::Refused(Refused { run: RunId(1), lease: Some(LeaseId(3)), refusal }),
        Report::Heartbeat { progress: 12 },
        Report::Leaving,
    ]
}

/// A message of an empty vector or text takes two bytes on the wire and some dozens here.
const MESSAGE: Bound = Bound { base: 16 << 10, each: 200 };

#[test]
fn reports() {
    let good: Vec<Vec<u8>> = reports_of().into_iter().map(|r| v1::Report::from(r).encode_to_vec()).collect();
    abuse(&good, MESSAGE, |bytes| {
        if let Ok(report) = v1::Report::decode(bytes) {
            let _ = Report::try_from(report);
        }
    });
}

#[test]
fn hellos() {
    let hello = Hello {
        protocol: 1,
        name: "host 1".to_owned(),
        version: "0.1.0".to_owned(),
        model: ModelIdentity {
            layers: 2,
            hidden: 3,
            revision: Some("main".to_owned()),
            ..Default::default()
        },
        device: "cpu".to_owned(),
        dtype: "f32".to_owned(),
        max_batch_tokens: 1,
    };
    abuse(&[v1::Hello::from(hello).encode_to_vec()], MESSAGE, |bytes| {
        if let Ok(hello) = v1::Hello::decode(bytes) {
            let _ = Hello::try_from(hello);
        }
    });
}

#[test]
fn orders() {
    let good: Vec<Vec<u8>> = orders_of().into_iter().map(|o| v1::Order::from(o).encode_to_vec()).collect();
    abuse(&good, MESSAGE, |bytes| {
        if let Ok(order) = v1::Order::decode(bytes) {
            let _ = Order::try_from(order);
        }
    });
}

/// What a checkpoint is made of.
type Value = (String, Vec<Vec<f64>>, Option<(u64, f32)>, Vec<String>, Vec<usize>);

#[test]
fn frames() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint.bin");
    let value: Value =
        ("hash".to_owned(), vec![vec![0.5; 9]; 3], Some((1, 2.0)), vec!["a".to_owned(); 3], vec![7; 9]);
    let mut encoded = Vec::new();
    frame::encode(&value, &mut encoded).unwrap();
    frame::write_frame(&path, &encoded).unwrap();
    let whole = fs::read(&path).unwrap();
    // Sequences get room for a mebibyte of items at once at most, texts for what the frame's length allows.
    let bound = Bound { base: 4 << 20, each: 400 };
    abuse(std::slice::from_ref(&whole), bound, |bytes| {
        fs::write(&path, bytes).unwrap();
        let _ = frame::read::<Value>(&path);
    });
    // The same where somebody has taken the trouble to make length and checksum right again.
    abuse(&[whole[frame::HEADER..].to_vec()], bound, |payload| {
        let length = (payload.len() as u64).to_le_bytes();
        let checksum = crc32fast::hash(payload).to_le_bytes();
        fs::write(&path, [&whole[..12], &length, &checksum, payload].concat()).unwrap();
        let _ = frame::read::<Value>(&path);
    });
}

fn artefact() -> Artefact {
    let metadata: Metadata = serde_json::from_value(serde_json::json!({
        "schema": artefact::SCHEMA, "zeroth": "0.1.0", "run": "abc",
        "model": {
            "path": "tiny", "dtype": Dtype::F32, "read_out": ReadOut::Similarity, "temperature": 0.05,
            "identity": ModelIdentity { layers: 2, hidden: 3, ..ModelIdentity::default() },
        },
        "task": {
            "name": "t", "template": "{text}", "words": ["a", "b"], "label_ids": [], "loss": Loss::Ce,
            "metric": Metric::Accuracy, "train_sha256": "00", "train_rows": [3, 1], "dev_rows": [0, 2],
        },
        "prompt": {
            "injection": Injection::Add, "tokens": 2, "first_position": 1, "init": Init::None, "initial_ids": [],
        },
        "search": {
            "method": Method::Bbtv2, "seed": 7, "random": "chacha", "projection": ProjectionKind::Normal,
            "projection_stds": [0.5, 0.25], "population": 4, "sigma": 0.2, "alpha": 1.0, "calls": 8,
            "found_after": 4,
        },
        "scores": {
            "train_loss": 0.1, "dev_loss": 0.2, "dev": 0.5, "test_before": null, "test_after": 0.5,
        },
    }))
    .unwrap();
    Artefact { metadata, prompts: vec![vec![0.5; 6]; 2], z: vec![vec![0.1; 4]; 2], initial: Vec::new() }
}

#[test]
fn artefacts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("prompt.safetensors");
    artefact().write(&path).unwrap();
    let whole = fs::read(&path).unwrap();
    abuse(&[whole], Bound { base: 64 << 10, each: 200 }, |bytes| {
        fs::write(&path, bytes).unwrap();
        let _ = Artefact::read(&path);
    });
}

#[test]
fn datasets() {
    let json = concat!(
        "{\"text\": \"good \\u00e9\", \"label\": 1}\n",
        "{\"text\": \"bad\", \"text_pair\": \"x\", \"label\": 0, \"more\": [[1, {}], null]}\r\n",
        "\n{\"label\": 1, \"text\": \"last\"}",
    );
    let csv = "text,label,text_pair\n\"a, \"\"b\"\"\nc\",1,x\r\n\nd,0,\n";
    let tsv = "\u{feff}label\ttext\n1\tgood\n0\t\"bad\"\n";
    for (name, good) in [("d.jsonl", json), ("d.csv", csv), ("d.tsv", tsv)] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        abuse(&[good.as_bytes().to_vec()], Bound { base: 64 << 10, each: 200 }, |bytes| {
            fs::write(&path, bytes).unwrap();
            let _ = dataset::read(&path, 2);
        });
    }
}

#[test]
fn run_files() {
    let good = r#"
        [model]
        path = "models/tiny"
        [task]
        train = "train.jsonl"
        template = "{text} It was {mask}."
        words = ["bad", "good"]
        shots = 16
        [prompt]
        tokens = 5
        [search]
        dim = 20
        population = 4
        budget = 100
        seed = 3
        [run]
        folder = "out"
        memory = "2 GiB"
    "#;
    abuse(&[good.as_bytes().to_vec()], Bound { base: 256 << 10, each: 2000 }, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        if let Ok(file) = RunFile::parse(&text, Path::new("run.toml")) {
            let _ = file.resolve();
        }
        if let Ok(mut file) = RunFile::parse(good, Path::new("run.toml")) {
            let _ = file.apply_overrides(&[format!("search.seed={text}"), text.into_owned()]);
            let _ = file.resolve();
        }
    });
}

#[test]
fn templates() {
    abuse(&[b"{text} and {{ {text_pair} }} {mask}".to_vec()], Bound { base: 16 << 10, each: 100 }, |bytes| {
        let _ = Template::parse(&String::from_utf8_lossy(bytes));
    });
}

#[test]
fn heads_of_gguf_files() {
    let text = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    let number = |number: u32| number.to_le_bytes().to_vec();
    let long = |number: u64| number.to_le_bytes().to_vec();
    let (string, array) = (number(8), number(9));
    let good = [
        [b"GGUF".to_vec(), number(3), long(2), long(5)].concat(),
        [text("general.architecture"), string.clone(), text("llama")].concat(),
        [text("llama.block_count"), number(4), number(7)].concat(),
        [text("llama.embedding_length"), number(10), long(40)].concat(),
        [text("texts"), array.clone(), string, long(2), text("a"), text("bc")].concat(),
        [text("numbers"), array, number(4), long(2), number(1), number(2)].concat(),
        [text("weights"), number(2), long(4), long(3), number(12), long(0)].concat(),
        [text("more"), number(1), long(4), number(0), long(64)].concat(),
    ]
    .concat();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    abuse(&[good], Bound { base: 64 << 10, each: 200 }, |bytes| {
        fs::write(&path, bytes).unwrap();
        if let Ok(head) = Head::read(&path) {
            let _ = head.shape();
        }
    });
}
