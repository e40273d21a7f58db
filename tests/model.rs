//! `zeroth model`: what it says of the committed tiny models, and what it refuses.

use serde_json::{Value, json};
use tests::{Case, Family, root, run};

fn golden(name: &str) -> String {
    root().join("tests/golden/models").join(name).display().to_string()
}

fn case() -> Case {
    Case::masked(Family::Bert, "add")
}

fn inspected(name: &str, more: &[&str]) -> Value {
    let model = golden(name);
    let arguments = [&["model", "inspect", &model, "--json"], more].concat();
    let ended = run(&mut case().zeroth(&arguments)).expect(0);
    assert_eq!((ended.out.lines().count(), ended.err.as_str()), (1, ""), "{}", ended.report());
    ended.json()
}

/// Sizes are those of scripts/golden; parameters and vocabulary are counted by the safetensors file's own list.
#[test]
fn inspect_says_what_a_model_is() {
    for (name, family, hidden, tokens, read_outs) in [
        ("bert-tiny", "bert", 40, 64, json!(["masked-lm", "similarity"])),
        ("llama-tiny", "llama", 36, 128, json!(["next-token", "similarity"])),
        ("t5-tiny", "t5", 30, 32_768, json!(["seq2seq"])), // T5 has no limit of its own
    ] {
        let facts = inspected(name, &[]);
        assert_eq!((&facts["family"], &facts["read_outs"]), (&json!(family), &read_outs), "{facts}");
        let sizes = [&facts["layers"], &facts["hidden"], &facts["max_tokens"]];
        assert_eq!(sizes, [&json!(3), &json!(hidden), &json!(tokens)], "{facts}");
        let (parameters, vocabulary) = listed(name);
        assert_eq!((&facts["parameters"], &facts["dtype"]), (&json!(parameters), &json!("f32")), "{facts}");
        assert_eq!(facts["vocabulary"], vocabulary, "{facts}");
        assert_eq!(facts["max_batch_tokens"], shared::spec::DEFAULT_MAX_BATCH_TOKENS, "{facts}");
        let bytes = |key: &str| facts[key].as_u64().unwrap();
        // the table of words stays in the file; a decoder of its own is another
        let (weights, tables) = (bytes("weight_bytes"), bytes("table_bytes"));
        let decoders = if name == "bert-tiny" { 1 } else { 2 };
        assert!([1, decoders].map(|count| 4 * count * vocabulary * hidden).contains(&tables), "{facts}");
        // packed matrices are padded to panels of 64 outputs, and tables of positions stand beside the parameters
        assert!((4 * parameters - tables..16 * parameters).contains(&weights), "{facts}");
        assert!(
            bytes("memory_bytes") > weights + bytes("projection_bytes") + bytes("search_bytes"),
            "{facts}"
        );
    }
}

/// Numbers and vocabulary, by a file's own list of its tensors.
fn listed(name: &str) -> (u64, u64) {
    let bytes = std::fs::read(format!("{}/model.safetensors", golden(name))).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let list: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let shape = |entry: &Value| -> Vec<u64> {
        entry["shape"].as_array().into_iter().flatten().map(|size| size.as_u64().unwrap()).collect()
    };
    let tensors = list.as_object().unwrap().iter().filter(|(name, _)| *name != "__metadata__");
    let words = ["bert.embeddings.word_embeddings.weight", "model.embed_tokens.weight", "shared.weight"];
    let vocabulary = words.iter().find_map(|word| list.get(word)).map(|entry| shape(entry)[0]);
    (tensors.map(|(_, entry)| shape(entry).iter().product::<u64>()).sum(), vocabulary.unwrap())
}

#[test]
fn inspect_says_what_a_budget_takes() {
    let memory = |more: &[&str]| {
        inspected("bert-tiny", &[&["--threads", "2"], more].concat())["memory_bytes"].as_u64().unwrap()
    };
    let base = memory(&["--max-batch-tokens", "100", "--prompt-tokens", "3"]);
    assert!(memory(&["--max-batch-tokens", "200", "--prompt-tokens", "3"]) > base);
    assert!(memory(&["--train-tokens", "9000"]) > memory(&[]));
    // one more prompt row: a projection of 500 columns and four prompts a layer, in f32, and five of each of the twenty
    // candidates at work; and an example's row is the prompt's, no longer the text's: its hidden state is kept once, at the
    // cached layer
    let more = memory(&["--max-batch-tokens", "100", "--prompt-tokens", "4"]);
    assert_eq!(more as i64 - base as i64, 4 * 3 * 40 * 504 + 4 * 40 * 5 * 20 - 32 * 4 * 40);
    // without projections; with a search of fewer dimensions
    let anew = memory(&["--max-batch-tokens", "100", "--prompt-tokens", "3", "--projections", "regenerate"]);
    assert_eq!(base - anew, 4 * 3 * 3 * 40 * 500);
    assert!(memory(&["--dim", "100"]) < memory(&[]) - 3 * 8 * (500 * 500 - 100 * 100));
    let ended = run(&mut case().zeroth(&["model", "inspect", "model"])).expect(0);
    for part in
        ["family    bert", "masked-lm, similarity", "3 that take a prompt", "f32", "MiB", "4096 tokens"]
    {
        assert!(ended.out.contains(part), "{part}\n{}", ended.report());
    }
}

