//! A TCP proxy between an evaluator and its coordinator: a line that can be slow, silent, cut or gone.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

/// What the line does to those who use it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Line {
    /// Carries everything.
    #[default]
    Up,
    /// Takes everything and carries nothing, and nobody is told: half-open.
    Silent,
    /// Ends each connection at once.
    Down,
}

#[derive(Debug, Default)]
struct State {
    line: Line,
    /// Added to each piece that is carried.
    delay: Duration,
    /// Bytes a second; `None`: as many as come.
    rate: Option<u64>,
    target: Option<SocketAddr>,
    /// Both ends of each connection that may be alive.
    ends: Vec<(TcpStream, TcpStream)>,
    closed: bool,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.notify_all();
    }

    /// Waits while the line is silent; then what it does to a piece of so many bytes. `None`: it is down.
    fn passage(&self, bytes: usize) -> Option<Duration> {
        let silent = |state: &mut State| state.line == Line::Silent && !state.closed;
        let state = self.changed.wait_while(self.state(), silent).unwrap();
        let slow =
            state.rate.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(bytes as f64 / rate as f64));
        (state.line == Line::Up && !state.closed).then_some(state.delay + slow)
    }
}

/// A proxy on a port of its own.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Proxy {
    /// A proxy to `HOST:PORT`, its line up.
    ///
    /// # Panics
    /// When there is no free port, or `target` is no address.
    pub fn start(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared::default());
        let proxy = Self { address, shared: Arc::clone(&shared) };
        proxy.lead_to(target);
        thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                if shared.state().closed {
                    return;
                }
                let shared = Arc::clone(&shared);
                thread::spawn(move || connect(near, &shared));
            }
        });
        proxy
    }

    /// Where to dial instead.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// New connections go to another address from now on.
    ///
    /// # Panics
    /// When `target` is no address.
    pub fn lead_to(&self, target: &str) {
        let target = target.parse().expect("HOST:PORT");
        self.shared.change(|state| state.target = Some(target));
    }

    /// Changes what the line does; one that goes down ends its connections.
    pub fn set(&self, line: Line) {
        self.shared.change(|state| {
            state.line = line;
            if line == Line::Down {
                end(state);
            }
        });
    }

    /// Ends all connections; new ones may come at once.
    pub fn cut(&self) {
        self.shared.change(end);
    }

    /// From now on each piece takes so much longer, and no more than `rate` bytes pass in a second.
    pub fn slow(&self, delay: Duration, rate: Option<u64>) {
        self.shared.change(|state| (state.delay, state.rate) = (delay, rate));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.change(|state| {
            state.closed = true;
            end(state);
        });
        let _ = TcpStream::connect(self.address); // the listener's thread looks, and ends
    }
}

fn end(state: &mut State) {
    for (near, far) in state.ends.drain(..) {
        let _ = near.shutdown(Shutdown::Both); // it may have ended by itself
        let _ = far.shutdown(Shutdown::Both);
    }
}

/// One connection, from its beginning to its end.
fn connect(near: TcpStream, shared: &Arc<Shared>) {
    if shared.passage(0).is_none() {
        return;
    }
    let target = shared.state().target;
    let Some(far) = target.and_then(|target| TcpStream::connect(target).ok()) else {
        return;
    };
    let clone = |stream: &TcpStream| stream.try_clone().expect("a socket can be cloned");
    for stream in [&near, &far] {
        stream.set_nodelay(true).expect("a socket takes options");
    }
    let ends = (clone(&near), clone(&far));
    shared.change(|state| {
        state.ends.retain(|(near, _)| near.peer_addr().is_ok());
        state.ends.push(ends);
    });
    let (up, down) = ((clone(&near), clone(&far)), (far, near));
    let other = Arc::clone(shared);
    let upwards = thread::spawn(move || carry(up, &other));
    carry(down, shared);
    let _ = upwards.join(); // it does not panic
}

/// Carries one direction; its end is the end of both.
fn carry((mut from, mut to): (TcpStream, TcpStream), shared: &Shared) {
    let mut piece = vec![0; 64 << 10];
    while let Ok(bytes) = from.read(&mut piece)
        && bytes > 0
        && let Some(delay) = shared.passage(bytes)
    {
        thread::sleep(delay); // the line's own time: nothing is awaited
        if to.write_all(&piece[..bytes]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both); // either end may have gone
    let _ = to.shutdown(Shutdown::Both);
}
