//! One connection: whether its caller was let in, whether it has calls, and its end when it has had none for too long.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Sleep, sleep};
use tonic::transport::server::Connected;
use tracing::warn;

use super::limits::Limits;
use super::seldom::Seldom;

/// What is known of a connection; reaches its calls as an extension of their requests.
#[derive(Debug)]
pub(super) struct Connection {
    limits: Limits,
    places: Arc<Semaphore>,
    place: OnceLock<OwnedSemaphorePermit>,
    calls: AtomicUsize,
    called: AtomicBool,
    /// When its last call ended, or it began.
    free_since: Mutex<Instant>,
}

/// There is no room for another caller.
#[derive(Debug, Error)]
#[error("this coordinator has as many callers as it has room for")]
pub(super) struct Full;

impl Connection {
    pub(super) fn new(places: Arc<Semaphore>, limits: Limits) -> Self {
        Self {
            limits,
            places,
            place: OnceLock::new(),
            calls: AtomicUsize::new(0),
            called: AtomicBool::new(false),
            free_since: Mutex::new(Instant::now()),
        }
    }

    /// The caller is let in: the connection is a stranger no longer.
    ///
    /// # Errors
    /// When as many are in as there may be.
    pub(super) fn let_in(&self) -> Result<(), Full> {
        if self.place.get().is_none() {
            let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| Full)?;
            let _ = self.place.set(place); // two calls at once: the second place is given back
        }
        Ok(())
    }

    /// Whether nobody on it was let in yet.
    pub(super) fn stranger(&self) -> bool {
        self.place.get().is_none()
    }

    /// A call begins; it ends with what is returned.
    pub(super) fn call(self: &Arc<Self>) -> Call {
        self.called.store(true, Ordering::Relaxed);
        self.calls.fetch_add(1, Ordering::Relaxed);
        Call(Arc::clone(self))
    }

    /// How long it may still be without a call; `None` when that is over.
    fn left(&self) -> Option<std::time::Duration> {
        if self.calls.load(Ordering::Relaxed) > 0 {
            return Some(self.limits.idle);
        }
        let since = *self.free_since.lock().unwrap_or_else(PoisonError::into_inner);
        let called = self.called.load(Ordering::Relaxed);
        let allowed = if called { self.limits.idle } else { self.limits.first_call };
        allowed.checked_sub(since.elapsed()).filter(|left| !left.is_zero())
    }
}

/// A call on a connection, until it is dropped.
#[derive(Debug)]
pub(super) struct Call(Arc<Connection>);

impl Drop for Call {
    fn drop(&mut self) {
        *self.0.free_since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection's bytes, which fail when it has been idle for too long or has to make room.
#[derive(Debug)]
pub(super) struct Guarded {
    io: TcpStream,
    address: SocketAddr,
    connection: Arc<Connection>,
    clock: Pin<Box<Sleep>>,
    /// Says when the connection has to make room for another; gone when no more are let in.
    make_room: Option<oneshot::Receiver<()>>,
    received: bool,
    ended: bool,
    refused: Arc<Seldom>,
}

impl Guarded {
    /// Guards `io`; the sender's end is the connection's.
    pub(super) fn new(
        io: TcpStream,
        address: SocketAddr,
        connection: Arc<Connection>,
        refused: Arc<Seldom>,
    ) -> (Self, oneshot::Sender<()>) {
        let (room, make_room) = oneshot::channel();
        let clock = Box::pin(sleep(connection.limits.first_call));
        let make_room = Some(make_room);
        (Self { io, address, connection, clock, make_room, received: false, ended: false, refused }, room)
    }

    /// Whether the connection has to end.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if self.connection.stranger() {
            let ended = |why| Poll::Ready(io::Error::new(io::ErrorKind::ConnectionAborted, why));
            match self.make_room.as_mut().map(|asked| Pin::new(asked).poll(cx)) {
                Some(Poll::Ready(Ok(()))) => return ended("it had to make room for a newer connection"),
                Some(Poll::Ready(Err(_))) => self.make_room = None,
                Some(Poll::Pending) | None => {}
            }
            // One that has had a call is ended by its server, after the last word of that.
            if self.make_room.is_none() && !self.connection.called.load(Ordering::Relaxed) {
                return ended("the coordinator is ending");
            }
        }
        while self.clock.as_mut().poll(cx).is_ready() {
            match self.connection.left() {
                Some(left) => self.clock.as_mut().reset(tokio::time::Instant::now() + left),
                None => {
                    let why = "it had no call for too long";
                    return Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, why));
                }
            }
        }
        Poll::Pending
    }
}

impl Connected for Guarded {
    type ConnectInfo = Arc<Connection>;

    fn connect_info(&self) -> Arc<Connection> {
        Arc::clone(&self.connection)
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.io).poll_read(cx, buf) {
            Poll::Ready(read) => {
                self.received |= !buf.filled().is_empty();
                Poll::Ready(read)
            }
            Poll::Pending => {
                let end = self.poll_end(cx);
                self.ended |= end.is_ready();
                end.map(Err)
            }
        }
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl Drop for Guarded {
    /// Says who was here in vain; but not of a mere probe, which sends nothing and goes.
    fn drop(&mut self) {
        if !self.connection.called.load(Ordering::Relaxed)
            && (self.received || self.ended)
            && let Some(count) = self.refused.due(Instant::now())
        {
            warn!(
                "{} sent nothing that is a call ({count} such connections since this was last said)",
                self.address
            );
        }
    }
}
