//! What can be wrong with a file of examples, in words that say what would be right.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why a file of examples was not read.
#[derive(Debug, Error)]
pub enum DatasetError {
    /// The file is not there, or not readable.
    #[error("{}: cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The name's ending names no format we read.
    #[error(
        "{}: unknown kind of file; name it .jsonl (JSON Lines), .csv or .tsv after what it holds",
        path.display()
    )]
    Extension {
        /// The file.
        path: PathBuf,
    },
    /// The header row lacks a column.
    #[error(
        "{}:1: no column {column:?} in the header row (found: {found}); the first row must name the \
         columns text, label and, for pairs, text_pair",
        path.display()
    )]
    Column {
        /// The file.
        path: PathBuf,
        /// The missing column.
        column: &'static str,
        /// The columns there are.
        found: String,
    },
    /// No example at all.
    #[error("{}: holds no examples", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// One row is wrong.
    #[error("{}:{line}: {problem}", path.display())]
    Row {
        /// The file.
        path: PathBuf,
        /// The line on which the row starts, from 1.
        line: usize,
        /// What is wrong with it.
        problem: RowProblem,
    },
}

/// What is wrong with one row.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RowProblem {
    /// Not UTF-8.
    #[error("not valid UTF-8 (first bad byte: byte {byte} of the row); save the file as UTF-8")]
    Utf8 {
        /// The first bad byte, from 1.
        byte: usize,
    },
    /// Not JSON.
    #[error(
        "not valid JSON at column {column}: {message}; each line must be one object with \"text\" and \
         \"label\""
    )]
    Json {
        /// Column, from 1.
        column: usize,
        /// What the parser said.
        message: String,
    },
    /// JSON, but not an object.
    #[error("{found} where an object with \"text\" and \"label\" should be (JSON Lines: one object a line)")]
    NotObject {
        /// The kind of value found.
        found: &'static str,
    },
    /// A CSV or TSV row longer than the header.
    #[error(
        "{found} fields under a header of {expected}; put a text that contains the separator in double quotes"
    )]
    TooManyFields {
        /// Fields in the row.
        found: usize,
        /// Fields in the header.
        expected: usize,
    },
    /// A quoted field that runs over the end of its line, in a TSV file.
    #[error(
        "a double quote opens a field of several lines; in TSV put quotes inside a quoted field twice, \
         or use JSON Lines"
    )]
    OpenQuote,
    /// A field is absent.
    #[error("{field:?} is missing")]
    Missing {
        /// The field.
        field: &'static str,
    },
    /// The text is there and holds nothing.
    #[error("\"text\" is empty; take the row out or give it a text")]
    EmptyText,
    /// A text that no model reads, and no message carries.
    #[error("a text of {bytes} bytes; at most {most} are read: shorten or split it")]
    Huge {
        /// Bytes it has.
        bytes: usize,
        /// Bytes it may have.
        most: usize,
    },
    /// A text that is another kind of JSON value.
    #[error("{field:?} is {found}; it must be a string")]
    NotText {
        /// The field.
        field: &'static str,
        /// The kind of value found.
        found: &'static str,
    },
    /// A label that is no integer, or none of the classes.
    #[error(
        "label {found} is none of this task's {classes} classes; labels are integers from 0 to {}",
        .classes.saturating_sub(1)
    )]
    Label {
        /// The label as it stands in the file.
        found: String,
        /// Classes of the task.
        classes: usize,
    },
}
