//! [`RunFile`]: what the user typed, key by key, with the line each key stands on for the errors.

mod values;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use toml::Value;
use toml::de::{DeTable, DeValue};

use super::error::SpecError;
use super::keys::{is_key, is_section, nearest, nearest_outside};
use super::resolved::*;
use crate::task::{Loss, Metric, Template};
use values::number;

/// Largest `search.dim`, as the optimiser has it: beyond it a layer's covariance takes too much memory.
const MAX_DIM: usize = 4096;

/// The same where no full covariance is kept.
const MAX_DIM_LINEAR: usize = 100_000;

/// Largest `search.population`, as the optimiser has it.
const MAX_POPULATION: usize = 65_536;

/// A value and where it was typed.
#[derive(Clone, Debug)]
struct Typed {
    value: Value,
    place: String,
}

/// A run file as typed: known keys alone, not yet checked for sense.
#[derive(Clone, Debug)]
pub struct RunFile {
    path: PathBuf,
    keys: BTreeMap<String, Typed>,
}

impl RunFile {
    /// Reads `path`.
    ///
    /// # Errors
    /// See [`SpecError`].
    pub fn read(path: &Path) -> Result<Self, SpecError> {
        let text = fs::read_to_string(path)
            .map_err(|e| SpecError::Unreadable { file: path.display().to_string(), reason: e.to_string() })?;
        Self::parse(&text, path)
    }

