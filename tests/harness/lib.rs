//! What the end-to-end tests share: real processes of the two binaries, on tiny committed models, in temporary folders.
//!
//! Nothing here waits for seconds: it waits for a line, a file or an end, with one deadline ([`until`]). A failing test
//! prints each of its processes: command, working directory and its listing, status, both outputs.

mod case;
mod cluster;
mod disk;
mod process;
mod proxy;
mod standing;
mod trace;

use std::path::PathBuf;
use std::time::{Duration, Instant};

pub use case::{Case, Family};
pub use cluster::{Coordinator, evaluator, evaluator_on};
pub use disk::SmallDisk;
pub use process::{Ended, Process, binary, run};
pub use proxy::{Line, Proxy};
pub use standing::Standing;
pub use trace::{artefact, generations, generations_done};

/// The longest any single wait may take; far beyond what a loaded machine needs.
pub const DEADLINE: Duration = Duration::from_secs(90);

/// Polls `look` until it finds something.
///
/// # Panics
/// After [`DEADLINE`], saying what was waited for.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < DEADLINE, "waited {DEADLINE:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The repository's root.
pub fn root() -> PathBuf {
    let tests = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("tests/ lies in the root").to_owned()
}

/// Small reproducible numbers for choosing where a fault strikes (Knuth's LCG, upper bits).
#[derive(Clone, Copy, Debug)]
pub struct Dice(pub u64);

impl Dice {
    /// A number in `from..to`.
    pub fn roll(&mut self, from: usize, to: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        from + (self.0 >> 33) as usize % (to - from)
    }
}
