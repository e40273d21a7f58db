//! The clients' service: submit, list, watch, cancel, fetch; over the one run of `tune --listen`, or a standing
//! coordinator's runs.

use std::path::PathBuf;
use std::time::Instant;

use proto::v1::runs_server::Runs;
use proto::v1::{
    CancelRequest, CancelResponse, FetchChunk, FetchRequest, ListRequest, ListResponse, RunStatus,
    SubmitRequest, SubmitResponse, WatchRequest,
};
use tokio::io::AsyncReadExt;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::status;
use crate::fleet::FleetStatus;
use crate::progress::Progress;
use crate::standing::{Denied, Standing, Submission, View};

/// The one run of a process that has one.
const RUN: u64 = 1;

/// Piece of an artefact, in bytes.
const CHUNK: usize = 1 << 20;

/// Answers that wait for a client to read them.
const UNREAD: usize = 2;

/// What clients may see and ask for where there is one run.
#[derive(Clone, Debug)]
pub struct Clients {
    /// The run's progress.
    pub progress: watch::Receiver<Progress>,
    /// The fleet's state.
    pub fleet: watch::Receiver<FleetStatus>,
    /// Set to true to stop the run after its checkpoint.
    pub cancel: watch::Sender<bool>,
    /// Where the artefact will lie: in the run folder.
    pub artefact: PathBuf,
}

/// The service.
#[derive(Clone, Debug)]
pub enum Service {
    /// One run; none can be added.
    One(Clients),
    /// As many as are handed in.
    Many(Standing, watch::Receiver<FleetStatus>),
}

impl From<Clients> for Service {
    fn from(clients: Clients) -> Self {
        Self::One(clients)
    }
}

impl Service {
    /// The fleet that its runs share.
    pub(crate) fn fleet(&self) -> &watch::Receiver<FleetStatus> {
        match self {
            Self::One(clients) => &clients.fleet,
            Self::Many(_, fleet) => fleet,
        }
    }

    /// Its runs.
    pub(crate) fn views(&self) -> Vec<View> {
        match self {
            Self::One(clients) => vec![clients.view()],
            Self::Many(standing, _) => standing.list(),
        }
    }

    fn view(&self, run: u64) -> Result<View, Status> {
        match self {
            Self::One(clients) if run == RUN => Ok(clients.view()),
            Self::One(_) => Err(denied(&Denied::Unknown(run))),
            Self::Many(standing, _) => standing.find(run).map_err(|why| denied(&why)),
        }
    }

    /// Turns true when streams have to end though their run has not.
    fn closing(&self) -> watch::Receiver<bool> {
        match self {
            Self::One(_) => watch::channel(false).1, // the run's progress ends with the process
            Self::Many(standing, _) => standing.closing(),
        }
    }
}

impl Clients {
    fn view(&self) -> View {
        let folder = self.artefact.parent().map(PathBuf::from).unwrap_or_default();
        View { id: RUN, progress: self.progress.clone(), folder }
    }
}

fn denied(why: &Denied) -> Status {
    let text = why.to_string();
    match why {
        Denied::Input(_) => Status::invalid_argument(text),
        Denied::Full(_) => Status::resource_exhausted(text),
        Denied::Closing => Status::unavailable(text),
        Denied::Unknown(_) => Status::not_found(text),
        Denied::Over(_) => Status::failed_precondition(text),
        Denied::Failed(_) => Status::internal(text),
    }
}

#[tonic::async_trait]
impl Runs for Service {
    type WatchStream = ReceiverStream<Result<RunStatus, Status>>;
    type FetchStream = ReceiverStream<Result<FetchChunk, Status>>;

    async fn submit(&self, request: Request<SubmitRequest>) -> Result<Response<SubmitResponse>, Status> {
        let Self::Many(standing, _) = self else {
            return Err(Status::failed_precondition(
                "this coordinator was started for one run file and takes no others; `zeroth serve` takes as many as come",
            ));
        };
        let SubmitRequest { run_file, name, set, resume } = request.into_inner();
        let submitted = standing.submit(Submission { name, run_file, set, resume }).await;
        Ok(Response::new(SubmitResponse { run: submitted.map_err(|why| denied(&why))? }))
    }

    async fn list(&self, _: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        let run = |view: &View| status::run(view.id, &view.progress.borrow(), &view.folder);
        let runs = self.views().iter().map(run).collect();
        let evaluators = status::evaluators(&self.fleet().borrow(), Instant::now());
        Ok(Response::new(ListResponse { runs, evaluators }))
    }

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let view = self.view(request.into_inner().run)?;
        let (sender, receiver) = mpsc::channel(UNREAD);
        tokio::spawn(follow(view, self.closing(), sender));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn cancel(&self, request: Request<CancelRequest>) -> Result<Response<CancelResponse>, Status> {
        let run = request.into_inner().run;
        match self {
            Self::One(clients) => {
                self.view(run)?;
                clients.cancel.send_replace(true);
            }
            Self::Many(standing, _) => standing.cancel(run).map_err(|why| denied(&why))?,
        }
        Ok(Response::new(CancelResponse {}))
    }

    async fn fetch(&self, request: Request<FetchRequest>) -> Result<Response<Self::FetchStream>, Status> {
        let view = self.view(request.into_inner().run)?;
        let file = tokio::fs::File::open(view.folder.join("prompt.safetensors")).await;
        let none = |_| Status::failed_precondition(format!("run {} has no artefact yet", view.id));
        let (sender, receiver) = mpsc::channel(UNREAD);
        tokio::spawn(hand_out(file.map_err(none)?, sender));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// A run's progress at once and as it changes, until it has ended, the client has gone, or the coordinator is going.
async fn follow(view: View, mut closing: watch::Receiver<bool>, to: mpsc::Sender<Result<RunStatus, Status>>) {
    let mut progress = view.progress;
    loop {
        let now = progress.borrow_and_update().clone();
        let told = to.send(Ok(status::run(view.id, &now, &view.folder))).await;
        if told.is_err() || now.state.over() {
            return;
        }
        tokio::select! {
            changed = progress.changed() => if changed.is_err() { return },
            () = to.closed() => return,
            true = turned(&mut closing) => {
                let _ = to.send(Err(denied(&Denied::Closing))).await; // it may have gone
                return;
            }
        }
    }
}

/// Waits until it turns true; false where nobody is left to turn it.
async fn turned(closing: &mut watch::Receiver<bool>) -> bool {
    closing.wait_for(|&closing| closing).await.is_ok()
}

/// An artefact's pieces, until all are read or the client has gone.
async fn hand_out(mut file: tokio::fs::File, to: mpsc::Sender<Result<FetchChunk, Status>>) {
    loop {
        let mut data = Vec::with_capacity(CHUNK);
        let read = (&mut file).take(CHUNK as u64).read_to_end(&mut data).await;
        let (piece, last) = match read {
            Ok(0) => return,
            Ok(_) => (Ok(FetchChunk { data }), false),
            Err(error) => (Err(Status::internal(error.to_string())), true),
        };
        if to.send(piece).await.is_err() || last {
            return;
        }
    }
}
