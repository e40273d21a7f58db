//! The tokenizer against Hugging Face's (`tests/golden/models`, made by transformers 5.23.0, tokenizers
//! 0.23.3).
#![allow(clippy::unwrap_used, reason = "clippy's leave for tests does not reach their helpers")]

use std::path::{Path, PathBuf};

use evaluator::backbone::Dtype;
use evaluator::model::Model;
use evaluator::models::locate::in_folder;
use evaluator::models::tokenizer::{EncodeError, Encoded, LabelWordError, TextEncoder, TokenizerError};
use serde::Deserialize;
use shared::task::{Example, Template};

const ENOUGH: usize = 512;

#[derive(Deserialize)]
struct Golden {
    #[serde(default)]
    words: Vec<String>,
    #[serde(default)]
    label_ids: Vec<u32>,
    initial_ids: Vec<u32>,
    #[serde(default)]
    lead: usize,
    class_phrases: Vec<Text>,
    examples: Vec<Text>,
    encodings: Vec<Text>,
}

#[derive(Deserialize)]
struct Text {
    text: String,
    ids: Vec<u32>,
    read_out: Option<usize>,
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/models").join(name)
}

fn golden(name: &str) -> Golden {
    serde_json::from_slice(&std::fs::read(folder(name).join("golden.json")).unwrap()).unwrap()
}

fn both() -> [(TextEncoder, Golden, usize); 2] {
    [("bert-tiny", 129), ("roberta-tiny", 339)]
        .map(|(name, vocab)| (TextEncoder::load(&folder(name)).unwrap(), golden(name), vocab))
}

fn same_ids(encoder: &TextEncoder, golden: &Golden) {
    for text in golden.encodings.iter().chain(&golden.examples).chain(&golden.class_phrases) {
        assert_eq!(encoder.encode(&text.text, ENOUGH).unwrap().ids, text.ids, "{:?}", text.text);
    }
}

/// The other families, and whether they are read after the text's last row.
const FAMILIES: &[(&str, bool)] = &[
    ("gpt2-tiny", true),
    ("llama-tiny", true),
    ("mistral-tiny", true),
    ("qwen2-tiny", true),
    ("qwen3-tiny", true),
    ("gemma2-tiny", true),
    ("gemma3-tiny", true),
    ("modernbert-tiny", false),
    ("deberta-v3-tiny", false),
    ("t5-tiny", false),
    ("bart-tiny", false),
];

#[test]
fn every_family_s_ids_and_the_prompt_s_place_are_those_of_hugging_face() {
    for (name, _) in FAMILIES {
        let (encoder, golden) = (TextEncoder::load(&folder(name)).unwrap(), golden(name));
        same_ids(&encoder, &golden);
        assert_eq!(encoder.around().0.len(), golden.lead, "{name}: rows before the prompt");
        for (word, id) in golden.words.iter().zip(&golden.label_ids) {
            assert_eq!(encoder.label_word_id(word).as_ref(), Ok(id), "{name}: {word}");
        }
        assert_eq!(encoder.initial_prompt_ids(golden.initial_ids.len(), 512), golden.initial_ids, "{name}");
    }
}

#[test]
fn without_a_mask_the_row_read_is_the_text_s_last() {
    let template = Template::parse("{text}").unwrap();
    for (name, _) in FAMILIES.iter().filter(|(_, last)| *last) {
        let model = Model::load(folder(name).to_str().unwrap(), Path::new("/"), None, Dtype::F32).unwrap();
        for example in golden(name).examples {
            let asked = Example { text: example.text, text_pair: None, label: 0, line: 0 };
            let tokens = model.encode(&template, &asked, 5).unwrap();
            assert_eq!((tokens.ids, Some(tokens.read_out)), (example.ids, example.read_out), "{name}");
        }
    }
    // what the tokenizer puts after a text is not read
    let model = Model::load(folder("bert-tiny").to_str().unwrap(), Path::new("/"), None, Dtype::F32).unwrap();
    let asked = Example { text: "no".to_owned(), text_pair: None, label: 0, line: 0 };
    assert_eq!(model.encode(&template, &asked, 5).unwrap().read_out, 1);
}

