//! Racing over the fleet: the order of the examples, and a generation in stages (`search::race` says which).

use std::time::Duration;

use shared::ids::{ContextVersion, RunId};
use shared::messages::{ExampleSet, Prompted};

use crate::error::Error;
use crate::fleet::{FleetError, Gathered, Handle};
use crate::inputs::Inputs;
use crate::run::Origin;
use crate::search::{Proposal, Race};

/// The run that only tells which examples of `run` are hard; no run of its own has such an id.
pub fn sounding(run: RunId) -> RunId {
    RunId(run.0 | 1 << 63)
}

/// The inputs with the hardest training examples first, by the manual prompt's losses: the sooner most of a loss has
/// been seen, the sooner a bound tells. A run that goes on keeps its order.
///
/// # Errors
/// As [`Inputs::begin`].
pub async fn hard_first(origin: &Origin, inputs: &Inputs, fleet: &Handle) -> Result<Inputs, Error> {
    if let Some(checkpoint) = &origin.checkpoint {
        let place = |row: &usize| inputs.train_rows.iter().position(|other| other == row);
        return Ok(reordered(inputs, checkpoint.train_rows.iter().filter_map(place)));
    }
    let run = sounding(origin.id);
    inputs.begin(fleet, run, origin.expected.clone()).await?;
    let train = ExampleSet::Train(0..inputs.train.len() as u32);
    let scored = fleet.score(run, ContextVersion(0), Prompted::Manual, train).await?;
    fleet.end(run).await;
    let mut order: Vec<usize> = (0..inputs.train.len()).collect();
    order.sort_by(|&a, &b| scored.losses[b].total_cmp(&scored.losses[a])); // stable: equal ones stay as they are
    Ok(reordered(inputs, order.into_iter()))
}

fn reordered(inputs: &Inputs, order: impl Iterator<Item = usize>) -> Inputs {
    let (train, train_rows) = order.map(|i| (inputs.train[i].clone(), inputs.train_rows[i])).unzip();
    Inputs { train, train_rows, ..inputs.clone() }
}

/// Evaluates a generation stage by stage, each within the deadline: its losses, and how many examples each candidate has seen.
///
/// # Errors
/// As [`Handle::offer`].
pub async fn evaluate(
    fleet: &Handle,
    run: RunId,
    proposal: &Proposal,
    mut race: Race,
    deadline: Option<Duration>,
) -> Result<(Gathered, Vec<u32>), FleetError> {
    let candidates = proposal.candidates();
    while let Some(stage) = race.next() {
        let chosen = stage.candidates.iter().map(|&candidate| candidates[candidate].clone()).collect();
        let examples = stage.examples.clone();
        let ticket =
            fleet.offer_within(run, proposal.version, proposal.layer, chosen, examples, deadline).await?;
        race.take(&stage, ticket.gathered().await?);
    }
    let seen = race.seen();
    Ok((race.gathered(), seen))
}