#[test]
fn inspect_reads_what_pytorch_saved() {
    let case = case();
    std::fs::remove_file(case.path("model/model.safetensors")).unwrap();
    let bin = std::fs::read(format!("{}/pytorch_model.bin", golden("bert-tiny-bin"))).unwrap();
    std::fs::write(case.path("model/pytorch_model.bin"), &bin).unwrap();
    let facts = run(&mut case.zeroth(&["model", "inspect", "model", "--json"])).expect(0).json();
    let listed = inspected("bert-tiny", &[]);
    assert_eq!((&facts["parameters"], &facts["dtype"]), (&listed["parameters"], &listed["dtype"]));
    for length in [0, 1_000, bin.len() / 2, bin.len() - 1] {
        std::fs::write(case.path("model/pytorch_model.bin"), &bin[..length]).unwrap();
        let ended = run(&mut case.zeroth(&["model", "inspect", "model"]));
        ended.expect_refusal(&["pytorch_model.bin", "is it complete?"]);
    }
    // places in the pickle where a flipped bit makes the reader panic, or say what it passes over
    for at in [175, 323, 1_026, 2_913] {
        let mut flipped = bin.clone();
        flipped[at] ^= 1 << (at % 8);
        std::fs::write(case.path("model/pytorch_model.bin"), flipped).unwrap();
        let ended = run(&mut case.zeroth(&["model", "inspect", "model"]));
        ended.expect_refusal(&["pytorch_model.bin", "checksum"]);
    }
}

#[test]
fn inspect_refuses_what_cannot_be_loaded() {
    let case = case();
    let inspect = |model: &str| run(&mut case.zeroth(&["model", "inspect", model]));
    inspect("absent").expect_refusal(&["absent", "no folder"]);
    inspect("nobody/nothing").expect_refusal(&["nobody/nothing", "no folder", "HF_HUB_OFFLINE"]);
    let config = std::fs::read_to_string(case.path("model/config.json")).unwrap();
    case.write("model/config.json", &config.replace("\"hidden_size\": 40", "\"hidden_size\": 50"));
    inspect("model").expect_refusal(&["model", "config.json asks for"]);
    case.write("model/config.json", r#"{"model_type": "mamba"}"#);
    inspect("model").expect_refusal(&["config.json", "mamba", "supported are: bert"]);
}

#[test]
fn pull_takes_a_hub_id() {
    let case = case();
    let home = case.path("home").display().to_string();
    let pull = |id: &str, more: &[&str]| {
        let mut command = case.zeroth(&[&["model", "pull", id], more].concat());
        run(command.env("HF_HOME", &home).env_remove("HF_HUB_CACHE"))
    };
    pull("model", &[]).expect_refusal(&["model", "on this machine already", "ORGANISATION/NAME"]);
    pull("absent", &[]).expect_refusal(&["absent", "not a hub id"]);
    pull("org/tiny", &[]).expect_refusal(&["org/tiny", "HF_HUB_OFFLINE"]);
    // what the cache holds complete is not fetched again
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let snapshot = format!("home/hub/models--org--tiny/snapshots/{commit}");
    case.put_model(Family::Bert, &snapshot);
    let json = pull("org/tiny", &["--revision", commit, "--json"]).expect(0).json();
    assert_eq!((&json["model"], &json["revision"]), (&json!("org/tiny"), &json!(commit)), "{json}");
    assert_eq!(json["folder"], case.path(&snapshot).display().to_string(), "{json}");
    for key in ["weights_sha256", "config_sha256", "tokenizer_sha256"] {
        assert_eq!(json[key].as_str().map(str::len), Some(64), "{json}");
    }
    let plain = pull("org/tiny", &["--revision", commit]).expect(0);
    assert!(plain.out.contains(json["weights_sha256"].as_str().unwrap()), "{}", plain.report());
}
