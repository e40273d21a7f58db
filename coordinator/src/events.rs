//! `events.jsonl`: the append-only trace of a run, one JSON object a line.
//!
//! Losses are written so that they read back to the same bits. What depends on the clock or on the fleet (`seconds`,
//! `evaluators`) stands beside them and is no part of a comparison between two traces.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::search::DevScore;

/// One line of the trace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The run began, or began again after a checkpoint.
    Begin {
        /// Task name.
        task: String,
        /// Hash of what defines the result.
        spec: String,
        /// The model, for people.
        model: String,
        /// What of a layer's covariance is learnt and why, where the run file says anything but `full`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        covariance: Option<String>,
        /// Calls spent before.
        calls: u64,
    },
    /// A generation has been told to its layer's optimiser.
    Generation {
        /// From 1.
        generation: u64,
        /// From 1.
        sweep: u64,
        /// From 0, input side first.
        layer: u32,
        /// Context version it was evaluated under.
        version: u64,
        /// Calls spent so far, rounded up.
        calls: u64,
        /// Calls that racing has saved so far, where it is on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        saved_calls: Option<f64>,
        /// One a candidate; of one that racing has ended, an estimate.
        losses: Vec<f64>,
        /// Examples that each candidate was evaluated on, where racing is on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seen: Option<Vec<u32>>,
        /// The best of the run so far at this layer.
        best: f64,
        /// Step size after the update.
        sigma: f64,
        /// The context after it, scored on dev, where it was (`search.dev_every`).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        dev: Option<DevScore>,
        /// Whether that is the best so far.
        selected: bool,
        /// Wall-clock seconds of this generation.
        seconds: f64,
        /// Evaluators that answered.
        evaluators: usize,
        /// Candidates that had not come in by `search.deadline`, if any: they rank last.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        missing: Option<usize>,
    },
    /// The budget is spent.
    End {
        /// Calls spent.
        calls: u64,
        /// Calls that racing has saved, where it is on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        saved_calls: Option<f64>,
        /// Of the selected deep prompt.
        dev: DevScore,
        /// Metric on the test set with the manual prompt.
        test_before: Option<f64>,
        /// Metric on the test set with the selected deep prompt.
        test_after: Option<f64>,
        /// Wall-clock seconds spent searching, all sessions together.
        seconds: f64,
    },
}

impl Event {
    /// Its line in the trace.
    ///
    /// # Errors
    /// What serde says; never for numbers and text.
    pub fn line(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        Ok(line)
    }
}

/// Appends to the trace.
#[derive(Debug)]
pub struct Trace {
    file: File,
    bytes: u64,
}

impl Trace {
    /// Opens `path` and cuts what lies behind `bytes`: generations that no checkpoint knows of.
    ///
    /// # Errors
    /// What the file system says.
    pub fn open(path: &Path, bytes: u64) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        let bytes = bytes.min(file.metadata()?.len());
        file.set_len(bytes)?;
        Ok(Self { file, bytes })
    }

    /// Appends whole lines and makes them durable. What a failure has left half-written is cut by the next call.
    ///
    /// # Errors
    /// What the file system says.
    pub fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        self.file.set_len(self.bytes)?;
        self.file.seek(SeekFrom::Start(self.bytes))?;
        self.file.write_all(lines)?;
        self.file.sync_data()?;
        self.bytes += lines.len() as u64;
        Ok(())
    }

    /// Length of the trace: what a checkpoint remembers.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(calls: u64) -> Event {
        let dev = DevScore { metric: 0.1 + 0.2, loss: 1.0 / 3.0 };
        Event::End { calls, saved_calls: None, dev, test_before: None, test_after: Some(0.7), seconds: 1.5 }
    }

    #[test]
    fn lines_read_back_to_the_same_bits_and_the_tail_behind_a_checkpoint_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        let mut trace = Trace::open(&path, 0).unwrap();
        trace.append(&end(1).line().unwrap()).unwrap();
        let checkpointed = trace.bytes();
        trace.append(&end(2).line().unwrap()).unwrap();
        drop(trace);

        let mut trace = Trace::open(&path, checkpointed).unwrap();
        trace.append(&end(3).line().unwrap()).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let events: Vec<Event> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(events, [end(1), end(3)]);
    }
}
