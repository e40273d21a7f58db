//! The clients' service: list, watch, cancel, fetch. One coordinator runs one run file; `submit` says so.

use std::path::PathBuf;
use std::time::Instant;

use proto::v1::runs_server::Runs;
use proto::v1::{
    CancelRequest, CancelResponse, EvaluatorStatus, FetchChunk, FetchRequest, ListRequest, ListResponse,
    RunStatus, SubmitRequest, SubmitResponse, WatchRequest, run_status,
};
use tokio::io::AsyncReadExt;
use tokio::sync::{mpsc, watch};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::{ReceiverStream, WatchStream};
use tonic::{Request, Response, Status};

use crate::fleet::FleetStatus;
use crate::progress::{Progress, State};

/// The one run of this process.
const RUN: u64 = 1;

/// Piece of an artefact, in bytes.
const CHUNK: usize = 1 << 20;

/// What clients may see and ask for.
#[derive(Clone, Debug)]
pub struct Clients {
    /// The run's progress.
    pub progress: watch::Receiver<Progress>,
    /// The fleet's state.
    pub fleet: watch::Receiver<FleetStatus>,
    /// Set to true to stop the run after its checkpoint.
    pub cancel: watch::Sender<bool>,
    /// Where the artefact will lie.
    pub artefact: PathBuf,
}

type Stream<T> = std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Runs for Clients {
    type WatchStream = Stream<RunStatus>;
    type FetchStream = Stream<FetchChunk>;

    async fn submit(&self, _: Request<SubmitRequest>) -> Result<Response<SubmitResponse>, Status> {
        Err(Status::failed_precondition(
            "this coordinator was started for one run file and takes no others; start another `zeroth tune --listen`",
        ))
    }

    async fn list(&self, _: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        let runs = vec![run_status(&self.progress.borrow())];
        let now = Instant::now();
        let fleet = self.fleet.borrow().clone();
        let evaluators = fleet.evaluators.iter().map(|e| EvaluatorStatus {
            id: e.id.0,
            name: e.name.clone(),
            device: e.device.clone(),
            model: e.model.clone(),
            leases: e.leases as u32,
            answered: e.answered,
            idle_seconds: now.saturating_duration_since(e.last_report).as_secs_f64(),
        });
        let evaluators = evaluators.collect();
        Ok(Response::new(ListResponse { runs, evaluators }))
    }

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        known(request.into_inner().run)?;
        let mut ended = false;
        let stream = WatchStream::new(self.progress.clone()).map(|progress| run_status(&progress));
        let stream = stream.take_while(move |status| !std::mem::replace(&mut ended, over(status))).map(Ok);
        Ok(Response::new(Box::pin(stream)))
    }

    async fn cancel(&self, request: Request<CancelRequest>) -> Result<Response<CancelResponse>, Status> {
        known(request.into_inner().run)?;
        self.cancel.send_replace(true);
        Ok(Response::new(CancelResponse {}))
    }

    async fn fetch(&self, request: Request<FetchRequest>) -> Result<Response<Self::FetchStream>, Status> {
        known(request.into_inner().run)?;
        let file = tokio::fs::File::open(&self.artefact).await;
        let mut file = file.map_err(|_| Status::failed_precondition("the run has no artefact yet"))?;
        let (sender, receiver) = mpsc::channel(2);
        tokio::spawn(async move {
            loop {
                let mut data = Vec::with_capacity(CHUNK);
                let read = (&mut file).take(CHUNK as u64).read_to_end(&mut data).await;
                let (piece, last) = match read {
                    Ok(0) => return,
                    Ok(_) => (Ok(FetchChunk { data }), false),
                    Err(error) => (Err(Status::internal(error.to_string())), true),
                };
                if sender.send(piece).await.is_err() || last {
                    return; // the client has gone, or nothing more can be read
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

fn known(run: u64) -> Result<(), Status> {
    if run == RUN {
        Ok(())
    } else {
        Err(Status::not_found(format!("run {run}: this coordinator has run {RUN} alone")))
    }
}

fn over(status: &RunStatus) -> bool {
    use run_status::State::{Cancelled, Done, Failed};
    matches!(status.state(), Done | Failed | Cancelled)
}

fn run_status(progress: &Progress) -> RunStatus {
    let state = match progress.state {
        State::Waiting => run_status::State::Waiting,
        State::Before | State::Searching | State::After => run_status::State::Running,
        State::Done => run_status::State::Done,
        State::Failed => run_status::State::Failed,
        State::Cancelled => run_status::State::Cancelled,
    };
    RunStatus {
        run: RUN,
        task: progress.task.clone(),
        state: state.into(),
        sweep: progress.sweep as u32,
        sweeps: progress.sweeps as u32,
        layer: progress.layer,
        layers: progress.layers,
        calls: progress.calls,
        budget: progress.budget,
        best_loss: progress.best_loss.unwrap_or(f64::NAN),
        best_dev: progress.best_dev.unwrap_or(f64::NAN),
        calls_per_second: progress.calls_per_second,
        message: progress.message.clone(),
    }
}
