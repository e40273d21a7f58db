//! Generation after generation, with nothing between two of them but one small message.
//!
//! While a generation is evaluated, the one after it is drawn and offered, and the one before it is learnt from, scored
//! on dev and written down. When its losses have come, the next one waits for its layer's new incumbent alone. What runs
//! beside what changes no number: a layer's state waits for its own losses, and the search is as one generation after the
//! other would have left it whenever it is written down.

use std::time::{Duration, Instant};

use shared::ids::RunId;
use shared::messages::Prompted;
use tokio::try_join;
use tracing::{Instrument, error_span, info};

use super::arithmetic::Outcome;
use super::session::Session;
use crate::cma;
use crate::error::Error;
use crate::events::Event;
use crate::fleet::{FleetError, Gathered, Handle, Ticket};
use crate::observe::{GenerationSpan, Span};
use crate::progress::State;
use crate::racing;
use crate::search::{Accepted, DevScore, Generation, Proposal, Race, Search, Told};

/// A generation that is being evaluated, or waits for the context to be.
struct Flight {
    proposal: Proposal,
    way: Way,
    span: GenerationSpan,
}

/// How it is evaluated.
enum Way {
    /// All of it has been offered.
    Offered(Ticket),
    /// Stage by stage, each of which follows from the losses of those before.
    Raced(Race),
}

/// A generation whose losses have come and whose incumbent is set; the rest of it is not done yet.
struct Open {
    generation: Generation,
    /// What a race has shown of its candidates.
    seen: Option<Vec<u32>>,
    version: u64,
    seconds: f64,
    evaluators: usize,
    missing: Option<usize>,
    lesson: Lesson,
    span: GenerationSpan,
}

/// What its layer's distribution makes of it.
enum Lesson {
    Telling(
        Outcome<Result<Told, cma::Error>>,
        #[expect(dead_code, reason = "it ends when it is dropped")] Span,
    ),
    /// The step size after it.
    Learnt(f64),
}

/// What a flight has brought.
type Landed = (Proposal, Gathered, Option<Vec<u32>>, GenerationSpan);

