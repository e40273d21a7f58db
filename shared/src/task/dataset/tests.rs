//! What is read, and what is refused with which words.

use super::*;

/// Writes `bytes` under `name` and reads them as a task of two classes.
fn read_bytes(name: &str, bytes: &[u8]) -> Result<Vec<Example>, DatasetError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    read(&path, 2)
}

fn one(line: u32, text: &str, pair: Option<&str>, label: u32) -> Example {
    Example { text: text.to_owned(), text_pair: pair.map(str::to_owned), label, line }
}

/// The line and the problem of the row that is wrong.
fn problem(name: &str, bytes: &[u8]) -> (usize, RowProblem) {
    match read_bytes(name, bytes) {
        Err(DatasetError::Row { line, problem, .. }) => (line, problem),
        other => panic!("expected a wrong row in {:?}: {other:?}", String::from_utf8_lossy(bytes)),
    }
}

#[test]
fn reads_json_lines() {
    let file = "{\"text\": \"a \", \"label\": 0, \"idx\": 7}\r\n\n\
                {\"text\":\"b\",\"text_pair\":\"c\",\"label\":1}";
    let expected = [one(1, "a ", None, 0), one(3, "b", Some("c"), 1)];
    assert_eq!(read_bytes("t.jsonl", file.as_bytes()).unwrap(), expected);
    let marked = [b"\xef\xbb\xbf", file.as_bytes()].concat();
    assert_eq!(read_bytes("t.JSONL", &marked).unwrap(), expected);
}

#[test]
fn reads_csv_and_tsv_in_any_column_order() {
    let csv = "\u{feff}label,text,more,text_pair\r\n1,\"a, \"\"b\"\"\nc\",x,\r\n\r\n0,d,,e";
    assert_eq!(
        read_bytes("t.csv", csv.as_bytes()).unwrap(),
        [one(2, "a, \"b\"\nc", None, 1), one(5, "d", Some("e"), 0)]
    );
    let tsv = "text\tlabel\na, \"b\"\t1\n";
    assert_eq!(read_bytes("t.tsv", tsv.as_bytes()).unwrap(), [one(2, "a, \"b\"", None, 1)]);
}