/// Gemma 3's text models have a special token for images, beyond their vocabulary.
#[test]
fn a_special_token_beyond_the_vocabulary_that_no_text_makes_is_no_other_model_s() {
    let json = std::fs::read(folder("gemma3-tiny").join("tokenizer.json")).unwrap();
    let mut json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let vocab = 338;
    TextEncoder::load(&folder("gemma3-tiny")).unwrap().check_vocabulary(vocab).unwrap();
    let mut extra = json["added_tokens"][0].clone();
    (extra["id"], extra["content"]) = (vocab.into(), "<image>".into());
    json["added_tokens"].as_array_mut().unwrap().push(extra);
    let copy = tempfile::tempdir().unwrap();
    std::fs::write(copy.path().join("tokenizer.json"), json.to_string()).unwrap();
    let encoder = TextEncoder::load(copy.path()).unwrap();
    assert_eq!(encoder.encode("<image>", ENOUGH).unwrap().ids, [2, vocab as u32]);
    encoder.check_vocabulary(vocab).unwrap();
    encoder.check_vocabulary(vocab - 40).unwrap_err(); // ordinary tokens count
}

#[test]
fn the_golden_folders_are_complete_models() {
    for name in ["bert-tiny", "roberta-tiny"] {
        assert_eq!(in_folder(&folder(name)).unwrap().name, name);
    }
}

#[test]
fn ids_are_those_of_hugging_face() {
    for (encoder, golden, _) in both() {
        same_ids(&encoder, &golden);
    }
}

/// MiniLM's file asks for length 128 and padding. `ZEROTH_MINILM` is its folder (scripts/fetch-minilm).
#[test]
fn ids_of_minilm_are_those_of_hugging_face() {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/all-MiniLM-L6-v2");
    let folder = std::env::var_os("ZEROTH_MINILM").map_or(fetched, PathBuf::from);
    if !folder.exists() {
        eprintln!("skipped: no MiniLM at {} (scripts/fetch-minilm brings it)", folder.display());
        return;
    }
    let (encoder, golden) = (TextEncoder::load(Path::new(&folder)).unwrap(), golden("minilm"));
    same_ids(&encoder, &golden);
    assert!(golden.encodings.iter().any(|text| text.ids.len() > 128));
    encoder.check_vocabulary(30522).unwrap();
    assert_eq!(encoder.initial_prompt_ids(2, 30522), golden.initial_ids);
}

#[test]
fn the_mask_is_found_where_it_stands() {
    for (encoder, golden, _) in both() {
        let mask = encoder.mask_token().unwrap().to_owned();
        for example in &golden.examples {
            let encoded = encoder.encode(&example.text, ENOUGH).unwrap();
            if example.text.contains(&mask) {
                assert_eq!(encoded.mask().ok(), example.read_out, "{:?}", example.text);
            } else {
                assert_eq!(encoded.mask(), Err(EncodeError::Masks { count: 0 }), "{:?}", example.text);
            }
        }
        let twice = encoder.encode(&format!("{mask} or {mask}"), ENOUGH).unwrap();
        assert_eq!(twice.mask(), Err(EncodeError::Masks { count: 2 }));
    }
}

#[test]
fn label_words_are_one_token_as_given() {
    for (encoder, golden, _) in both() {
        let ids: Vec<u32> = golden.words.iter().map(|word| encoder.label_word_id(word).unwrap()).collect();
        assert_eq!(ids, golden.label_ids);
        assert!(!ids.is_empty());
    }
    let [_, (bytes, golden, _)] = both();
    let great = golden.label_ids[golden.words.iter().position(|word| word == "great").unwrap()];
    assert_eq!(bytes.label_word_id(" great"), Ok(great + 1), "with a space it is another token");
}