    /// Reads `text` as if it stood at `path`.
    ///
    /// # Errors
    /// See [`SpecError`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, SpecError> {
        let place = |offset: usize| {
            let line = text.get(..offset).map_or(1, |before| before.matches('\n').count() + 1);
            format!("{}:{line}", path.display())
        };
        let table = DeTable::parse(text).map_err(|e| SpecError::Syntax {
            place: place(e.span().map_or(0, |span| span.start)),
            reason: e.message().replace('\n', ", "),
        })?;
        let mut keys = BTreeMap::new();
        for (section, entries) in table.get_ref() {
            let here = place(section.span().start);
            let DeValue::Table(entries) = entries.get_ref() else {
                return Err(not_a_section(here, section.get_ref()));
            };
            if !is_section(section.get_ref()) && entries.is_empty() {
                return Err(not_a_section(here, section.get_ref()));
            }
            for (name, value) in entries {
                let key = format!("{}.{}", section.get_ref(), name.get_ref());
                let place = place(name.span().start);
                if !is_key(&key) {
                    return Err(SpecError::UnknownKey { place, nearest: nearest(&key), key });
                }
                let value = owned(value.get_ref()).ok_or_else(|| SpecError::Value {
                    place: place.clone(),
                    key: key.clone(),
                    reason: format!("a date, or a number beyond {}; neither is of use here", i64::MAX),
                })?;
                keys.insert(key, Typed { value, place });
            }
        }
        Ok(Self { path: path.to_owned(), keys })
    }

    /// Takes `key=value` overrides; a value that is no TOML is taken as a string.
    ///
    /// # Errors
    /// An unknown key, or no `=`.
    pub fn apply_overrides(&mut self, overrides: &[String]) -> Result<(), SpecError> {
        for option in overrides {
            let place = format!("--set {option}");
            let Some((key, value)) = option.split_once('=') else {
                let (key, reason) = (option.clone(), "write it as key=value".to_owned());
                return Err(SpecError::Value { place: "--set".to_owned(), key, reason });
            };
            let key = key.trim().to_owned();
            if !is_key(&key) {
                return Err(if key.contains('.') {
                    SpecError::UnknownKey { place, nearest: nearest(&key), key }
                } else {
                    not_a_section(place, &key)
                });
            }
            let value = value.trim();
            let parsed = toml::from_str::<toml::Table>(&format!("v = {value}")).ok();
            let value =
                parsed.and_then(|mut t| t.remove("v")).unwrap_or_else(|| Value::String(value.to_owned()));
            self.keys.insert(key, Typed { value, place });
        }
        Ok(())
    }

    /// Whether a key was typed, in the file or as an override.
    pub fn has(&self, key: &str) -> bool {
        self.keys.contains_key(key)
    }

    /// Checks and completes.
    ///
    /// # Errors
    /// See [`SpecError`].
    pub fn resolve(&self) -> Result<RunSpec, SpecError> {
        let spec = RunSpec {
            model: self.model()?,
            task: self.task()?,
            prompt: PromptSpec {
                tokens: self.positive("prompt.tokens")?,
                injection: self.name("prompt.injection")?,
                init: self.name("prompt.init")?,
            },
            search: self.search()?,
            run: self.run()?,
        };
        self.check(&spec)?;
        Ok(spec)
    }

    fn model(&self) -> Result<ModelSpec, SpecError> {
        let path = self.string("model.path")?.ok_or_else(|| self.missing("model.path"))?;
        let folder = self.relative(&path);
        let local = folder.exists() || path.starts_with('.') || path.starts_with('/');
        Ok(ModelSpec {
            path: if local { folder.display().to_string() } else { path },
            revision: self.string("model.revision")?,
            dtype: self.name("model.dtype")?,
            device: self.name("model.device")?,
            read_out: self.name("model.read_out")?,
            temperature: self.temperature()?,
        })
    }

    fn task(&self) -> Result<TaskSpec, SpecError> {
        let train = self.string("task.train")?.ok_or_else(|| self.missing("task.train"))?;
        let template = self.text("task.template")?;
        Ok(TaskSpec {
            name: self.task_name()?,
            train: self.relative(&train),
            test: self.string("task.test")?.map(|path| self.relative(&path)),
            template: Template::parse(&template).map_err(|e| self.wrong("task.template", e.to_string()))?,
            words: self.words()?,
            shots: self.positive("task.shots")?,
            loss: self.loss()?,
            metric: self.metric()?,
        })
    }

    fn search(&self) -> Result<SearchSpec, SpecError> {
        let covariance = self.name("search.covariance")?;
        let most = match covariance {
            Covariance::Full | Covariance::DiagonalStart => MAX_DIM,
            Covariance::Separable | Covariance::LimitedMemory | Covariance::Auto => MAX_DIM_LINEAR,
        };
        Ok(SearchSpec {
            method: self.name("search.method")?,
            dim: self.at_most("search.dim", most)?,
            population: self.at_most("search.population", MAX_POPULATION)?,
            sigma: self.above_zero("search.sigma")?,
            alpha: self.above_zero("search.alpha")?,
            budget: self.positive("search.budget")? as u64,
            seed: self.whole("search.seed")?,
            projection: self.name("search.projection")?,
            incumbent: self.name("search.incumbent")?,
            select: self.name("search.select")?,
            dev_every: self.positive("search.dev_every")? as u64,
            covariance,
            learning_rates: self.name("search.learning_rates")?,
            bounds: self.bounds()?,
            reevaluate: self.truth("search.reevaluate")?,
            racing: self.truth("search.racing")?,
            deadline: self.deadline()?,
        })
    }

    /// A layer's search begins at 0, which must lie between them.
    fn bounds(&self) -> Result<Option<[f64; 2]>, SpecError> {
        let key = "search.bounds";
        let Some(typed) = self.keys.get(key) else { return Ok(None) };
        let list = typed.value.as_array().map(|list| list.iter().map(number).collect());
        let Some(Some([lower, upper])) = list.map(|list: Vec<Option<f64>>| <[_; 2]>::try_from(list).ok())
        else {
            return Err(
                self.wrong(key, format!("two numbers are expected, as [-5.0, 5.0], not {}", typed.value))
            );
        };
        match (lower, upper) {
            (Some(lower), Some(upper)) if lower < 0.0 && 0.0 < upper => Ok(Some([lower, upper])),
            _ => {
                let reason = format!(
                    "a finite number below 0 and one above 0 are expected, where the search begins, not {}",
                    typed.value
                );
                Err(self.wrong(key, reason))
            }
        }
    }

    fn deadline(&self) -> Result<Option<f64>, SpecError> {
        let given = self.keys.contains_key("search.deadline");
        given.then(|| self.above_zero("search.deadline")).transpose()
    }

    fn run(&self) -> Result<RunSettings, SpecError> {
        // a name with a slash in it must not lead out of `runs`
        let name = || Ok(self.task_name()?.replace(['/', '\\'], "-"));
        let default = || Ok(format!("runs/{}-{}", name()?, self.whole("search.seed")?));
        let folder = self.string("run.folder")?.map_or_else(default, Ok)?;
        Ok(RunSettings {
            folder: self.relative(&folder),
            threads: self.threads()?,
            max_batch_tokens: self.batch_tokens()?,
            memory: self.memory()?,
            projections: self.name("run.projections")?,
            lease_timeout_s: self.positive("run.lease_timeout_s")? as u64,
            write_timeout_s: self.positive("run.write_timeout_s")? as u64,
        })
    }

    /// What no key can say alone.
    fn check(&self, spec: &RunSpec) -> Result<(), SpecError> {
        let (search, mask) = (&spec.search, spec.task.template.has_mask());
        if search.population < 4 {
            return Err(self.wrong("search.population", "at least 4 candidates are needed".to_owned()));
        }
        if search.budget < search.population as u64 {
            let reason = format!(
                "a budget of {} calls is smaller than one population of {}; raise it to {} or more",
                search.budget, search.population, search.population
            );
            return Err(self.wrong("search.budget", reason));
        }
        if search.racing && (spec.task.loss, spec.task.metric) == (Loss::Metric, Metric::F1) {
            let reason = "F1 is no sum over examples, so that a part of them bounds nothing; take loss = \"ce\", or \
                          racing = false";
            return Err(self.wrong("search.racing", reason.to_owned()));
        }
        let adaptable = [Covariance::Full, Covariance::Separable].contains(&search.covariance);
        if search.learning_rates == LearningRates::Adapted && !adaptable {
            let reason = "learning rates are adapted with covariance = \"full\" or \"separable\" alone";
            return Err(self.wrong("search.learning_rates", reason.to_owned()));
        }
        if search.learning_rates == LearningRates::Adapted && search.bounds.is_some() {
            let reason = "learning rates are adapted without search.bounds alone; leave one of the two out";
            return Err(self.wrong("search.bounds", reason.to_owned()));
        }
        match spec.model.read_out {
            other @ (ReadOut::MaskedLm | ReadOut::Seq2Seq) if !mask => {
                let reason = format!(
                    "read_out = \"{other}\" needs {{mask}} in the template, where the label word goes"
                );
                Err(self.wrong("task.template", reason))
            }
            other @ (ReadOut::Similarity | ReadOut::NextToken) if mask => {
                let reason =
                    format!("read_out = \"{other}\" reads no mask; take {{mask}} out of the template");
                Err(self.wrong("task.template", reason))
            }
            ReadOut::MaskedLm | ReadOut::NextToken | ReadOut::Seq2Seq | ReadOut::Similarity => Ok(()),
        }
    }

    fn words(&self) -> Result<Vec<String>, SpecError> {
        let key = "task.words";
        let typed = self.keys.get(key).ok_or_else(|| self.missing(key))?;
        let reason = "write a list of texts, one a class, in label order: [\"bad\", \"great\"]";
        let list = typed.value.as_array().ok_or_else(|| self.wrong(key, reason.to_owned()))?;
        let words: Option<Vec<String>> = list.iter().map(|v| v.as_str().map(str::to_owned)).collect();
        let words = words.ok_or_else(|| self.wrong(key, reason.to_owned()))?;
        if words.len() < 2 {
            return Err(self.wrong(key, "at least two classes are needed".to_owned()));
        }
        if let Some((i, word)) = words.iter().enumerate().find(|(i, word)| words[..*i].contains(word)) {
            return Err(self.wrong(key, format!("\"{word}\" stands twice (class {i} is the second)")));
        }
        if words.iter().any(String::is_empty) {
            return Err(self.wrong(key, "a label word is empty".to_owned()));
        }
        Ok(words)
    }

    fn loss(&self) -> Result<Loss, SpecError> {
        match self.text("task.loss")?.as_str() {
            "ce" => Ok(Loss::Ce),
            "hinge" => Ok(Loss::Hinge),
            "metric" => Ok(Loss::Metric),
            other => Err(self.wrong("task.loss", format!("\"{other}\" is none of: ce, hinge, metric"))),
        }
    }

    fn metric(&self) -> Result<Metric, SpecError> {
        match self.text("task.metric")?.as_str() {
            "accuracy" => Ok(Metric::Accuracy),
            "f1" => Ok(Metric::F1),
            other => Err(self.wrong("task.metric", format!("\"{other}\" is none of: accuracy, f1"))),
        }
    }

    fn task_name(&self) -> Result<String, SpecError> {
        let stem =
            || self.path.file_stem().map_or_else(|| "run".to_owned(), |s| s.to_string_lossy().into_owned());
        Ok(self.string("task.name")?.unwrap_or_else(stem))
    }
}

