//! Why the optimiser refuses.

use super::{MAX_DIM, MAX_POPULATION, MIN_POPULATION};

/// Why the optimiser refuses. A refused call has changed nothing, except after
/// [`Error::Diverged`] and [`Error::Decomposition`].
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// No variable, or too many.
    #[error("dimension {0} is outside 1..={MAX_DIM}")]
    Dimension(usize),
    /// Too few candidates to rank, or absurdly many.
    #[error("population {0} is outside {MIN_POPULATION}..={MAX_POPULATION}")]
    Population(usize),
    /// No parent, or more than half of the candidates.
    #[error("mu {mu} is outside 1..={most}, half of the population")]
    Mu {
        /// What was asked for.
        mu: usize,
        /// The most there can be.
        most: usize,
    },
    /// The initial step size is no positive number.
    #[error("sigma must be finite and above 0, not {0}")]
    Sigma(f64),
    /// A coordinate's standard deviation is no positive number.
    #[error("the standard deviation of coordinate {at} must be finite and above 0, not {found}")]
    Std {
        /// Which coordinate, from 0.
        at: usize,
        /// What it is.
        found: f64,
    },
    /// A lower bound that is not below the upper one.
    #[error("the bounds of coordinate {at} leave nothing between them: {lower} and {upper}")]
    Bounds {
        /// Which coordinate, from 0.
        at: usize,
        /// Its lower bound.
        lower: f64,
        /// Its upper bound.
        upper: f64,
    },
    /// A point that must lie within the bounds does not.
    #[error("{what}: coordinate {at} is {found}, outside its bounds {lower} to {upper}")]
    OutsideBounds {
        /// What lies outside.
        what: &'static str,
        /// Which coordinate, from 0.
        at: usize,
        /// Where it lies.
        found: f64,
        /// Its lower bound.
        lower: f64,
        /// Its upper bound.
        upper: f64,
    },
    /// A tolerance that nothing can be compared with.
    #[error("{name} must be a number that is not negative, not {found}")]
    Tolerance {
        /// pycma's name of it.
        name: &'static str,
        /// What it is.
        found: f64,
    },
    /// Two options that do not go together.
    #[error("{0}")]
    Together(&'static str),
    /// The state would take more memory than it may.
    #[error(
        "the {variant} variant takes {needed} bytes at {dim} variables and {population} candidates ({sum}), more \
         than the {allowed} allowed; {instead}"
    )]
    Memory {
        /// Its name.
        variant: &'static str,
        /// Variables.
        dim: usize,
        /// Candidates a generation.
        population: usize,
        /// How it comes about.
        sum: String,
        /// In bytes.
        needed: u64,
        /// In bytes.
        allowed: u64,
        /// What would fit.
        instead: String,
    },
    /// Something has another number of entries than the state's shape asks for.
    #[error("{what}: {found} given, {wanted} wanted")]
    Length {
        /// What was counted.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many there should be.
        wanted: usize,
    },
    /// An input that must be finite is NaN or infinite.
    #[error("{0} holds a value that is not finite")]
    NotFinite(&'static str),
    /// `tell` without an `ask` before it, or a second `tell`.
    #[error("tell without ask: the losses of this generation were told already, or nothing was asked yet")]
    NotAsked,
    /// What only makes sense between two generations.
    #[error("{0} between ask and tell: tell the losses first")]
    Asked(&'static str),
    /// The distribution itself is no longer made of finite numbers; the run must restart.
    #[error("the search diverged in generation {generation}: {what} is no longer finite")]
    Diverged {
        /// Completed generations.
        generation: u64,
        /// Which part.
        what: &'static str,
    },
    /// The covariance matrix cannot be decomposed; the run must restart.
    #[error("the covariance matrix has no positive decomposition (generation {generation})")]
    Decomposition {
        /// Completed generations.
        generation: u64,
    },
}

/// An error unless there are as many as wanted.
pub(super) fn length(what: &'static str, found: usize, wanted: usize) -> Result<(), Error> {
    if found == wanted { Ok(()) } else { Err(Error::Length { what, found, wanted }) }
}

/// An error unless all are finite.
pub(super) fn finite(what: &'static str, values: &[f64]) -> Result<(), Error> {
    if all_finite(values) { Ok(()) } else { Err(Error::NotFinite(what)) }
}

/// Looks at all of them, in vectors: hardly ever is one to be found.
pub(super) fn all_finite(values: &[f64]) -> bool {
    values.iter().fold(true, |all, v| all & v.is_finite())
}
