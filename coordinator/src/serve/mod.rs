//! The gRPC server: a listener and a shutdown come in; evaluators and clients are served until then.
//!
//! What a caller may cost is bounded: `limits` has the numbers, `door` and `connection` keep those on
//! connections, `calls` counts calls, `allowance` and `asked` bound an evaluator's reports.

mod allowance;
mod asked;
mod calls;
pub mod cli;
pub mod clients;
mod connection;
mod door;
mod evaluators;
mod lease_times;
mod limits;
mod seldom;
mod status;

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::client::{KEEPALIVE, MESSAGE};
use proto::observe::{Pulses, Statuses, follow, tell};
use proto::v1::evaluators_server::EvaluatorsServer;
use proto::v1::runs_server::RunsServer;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Request, Status};
use tracing::warn;

use crate::fleet::Handle;
use allowance::Measured;
use calls::Counted;
use clients::Service;
use door::Door;
use evaluators::Evaluators;
pub use lease_times::LeaseTimes;
pub use limits::Limits;
use limits::{CALLS, HEADERS, WINDOW};
use seldom::Seldom;
pub(crate) use status::evaluator_state_name;

/// How often an evaluator hears that the coordinator is alive, at least.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// What can go wrong with a server or with a call to one.
#[derive(Debug, Error)]
pub enum ServeError {
    /// An option or a file it names is wrong.
    #[error("{0}")]
    Input(String),
    /// The server could not serve, or the other side could not be reached.
    #[error("{0}")]
    Transport(String),
}

/// How to serve: who may call, and over what.
#[derive(Clone)]
pub struct ServeOptions {
    token: Option<Arc<[u8]>>,
    tls: Option<ServerTlsConfig>,
    stopping: Option<watch::Receiver<bool>>,
    /// How often an evaluator hears that the coordinator is alive.
    heartbeat: Duration,
    lease_times: LeaseTimes,
    limits: Limits,
    pulses: Pulses,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            token: None,
            tls: None,
            stopping: None,
            heartbeat: HEARTBEAT,
            lease_times: LeaseTimes::default(),
            limits: Limits::default(),
            pulses: Pulses::default(),
        }
    }
}

impl std::fmt::Debug for ServeOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (token, tls) = (self.token.is_some(), self.tls.is_some());
        let mut shown = f.debug_struct("ServeOptions"); // never the token itself
        shown.field("token", &token).field("tls", &tls).field("heartbeat", &self.heartbeat).finish()
    }
}

impl ServeOptions {
    /// These options; every call must bring `token`.
    pub fn with_token(self, token: &str) -> Self {
        Self { token: Some(token.as_bytes().into()), ..self }
    }

    /// These options; once `stopping` turns true, health says that nobody should begin anything here, though the server
    /// serves on until its shutdown.
    pub fn with_stopping(self, stopping: watch::Receiver<bool>) -> Self {
        Self { stopping: Some(stopping), ..self }
    }

    /// These options; what leases take is counted in `times`.
    pub fn with_lease_times(self, times: LeaseTimes) -> Self {
        Self { lease_times: times, ..self }
    }

    /// These options; health says whether these loops are alive.
    pub fn with_pulses(self, pulses: Pulses) -> Self {
        Self { pulses, ..self }
    }

    /// These options with other limits on connections.
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// The address that evaluators and clients dial.
    pub fn url(&self, address: SocketAddr) -> String {
        format!("{}://{address}", if self.tls.is_some() { "https" } else { "http" })
    }
}

impl TryFrom<&cli::Args> for ServeOptions {
    type Error = ServeError;

    fn try_from(args: &cli::Args) -> Result<Self, ServeError> {
        let token = proto::client::read_token(args.token_file.as_deref()).map_err(ServeError::Input)?;
        let read = |file| proto::client::read(file).map_err(ServeError::Input);
        let tls = match (&args.tls_cert, &args.tls_key) {
            (Some(cert), Some(key)) => {
                let tls = ServerTlsConfig::new().identity(Identity::from_pem(read(cert)?, read(key)?));
                Some(match &args.tls_client_ca {
                    Some(ca) => tls.client_ca_root(Certificate::from_pem(read(ca)?)),
                    None => tls,
                })
            }
            (None, None) if args.tls_client_ca.is_none() => None,
            (None, None) => {
                return Err(ServeError::Input("--tls-client-ca needs --tls-cert and --tls-key".to_owned()));
            }
            _ => {
                return Err(ServeError::Input("--tls-cert and --tls-key belong together".to_owned()));
            }
        };
        // who wants to know of losses sooner is heard of sooner too: evaluators have the same option
        let heartbeat = HEARTBEAT.min(Duration::from_secs(args.silence) / 4).max(Duration::from_millis(250));
        Ok(Self { token: token.map(|token| token.into_bytes().into()), tls, heartbeat, ..Self::default() })
    }
}

