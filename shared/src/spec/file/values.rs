//! One key's value, as it is expected, or what is wrong with it: [`RunFile`]'s reading of texts, numbers and paths.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use toml::Value;

use super::super::error::SpecError;
use super::super::keys::default;
use super::super::limits::{BatchTokens, Bytes};
use super::RunFile;

/// Largest `run.threads`: more than any machine has cores, fewer than a system refuses to start.
const MAX_THREADS: usize = 4096;

impl RunFile {
    pub(super) fn string(&self, key: &'static str) -> Result<Option<String>, SpecError> {
        let Some(typed) = self.keys.get(key) else { return Ok(None) };
        match typed.value.as_str() {
            Some(text) if !text.is_empty() => Ok(Some(text.to_owned())),
            Some(_) => Err(self.wrong(key, "is empty".to_owned())),
            None => Err(self.wrong(key, format!("a text in quotes is expected, not {}", typed.value))),
        }
    }

    /// A text that has a default.
    pub(super) fn text(&self, key: &'static str) -> Result<String, SpecError> {
        let default = || default(key).and_then(|value| value.as_str().map(str::to_owned));
        self.string(key)?.or_else(default).ok_or_else(|| self.missing(key))
    }

    pub(super) fn name<T: FromStr<Err = String>>(&self, key: &'static str) -> Result<T, SpecError> {
        self.text(key)?.parse().map_err(|reason| self.wrong(key, reason))
    }

    /// As typed, or the default.
    pub(super) fn value(&self, key: &'static str) -> Result<Value, SpecError> {
        let typed = self.keys.get(key).map(|typed| typed.value.clone());
        typed.or_else(|| default(key)).ok_or_else(|| self.missing(key))
    }

    pub(super) fn truth(&self, key: &'static str) -> Result<bool, SpecError> {
        let value = self.value(key)?;
        value.as_bool().ok_or_else(|| self.wrong(key, format!("true or false is expected, not {value}")))
    }

    pub(super) fn whole(&self, key: &'static str) -> Result<u64, SpecError> {
        let value = self.value(key)?;
        let number = value.as_integer().and_then(|number| u64::try_from(number).ok());
        number.ok_or_else(|| self.wrong(key, format!("a whole number from 0 is expected, not {value}")))
    }

    pub(super) fn positive(&self, key: &'static str) -> Result<usize, SpecError> {
        self.at_most(key, u32::MAX as usize)
    }

    pub(super) fn at_most(&self, key: &'static str, most: usize) -> Result<usize, SpecError> {
        let number = self.whole(key)?;
        if !(1..=most as u64).contains(&number) {
            let reason = format!("a whole number from 1 to {most} is expected, not {number}");
            return Err(self.wrong(key, reason));
        }
        Ok(number as usize)
    }

    pub(super) fn threads(&self) -> Result<usize, SpecError> {
        match self.whole("run.threads")? {
            0 => Ok(0),
            _ => self.at_most("run.threads", MAX_THREADS),
        }
    }

    pub(super) fn batch_tokens(&self) -> Result<BatchTokens, SpecError> {
        let key = "run.max_batch_tokens";
        as_text(&self.value(key)?).parse().map_err(|reason| self.wrong(key, reason))
    }

    pub(super) fn memory(&self) -> Result<Option<Bytes>, SpecError> {
        let key = "run.memory";
        let parsed = self.keys.get(key).map(|typed| as_text(&typed.value).parse()).transpose();
        parsed.map_err(|reason| self.wrong(key, reason))
    }

    /// The evaluators divide by it as an `f32`, where a tiny number would be 0 and a huge one infinite.
    pub(super) fn temperature(&self) -> Result<f32, SpecError> {
        let key = "model.temperature";
        let number = self.above_zero(key)? as f32;
        let reason = || format!("a number from {:e} to {:e} is expected", f32::MIN_POSITIVE, f32::MAX);
        if number.is_normal() { Ok(number) } else { Err(self.wrong(key, reason())) }
    }

    pub(super) fn above_zero(&self, key: &'static str) -> Result<f64, SpecError> {
        let value = self.value(key)?;
        let number = number(&value).filter(|number| *number > 0.0);
        number.ok_or_else(|| self.wrong(key, format!("a number above 0 is expected, not {value}")))
    }

    /// `path` as the run file means it, absolute.
    pub(super) fn relative(&self, path: &str) -> PathBuf {
        let base = self.path.parent().unwrap_or_else(|| Path::new(""));
        let joined = base.join(path);
        std::path::absolute(&joined).unwrap_or(joined)
    }

    pub(super) fn missing(&self, key: &'static str) -> SpecError {
        SpecError::Missing { file: self.path.display().to_string(), key }
    }

    pub(super) fn wrong(&self, key: &str, reason: String) -> SpecError {
        let place =
            self.keys.get(key).map_or_else(|| self.path.display().to_string(), |typed| typed.place.clone());
        SpecError::Value { place, key: key.to_owned(), reason }
    }
}

/// A finite number, with a point or without.
pub(super) fn number(value: &Value) -> Option<f64> {
    let number = value.as_float().or_else(|| value.as_integer().map(|n| n as f64));
    number.filter(|number| number.is_finite())
}

/// A value as it would stand behind an option of a command.
fn as_text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
