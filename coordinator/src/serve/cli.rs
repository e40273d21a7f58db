//! Options of the command line that have to do with serving and calling.

use std::path::PathBuf;

use proto::client::{Bearer, Files, Security, root_cause};
use tonic::transport::Channel;

use super::ServeError;

/// Who may call, and over what. A token may also stand in the variable `ZEROTH_TOKEN`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Args {
    /// File with the token that every evaluator and client must bring (or the variable ZEROTH_TOKEN).
    #[arg(long, env = "ZEROTH_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Certificate (PEM) to serve TLS with.
    #[arg(long, env = "ZEROTH_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// Key (PEM) of the certificate.
    #[arg(long, env = "ZEROTH_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Authority (PEM) that callers' certificates must come from: mutual TLS.
    #[arg(long, env = "ZEROTH_TLS_CLIENT_CA", value_name = "FILE")]
    pub tls_client_ca: Option<PathBuf>,
    /// An evaluator that says nothing for so many seconds is lost, and its work goes to others.
    #[arg(long, env = "ZEROTH_SILENCE", value_name = "SECONDS", default_value_t = 15,
        value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub silence: u64,
}

/// Connects to the coordinator at `url`; the second value puts the token into each call.
///
/// # Errors
/// [`ServeError::Input`] for a wrong address or file, [`ServeError::Transport`] when nobody answers.
pub async fn connect(files: &Files, url: &str) -> Result<(Channel, Bearer), ServeError> {
    let security = Security::read(files).map_err(ServeError::Input)?;
    let endpoint = security.endpoint(url).map_err(ServeError::Input)?;
    let unreachable =
        |error| ServeError::Transport(format!("coordinator {url} not reachable: {}", root_cause(&error)));
    Ok((endpoint.connect().await.map_err(unreachable)?, security.bearer()))
}