#[test]
fn wrong_json_rows_are_named_by_line() {
    let good = "{\"text\":\"a\",\"label\":0}\n";
    let second = |row: &[u8]| {
        let (line, problem) = problem("t.jsonl", &[good.as_bytes(), row, b"\n", good.as_bytes()].concat());
        assert_eq!(line, 2);
        problem
    };
    let label = |found: &str| RowProblem::Label { found: found.to_owned(), classes: 2 };
    assert_eq!(second(br#"{"text":"a"}"#), RowProblem::Missing { field: "label" });
    assert_eq!(second(br#"{"text":"a","label":null}"#), RowProblem::Missing { field: "label" });
    assert_eq!(second(br#"{"text":"a","label":2}"#), label("2"));
    assert_eq!(second(br#"{"text":"a","label":-1}"#), label("-1"));
    assert_eq!(second(br#"{"text":"a","label":1.0}"#), label("1.0"));
    assert_eq!(second(br#"{"text":"a","label":"1"}"#), label("\"1\""));
    assert_eq!(second(br#"{"text":"a","label":4294967296}"#), label("4294967296"));
    assert_eq!(second(br#"{"label":1}"#), RowProblem::Missing { field: "text" });
    assert_eq!(second(br#"{"text":" ","label":1}"#), RowProblem::EmptyText);
    let not_text = |field, found| RowProblem::NotText { field, found };
    assert_eq!(second(br#"{"text":3,"label":1}"#), not_text("text", "a number"));
    assert_eq!(second(br#"{"text":"a","text_pair":[],"label":1}"#), not_text("text_pair", "an array"));
    assert_eq!(second(b"[1]"), RowProblem::NotObject { found: "an array" });
    assert_eq!(second(b"{\"text\":\"\xff\",\"label\":1}"), RowProblem::Utf8 { byte: 10 });
    let cut = second(br#"{"text":"a","label":"#);
    assert!(
        matches!(&cut, RowProblem::Json { column: 20, message } if !message.contains(" at line ")),
        "{cut:?}"
    );
}

#[test]
fn texts_that_no_message_could_carry_are_named_by_line() {
    let huge = "a ".repeat(MAX_TEXT / 2 + 1);
    let wanted = RowProblem::Huge { bytes: MAX_TEXT + 2, most: MAX_TEXT };
    let json = format!("{{\"text\":\"a\",\"label\":0}}\n{{\"text\":\"{huge}\",\"label\":0}}");
    assert_eq!(problem("t.jsonl", json.as_bytes()), (2, wanted.clone()));
    let pair = format!("text\ttext_pair\tlabel\na\t{huge}\t1\n");
    assert_eq!(problem("t.tsv", pair.as_bytes()), (2, wanted));
}

#[test]
fn wrong_table_rows_are_named_by_line() {
    for end in ["\n", "\r\n"] {
        // The header is line 1, then an empty line, a row of two lines, and the wrong row: line 5.
        let fifth = |row: &str| {
            let file = ["text,label", "", "\"a\nb\",0", row, "c,1", ""].join(end);
            let (line, problem) = problem("t.csv", file.as_bytes());
            assert_eq!(line, 5, "{file:?}");
            problem
        };
        let label = |found: &str| RowProblem::Label { found: found.to_owned(), classes: 2 };
        assert_eq!(fifth("a"), RowProblem::Missing { field: "label" });
        assert_eq!(fifth("a,"), RowProblem::Missing { field: "label" });
        assert_eq!(fifth("a,2"), label("\"2\""));
        assert_eq!(fifth("a,-1"), label("\"-1\""));
        assert_eq!(fifth("a,great"), label("\"great\""));
        assert_eq!(fifth(",1"), RowProblem::EmptyText);
        assert_eq!(fifth("a, b,1"), RowProblem::TooManyFields { found: 3, expected: 2 });
    }
    assert_eq!(problem("t.csv", b"text,label\n\xff,1\n"), (2, RowProblem::Utf8 { byte: 1 }));
    assert_eq!(problem("t.tsv", b"text\tlabel\na\t1\n\"b\t1\nc\t0\n"), (3, RowProblem::OpenQuote));
}

#[test]
fn wrong_files_are_named() {
    let error = |name: &str, bytes: &[u8]| read_bytes(name, bytes).unwrap_err().to_string();
    for (name, bytes) in
        [("t.jsonl", &b"\n\n"[..]), ("t.jsonl", b""), ("t.csv", b""), ("t.csv", b"text,label\n")]
    {
        assert!(error(name, bytes).ends_with("holds no examples"), "{name} {bytes:?}");
    }
    let column = error("t.csv", b"sentence,label\na,1\n");
    assert!(column.contains("t.csv:1: no column \"text\"") && column.contains("sentence, label"), "{column}");
    assert!(error("t.tsv", b"text,label\na,1\n").contains("no column \"text\""));
    assert!(error("t.csv", b"text\na\n").contains("no column \"label\""));
    assert!(error("t.txt", b"").contains(".jsonl (JSON Lines), .csv or .tsv"));
    assert!(error("t", b"").contains("unknown kind of file"));
    let missing = read(Path::new("no/such.jsonl"), 2).unwrap_err().to_string();
    assert!(missing.starts_with("no/such.jsonl: cannot be read"), "{missing}");
}

#[test]
fn messages_say_what_would_be_right() {
    let label = read_bytes("t.jsonl", br#"{"text":"a","label":5}"#).unwrap_err().to_string();
    assert!(
        label.ends_with(
            "t.jsonl:1: label 5 is none of this task's 2 classes; labels are integers from 0 to 1"
        )
    );
}

#[test]
fn an_example_comes_back_from_json_and_bincode() {
    let standard = bincode::config::standard();
    for example in [one(1, "a", None, 1), one(1, "a", Some("b"), 0)] {
        let json = serde_json::to_string(&example).unwrap();
        assert_eq!(serde_json::from_str::<Example>(&json).unwrap(), example);
        assert_eq!(read_bytes("t.jsonl", json.as_bytes()).unwrap(), std::slice::from_ref(&example));
        let bytes = bincode::serde::encode_to_vec(&example, standard).unwrap();
        let (back, _): (Example, _) = bincode::serde::decode_from_slice(&bytes, standard).unwrap();
        assert_eq!(back, example);
    }
}

#[test]
fn the_hash_is_sha256_of_the_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    std::fs::write(&path, "abc").unwrap();
    // FIPS 180-4, example "abc".
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(data_sha256(&path).unwrap(), abc);
    assert!(data_sha256(&folder.path().join("b")).is_err());
}

#[test]
fn damaged_files_are_read_or_refused_at_a_line_they_have() {
    use crate::random::{Domain, Stream};
    let files: [(&str, &[u8]); 3] = [
        (
            "t.jsonl",
            b"{\"text\":\"a \\u00e9\",\"label\":0}\r\n{\"text\":\"b\",\"text_pair\":\"c\",\"label\":1}\n",
        ),
        ("t.csv", b"label,text,text_pair\n1,\"a, \"\"b\"\"\nc\",x\r\n0,d,e\n"),
        ("t.tsv", b"text\tlabel\na, \"b\"\t1\n\"c\"\t0\n"),
    ];
    let (mut read_well, mut refused) = (0, 0);
    for (name, file) in files {
        for round in 0..2000 {
            let mut words = [0; 3];
            Stream::new(7, Domain::Sample, round).fill_words(0, &mut words);
            let mut bytes = file.to_vec();
            let at = words[0] as usize % bytes.len();
            match words[1] % 4 {
                0 => bytes[at] = words[2] as u8,
                1 => bytes.truncate(at),
                2 => bytes.insert(at, b"\"\n\r\t,{}\xff0-"[words[2] as usize % 10]),
                _ => drop(bytes.remove(at)),
            }
            let lines = bytes.iter().filter(|&&byte| byte == b'\n').count() + 1;
            match parse(Path::new(name), &bytes, 2) {
                Ok(examples) => {
                    assert!(examples.iter().all(|e| e.label < 2 && !e.text.is_empty()));
                    read_well += 1;
                }
                Err(DatasetError::Row { line, .. }) => {
                    assert!((1..=lines).contains(&line), "line {line} of {lines}: {bytes:?}");
                    refused += 1;
                }
                Err(_) => refused += 1,
            }
        }
    }
    assert!(read_well > 500 && refused > 500, "{read_well} read, {refused} refused");
}
