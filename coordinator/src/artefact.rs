//! From a finished search to an artefact, and from an artefact back to what an evaluator must know.

use shared::artefact::{self, Artefact, Metadata, Model, Prompt, SCHEMA, Scores, Search, Task};
use shared::ids::{ContextVersion, RunId};
use shared::messages::{ModelIdentity, Prepare, Ready, Start};
use shared::random::SCHEME;

use crate::checkpoint::Checkpoint;
use crate::error::Error;
use crate::inputs::Inputs;

/// The artefact of a finished run.
///
/// # Errors
/// When nothing was selected or scored yet.
pub fn build(inputs: &Inputs, state: &Checkpoint, ready: &Ready) -> Result<Artefact, Error> {
    let unfinished = || Error::failed("the run is not finished");
    let selected = state.search.selected().ok_or_else(unfinished)?;
    let finished = state.finished.ok_or_else(unfinished)?;
    let (spec, identity) = (&inputs.spec, ModelIdentity { ..state.model.clone() });
    let metadata = Metadata {
        schema: SCHEMA,
        zeroth: env!("CARGO_PKG_VERSION").to_owned(),
        run: inputs.hash.clone(),
        model: Model {
            path: identity.name.clone(),
            identity,
            dtype: spec.model.dtype,
            read_out: spec.model.read_out,
            temperature: spec.model.temperature,
        },
        task: Task {
            name: spec.task.name.clone(),
            template: spec.task.template.source().to_owned(),
            words: spec.task.words.clone(),
            label_ids: ready.label_ids.clone(),
            loss: spec.task.loss,
            metric: spec.task.metric,
            train_sha256: inputs.train_sha256.clone(),
            train_rows: inputs.train_rows.clone(),
            dev_rows: inputs.dev_rows.clone(),
            test_sha256: state.before.test_sha256.clone(),
        },
        prompt: Prompt {
            injection: spec.prompt.injection,
            tokens: spec.prompt.tokens,
            first_position: 1,
            init: spec.prompt.init,
            initial_ids: ready.initial_ids.clone(),
        },
        search: Search {
            method: spec.search.method,
            seed: spec.search.seed,
            random: SCHEME.to_owned(),
            projection: spec.search.projection,
            projection_stds: state.projection_stds.clone(),
            population: spec.search.population,
            sigma: spec.search.sigma,
            alpha: spec.search.alpha,
            calls: state.search.calls(),
            found_after: selected.calls,
        },
        scores: Scores {
            train_loss: finished.train_loss,
            dev_loss: selected.score.loss,
            dev: selected.score.metric,
            test_before: state.before.test,
            test_after: finished.test,
        },
    };
    let width = spec.prompt.tokens * state.model.hidden as usize;
    let initial: Vec<Vec<f32>> = ready.initial.chunks(width.max(1)).map(<[f32]>::to_vec).collect();
    let z = selected.zs.clone();
    let p0 = |layer: usize| initial.get(layer).map(Vec::as_slice);
    let prompts = z.iter().enumerate().map(|(l, z)| artefact::prompt(&metadata, l, z, p0(l))).collect();
    Ok(Artefact { metadata, prompts, z, initial })
}

/// What an evaluator must know to score with a tuned prompt: no training examples, the whole context.
///
/// # Errors
/// [`Error::Input`] when its numbers were made by another scheme, or do not rebuild.
pub fn reopen(artefact: &Artefact, run: RunId) -> Result<(Prepare, Start), Error> {
    let metadata = &artefact.metadata;
    let search = &metadata.search;
    if search.random != SCHEME {
        return Err(Error::Input(format!(
            "the artefact's random numbers are of scheme {}; this program makes {SCHEME}",
            search.random
        )));
    }
    if !artefact.rebuilds() {
        return Err(Error::Input(
            "the artefact's prompts are not what its seed and z give: it was changed".to_owned(),
        ));
    }
    let prepare = Prepare {
        run,
        read_out: metadata.model.read_out,
        temperature: metadata.model.temperature,
        template: metadata.task.template.clone(),
        words: metadata.task.words.clone(),
        injection: metadata.prompt.injection,
        tokens: metadata.prompt.tokens as u32,
        init: metadata.prompt.init,
        loss: metadata.task.loss,
        projection: search.projection,
        dim: artefact.z.first().map_or(0, Vec::len) as u32,
        seed: search.seed,
        train: Vec::new(),
        dev: Vec::new(),
    };
    let start = Start {
        run,
        projection_stds: search.projection_stds.clone(),
        version: ContextVersion(0),
        context: artefact.z.clone(),
    };
    Ok((prepare, start))
}
