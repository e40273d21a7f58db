//! How a sentence encoder's rows become one: read from the sentence-transformers folder where it lies beside the model.

use std::path::Path;

use serde::Deserialize;

use super::ModelError;
use crate::models::locate::POOLING;

/// What stands for a whole text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pooling {
    /// The mean over its rows, special tokens included.
    #[default]
    Mean,
    /// Its first row.
    First,
    /// Its last row.
    Last,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Modes {
    pooling_mode_cls_token: bool,
    pooling_mode_mean_tokens: bool,
    pooling_mode_max_tokens: bool,
    pooling_mode_mean_sqrt_len_tokens: bool,
    pooling_mode_weightedmean_tokens: bool,
    pooling_mode_lasttoken: bool,
}

impl Pooling {
    /// What the folder says; the mean where it says nothing.
    ///
    /// # Errors
    /// A file that cannot be read, or a pooling that is none of these.
    pub(super) fn of_folder(folder: &Path) -> Result<Self, ModelError> {
        let path = folder.join(POOLING);
        if !path.is_file() {
            return Ok(Self::default());
        }
        let wrong = |reason: String| ModelError::Config { path: path.clone(), reason };
        let text = std::fs::read_to_string(&path).map_err(|e| wrong(e.to_string()))?;
        let modes: Modes = serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?;
        // a mean over fixed rows divided by a root instead of a count points the same way
        let mean = modes.pooling_mode_mean_tokens || modes.pooling_mode_mean_sqrt_len_tokens;
        let others = modes.pooling_mode_max_tokens || modes.pooling_mode_weightedmean_tokens;
        match (modes.pooling_mode_cls_token, mean, modes.pooling_mode_lasttoken, others) {
            (true, false, false, false) => Ok(Self::First),
            (false, true, false, false) => Ok(Self::Mean),
            (false, false, true, false) => Ok(Self::Last),
            _ => Err(wrong("exactly one of cls, mean and last token is supported as pooling".to_owned())),
        }
    }

    /// The row that is read of `rows`, where it is one.
    pub(crate) fn row(self, rows: usize) -> usize {
        if self == Self::Last { rows.saturating_sub(1) } else { 0 }
    }
}