/// Serves evaluators, clients, health and reflection on `listener` until `shutdown`; streams end with it.
///
/// # Errors
/// [`ServeError::Input`] for unusable certificates, [`ServeError::Transport`] when the listener breaks.
pub async fn serve(
    listener: TcpListener,
    fleet: Handle,
    clients: impl Into<Service>,
    options: ServeOptions,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServeError> {
    let mut server = Server::builder()
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_concurrent_streams(CALLS)
        .http2_max_header_list_size(HEADERS)
        .http2_keepalive_interval(Some(KEEPALIVE.0))
        .http2_keepalive_timeout(Some(KEEPALIVE.1));
    if let Some(tls) = options.tls {
        let wrong = |error| ServeError::Input(format!("TLS: {}", proto::client::root_cause(&error)));
        server = server.tls_config(tls).map_err(wrong)?;
    }
    let (close, closing) = watch::channel(false);
    let evaluators = Evaluators::new(fleet, options.heartbeat, closing, options.lease_times);
    let evaluators = EvaluatorsServer::new(evaluators);
    let evaluators = evaluators.max_decoding_message_size(MESSAGE).max_encoding_message_size(MESSAGE);
    let runs = RunsServer::new(clients.into()).max_decoding_message_size(MESSAGE);
    let check = |guest| Check { token: options.token.clone(), guest, refused: Arc::default() };
    let (mut health, health_service) = tonic_health::server::health_reporter();
    let (stop, stopping) = watch::channel(false);
    let served = statuses(options.pulses, Some(stopping));
    let told = tell(&health, &served).await;
    let described = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::v1::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let defect = |error: tonic_reflection::server::Error| ServeError::Transport(error.to_string());
    let reflection = described().build_v1().map_err(defect)?;
    let reflection_alpha = described().build_v1alpha().map_err(defect)?; // what Python's client of it speaks
    let door = Door::new(listener, options.limits);
    let services = Routes::new(health_service)
        .add_service(reflection)
        .add_service(reflection_alpha)
        .add_service(Measured(InterceptedService::new(evaluators, check(false)))) // let in by their hello
        .add_service(InterceptedService::new(runs, check(true)));
    server
        .serve_with_incoming_shutdown(Counted(services.prepare()), door, async move {
            let until_shutdown = async {
                let mut shutdown = pin!(shutdown);
                tokio::select! {
                    () = shutdown.as_mut() => {}
                    () = turned(options.stopping) => {
                        stop.send_replace(true);
                        shutdown.await;
                    }
                }
            };
            tokio::select! {
                () = until_shutdown => {}
                never = follow(&health, &served, told) => match never {},
            }
            close.send_replace(true);
            for service in SERVICES {
                health.clear_service_status(service).await; // ends the streams of who watches it
            }
        })
        .await
        .map_err(|error| ServeError::Transport(proto::client::root_cause(&error)))
}

/// What health speaks of: the whole server, and both services.
const SERVICES: [&str; 3] = ["", EvaluatorsServer::<Evaluators>::NAME, RunsServer::<Service>::NAME];

/// What health says of them: they serve while every loop is alive, and until `stopping` turns true.
pub fn statuses(pulses: Pulses, stopping: Option<watch::Receiver<bool>>) -> Statuses {
    Statuses::new(move || {
        let stopping = stopping.as_ref().is_some_and(|stopping| *stopping.borrow());
        let serves = !stopping && pulses.live(Instant::now());
        SERVICES.map(|service| (service, serves)).to_vec()
    })
}

/// Waits until `stopping` turns true, for ever where nobody can turn it.
async fn turned(stopping: Option<watch::Receiver<bool>>) {
    if let Some(mut stopping) = stopping
        && stopping.wait_for(|&stopping| stopping).await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

/// Lets calls pass that bring the token.
#[derive(Clone)]
struct Check {
    token: Option<Arc<[u8]>>,
    /// Whether the token alone lets a connection's caller in.
    guest: bool,
    refused: Arc<Seldom>,
}

impl Check {
    fn token(&self, brought: Option<&[u8]>) -> Result<(), &'static str> {
        let Some(token) = &self.token else { return Ok(()) };
        match brought.and_then(|value| value.strip_prefix(b"Bearer ")) {
            Some(brought) if same(brought, token) => Ok(()),
            Some(_) => Err("wrong token; --token-file must hold the coordinator's"),
            None => Err("this coordinator asks for a token; give --token-file"),
        }
    }
}

impl tonic::service::Interceptor for Check {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let brought = request.metadata().get("authorization").map(|value| value.as_bytes());
        if let Err(refusal) = self.token(brought) {
            if let Some(count) = self.refused.due(Instant::now()) {
                warn!("a call without the right token is refused ({count} since this was last said)");
            }
            return Err(Status::unauthenticated(refusal));
        }
        if let Some(connection) = calls::connection(request.extensions()).filter(|_| self.guest) {
            connection.let_in().map_err(|full| Status::resource_exhausted(full.to_string()))?;
        }
        Ok(request)
    }
}

/// Equality in a time that does not tell where the first difference is.
fn same(a: &[u8], b: &[u8]) -> bool {
    let differences = a.iter().zip(b).fold(0, |all, (a, b)| std::hint::black_box(all | (a ^ b)));
    a.len() == b.len() && differences == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_the_same_only_as_a_whole() {
        assert!(same(b"secret", b"secret"));
        assert!(!same(b"secre", b"secret") && !same(b"secret!", b"secret") && !same(b"Secret", b"secret"));
        assert!(!same(b"", b"secret"));
    }

    #[test]
    fn half_a_key_pair_is_told() {
        let args = cli::Args { tls_cert: Some("cert.pem".into()), ..cli::Args::default() };
        let error = ServeOptions::try_from(&args).unwrap_err();
        assert_eq!(error.to_string(), "--tls-cert and --tls-key belong together");
    }
}
