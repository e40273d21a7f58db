//! The examples of a task, read from JSON Lines, CSV or TSV.
//!
//! Columns (or keys): `text`, `text_pair` (may be absent; empty counts as absent) and `label`, an integer
//! from 0. Others are ignored. A byte order mark, CRLF and a last line without its end are all right; empty
//! lines are skipped.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use crate::hash;

mod problem;

pub use problem::{DatasetError, RowProblem};

/// Bytes of a text at most: beyond what any model reads, and short enough to be sent.
const MAX_TEXT: usize = 1 << 20;

/// One labelled example.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Example {
    /// The text, as it stands in the file; never empty.
    pub text: String,
    /// The second text of a pair task (premise and hypothesis, question and answer).
    // Always written: a left-out field cannot be read back from bincode.
    #[serde(default)]
    pub text_pair: Option<String>,
    /// The class, `0..classes`.
    pub label: u32,
    /// The line it begins on in the file it was read from, from 1: what an error calls it by.
    #[serde(default)]
    pub line: u32,
}

/// Reads the examples of `path`, whose ending chooses the format: `.jsonl` (also `.ndjson`, `.json`), `.csv`,
/// `.tsv`. `classes` is the number of classes; every label must be below it.
///
/// # Errors
/// The first thing wrong in the file, with its line.
pub fn read(path: &Path, classes: usize) -> Result<Vec<Example>, DatasetError> {
    // Before the file is touched: a name of no known kind is the first thing to tell.
    separator(path)?;
    let bytes = std::fs::read(path).map_err(|source| unreadable(path, source))?;
    parse(path, &bytes, classes)
}

/// The separator that the name's ending asks for; `None` for JSON Lines.
fn separator(path: &Path) -> Result<Option<u8>, DatasetError> {
    let extension = path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
    match extension.as_deref() {
        Some("jsonl" | "ndjson" | "json") => Ok(None),
        Some("csv") => Ok(Some(b',')),
        Some("tsv") => Ok(Some(b'\t')),
        _ => Err(DatasetError::Extension { path: path.to_owned() }),
    }
}

/// The examples in the file's bytes; `path` is for the errors.
fn parse(path: &Path, bytes: &[u8], classes: usize) -> Result<Vec<Example>, DatasetError> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let examples = match separator(path)? {
        None => read_json_lines(path, bytes, classes)?,
        Some(separator) => read_table(path, bytes, separator, classes)?,
    };
    if examples.is_empty() {
        return Err(DatasetError::Empty { path: path.to_owned() });
    }
    Ok(examples)
}

/// The SHA-256 of the file's bytes, in lower-case hexadecimal: what a run remembers of its data.
///
/// # Errors
/// The file cannot be read.
pub fn data_sha256(path: &Path) -> Result<String, DatasetError> {
    let mut all = Sha256::new();
    hash::feed(&mut all, path).map_err(|source| unreadable(path, source))?;
    Ok(hash::hex(all))
}

fn unreadable(path: &Path, source: io::Error) -> DatasetError {
    DatasetError::Unreadable { path: path.to_owned(), source }
}

fn read_json_lines(path: &Path, bytes: &[u8], classes: usize) -> Result<Vec<Example>, DatasetError> {
    let mut examples = Vec::new();
    for (index, row) in bytes.split(|&byte| byte == b'\n').enumerate() {
        if row.trim_ascii().is_empty() {
            continue;
        }
        let at = |problem| DatasetError::Row { path: path.to_owned(), line: index + 1, problem };
        let example = json_row(row, classes).map_err(at)?;
        examples.push(Example { line: count(index + 1), ..example });
    }
    Ok(examples)
}

fn json_row(row: &[u8], classes: usize) -> Result<Example, RowProblem> {
    let value: Value = serde_json::from_str(utf8(row)?).map_err(|error| {
        let text = error.to_string();
        // The parser counts lines within this one row: its "at line 1 column n" would mislead.
        let message = text.split(" at line ").next().unwrap_or(&text).to_owned();
        RowProblem::Json { column: error.column(), message }
    })?;
    let Value::Object(object) = value else {
        return Err(RowProblem::NotObject { found: kind(&value) });
    };
    let text = string(&object, "text")?.ok_or(RowProblem::Missing { field: "text" })?;
    let label = match object.get("label") {
        None | Some(Value::Null) => return Err(RowProblem::Missing { field: "label" }),
        Some(value) => {
            let found = value.as_u64().and_then(|label| u32::try_from(label).ok());
            known_label(found, classes)
                .ok_or_else(|| RowProblem::Label { found: value.to_string(), classes })?
        }
    };
    example(text, string(&object, "text_pair")?, label)
}

