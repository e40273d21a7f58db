//! What the fleet knows of one run: its model, what its first evaluator found, its context. Pure.

use shared::ids::ContextVersion;
use shared::messages::{ContextUpdate, Hello, ModelIdentity, Order, Prepare, Ready, Refusal, Start};
use shared::spec::Dtype;

use super::{Begun, Expected};

/// A run.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) prepare: Prepare,
    /// What the first evaluator found; all others must find the same.
    pub(super) ready: Option<Ready>,
    /// Why nothing more can come of it.
    pub(super) failed: Option<Refusal>,
    /// Operations handed out for it, or what it is taken to have had.
    pub(super) served: f64,
    /// Evaluators that have prepared it.
    pub(super) serving: usize,
    /// The run's model, and whether it was given rather than taken from the first evaluator.
    model: Option<ModelIdentity>,
    given: bool,
    named: Option<String>,
    dtype: Dtype,
    device_kind: String,
    start: Option<Start>,
    /// Counts the calls of [`Run::start`].
    epoch: u64,
    last_update: Option<ContextUpdate>,
    failures: u32,
}

impl Run {
    pub(super) fn new(prepare: Prepare, expected: Expected) -> Self {
        Self {
            prepare,
            ready: None,
            failed: None,
            served: 0.0,
            serving: 0,
            given: expected.model.is_some(),
            model: expected.model,
            named: expected.named,
            dtype: expected.dtype,
            device_kind: String::new(),
            start: None,
            epoch: 0,
            last_update: None,
            failures: 0,
        }
    }

    /// Whether an evaluator may take part.
    pub(super) fn accepts(&self, hello: &Hello) -> Result<(), Refusal> {
        let (run, model) = (self.prepare.run, &hello.model);
        if let Some(own) = self.model.as_ref().filter(|own| !own.same_model(model)) {
            return Err(Refusal::Model(format!("{run} works with {own}, this evaluator holds {model}")));
        }
        if let (None, Some(named)) = (&self.model, self.named.as_ref().filter(|named| **named != model.name))
        {
            return Err(Refusal::Model(format!(
                "{run} works with a model called {named}, this evaluator holds {model}"
            )));
        }
        let (own, theirs) = (self.dtype.name(), &hello.dtype);
        if own != theirs {
            return Err(Refusal::Model(format!(
                "{run} computes in {own} (model.dtype), this evaluator in {theirs}: start it with --dtype {own}"
            )));
        }
        Ok(())
    }

    /// Takes the model of the first evaluator.
    pub(super) fn adopt(&mut self, model: &ModelIdentity) {
        self.model.get_or_insert_with(|| model.clone());
    }

    /// Nobody who had the model has prepared the run: the next evaluator may bring another.
    pub(super) fn forget_unproven_model(&mut self) {
        if self.ready.is_none() && !self.given {
            self.model = None;
        }
    }

    /// An evaluator has prepared the run: what it found must have the right shape and agree with the first's.
    pub(super) fn prepared(&mut self, hello: &Hello, ready: Ready) -> Result<(), Refusal> {
        self.check_shape(&hello.model, &ready)?;
        let kind = device_kind(&hello.device);
        let Some(first) = &self.ready else {
            self.device_kind = kind.to_owned();
            self.ready = Some(ready);
            return Ok(());
        };
        let differs = |what: &str| {
            Err(Refusal::Model(format!(
                "evaluator {} finds other {what} than the first one of {}; its model or program differs",
                hello.name, self.prepare.run
            )))
        };
        if first.label_ids != ready.label_ids {
            return differs("label word ids");
        }
        if first.initial_ids != ready.initial_ids {
            return differs("initial prompt ids");
        }
        let same =
            first.layer_stds.iter().map(|x| x.to_bits()).eq(ready.layer_stds.iter().map(|x| x.to_bits()));
        // GPUs of one kind may be of several models, which round otherwise
        if kind == "cpu" && kind == self.device_kind && !same {
            return differs("hidden-state statistics");
        }
        Ok(())
    }

