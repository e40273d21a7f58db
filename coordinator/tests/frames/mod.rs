//! Callers by hand: bytes that no client library would send.

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::Frame;
use proto::client::Security;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Bytes, Service, http};

use crate::house::within;

/// What every HTTP/2 connection begins with.
pub(crate) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A body of one piece that never ends.
struct Endless(Option<Bytes>);

impl http_body::Body for Endless {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.0.take().map_or(Poll::Pending, |bytes| Poll::Ready(Some(Ok(Frame::data(bytes)))))
    }
}

/// Calls `path` with a body of these bytes, left open; the status that ends it.
pub(crate) async fn call(
    address: SocketAddr,
    path: &str,
    authorization: Option<&str>,
    bytes: Vec<u8>,
) -> Status {
    let endpoint = Security::default().endpoint(&format!("http://{address}")).unwrap();
    let mut channel = endpoint.connect().await.unwrap();
    let mut request = http::Request::builder()
        .method("POST")
        .uri(format!("http://{address}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    if let Some(value) = authorization {
        request = request.header("authorization", value);
    }
    let request = request.body(Body::new(Endless(Some(bytes.into())))).unwrap();
    std::future::poll_fn(|cx| channel.poll_ready(cx)).await.unwrap();
    let response = within(channel.call(request)).await.unwrap();
    Status::from_header_map(response.headers()).expect("no status")
}

/// A frame of HTTP/2.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The headers of a call to `path`, on stream 1.
pub(crate) fn headers(path: &str) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in [(":method", "POST"), (":scheme", "http"), (":authority", "here"), (":path", path)] {
        block.push(0x10); // a literal that is never indexed
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap()); // below 127; longer ones have another form
            block.extend(text.as_bytes());
        }
    }
    frame(1, 0x4, 1, &block)
}

/// A connection that has said its preface.
pub(crate) struct Connection {
    io: TcpStream,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        let mut io = TcpStream::connect(address).await.unwrap();
        let hello = [&PREFACE[..], &frame(4, 0, 0, &[])].concat();
        let _ = io.write_all(&hello).await; // refusing it is the other side's right
        Self { io }
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        let _ = self.io.write_all(bytes).await; // as above
    }

    /// Sends no more.
    pub(crate) async fn finish(&mut self) {
        let _ = self.io.shutdown().await; // the other side may have closed already
    }

    /// Waits until the other side has closed.
    pub(crate) async fn end(&mut self) {
        let _ = within(self.io.read_to_end(&mut Vec::new())).await; // closed or reset
    }
}
