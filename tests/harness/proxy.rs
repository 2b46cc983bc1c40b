//! A TCP proxy in front of a server that fails on command.

use crate::frames::Frames;
use crate::tamper::Tampering;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// The treatment of traffic by a [`Proxy`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Passes all traffic.
    Pass,
    /// Passes all traffic of clients, but drops the messages that servers send, including replies and acknowledgements.
    /// `INFO`, `PING`, `PONG` and errors pass, so that clients notice nothing.
    DropReplies,
    /// Holds all traffic in both directions until the mode changes, then passes it.
    Stall,
    /// Closes existing and new connections.
    Refuse,
}

/// A proxy on a free loopback port. It runs on the runtime that started it. Dropping it closes its connections. A test
/// that blocks the thread of a single-threaded runtime also blocks the proxy.
#[derive(Debug)]
pub struct Proxy {
    addr: SocketAddr,
    control: Arc<Control>,
    accepting: JoinHandle<()>,
}

/// The state that the proxy shares with its connections.
#[derive(Debug)]
struct Control {
    upstream: SocketAddr,
    mode: watch::Sender<Mode>,
    cuts: watch::Sender<u64>,
    dropped: watch::Sender<u64>,
    connections: watch::Sender<u64>,
    tampering: Tampering,
}

impl Proxy {
    /// Starts a proxy that passes all traffic to `upstream`.
    pub async fn start(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free loopback port");
        let addr = listener.local_addr().expect("the listener has an address");
        let control = Arc::new(Control {
            upstream,
            mode: watch::Sender::new(Mode::Pass),
            cuts: watch::Sender::new(0),
            dropped: watch::Sender::new(0),
            connections: watch::Sender::new(0),
            tampering: Tampering::none(),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&control)));
        Self { addr, control, accepting }
    }

    /// Returns the URL for clients.
    pub fn url(&self) -> String {
        format!("nats://{}", self.addr)
    }

    /// Returns the address the proxy listens on.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Changes the mode of existing and new connections.
    pub fn set(&self, mode: Mode) {
        self.control.mode.send_replace(mode);
    }

    /// Closes the existing connections once. Bytes that they held are lost.
    pub fn cut(&self) {
        self.control.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Replaces the server list in the `INFO` of each new connection. On these connections, all later bytes pass
    /// unread, because they may be encrypted.
    pub fn advertise<S: Into<String>>(&self, servers: impl IntoIterator<Item = S>) {
        self.control.tampering.advertise(servers.into_iter().map(Into::into).collect());
    }

    /// Replaces the id of each message from clients with `id` if it has the same length.
    pub fn set_message_id(&self, id: Option<&str>) {
        self.control.tampering.set_message_id(id.map(str::to_owned));
    }

    /// Returns the number of messages dropped so far.
    pub fn dropped_replies(&self) -> u64 {
        *self.control.dropped.borrow()
    }

    /// Returns the number of connections forwarded so far.
    pub fn connections(&self) -> u64 {
        *self.control.connections.borrow()
    }

    /// Waits until `n` messages were dropped since the start.
    pub async fn await_dropped(&self, n: u64) {
        at_least(&self.control.dropped, n).await;
    }

    /// Waits until `n` connections were forwarded since the start.
    pub async fn await_connections(&self, n: u64) {
        at_least(&self.control.connections, n).await;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // This also drops the `JoinSet`, which aborts the connections.
        self.accepting.abort();
    }
}

async fn at_least(count: &watch::Sender<u64>, n: u64) {
    count.subscribe().wait_for(|now| *now >= n).await.expect("the proxy holds the sender");
}

async fn accept(listener: TcpListener, control: Arc<Control>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else {
            continue;
        };
        while connections.try_join_next().is_some() {}
        // Subscribes before the spawn, so that no later cut is missed.
        let mut cuts = control.cuts.subscribe();
        let mut mode = control.mode.subscribe();
        let control = Arc::clone(&control);
        connections.spawn(async move {
            tokio::select! {
                biased;
                _ = mode.wait_for(|mode| *mode == Mode::Refuse) => {}
                _ = cuts.changed() => {}
                // An error on either side closes both.
                _ = forward(client, &control) => {}
            }
        });
    }
}

async fn forward(client: TcpStream, control: &Control) -> io::Result<()> {
    let server = TcpStream::connect(control.upstream).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    control.connections.send_modify(|count| *count += 1);
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::try_join!(upward(from_client, to_server, control), downward(from_server, to_client, control))?;
    Ok(())
}

/// Forwards the bytes of the client, except for replaced message ids.
async fn upward(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, control: &Control) -> io::Result<()> {
    let mut mode = control.mode.subscribe();
    let mut bytes = vec![0; 64 * 1024];
    loop {
        let n = from.read(&mut bytes).await?;
        flowing(&mut mode).await;
        control.tampering.message_ids(&mut bytes[..n]);
        match n {
            0 => return to.shutdown().await,
            n => to.write_all(&bytes[..n]).await?,
        }
    }
}

/// Forwards the frames of the server, except for dropped messages.
async fn downward(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, control: &Control) -> io::Result<()> {
    let mut mode = control.mode.subscribe();
    let mut bytes = vec![0; 64 * 1024];
    let mut frames = Frames::default();
    if control.tampering.changes_info() {
        return downward_after_info(from, to, control, frames).await;
    }
    loop {
        let n = from.read(&mut bytes).await?;
        if n == 0 {
            flowing(&mut mode).await;
            to.write_all(frames.rest()).await?;
            return to.shutdown().await;
        }
        frames.push(&bytes[..n]);
        while let Some(frame) = frames.next() {
            if flowing(&mut mode).await == Mode::DropReplies && frame.is_message() {
                control.dropped.send_modify(|count| *count += 1);
            } else {
                to.write_all(&frame.0).await?;
            }
        }
    }
}

/// Replaces the server's `INFO` and forwards the rest unchanged.
async fn downward_after_info(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    control: &Control,
    mut frames: Frames,
) -> io::Result<()> {
    let mut bytes = vec![0; 64 * 1024];
    let info = loop {
        if let Some(frame) = frames.next() {
            break frame;
        }
        match from.read(&mut bytes).await? {
            0 => return Ok(()),
            n => frames.push(&bytes[..n]),
        }
    };
    to.write_all(&control.tampering.info(info.line()).unwrap_or(info.0)).await?;
    to.write_all(frames.rest()).await?;
    tokio::io::copy(&mut from, &mut to).await?;
    to.shutdown().await
}

/// Waits while the mode is [`Mode::Stall`] and returns the current mode.
async fn flowing(mode: &mut watch::Receiver<Mode>) -> Mode {
    *mode.wait_for(|mode| *mode != Mode::Stall).await.expect("the proxy holds the sender")
}
