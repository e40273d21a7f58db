//! What every caller of a coordinator needs: its address, the token, TLS.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status};

/// Environment variable that holds the token itself, on both sides.
pub const TOKEN_VARIABLE: &str = "ZEROTH_TOKEN";

/// Window of a stream and of a connection in bytes: large enough that a lease never waits.
pub const WINDOW: u32 = 4 << 20;

/// A message is no larger than this, in bytes.
pub const MESSAGE: usize = 64 << 20;

/// How often a silent connection is asked whether it is still there, and how long it may take to say so.
pub const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(10));

const CONNECT: Duration = Duration::from_secs(5);

/// The token: from `file`, or from [`TOKEN_VARIABLE`]. Never an argument: others can read those.
///
/// # Errors
/// In words: the file cannot be read, is empty, or holds what cannot stand in a header.
pub fn read_token(file: Option<&Path>) -> Result<Option<String>, String> {
    let (from, text) = match (file, std::env::var(TOKEN_VARIABLE)) {
        (Some(file), _) => (file.display().to_string(), read(file)?),
        (None, Ok(text)) => (TOKEN_VARIABLE.to_owned(), text.into_bytes()),
        (None, Err(_)) => return Ok(None),
    };
    let token = String::from_utf8_lossy(&text).trim().to_owned();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!("{from}: a token is one line of visible ASCII characters, at least one"));
    }
    Ok(Some(token))
}

/// Reads a file, naming it when that fails.
///
/// # Errors
/// In words.
pub fn read(file: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))
}

/// Where a caller's credentials lie; options of every program that calls a coordinator. The token may also stand in
/// the variable `ZEROTH_TOKEN`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Files {
    /// File with the coordinator's token (or the variable ZEROTH_TOKEN).
    #[arg(long = "token-file", env = "ZEROTH_TOKEN_FILE", value_name = "FILE")]
    pub token: Option<PathBuf>,
    /// Authority (PEM) that the coordinator's certificate must come from.
    #[arg(long = "tls-ca", env = "ZEROTH_TLS_CA", value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Own certificate (PEM), where the coordinator asks for one.
    #[arg(long = "tls-cert", env = "ZEROTH_TLS_CERT", value_name = "FILE")]
    pub cert: Option<PathBuf>,
    /// Key (PEM) of the own certificate.
    #[arg(long = "tls-key", env = "ZEROTH_TLS_KEY", value_name = "FILE")]
    pub key: Option<PathBuf>,
}

/// A caller's credentials.
#[derive(Clone, Default)]
pub struct Security {
    token: Bearer,
    tls: Option<ClientTlsConfig>,
}

impl fmt::Debug for Security {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (token, tls) = (self.token.0.is_some(), self.tls.is_some());
        f.debug_struct("Security").field("token", &token).field("tls", &tls).finish() // never the token itself
    }
}

impl Security {
    /// Reads the files, and the token's variable.
    ///
    /// # Errors
    /// In words, naming the file or option.
    pub fn read(files: &Files) -> Result<Self, String> {
        let token = read_token(files.token.as_deref())?;
        let identity = match (&files.cert, &files.key) {
            (Some(cert), Some(key)) => Some(Identity::from_pem(read(cert)?, read(key)?)),
            (None, None) => None,
            _ => return Err("--tls-cert and --tls-key belong together".to_owned()),
        };
        let tls = match &files.ca {
            Some(ca) => {
                let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(ca)?));
                Some(identity.map_or(tls.clone(), |identity| tls.identity(identity)))
            }
            None if identity.is_some() => return Err("--tls-cert needs --tls-ca".to_owned()),
            None => None,
        };
        Ok(Self { token: Bearer::new(token.as_deref())?, tls })
    }

    /// These credentials with `token`.
    ///
    /// # Errors
    /// When the token cannot stand in a header.
    pub fn with_token(self, token: &str) -> Result<Self, String> {
        Ok(Self { token: Bearer::new(Some(token))?, ..self })
    }

    /// Puts the token into each call.
    pub fn bearer(&self) -> Bearer {
        self.token.clone()
    }

    /// The coordinator at `url`, not yet connected.
    ///
    /// # Errors
    /// When the address is none, or asks for TLS without an authority (or the other way round).
    pub fn endpoint(&self, url: &str) -> Result<Endpoint, String> {
        let wrong = |why: &str| format!("coordinator address {url}: {why}");
        let endpoint = Endpoint::from_shared(url.to_owned())
            .map_err(|_| wrong("not an address; one looks like http://HOST:PORT"))?;
        let endpoint = match (endpoint.uri().scheme_str(), &self.tls) {
            (Some("http"), None) => endpoint,
            (Some("http"), Some(_)) => {
                return Err(wrong("--tls-ca is given; the address must begin with https://"));
            }
            (Some("https"), Some(tls)) => {
                endpoint.tls_config(tls.clone()).map_err(|error| wrong(&root_cause(&error)))?
            }
            (Some("https"), None) => return Err(wrong("https needs --tls-ca FILE")),
            _ => return Err(wrong("must begin with http:// or https://")),
        };
        Ok(endpoint
            .connect_timeout(CONNECT)
            .tcp_nodelay(true)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .http2_keep_alive_interval(KEEPALIVE.0)
            .keep_alive_timeout(KEEPALIVE.1)
            .keep_alive_while_idle(true))
    }
}

/// Puts a bearer token into each call.
#[derive(Clone, Default)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Bearer").field(&self.0.is_some()).finish()
    }
}

impl Bearer {
    fn new(token: Option<&str>) -> Result<Self, String> {
        let value = |token: &str| {
            let header = format!("Bearer {token}").parse::<MetadataValue<Ascii>>();
            header.map_err(|_| "the token cannot stand in a header".to_owned())
        };
        Ok(Self(token.map(value).transpose()?))
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

/// The innermost cause: "connection refused" instead of "transport error".
pub fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
