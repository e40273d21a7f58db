//! What an evaluator is allowed: bytes of memory, and rows in flight.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Units of memory and their bytes, the larger ones first.
const UNITS: &[(&str, u64)] = &[
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

/// An amount of memory; written `4GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Bytes(pub u64);

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let wrong = || format!("\"{text}\" is no amount of memory; write it as 4GiB or 512MiB");
        let (number, unit) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(wrong)?);
        let number: f64 = number.trim().parse().map_err(|_| wrong())?;
        let of = |(name, _): &&(&str, u64)| name.eq_ignore_ascii_case(unit);
        let (_, bytes) = UNITS.iter().find(of).ok_or_else(wrong)?;
        let bytes = number * *bytes as f64;
        // beyond 2^53 a byte more or less is lost, and no machine has as many
        if (1.0..9e15).contains(&bytes) { Ok(Self(bytes as u64)) } else { Err(wrong()) }
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = UNITS.iter().find(|(_, bytes)| self.0.is_multiple_of(*bytes) && self.0 > 0);
        let (name, bytes) = whole.copied().unwrap_or(("B", 1));
        write!(f, "{}{name}", self.0 / bytes)
    }
}

impl TryFrom<String> for Bytes {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Bytes> for String {
    fn from(bytes: Bytes) -> Self {
        bytes.to_string()
    }
}

/// Rows (real tokens) in flight at most, over all threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub enum BatchTokens {
    /// As many as fit into memory and make it faster.
    Auto,
    /// So many.
    Rows(u32),
}

/// [`BatchTokens`] in a run file.
#[derive(Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Rows(u32),
    Word(String),
}

impl Default for BatchTokens {
    fn default() -> Self {
        Self::Rows(super::DEFAULT_MAX_BATCH_TOKENS as u32)
    }
}

impl FromStr for BatchTokens {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let rows = text.parse().ok().filter(|rows| *rows > 0).map(Self::Rows);
        rows.ok_or_else(|| {
            format!("\"auto\" or a whole number from 1 to {} is expected, not {text}", u32::MAX)
        })
    }
}

impl fmt::Display for BatchTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Rows(rows) => write!(f, "{rows}"),
        }
    }
}

impl TryFrom<Written> for BatchTokens {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        match written {
            Written::Rows(rows) => rows.to_string().parse(),
            Written::Word(word) => word.parse(),
        }
    }
}

impl From<BatchTokens> for Written {
    fn from(tokens: BatchTokens) -> Self {
        match tokens {
            BatchTokens::Auto => Self::Word("auto".to_owned()),
            BatchTokens::Rows(rows) => Self::Rows(rows),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_of_memory_has_a_unit() {
        for (text, bytes) in
            [("4GiB", 4 << 30), ("1.5 gib", 3 << 29), ("800MB", 800_000_000), ("1B", 1), (" 2TiB ", 2 << 40)]
        {
            assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text}");
        }
        for text in ["", "4", "GiB", "-1GiB", "0MiB", "4 GiBs", "nanGiB", "infGiB", "1e30GiB", "9000TiB"] {
            let error = text.parse::<Bytes>().unwrap_err();
            assert!(error.contains("write it as 4GiB"), "{text}: {error}");
        }
        for bytes in [1, 1023, 1024, 1_000_000, 1 << 31, (1 << 30) + 1] {
            assert_eq!(Bytes(bytes).to_string().parse(), Ok(Bytes(bytes)));
        }
    }

    #[test]
    fn rows_in_flight_are_a_number_or_auto() {
        assert_eq!("auto".parse(), Ok(BatchTokens::Auto));
        assert_eq!("8192".parse(), Ok(BatchTokens::Rows(8192)));
        for text in ["0", "-1", "many", "4294967296", "Auto"] {
            assert!(text.parse::<BatchTokens>().unwrap_err().contains(text));
        }
    }
}