/// A string field of an object; `null` is as good as absent.
fn string<'a>(object: &'a Map<String, Value>, field: &'static str) -> Result<Option<&'a str>, RowProblem> {
    match object.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(RowProblem::NotText { field, found: kind(other) }),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// Where the three columns are in a header row.
struct Columns {
    text: usize,
    text_pair: Option<usize>,
    label: usize,
    count: usize,
}

impl Columns {
    fn find(path: &Path, header: &csv::ByteRecord) -> Result<Self, DatasetError> {
        let position = |name: &str| header.iter().position(|cell| cell.trim_ascii() == name.as_bytes());
        let required = |column: &'static str| {
            position(column).ok_or_else(|| {
                let found: Vec<_> = header.iter().map(String::from_utf8_lossy).collect();
                DatasetError::Column { path: path.to_owned(), column, found: found.join(", ") }
            })
        };
        Ok(Self {
            text: required("text")?,
            text_pair: position("text_pair"),
            label: required("label")?,
            count: header.len(),
        })
    }
}

fn read_table(
    path: &Path,
    bytes: &[u8],
    separator: u8,
    classes: usize,
) -> Result<Vec<Example>, DatasetError> {
    if bytes.trim_ascii().is_empty() {
        return Err(DatasetError::Empty { path: path.to_owned() });
    }
    // Flexible: a row of another length is our error to word. No header mode: the first record is ours to
    // look at.
    let mut reader =
        csv::ReaderBuilder::new().delimiter(separator).has_headers(false).flexible(true).from_reader(bytes);
    let (mut columns, mut examples) = (None, Vec::new());
    let (mut line, mut counted) = (1, 0);
    let mut record = csv::ByteRecord::new();
    loop {
        // csv's own line numbers slip at CRLF and at empty lines: count line ends up to the row's first byte
        // instead.
        let start = first_byte(bytes, usize::try_from(reader.position().byte()).unwrap_or(usize::MAX));
        line += bytes.get(counted..start).unwrap_or_default().iter().filter(|&&byte| byte == b'\n').count();
        counted = start;
        let more = reader.read_byte_record(&mut record).map_err(|error| unreadable(path, error.into()))?;
        if !more {
            return Ok(examples);
        }
        let at = |problem| DatasetError::Row { path: path.to_owned(), line, problem };
        match &columns {
            None => columns = Some(Columns::find(path, &record)?),
            Some(columns) => {
                let example = table_row(&record, columns, separator, classes).map_err(at)?;
                examples.push(Example { line: count(line), ..example });
            }
        }
    }
}

/// A line's number as an example carries it; no file that fits the memory has more.
fn count(line: usize) -> u32 {
    u32::try_from(line).unwrap_or(u32::MAX)
}

/// The first byte at or after `from` that is no line end.
fn first_byte(bytes: &[u8], from: usize) -> usize {
    let rest = bytes.get(from..).unwrap_or_default();
    from + rest.iter().take_while(|&&byte| byte == b'\n' || byte == b'\r').count()
}

fn table_row(
    record: &csv::ByteRecord,
    columns: &Columns,
    separator: u8,
    classes: usize,
) -> Result<Example, RowProblem> {
    // An unbalanced quote would otherwise swallow row after row without a word.
    if separator == b'\t' && record.iter().any(|cell| cell.contains(&b'\n')) {
        return Err(RowProblem::OpenQuote);
    }
    if record.len() > columns.count {
        return Err(RowProblem::TooManyFields { found: record.len(), expected: columns.count });
    }
    let cell = |index: usize| record.get(index).map(utf8).transpose();
    let text = cell(columns.text)?.ok_or(RowProblem::Missing { field: "text" })?;
    let text_pair = columns.text_pair.map(cell).transpose()?.flatten();
    let label = cell(columns.label)?.map(str::trim).filter(|label| !label.is_empty());
    let label = label.ok_or(RowProblem::Missing { field: "label" })?;
    let known = known_label(label.parse().ok(), classes);
    example(text, text_pair, known.ok_or_else(|| RowProblem::Label { found: format!("{label:?}"), classes })?)
}

fn utf8(bytes: &[u8]) -> Result<&str, RowProblem> {
    std::str::from_utf8(bytes).map_err(|error| RowProblem::Utf8 { byte: error.valid_up_to() + 1 })
}

fn known_label(label: Option<u32>, classes: usize) -> Option<u32> {
    label.filter(|&label| usize::try_from(label).is_ok_and(|label| label < classes))
}

fn example(text: &str, text_pair: Option<&str>, label: u32) -> Result<Example, RowProblem> {
    if text.trim().is_empty() {
        return Err(RowProblem::EmptyText);
    }
    let bytes = text.len().max(text_pair.map_or(0, str::len));
    if bytes > MAX_TEXT {
        return Err(RowProblem::Huge { bytes, most: MAX_TEXT });
    }
    let text_pair = text_pair.filter(|pair| !pair.trim().is_empty()).map(str::to_owned);
    Ok(Example { text: text.to_owned(), text_pair, label, line: 0 }) // the line is its reader's to say
}

#[cfg(test)]
mod tests;
