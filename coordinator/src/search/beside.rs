//! The optimiser's arithmetic apart from the search, so that it can run beside an evaluation: drawing a layer's next
//! population, and learning from the losses of the last one. Both take the layer's state with them.

use std::sync::Arc;

use shared::ids::{ContextVersion, Layer};
use shared::random::{Domain, Stream};
use tracing::warn;

use super::{Plan, Proposal};
use crate::cma;

/// A population to be drawn.
#[derive(Debug)]
pub struct Asking {
    layer: Layer,
    version: ContextVersion,
    state: Arc<cma::State>,
    seed: u64,
    reevaluate: bool,
}

/// A population drawn, and its layer's state since.
#[derive(Debug)]
pub struct Asked {
    pub(super) proposal: Proposal,
    pub(super) state: Arc<cma::State>,
}

impl Asking {
    pub(super) fn new(layer: Layer, version: ContextVersion, state: Arc<cma::State>, plan: &Plan) -> Self {
        Self { layer, version, state, seed: plan.seed, reevaluate: plan.reevaluate }
    }

    /// The context that it is for, and its layer.
    pub fn place(&self) -> (ContextVersion, Layer) {
        (self.version, self.layer)
    }

    /// Draws it, with normals from the counter-based stream. Drawn again, after a resume say, it is the same.
    ///
    /// # Errors
    /// A covariance that has broken down beyond repair.
    pub fn ask(self) -> Result<Asked, cma::Error> {
        let Self { layer, version, mut state, seed, reevaluate } = self;
        if reevaluate {
            Arc::make_mut(&mut state).reconsider();
        }
        let count = state.population() * state.dim();
        let stream = Stream::new(seed, Domain::Search, u64::from(layer.0));
        let normals = cma::normals(stream, state.generation() * count as u64, count);
        let repairs = state.repairs();
        let points = Arc::make_mut(&mut state).ask(&normals)?;
        if state.repairs() > repairs {
            warn!(layer = layer.0 + 1, "its covariance was ill-conditioned and has been repaired");
        }
        let mu = state.params().mu;
        Ok(Asked { proposal: Proposal { layer, version, points, mu }, state })
    }
}

/// Losses to be learnt from.
#[derive(Debug)]
pub struct Telling {
    layer: Layer,
    state: Arc<cma::State>,
    points: Vec<Vec<f64>>,
    losses: Vec<f64>,
}

/// A layer's state that has learnt.
#[derive(Debug)]
pub struct Told {
    pub(super) layer: Layer,
    pub(super) state: Arc<cma::State>,
}

impl Telling {
    pub(super) fn new(layer: Layer, state: Arc<cma::State>, points: Vec<Vec<f64>>, losses: Vec<f64>) -> Self {
        Self { layer, state, points, losses }
    }

    /// Learns.
    ///
    /// # Errors
    /// As [`cma::State::tell`].
    pub fn tell(self) -> Result<Told, cma::Error> {
        let Self { layer, mut state, points, losses } = self;
        let bad = state.bad_losses();
        Arc::make_mut(&mut state).tell(&points, &losses)?;
        let bad = state.bad_losses() - bad;
        if bad > 0 {
            warn!(layer = layer.0 + 1, "{bad} of {} losses are not finite and rank last", losses.len());
        }
        Ok(Told { layer, state })
    }
}

/// Layers' states on disk: as if nobody shared them, and none was away.
pub(super) mod states {
    use std::sync::Arc;

    use serde::ser::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::cma::State;

    type States = Vec<Option<Arc<State>>>;

    pub(in crate::search) fn serialize<S: Serializer>(states: &States, to: S) -> Result<S::Ok, S::Error> {
        let here: Option<Vec<&State>> = states.iter().map(Option::as_deref).collect();
        here.ok_or_else(|| S::Error::custom("a layer is at its arithmetic"))?.serialize(to)
    }

    pub(in crate::search) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<States, D::Error> {
        Ok(Vec::<State>::deserialize(from)?.into_iter().map(|state| Some(Arc::new(state))).collect())
    }
}
