//! The door: connections from the listener, at a bounded pace and of a bounded number.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Sleep, sleep};
use tokio_stream::Stream;
use tracing::warn;

use super::connection::{Connection, Guarded};
use super::limits::{ARRIVALS, Limits, PACE};
use super::seldom::Seldom;

/// A stranger, and how to tell it to make room.
type Stranger = (Weak<Connection>, oneshot::Sender<()>);

/// Incoming connections.
#[derive(Debug)]
pub(super) struct Door {
    listener: TcpListener,
    /// Connections that were not let in when they were last looked at, oldest first.
    strangers: VecDeque<Stranger>,
    limits: Limits,
    places: Arc<Semaphore>,
    arrivals: u32,
    since: Instant,
    pause: Option<Pin<Box<Sleep>>>,
    refused: Arc<Seldom>,
    failed: Seldom,
}

impl Door {
    pub(super) fn new(listener: TcpListener, limits: Limits) -> Self {
        let limits = limits.within(shared::system::open_files_limit());
        Self {
            listener,
            strangers: VecDeque::new(),
            limits,
            places: Arc::new(Semaphore::new(limits.guests)),
            arrivals: 0,
            since: Instant::now(),
            pause: None,
            refused: Arc::default(),
            failed: Seldom::default(),
        }
    }

    fn admit(&mut self, io: TcpStream, address: SocketAddr) -> Guarded {
        let _ = io.set_nodelay(true); // a connection that has ended already says so when it is read
        if self.strangers.len() >= self.limits.strangers {
            self.strangers.retain(|(stranger, _)| stranger.upgrade().is_some_and(|found| found.stranger()));
        }
        while self.strangers.len() >= self.limits.strangers {
            if let Some((_, make_room)) = self.strangers.pop_front() {
                let _ = make_room.send(()); // it may have gone
            }
        }
        let connection = Arc::new(Connection::new(Arc::clone(&self.places), self.limits));
        let stranger = Arc::downgrade(&connection);
        let (guarded, make_room) = Guarded::new(io, address, connection, Arc::clone(&self.refused));
        self.strangers.push_back((stranger, make_room));
        guarded
    }

    /// Lets the next connections wait when many have just come.
    fn pace(&mut self) {
        let since = self.since.elapsed();
        if since >= PACE {
            (self.since, self.arrivals) = (Instant::now(), 0);
        }
        self.arrivals += 1;
        if self.arrivals >= ARRIVALS {
            self.pause = Some(Box::pin(sleep(PACE.saturating_sub(since))));
        }
    }
}

impl Stream for Door {
    type Item = io::Result<Guarded>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            match ready!(self.listener.poll_accept(cx)) {
                Ok((io, address)) => {
                    self.pace();
                    return Poll::Ready(Some(Ok(self.admit(io, address))));
                }
                Err(error) => {
                    // Too many open files, most likely: asking again at once would be told the same, for ever.
                    if let Some(count) = self.failed.due(Instant::now()) {
                        warn!(
                            "a connection cannot be taken: {error} ({count} times since this was last said)"
                        );
                    }
                    self.pause = Some(Box::pin(sleep(PACE)));
                }
            }
        }
    }
}
