//! CMA-ES by itself: numbers in, numbers out. No I/O, no threads, no clock, no randomness of its own.
//!
//! Hansen's tutorial (arXiv 1604.00772, the equation numbers in the comments) with active update and the choices
//! of pycma 4.5's `CMAEvolutionStrategy`: given the same normals, the same mean, step size, paths and covariance.
//! What differs from pycma, on purpose:
//! - candidates are drawn with C's Cholesky factor, `x = m + sigma * L z`, instead of `B D z`: the same distribution, but
//!   unique, whereas B depends on the signs an eigensolver happens to choose, and a tenth of the work;
//! - a loss that is not finite ranks last (pycma puts the median for NaN), and equal losses rank by index;
//! - cumulative step-size adaptation in every dimension (pycma 4.x changes to two-point adaptation from 300 on);
//! - no mirrored samples below six candidates, no re-scaling of the coordinates of a badly conditioned C: the
//!   condition number is a reason to stop.

mod axes;
mod covariance;
mod lanczos;
mod params;
mod state;
mod stop;
#[cfg(test)]
mod tests;

pub use params::Params;
pub use state::{Foreseen, State};
pub use stop::StopReason;

/// The largest dimension: the two `dim * dim` matrices are then 128 MiB each, the decomposition's scratch as much.
pub const MAX_DIM: usize = 4096;
/// The largest population.
pub const MAX_POPULATION: usize = 65_536;
/// The smallest population: the tutorial's default in one dimension.
pub const MIN_POPULATION: usize = 4;

/// What a search starts from.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Number of variables, 1 to [`MAX_DIM`].
    pub dim: usize,
    /// Candidates a generation, [`MIN_POPULATION`] to [`MAX_POPULATION`]; `None`: `4 + floor(3 ln dim)` (eq. 48).
    pub population: Option<usize>,
    /// Initial step size, the same in every coordinate; finite and above 0.
    pub sigma: f64,
    /// Initial mean, `[dim]`; `None`: the origin.
    pub mean: Option<Vec<f64>>,
    /// Whether bad candidates take variance away (negative weights, eq. 53). pycma's default: yes.
    pub active: bool,
}

impl Options {
    /// pycma's defaults around the origin.
    pub fn new(dim: usize, sigma: f64) -> Options {
        Options { dim, population: None, sigma, mean: None, active: true }
    }
}

/// Why the optimiser refuses. A refused call has changed nothing, except after [`Error::Diverged`].
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// No variable, or so many that the matrices would not fit.
    #[error("dimension {0} is outside 1..={MAX_DIM}")]
    Dimension(usize),
    /// Too few candidates to rank, or absurdly many.
    #[error("population {0} is outside {MIN_POPULATION}..={MAX_POPULATION}")]
    Population(usize),
    /// The initial step size is no positive number.
    #[error("sigma must be finite and above 0, not {0}")]
    Sigma(f64),
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
