//! Counts each connection's calls, so that one without any is noticed, and hands them what is known of it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http_body::Frame;
use tonic::body::Body;
use tonic::codegen::{Bytes, Service, http};
use tonic::transport::server::TlsConnectInfo;
use tonic::{Extensions, Status};

use super::connection::{Call, Connection};

/// The connection that a call has come on.
pub(super) fn connection(extensions: &Extensions) -> Option<&Arc<Connection>> {
    let plain = extensions.get::<Arc<Connection>>();
    plain.or_else(|| extensions.get::<TlsConnectInfo<Arc<Connection>>>().map(TlsConnectInfo::get_ref))
}

/// A service whose calls are counted.
#[derive(Clone, Debug)]
pub(super) struct Counted<S>(pub(super) S);

impl<S> Service<http::Request<Body>> for Counted<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Future: Send + 'static>,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let call = connection(request.extensions()).map(Connection::call);
        let answered = self.0.call(request);
        Box::pin(async move {
            let response = answered.await?;
            Ok(response.map(|body| Body::new(Answer { body, _call: call })))
        })
    }
}

/// An answer's body; the call ends with it.
struct Answer {
    body: Body,
    _call: Option<Call>,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
