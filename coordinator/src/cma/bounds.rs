//! Where candidates may lie: pycma's `BoundTransform`, a smooth map from anywhere into the bounds.
//!
//! The search knows nothing of bounds: it works with points anywhere, and what is evaluated is their image. The map is
//! the identity but near a bound, where it is quadratic (`x` at a twentieth of the bound beyond it is the bound itself),
//! and periodic beyond.

use serde::{Deserialize, Serialize};

use super::Error;

/// Bounds of every coordinate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bounds {
    /// `[dim]`, or one for all; negative infinity where there is none.
    pub lower: Vec<f64>,
    /// `[dim]`, or one for all; infinity where there is none.
    pub upper: Vec<f64>,
}

/// A coordinate's largest standard deviation, as a share of what lies between its bounds (pycma's
/// `maxstd_boundrange`).
const WIDEST: f64 = 1.0 / 3.0;

/// One coordinate's bounds, and how far beyond them the map still goes up.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Wall {
    lower: f64,
    upper: f64,
    below: f64,
    above: f64,
}

/// All coordinates' bounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Walls(Vec<Wall>);

impl Wall {
    fn new(at: usize, lower: f64, upper: f64) -> Result<Wall, Error> {
        let usable = lower < upper && lower < f64::INFINITY && upper > f64::NEG_INFINITY;
        if !usable || (upper - lower) / 2.0 + lower <= lower {
            return Err(Error::Bounds { at, lower, upper });
        }
        let half = (upper - lower) / 2.0;
        let margin = |bound: f64| {
            if bound.is_finite() { half.min(bound.abs().max(1.0) / 20.0) } else { 1.0 }
        };
        Ok(Wall { lower, upper, below: margin(lower), above: margin(upper) })
    }

    fn image(self, x: f64) -> f64 {
        let Wall { lower, upper, below, above } = self;
        let mut y = x;
        let half = (upper - lower) / 2.0;
        let first = lower - 2.0 * below - half;
        if y < first || y > upper + 2.0 * above + half {
            let period = 2.0 * (upper - lower + below + above);
            y -= period * ((y - first) / period).floor();
        }
        if y > upper + above {
            y -= 2.0 * (y - upper - above);
        }
        if y < lower - below {
            y += 2.0 * (lower - below - y);
        }
        if y < lower + below {
            y = lower + (y - (lower - below)).powi(2) / 4.0 / below;
        }
        if y > upper - above {
            y = upper - (y - (upper + above)).powi(2) / 4.0 / above;
        }
        y.clamp(lower, upper) // what rounding may add
    }

    fn preimage(self, y: f64) -> f64 {
        let Wall { lower, upper, below, above } = self;
        if y < lower + below {
            (lower - below) + 2.0 * (below * (y - lower)).sqrt()
        } else if y < upper - above {
            y
        } else {
            (upper + above) - 2.0 * (above * (upper - y)).sqrt()
        }
    }
}

impl Walls {
    /// # Errors
    /// Another number of bounds than variables (or one), or nothing between a pair of them.
    pub(super) fn new(bounds: &Bounds, dim: usize) -> Result<Walls, Error> {
        let of = |side: &[f64], at: usize| side.get(at).or(side.last()).copied();
        for (what, side) in [("lower bounds", &bounds.lower), ("upper bounds", &bounds.upper)] {
            if ![1, dim].contains(&side.len()) {
                return Err(Error::Length { what, found: side.len(), wanted: dim });
            }
        }
        let wall = |at| {
            let lower = of(&bounds.lower, at).unwrap_or(f64::NEG_INFINITY);
            Wall::new(at, lower, of(&bounds.upper, at).unwrap_or(f64::INFINITY))
        };
        Ok(Walls((0..dim).map(wall).collect::<Result<_, _>>()?))
    }

    /// Whether these are bounds for so many variables; false only for bytes that we did not write.
    pub(super) fn is_shaped(&self, dim: usize) -> bool {
        self.0.len() == dim
            && self.0.iter().all(|wall| Wall::new(0, wall.lower, wall.upper).as_ref() == Ok(wall))
    }

    /// An error unless the point lies within.
    pub(super) fn check(&self, what: &'static str, point: &[f64]) -> Result<(), Error> {
        let outside = |(wall, x): (&Wall, &f64)| !(wall.lower <= *x && *x <= wall.upper);
        match self.0.iter().zip(point).position(outside) {
            None => Ok(()),
            Some(at) => {
                let Wall { lower, upper, .. } = self.0[at];
                Err(Error::OutsideBounds { what, at, found: point[at], lower, upper })
            }
        }
    }

    /// A point's image within the bounds.
    pub(super) fn image(&self, point: &[f64]) -> Vec<f64> {
        point.iter().zip(&self.0).map(|(x, wall)| wall.image(*x)).collect()
    }

    /// A point whose image is this one.
    pub(super) fn preimage(&self, image: &[f64]) -> Vec<f64> {
        image.iter().zip(&self.0).map(|(y, wall)| wall.preimage(*y)).collect()
    }

    /// Coordinates' largest standard deviations.
    pub(super) fn widest(&self) -> impl Iterator<Item = f64> + '_ {
        self.0.iter().map(|wall| (wall.upper - wall.lower) * WIDEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// pycma's own examples: `BoundTransform([0, None])` and `BoxConstraintsLinQuadTransformation([[1, 2], [1, 11]])`.
    #[test]
    fn as_pycma() {
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} is not {b}");
        let wall = Wall::new(0, 0.0, f64::INFINITY).unwrap();
        for (x, y) in [(-1.0, 0.9), (-0.1, 0.0125), (0.0, 0.0125), (1.0, 1.0), (1.2, 1.2)] {
            near(wall.image(x), y);
        }
        let wall = Wall::new(0, 1.0, 11.0).unwrap();
        for (x, y) in [(1.5, 1.5), (-2.2, 4.1), (-0.2, 2.1), (10.4, 10.4), (-12.2, 9.0)] {
            near(wall.image(x), y);
        }
    }

    #[test]
    fn there_and_back() {
        for (lower, upper) in [(-5.0, 5.0), (0.0, 1e-3), (1e6, 1e6 + 1.0), (f64::NEG_INFINITY, 2.0)] {
            let wall = Wall::new(0, lower, upper).unwrap();
            for i in -100..=100 {
                let y = wall.image(upper + f64::from(i) * 0.37);
                assert!(lower <= y && y <= upper);
                assert!((wall.image(wall.preimage(y)) - y).abs() <= 1e-9 * upper.abs().max(1.0));
            }
        }
    }

    #[test]
    fn wrong_bounds() {
        let walls = |lower: &[f64], upper: &[f64]| {
            Walls::new(&Bounds { lower: lower.to_vec(), upper: upper.to_vec() }, 2)
        };
        let text = |walls: Result<Walls, Error>| walls.unwrap_err().to_string();
        assert_eq!(
            text(walls(&[0.0, 2.0], &[1.0])),
            "the bounds of coordinate 1 leave nothing between them: 2 and 1"
        );
        assert!(walls(&[f64::NAN], &[1.0]).is_err() && walls(&[1.0], &[1.0]).is_err());
        assert!(walls(&[f64::INFINITY], &[f64::INFINITY]).is_err());
        assert_eq!(text(walls(&[0.0; 3], &[1.0])), "lower bounds: 3 given, 2 wanted");
        let outside = walls(&[0.0], &[1.0]).unwrap().check("the initial mean", &[0.5, 1.5]).unwrap_err();
        assert_eq!(outside.to_string(), "the initial mean: coordinate 1 is 1.5, outside its bounds 0 to 1");
    }
}
