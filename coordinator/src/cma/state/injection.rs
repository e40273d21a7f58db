//! Points from outside among the candidates: pycma's `es.inject`, and a mean that is set.

use serde::{Deserialize, Serialize};

use super::State;
use crate::cma::Error;
use crate::cma::error::{finite, length};

/// Points that wait to be among the candidates, at most: as many as two populations, or this.
const MOST: usize = 1000;

/// A point from outside.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Injected {
    /// Where the search knows it to be.
    pub(super) point: Vec<f64>,
    /// Whether it is evaluated as it is, or as a direction from the mean.
    force: bool,
}

impl State {
    /// Puts points among the next candidates, in the place of the first ones drawn, as pycma's `es.inject`. Unless `force`
    /// is set they are directions: one that lies farther from the mean than candidates do is shortened to the length that
    /// the candidate in its place would have had. Injected candidates take no variance away. The mean may be injected too.
    ///
    /// # Errors
    /// A point of another dimension, not finite or outside the bounds; more than can wait.
    pub fn inject(&mut self, points: &[Vec<f64>], force: bool) -> Result<(), Error> {
        for point in points {
            self.check_point("an injected point", point)?;
        }
        let room = MOST.max(2 * self.params.population).saturating_sub(self.injected.len());
        if points.len() > room {
            return Err(Error::Length { what: "injected points", found: points.len(), wanted: room });
        }
        for point in points {
            let point = self.point(point);
            self.injected.push(Injected { point, force });
        }
        Ok(())
    }

    /// Doubts the best candidate's loss, where losses are noisy or what they are of has changed: it is evaluated again, as
    /// one of the next candidates, and the best one is then the best of these. Does nothing while candidates are out, or
    /// when there is no best one yet.
    pub fn reconsider(&mut self) {
        let Some(best) = self.best.as_ref().filter(|_| !self.asked && !self.doubted) else {
            return;
        };
        let point = self.point(&best.candidate);
        self.injected.insert(0, Injected { point, force: true });
        self.doubted = true;
    }

    /// Moves the mean; paths, step size and covariance stay.
    ///
    /// # Errors
    /// A mean of another dimension, not finite or outside the bounds; candidates are out whose losses were not told.
    pub fn set_mean(&mut self, mean: &[f64]) -> Result<(), Error> {
        if self.asked {
            return Err(Error::Asked("the mean cannot be set"));
        }
        self.check_point("the mean", mean)?;
        self.mean = self.point(mean);
        Ok(())
    }

    fn check_point(&self, what: &'static str, point: &[f64]) -> Result<(), Error> {
        length(what, point.len(), self.params.dim)?;
        finite(what, point)?;
        self.bounded.as_ref().map_or(Ok(()), |bounded| bounded.walls.check(what, point))
    }

    fn point(&self, image: &[f64]) -> Vec<f64> {
        self.bounded.as_ref().map_or_else(|| image.to_vec(), |bounded| bounded.walls.preimage(image))
    }

    /// Puts the points that wait in the place of the first candidates; gives how many they are.
    pub(super) fn place_injected(&self, normals: &[f64], candidates: &mut [Vec<f64>]) -> usize {
        let norm = |values: &[f64]| values.iter().map(|v| v * v).sum::<f64>().sqrt();
        let drawn = normals.chunks_exact(self.params.dim);
        for ((injected, candidate), normals) in self.injected.iter().zip(&mut *candidates).zip(drawn) {
            if injected.force {
                candidate.clone_from(&injected.point);
                continue;
            }
            let mut step: Vec<f64> = injected.point.iter().zip(&self.mean).map(|(x, m)| x - m).collect();
            let far = norm(&self.local(&step, self.sigma));
            // as pycma's CMA_injections_threshold_keep_len = 1
            if far > (self.params.dim as f64).sqrt() {
                let shorter = norm(normals) / far;
                step.iter_mut().for_each(|s| *s *= shorter);
            }
            *candidate = self.mean.iter().zip(&step).map(|(m, s)| m + s).collect();
        }
        self.injected.len().min(candidates.len())
    }
}
