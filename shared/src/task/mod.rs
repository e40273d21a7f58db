//! The task: its examples, its template, its k-shot split and its loss.
//!
//! Everything here is arithmetic on text and numbers; no model and no tokenizer.

pub mod dataset;
pub mod loss;
pub mod split;
pub mod template;

pub use dataset::{DatasetError, Example};
pub use loss::{Loss, Metric};
pub use split::{Split, SplitError};
pub use template::{Segment, Template, TemplateError};