impl Session<'_> {
    /// Generation after generation until the budget is spent.
    pub(super) async fn search(&mut self) -> Result<(), Error> {
        let labels = self.inputs.train_labels();
        self.report(State::Searching);
        let mut before: Option<Open> = None;
        let mut next = self.launch(0).await?;
        while let Some(flight) = next.take() {
            let began = Instant::now();
            let (fleet, id) = (self.fleet, self.id);
            let deadline = self.deadline();
            let evaluated = async { Ok(evaluated(fleet, id, flight, deadline).await?) };
            let ((proposal, gathered, seen, span), ahead) = try_join!(evaluated, self.beside(before.take()))?;

            // All evaluators wait from here...
            let (version, evaluators) = (proposal.version.0, gathered.evaluators);
            let missing = (gathered.missing > 0).then_some(gathered.missing);
            let search = &mut self.state.search;
            search.spare(&self.plan, seen.as_deref().unwrap_or_default());
            let accepted = search.accept(&self.plan, self.id, proposal, &gathered, &labels)?;
            let Accepted { generation, update, telling } = accepted;
            self.fleet.set_context(update).await?;
            // ...to here.

            let lesson = Lesson::Telling(self.arithmetic.begin(|| telling.tell()), span.part("tell"));
            let seconds = began.elapsed().as_secs_f64();
            let open =
                before.insert(Open { generation, seen, version, seconds, evaluators, missing, lesson, span });
            next = match ahead {
                Some(flight) => Some(flight),
                None => {
                    self.learn(open).await?; // a single layer's next population follows from it
                    self.launch(0).await?
                }
            };
        }
        self.beside(before).await.map(drop)
    }

    /// What is done while a generation is evaluated: the one before it is finished and written down, and the one after
    /// it, if it is certain to come, is launched.
    async fn beside(&mut self, before: Option<Open>) -> Result<Option<Flight>, Error> {
        let Some(mut open) = before else {
            return self.launch(1).await;
        };
        let (scorer, inputs, set) = (self.scorer(), self.inputs, self.dev_set());
        let version = self.state.search.context().version();
        let wanted = self.state.search.wants_dev(&self.plan);
        let mut scored = wanted.then(|| open.span.part("dev"));
        let dev = async {
            let score = scorer.score(version, Prompted::Context, set, &inputs.dev);
            let dev = if wanted { score.await.map(Some) } else { Ok(None) };
            scored.take();
            dev
        };
        let ahead = async {
            if self.plan.tuned == 2 {
                self.learn(&mut open).await?; // both are of one layer
            }
            let ahead = self.launch(1).await?;
            self.learn(&mut open).await?;
            Ok(ahead)
        };
        let (dev, ahead) = try_join!(dev, ahead)?;
        self.settle(open, dev).await?;
        Ok(ahead)
    }

    /// Draws a population and offers it, so that it is there when the context it waits for is.
    async fn launch(&mut self, ahead: u64) -> Result<Option<Flight>, Error> {
        let Some(asking) = self.state.search.asking(&self.plan, ahead) else {
            return Ok(None);
        };
        let (version, layer) = asking.place();
        let number = self.state.search.generation() + ahead + 1;
        let sweep = (number - 1) / self.plan.tuned as u64 + 1;
        let span = self.watch.ask(version.0, number, sweep, layer.0);
        let drawn = span.part("ask");
        let asked = self.arithmetic.begin(|| asking.ask()).get().await??;
        drop(drawn);
        let proposal = self.state.search.asked(asked);
        let way = if self.plan.racing {
            Way::Raced(Search::race(&self.plan, &proposal))
        } else {
            let (candidates, all) = (proposal.candidates(), 0..self.plan.examples as u32);
            let (version, layer) = (proposal.version, proposal.layer);
            let ticket =
                self.fleet.offer_within(self.id, version, layer, candidates, all, self.deadline()).await?;
            Way::Offered(ticket)
        };
        Ok(Some(Flight { proposal, way, span }))
    }

    /// How long a generation may take once it is at work, where the run file bounds it.
    fn deadline(&self) -> Option<Duration> {
        let seconds = self.inputs.spec.search.deadline?;
        Some(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
    }

    /// Waits until a generation's layer has learnt from it.
    async fn learn(&mut self, open: &mut Open) -> Result<(), Error> {
        if let Lesson::Telling(telling, _) = &mut open.lesson {
            let told = telling.get().await??;
            open.lesson = Lesson::Learnt(self.state.search.told(told));
        }
        Ok(())
    }

    /// Ends a generation; all that is logged of it says which it is.
    async fn settle(&mut self, open: Open, dev: Option<DevScore>) -> Result<(), Error> {
        let (generation, layer) = (open.generation.number, open.generation.layer.0);
        let span = error_span!("generation", generation, layer); // at this level it is there whatever is logged
        self.write(open, dev).instrument(span).await
    }

    /// Selects by a generation's dev score and has it written down.
    async fn write(&mut self, open: Open, dev: Option<DevScore>) -> Result<(), Error> {
        let Open { generation, seen, version, seconds, evaluators, missing, lesson, mut span } = open;
        let Lesson::Learnt(sigma) = lesson else {
            return Err(Error::failed("a generation is settled before its layer has learnt from it"));
        };
        let selected = dev.is_some_and(|score| self.state.search.select(&self.plan, score));
        info!(best = generation.best, sigma, seconds, evaluators, "generation done");
        span.done(generation.best, evaluators);
        self.watch.generation(generation.layer.0, generation.best, seconds);
        let event = Event::Generation {
            generation: generation.number,
            sweep: generation.sweep,
            layer: generation.layer.0,
            version,
            calls: self.state.search.calls(),
            saved_calls: self.plan.racing.then(|| self.state.search.saved_calls()),
            losses: generation.losses,
            seen,
            best: generation.best,
            sigma,
            dev,
            selected,
            seconds,
            evaluators,
            missing,
        };
        self.keeper.append(&event).await?;
        self.save();
        self.report(State::Searching);
        Ok(())
    }
}

/// Waits for a generation's losses; in a race, how many examples each candidate has seen, too.
async fn evaluated(
    fleet: &Handle,
    run: RunId,
    flight: Flight,
    deadline: Option<Duration>,
) -> Result<Landed, FleetError> {
    let Flight { proposal, way, span } = flight;
    match way {
        Way::Offered(ticket) => Ok((proposal, ticket.gathered().await?, None, span)),
        Way::Raced(race) => {
            let (gathered, seen) = racing::evaluate(fleet, run, &proposal, race, deadline).await?;
            Ok((proposal, gathered, Some(seen), span))
        }
    }
}