/// What is said of a key outside every section, and of a section that is none or is not written as one.
fn not_a_section(place: String, name: &str) -> SpecError {
    let key = name.to_owned();
    if is_section(name) {
        let reason =
            format!("is a section: write [{name}] on a line and its keys below (--set {name}.KEY=VALUE)");
        return SpecError::Value { place, key, reason };
    }
    SpecError::UnknownKey { place, nearest: nearest_outside(name), key }
}

/// The parser's borrowed value as a plain one; `None` for numbers that do not fit and for dates.
fn owned(value: &DeValue<'_>) -> Option<Value> {
    Some(match value {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Integer(number) => {
            Value::Integer(i64::from_str_radix(number.as_str(), number.radix()).ok()?)
        }
        DeValue::Float(number) => Value::Float(number.as_str().parse().ok()?),
        DeValue::Boolean(truth) => Value::Boolean(*truth),
        DeValue::Datetime(_) => return None,
        DeValue::Array(values) => {
            Value::Array(values.iter().map(|value| owned(value.get_ref())).collect::<Option<_>>()?)
        }
        DeValue::Table(entries) => {
            let entry = |(name, value): (&toml::Spanned<_>, &toml::Spanned<DeValue<'_>>)| {
                let name: &std::borrow::Cow<'_, str> = name.get_ref();
                Some((name.to_string(), owned(value.get_ref())?))
            };
            Value::Table(entries.iter().map(entry).collect::<Option<_>>()?)
        }
    })
}
