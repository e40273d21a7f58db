//! The examples of a task, read from JSON Lines, CSV or TSV.
