//! A plain port: HTTP/1.1 and HTTP/2 without TLS, for so many connections at once; one more, and the oldest has to go. So
//! whoever holds connections open for no reason keeps no probe out.

use std::collections::VecDeque;
use std::io;
use std::net::TcpListener as Bound;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::{Sleep, sleep};
use tokio_stream::Stream;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tracing::warn;

/// Connections at once.
const CONNECTIONS: usize = 64;

/// Calls at once on one of them.
const CALLS: u32 = 8;

/// Bytes of a call's headers.
const HEADERS: u32 = 16 << 10;

/// How long to wait when a connection cannot be taken: too many open files, most likely.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves `routes` for ever.
pub(super) async fn serve(bound: Bound, routes: Routes) {
    let served = async {
        let guests = Guests::new(TcpListener::from_std(bound)?);
        let server = Server::builder()
            .accept_http1(true)
            .max_concurrent_streams(CALLS)
            .http2_max_header_list_size(HEADERS)
            .http2_keepalive_interval(Some(Duration::from_secs(30)))
            .add_routes(routes);
        server.serve_with_incoming(guests).await.map_err(io::Error::other)
    };
    if let Err(error) = served.await {
        warn!("metrics or health can be asked for no longer: {error}");
    }
}

/// Connections from a listener.
struct Guests {
    listener: TcpListener,
    /// Says to each that it has to make room, oldest first; closed by those that have gone.
    open: VecDeque<oneshot::Sender<()>>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Guests {
    fn new(listener: TcpListener) -> Self {
        Self { listener, open: VecDeque::new(), pause: None }
    }

    fn admit(&mut self, io: TcpStream) -> Guest {
        self.open.retain(|guest| !guest.is_closed());
        while self.open.len() >= CONNECTIONS {
            if let Some(oldest) = self.open.pop_front() {
                let _ = oldest.send(()); // it may have gone
            }
        }
        let (to_it, make_room) = oneshot::channel();
        self.open.push_back(to_it);
        Guest { io, make_room: Some(make_room) }
    }
}

impl Stream for Guests {
    type Item = io::Result<Guest>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            match ready!(self.listener.poll_accept(cx)) {
                Ok((io, _)) => return Poll::Ready(Some(Ok(self.admit(io)))),
                Err(_) => self.pause = Some(Box::pin(sleep(PAUSE))),
            }
        }
    }
}

/// A connection, which fails when it has to make room.
struct Guest {
    io: TcpStream,
    make_room: Option<oneshot::Receiver<()>>,
}

impl Connected for Guest {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Guest {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        if read.is_ready() {
            return read;
        }
        match self.make_room.as_mut().map(|asked| Pin::new(asked).poll(cx)) {
            Some(Poll::Ready(Ok(()))) => Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
            Some(Poll::Ready(Err(_))) => {
                self.make_room = None; // nobody is let in any more
                Poll::Pending
            }
            Some(Poll::Pending) | None => Poll::Pending,
        }
    }
}

impl AsyncWrite for Guest {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpStream as Caller;

    /// Whoever holds connections open and says nothing keeps nobody out.
    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn many_silent_connections_keep_no_probe_out() {
        let bound = Bound::bind("127.0.0.1:0").unwrap();
        bound.set_nonblocking(true).unwrap();
        let address = bound.local_addr().unwrap();
        let page = axum::Router::new().route("/", axum::routing::get(|| async { "here" }));
        let server = tokio::spawn(serve(bound, page.into()));
        let asked = tokio::task::spawn_blocking(move || {
            let mut silent: Vec<Caller> =
                (0..2 * CONNECTIONS).map(|_| Caller::connect(address).unwrap()).collect();
            let mut caller = Caller::connect(address).unwrap();
            caller.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
            let mut answer = String::new();
            caller.read_to_string(&mut answer).unwrap();
            let oldest = silent[0].read(&mut [0]); // its end, or that it was reset
            (answer, oldest)
        });
        let (answer, oldest) = asked.await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("here"), "{answer}");
        assert!(!matches!(oldest, Ok(1..)), "{oldest:?}");
        server.abort();
    }
}
