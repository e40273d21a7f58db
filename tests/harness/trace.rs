//! What a run leaves behind, as far as it may depend on nothing but the run itself.

use std::path::Path;

use serde_json::Value;

/// The generations of `events.jsonl`, without what depends on the clock or on the fleet.
///
/// # Panics
/// When there is no trace, or a line of it is torn.
pub fn generations(folder: &Path) -> Vec<Value> {
    let mut generations = generation_events(folder);
    for generation in &mut generations {
        let fields = generation.as_object_mut().expect("an event is an object");
        for of_the_clock in ["seconds", "evaluators"] {
            assert!(fields.remove(of_the_clock).is_some(), "no {of_the_clock} in {fields:?}");
        }
    }
    generations
}

/// How many generations the trace of a run in progress holds; a line still being written does not count.
pub fn generations_done(folder: &Path) -> usize {
    let text = std::fs::read_to_string(folder.join("events.jsonl")).unwrap_or_default();
    text.split_inclusive('\n')
        .filter(|line| line.ends_with('\n') && line.contains(r#""event":"generation""#))
        .count()
}

/// The artefact's bytes.
///
/// # Panics
/// When there is none.
pub fn artefact(folder: &Path) -> Vec<u8> {
    let path = folder.join("prompt.safetensors");
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn generation_events(folder: &Path) -> Vec<Value> {
    let path = folder.join("events.jsonl");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    text.lines().map(parse).filter(|event: &Value| event["event"] == "generation").collect()
}