    fn check_shape(&self, model: &ModelIdentity, ready: &Ready) -> Result<(), Refusal> {
        let (layers, hidden) = (model.layers as usize, model.hidden as usize);
        let initial = layers * hidden * self.prepare.tokens as usize;
        let checks = [
            ("layer_stds", ready.layer_stds.len(), if self.prepare.train.is_empty() { 0 } else { layers }),
            ("flops", ready.flops.len(), layers),
            ("initial", ready.initial.len(), if ready.initial.is_empty() { 0 } else { initial }),
        ];
        for (what, got, wanted) in checks {
            if got != wanted {
                return Err(Refusal::Failed(format!("ready with {got} {what}, {wanted} expected")));
            }
        }
        Ok(())
    }

    /// Operations of one call, the mean over the layers; none before the run is ready.
    pub(super) fn operations(&self) -> Option<f64> {
        let flops = &self.ready.as_ref()?.flops;
        let mean = flops.iter().sum::<f64>() / flops.len() as f64;
        (mean > 0.0).then_some(mean)
    }

    /// What whoever began the run is told.
    pub(super) fn begun(&self) -> Option<Begun> {
        Some(Begun { ready: self.ready.clone()?, model: self.model.clone()? })
    }

    /// Takes a whole context.
    pub(super) fn start(&mut self, start: Start) -> Result<(), Refusal> {
        let layers = self.model.as_ref().map_or(0, |model| model.layers as usize);
        if self.ready.is_none() || start.context.len() != layers || start.projection_stds.len() != layers {
            let text = format!("a start with {} layers; {layers} expected", start.context.len());
            return Err(Refusal::Failed(text));
        }
        self.start = Some(start);
        self.last_update = None;
        self.epoch += 1;
        Ok(())
    }

    /// Takes one layer's incumbent.
    pub(super) fn update(&mut self, update: ContextUpdate) -> Result<(), Refusal> {
        let version = self.version();
        let slot = self.start.as_mut().and_then(|start| start.context.get_mut(update.layer.index()));
        match slot {
            Some(slot) if update.version.0 == version.0 + 1 => *slot = update.z.clone(),
            _ => {
                let text = format!("context {} of {} cannot follow {version}", update.version, update.layer);
                return Err(Refusal::Failed(text));
            }
        }
        if let Some(start) = &mut self.start {
            start.version = update.version;
        }
        self.last_update = Some(update);
        Ok(())
    }

    /// Version of the context; 0 where there is none.
    pub(super) fn version(&self) -> ContextVersion {
        self.start.as_ref().map_or(ContextVersion(0), |start| start.version)
    }

    /// Which snapshot the context comes from, and its version.
    pub(super) fn context(&self) -> Option<(u64, ContextVersion)> {
        self.start.as_ref().map(|start| (self.epoch, start.version))
    }

    /// The order that brings an evaluator from `known` to the context.
    pub(super) fn lacking(&self, known: Option<(u64, ContextVersion)>) -> Option<Order> {
        let start = self.start.as_ref()?;
        let update = self.last_update.as_ref();
        match known {
            Some(known) if Some(known) == self.context() => None,
            Some((epoch, version)) if epoch == self.epoch && version.0 + 1 == start.version.0 => {
                let whole = || Order::Start(start.clone());
                Some(update.map_or_else(whole, |update| Order::SetContext(update.clone())))
            }
            _ => Some(Order::Start(start.clone())),
        }
    }

    /// Counts evaluators that could not prepare the run or lost it.
    pub(super) fn failed_once_more(&mut self) -> u32 {
        self.failures += 1;
        self.failures
    }
}

/// `cuda` of `cuda:0`.
pub(super) fn device_kind(device: &str) -> &str {
    device.split(':').next().unwrap_or(device)
}
