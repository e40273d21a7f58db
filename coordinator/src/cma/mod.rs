//! CMA-ES by itself: numbers in, numbers out. No I/O, no clock, nothing random that a seed does not name; large products
//! are cut into parts for rayon's threads, whose number changes no bit.
//!
//! Hansen's tutorial (arXiv 1604.00772, the equation numbers in the comments) with active update and the choices
//! of pycma 4.5's `CMAEvolutionStrategy`: given the same normals, the same mean, step size, paths and covariance.
//! [`State`] is one search: normals go in with [`State::ask`], losses with [`State::tell`]. [`Restarting`] draws the
//! normals from a seed and starts again when a search has ended (IPOP, BIPOP).
//!
//! ```
//! use coordinator::cma::{Options, Restarting, Restarts};
//!
//! let options = Options { mean: Some(vec![1.0; 5]), seed: 1, ..Options::new(5, 0.5) };
//! let mut search = Restarting::new(&options, Restarts::None)?;
//! while search.stop().is_empty() {
//!     let candidates = search.ask()?;
//!     let losses: Vec<f64> = candidates.iter().map(|x| x.iter().map(|v| v * v).sum()).collect();
//!     search.tell(&candidates, &losses)?;
//! }
//! assert!(search.best().is_some_and(|(_, loss)| loss < 1e-9));
//! # Ok::<(), coordinator::cma::Error>(())
//! ```
//!
//! What differs from pycma, on purpose (docs/cma.md has the list):
//! - candidates are drawn with C's Cholesky factor, `x = m + sigma * L z`, instead of `B D z`: the same distribution, but
//!   unique, whereas B depends on the signs an eigensolver happens to choose, and a tenth of the work;
//! - a loss that is not finite ranks last (pycma puts the median for NaN), and equal losses rank by index;
//! - cumulative step-size adaptation in every dimension (pycma 4.x changes to two-point adaptation from 300 on);
//! - no mirrored samples below six candidates, no re-scaling of the coordinates of a badly conditioned C: the
//!   condition number is a reason to stop.

mod axes;
mod bounds;
mod covariance;
mod error;
mod geometry;
mod lanczos;
mod learning;
mod limited;
mod lower_triangle;
mod normals;
mod options;
mod params;
mod parts;
mod restarts;
mod state;
mod stop;
mod stored;
#[cfg(test)]
mod tests;

pub use bounds::Bounds;
pub use error::Error;
pub use learning::LearningRates;
pub use normals::normals;
pub use options::{Choice, Options, Variant};
pub use params::{Params, Rates};
pub use restarts::{Ended, Restarting, Restarts, Start};
pub use state::{Foreseen, State};
pub use stop::{StopReason, Stopping};

/// The largest dimension.
pub const MAX_DIM: usize = 100_000;
/// The largest population.
pub const MAX_POPULATION: usize = 65_536;
/// The smallest population: the tutorial's default in one dimension.
pub const MIN_POPULATION: usize = 4;
/// What a state may take where nothing else is said, in bytes: the full covariance of 16,000 variables fits.
pub const MEMORY: u64 = 8 << 30;
