//! The gRPC server: a listener and a shutdown come in; evaluators and clients are served until then.

pub mod cli;
pub mod clients;
mod evaluators;
mod status;

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use proto::client::{KEEPALIVE, MESSAGE, WINDOW};
use proto::v1::evaluators_server::EvaluatorsServer;
use proto::v1::runs_server::RunsServer;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::server::NamedService;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Request, Status};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::fleet::Handle;
use clients::Service;
use evaluators::Evaluators;

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
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self { token: None, tls: None, stopping: None, heartbeat: HEARTBEAT }
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
        let heartbeat = HEARTBEAT.min(Duration::from_secs(args.silence) / 4);
        Ok(Self { token: token.map(|token| token.into_bytes().into()), tls, stopping: None, heartbeat })
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
        .http2_keepalive_interval(Some(KEEPALIVE.0))
        .http2_keepalive_timeout(Some(KEEPALIVE.1));
    if let Some(tls) = options.tls {
        let wrong = |error| ServeError::Input(format!("TLS: {}", proto::client::root_cause(&error)));
        server = server.tls_config(tls).map_err(wrong)?;
    }
    let (close, closing) = watch::channel(false);
    let evaluators = EvaluatorsServer::new(Evaluators::new(fleet, options.heartbeat, closing));
    let evaluators = evaluators.max_decoding_message_size(MESSAGE).max_encoding_message_size(MESSAGE);
    let runs = RunsServer::new(clients.into()).max_decoding_message_size(MESSAGE);
    let check = Check(options.token);
    let (mut health, health_service) = tonic_health::server::health_reporter();
    set_health(&health, ServingStatus::Serving).await;
    let described = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::v1::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let defect = |error: tonic_reflection::server::Error| ServeError::Transport(error.to_string());
    let reflection = described().build_v1().map_err(defect)?;
    let reflection_alpha = described().build_v1alpha().map_err(defect)?; // what Python's client of it speaks
    server
        .add_service(health_service)
        .add_service(reflection)
        .add_service(reflection_alpha)
        .add_service(InterceptedService::new(evaluators, check.clone()))
        .add_service(InterceptedService::new(runs, check))
        .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), async move {
            let mut shutdown = pin!(shutdown);
            tokio::select! {
                () = shutdown.as_mut() => set_health(&health, ServingStatus::NotServing).await,
                () = turned(options.stopping) => {
                    set_health(&health, ServingStatus::NotServing).await;
                    shutdown.await;
                }
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

async fn set_health(health: &HealthReporter, status: ServingStatus) {
    for service in SERVICES {
        health.set_service_status(service, status).await;
    }
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
struct Check(Option<Arc<[u8]>>);

impl tonic::service::Interceptor for Check {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let Some(token) = &self.0 else { return Ok(request) };
        let brought = request.metadata().get("authorization").map(|value| value.as_bytes());
        match brought.and_then(|value| value.strip_prefix(b"Bearer ")) {
            Some(brought) if same(brought, token) => Ok(request),
            Some(_) => Err(Status::unauthenticated("wrong token; --token-file must hold the coordinator's")),
            None => Err(Status::unauthenticated("this coordinator asks for a token; give --token-file")),
        }
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