#[test]
fn a_label_word_of_several_tokens_is_refused_with_its_pieces() {
    let [(words, ..), (bytes, ..)] = both();
    for (encoder, pieces) in [(&words, ["good", "##y"]), (&bytes, ["good", "y"])] {
        let error = encoder.label_word_id("goody").unwrap_err();
        let pieces = pieces.map(str::to_owned).to_vec();
        assert_eq!(error, LabelWordError::NotOneToken { word: "goody".to_owned(), pieces });
        assert!(error.to_string().contains("label word \"goody\" is 2 tokens"), "{error}");
    }
    let unknown = words.label_word_id("\u{597d}").unwrap_err().to_string();
    assert!(unknown.contains("not in this tokenizer's vocabulary") && unknown.contains("[UNK]"), "{unknown}");
    let empty = words.label_word_id("").unwrap_err();
    assert!(matches!(&empty, LabelWordError::NotOneToken { pieces, .. } if pieces.is_empty()), "{empty}");
}

#[test]
fn initial_prompt_ids_are_1000_and_up_or_the_first_ordinary_ones() {
    for (encoder, golden, vocab) in both() {
        assert_eq!(encoder.initial_prompt_ids(golden.initial_ids.len(), vocab), golden.initial_ids);
        assert_eq!(encoder.initial_prompt_ids(3, 1003), [1000, 1001, 1002]);
        assert_ne!(encoder.initial_prompt_ids(3, 1002), [1000, 1001, 1002]);
        assert!(encoder.initial_prompt_ids(500, vocab).iter().all(|&id| (id as usize) < vocab));
        assert_eq!(encoder.initial_prompt_ids(500, vocab).len(), 500);
    }
}

#[test]
fn a_long_text_is_refused_or_loses_its_end_but_never_its_template() {
    for (encoder, ..) in both() {
        let mask = encoder.mask_token().unwrap().to_owned();
        let render = |text: &str| format!("{text} . it was {mask} .");
        let text = "the movie is not good and caf\u{e9} ".repeat(10);
        let tokens = encoder.encode(&render(&text), ENOUGH).unwrap().ids.len();
        let refused = encoder.encode(&render(&text), 30);
        assert_eq!(refused, Err(EncodeError::TooLong { tokens, max_tokens: 30 }));

        let (cut, was_cut) = encoder.encode_cutting(&text, 30, render).unwrap();
        let end = encoder.encode(&render(""), ENOUGH).unwrap().ids;
        assert!(was_cut && (28..=30).contains(&cut.ids.len()), "{}", cut.ids.len());
        assert_eq!(cut.ids[cut.ids.len() - 4..], end[end.len() - 4..]);
        assert_eq!(cut.ids[..5], encoder.encode(&text, ENOUGH).unwrap().ids[..5]);
        assert_eq!(cut.masks.len(), 1);

        let whole = encoder.encode_cutting(&text, tokens, render).unwrap();
        assert_eq!(whole, (encoder.encode(&render(&text), ENOUGH).unwrap(), false));
        assert!(matches!(encoder.encode_cutting(&text, 3, render), Err(EncodeError::TooLong { .. })));
    }
}

#[test]
fn a_tokenizer_of_another_model_is_refused() {
    for (encoder, _, vocab) in both() {
        encoder.check_vocabulary(vocab).unwrap();
        let error = encoder.check_vocabulary(vocab - 1).unwrap_err().to_string();
        assert!(error.contains(&format!("up to {}", vocab - 1)) && error.contains("vocab_size"), "{error}");
    }
}

#[test]
fn a_broken_tokenizer_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    let missing = TextEncoder::load(folder.path()).unwrap_err();
    assert!(matches!(&missing, TokenizerError::Read { path: named, .. } if *named == path), "{missing}");
    std::fs::write(&path, "{\"version\": \"1.0\"").unwrap();
    let corrupt = TextEncoder::load(folder.path()).unwrap_err();
    assert!(matches!(&corrupt, TokenizerError::Corrupt { path: named, .. } if *named == path), "{corrupt}");
}

#[test]
fn a_tokenizer_without_a_mask_has_none() {
    let json = std::fs::read_to_string(folder("bert-tiny").join("tokenizer.json")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tokenizer.json"), json.replace("[MASK]", "[EXTRA]")).unwrap();
    let encoder = TextEncoder::load(folder.path()).unwrap();
    assert_eq!(encoder.mask_token(), None);
    let Encoded { ids, masks } = encoder.encode("it was [EXTRA] .", ENOUGH).unwrap();
    assert_eq!((ids.len(), masks.len()), (6, 0));
}
