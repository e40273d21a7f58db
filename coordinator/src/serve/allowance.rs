//! How large an evaluator's next report may be, held against the length that each one announces: before a byte of it is
//! kept.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use http_body::Frame;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Bytes, Service, http};
use tonic::server::NamedService;

use super::limits::REPORT;

/// Bytes before each message: whether it is compressed, its length.
const HEADER: usize = 5;

/// Bytes of a report at most; reaches the call as an extension of its request.
#[derive(Clone, Debug)]
pub(super) struct Allowance(Arc<AtomicUsize>);

impl Default for Allowance {
    fn default() -> Self {
        Self(Arc::new(AtomicUsize::new(REPORT)))
    }
}

impl Allowance {
    /// Something was asked for whose answer may have so many bytes.
    pub(super) fn raise(&self, bytes: usize) {
        self.0.fetch_max(bytes.saturating_add(REPORT), Ordering::Relaxed);
    }

    fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// A service whose callers' messages are held against an [`Allowance`].
#[derive(Clone, Debug)]
pub(super) struct Measured<S>(pub(super) S);

impl<S: NamedService> NamedService for Measured<S> {
    const NAME: &'static str = S::NAME;
}

impl<S: Service<http::Request<Body>>> Service<http::Request<Body>> for Measured<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> S::Future {
        let allowance = Allowance::default();
        request.extensions_mut().insert(allowance.clone());
        let measured = |body| Body::new(Reports { body, lengths: Lengths::new(allowance) });
        self.0.call(request.map(measured))
    }
}

/// The body of a call, message after message.
struct Reports {
    body: Body,
    lengths: Lengths,
}

impl http_body::Body for Reports {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        Poll::Ready(frame.map(|frame| {
            let frame = frame?;
            frame.data_ref().map_or(Ok(()), |data| self.lengths.pass(data))?;
            Ok(frame)
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

/// Where a stream of messages stands.
#[derive(Debug)]
struct Lengths {
    allowance: Allowance,
    header: [u8; HEADER],
    /// Bytes of the next header that have come.
    read: usize,
    /// Bytes of the present message that have yet to come.
    left: usize,
}

impl Lengths {
    fn new(allowance: Allowance) -> Self {
        Self { allowance, header: [0; HEADER], read: 0, left: 0 }
    }

    /// Whether the messages that begin in `data` are as large as they may be.
    fn pass(&mut self, mut data: &[u8]) -> Result<(), Status> {
        while let Some((&first, rest)) = data.split_first() {
            if self.left > 0 {
                let within = self.left.min(data.len());
                self.left -= within;
                data = &data[within..];
                continue;
            }
            self.header[self.read] = first;
            self.read += 1;
            data = rest;
            if self.read == HEADER {
                let [_, length @ ..] = self.header;
                (self.read, self.left) = (0, u32::from_be_bytes(length) as usize);
                let allowed = self.allowance.bytes();
                if self.left > allowed {
                    let text = format!("a report of {} bytes, where none has more than {allowed}", self.left);
                    return Err(Status::resource_exhausted(text));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(length: u32, bytes: usize) -> Vec<u8> {
        [&[0][..], &length.to_be_bytes(), &vec![7; bytes]].concat()
    }

    #[test]
    fn messages_may_come_in_any_pieces() {
        let all = [message(0, 0), message(3, 3), message(70_000, 70_000), message(1, 1)].concat();
        for size in [1, 2, 3, 4, 5, 6, 7, 1000, all.len()] {
            let allowance = Allowance::default();
            let mut lengths = Lengths::new(allowance.clone());
            assert!(all.chunks(size).any(|data| lengths.pass(data).is_err()), "pieces of {size}");
            allowance.raise(70_000 - REPORT);
            let mut lengths = Lengths::new(allowance);
            assert!(all.chunks(size).all(|data| lengths.pass(data).is_ok()), "pieces of {size}");
            assert_eq!((lengths.left, lengths.read), (0, 0));
        }
    }

    #[test]
    fn a_length_too_large_is_refused_with_its_fifth_byte() {
        let mut lengths = Lengths::new(Allowance::default());
        assert!(lengths.pass(&[0, 0xff, 0xff, 0xff]).is_ok());
        let status = lengths.pass(&[0xff]).unwrap_err();
        assert_eq!(status.message(), "a report of 4294967295 bytes, where none has more than 65536");
    }
}
