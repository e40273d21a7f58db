//! What the commands that call a coordinator share: the call, and what is said when it fails.

use proto::client::{Bearer, Files};
use proto::v1::CancelRequest;
use proto::v1::runs_client::RunsClient;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use crate::error::Error;
use crate::serve::cli::connect;

/// A coordinator that is called.
pub(super) struct Client {
    /// Its service.
    pub(super) runs: RunsClient<InterceptedService<Channel, Bearer>>,
    url: String,
}

impl Client {
    pub(super) async fn connect(url: &str, files: &Files) -> Result<Self, Error> {
        let (channel, token) = connect(files, url).await?;
        let runs = RunsClient::with_interceptor(channel, token);
        let runs = runs.max_decoding_message_size(proto::client::MESSAGE);
        Ok(Self { runs, url: url.to_owned() })
    }

    /// A call's answer, or why there is none: what the caller must mend is told apart from what may pass.
    pub(super) fn answer<T>(&self, answer: Result<Response<T>, Status>) -> Result<T, Error> {
        answer.map(Response::into_inner).map_err(|status| self.failed(&status))
    }

    pub(super) fn failed(&self, status: &Status) -> Error {
        let text = status.message();
        match status.code() {
            Code::InvalidArgument => Error::Input(text.to_owned()), // of the run file: as `tune` would say it
            Code::NotFound | Code::Unauthenticated | Code::FailedPrecondition => {
                Error::Input(format!("coordinator {}: {text}", self.url))
            }
            Code::Unimplemented => Error::Input(format!("no Zeroth coordinator at {}", self.url)),
            _ => Error::Failed(format!("coordinator {}: {text}", self.url)),
        }
    }
}

/// A run of a coordinator.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct RunArgs {
    /// The coordinator's address, `http://HOST:PORT`.
    #[arg(value_name = "URL")]
    pub(super) url: String,
    /// The run's number, as `submit` and `status` say it.
    #[arg(value_name = "RUN")]
    pub(super) run: u64,
    #[command(flatten)]
    pub(super) client: Files,
}

/// Options of `zeroth cancel`.
#[derive(Debug, clap::Args)]
pub(super) struct CancelArgs {
    #[command(flatten)]
    run: RunArgs,
}

/// Runs `zeroth cancel`.
pub(super) async fn cancel(args: CancelArgs) -> Result<(), Error> {
    let RunArgs { url, run, client } = args.run;
    let mut client = Client::connect(&url, &client).await?;
    let answer = client.runs.cancel(CancelRequest { run }).await;
    client.answer(answer).map(drop)
}
