//! The rooms' rules, checked on the sources: who may use what (HOUSE rules; ARCHITECTURE.md shows the picture).

use std::fs;
use std::path::{Path, PathBuf};

use tests::root;

/// The Rust files at or below `path`.
fn sources(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let entries = fs::read_dir(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let inner = entries.flat_map(|entry| sources(&entry.unwrap().path()));
    inner.filter(|file| file.extension().is_some_and(|extension| extension == "rs")).collect()
}

/// No line of `room` may name the crates `banned`.
fn assert_free_of(room: &str, banned: &[&str]) {
    let files = sources(&root().join(room));
    assert!(!files.is_empty(), "{room} is empty: the rule has lost its room");
    for file in files {
        for (number, line) in fs::read_to_string(&file).unwrap().lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for name in banned {
                assert!(!names(code, name), "{}:{} uses {name}: {line}", file.display(), number + 1);
            }
        }
    }
}

/// Whether `code` names the crate: `tokio::` or `use tokio;`, not `my_tokio::`.
fn names(code: &str, name: &str) -> bool {
    let before_is_free = |at: usize| !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
    code.match_indices(name).any(|(at, _)| {
        let after = &code[at + name.len()..];
        before_is_free(at)
            && (after.starts_with("::") || (code.contains("use ") && after.starts_with([';', ' '])))
    })
}

#[test]
fn decisions_know_no_runtime() {
    for file in ["table", "cut", "gather"] {
        assert_free_of(&format!("coordinator/src/fleet/{file}.rs"), &["tokio", "tonic", "proto::v1"]);
    }
    assert_free_of("coordinator/src/cma", &["tokio", "tonic", "proto", "crate::fleet", "crate::search"]);
    assert_free_of("coordinator/src/search", &["tokio", "tonic", "proto"]);
}

#[test]
fn the_model_knows_no_wire() {
    for room in ["backbone", "engine", "kernel"] {
        assert_free_of(&format!("evaluator/src/{room}"), &["tokio", "tonic", "proto"]);
    }
}

/// The dependencies a crate declares, its tests' own left out.
fn dependencies(package: &str) -> String {
    let text = fs::read_to_string(root().join(package).join("Cargo.toml")).unwrap();
    let after = text.split("[dependencies]").nth(1).expect("a section [dependencies]");
    after.split("\n[").next().unwrap_or_default().to_owned()
}

#[test]
fn crates_depend_downwards_only() {
    let rules: [(&str, &[&str]); 3] = [
        ("proto", &["shared", "evaluator", "coordinator", "candle", "tokenizers"]),
        ("shared", &["tokio", "tonic", "candle", "tokenizers", "evaluator", "coordinator"]),
        ("evaluator", &["coordinator", "faer"]),
    ];
    for (package, banned) in rules {
        let declared = dependencies(package);
        for line in declared.lines() {
            let name = line.split(['.', ' ', '=']).next().unwrap_or_default();
            assert!(!banned.iter().any(|banned| name.starts_with(banned)), "{package}/Cargo.toml: {line}");
        }
    }
    assert!(dependencies("coordinator").contains("evaluator = { workspace = true, optional = true }"));
}

#[test]
fn the_check_finds_what_it_looks_for() {
    assert!(names("use tokio::sync::mpsc;", "tokio") && names("    tokio::spawn(x)", "tokio"));
    assert!(names("use tonic;", "tonic") && !names("let mytokio::x;", "tokio") && !names("// no", "tokio"));
}
