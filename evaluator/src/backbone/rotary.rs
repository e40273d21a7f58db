//! Rotary positions: the angles of every position, shared by the layers that turn alike.

use std::sync::{Arc, OnceLock};

use crate::kernel::rotate;

/// Positions whose angles are worked out together, when the first of them is met: a model may allow tens of thousands,
/// and hardly any text has them.
const TOGETHER: usize = 256;

/// Turns the pairs of each head by angles that grow with the position.
#[derive(Clone, Debug)]
pub(crate) struct Rotary {
    angles: Arc<Angles>,
}

#[derive(Debug)]
struct Angles {
    /// Each pair's angle a position.
    frequencies: Vec<f32>,
    parts: Vec<OnceLock<Part>>,
}

/// Of [`TOGETHER`] positions, `[positions, pairs]`.
#[derive(Debug)]
struct Part {
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Rotary {
    /// For `positions` positions, from each pair's angle a position.
    pub(crate) fn new(frequencies: Vec<f32>, positions: usize) -> Self {
        let parts = (0..positions.div_ceil(TOGETHER)).map(|_| OnceLock::new()).collect();
        Self { angles: Arc::new(Angles { frequencies, parts }) }
    }

    /// Whether both are the same tables.
    pub(crate) fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.angles, &other.angles)
    }

    /// Pairs of a head that are turned.
    pub(crate) fn pairs(&self) -> usize {
        self.angles.frequencies.len()
    }

    /// Cosines and sines of the first `positions` positions, `[positions, pairs]` each.
    pub(crate) fn table(&self, positions: usize) -> (Vec<f32>, Vec<f32>) {
        let Angles { frequencies, parts } = &*self.angles;
        let made = |part| Part::new(frequencies, part * TOGETHER);
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        for Part { cos: c, sin: s } in (0..parts.len().min(positions.div_ceil(TOGETHER))).map(made) {
            cos.extend(c);
            sin.extend(s);
        }
        (cos, sin)
    }

    /// Turns the heads (`width` numbers each) of a row at `position`.
    pub(super) fn turn(&self, row: &mut [f32], width: usize, position: usize) {
        let Angles { frequencies, parts } = &*self.angles;
        let (part, within) = (position / TOGETHER, position % TOGETHER);
        let Part { cos, sin } = parts[part].get_or_init(|| Part::new(frequencies, part * TOGETHER));
        let at = within * frequencies.len()..(within + 1) * frequencies.len();
        rotate(row, width, &cos[at.clone()], &sin[at]);
    }
}

impl Part {
    /// Angles are rounded to f32 before sine and cosine, as PyTorch does; a far position's angle would differ otherwise.
    fn new(frequencies: &[f32], first: usize) -> Self {
        let positions = first..first + TOGETHER;
        let angles = positions.flat_map(|p| frequencies.iter().map(move |f| f64::from(p as f32 * f)));
        let (cos, sin) = angles.map(|angle| (libm::cos(angle) as f32, libm::sin(angle) as f32)).unzip();
        Self { cos, sin }
    }
}
