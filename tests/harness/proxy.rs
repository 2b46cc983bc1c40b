//! A TCP proxy before a server, which fails on command.

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

/// What a [`Proxy`] does with the bytes that pass it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Passes all of them.
    Pass,
    /// Passes what clients send, and swallows the messages that servers send,
    /// replies and acknowledgements among them. `INFO`, `PING`, `PONG` and
    /// errors pass, so that clients notice nothing.
    DropReplies,
    /// Holds all of them, either way, and passes them when the mode changes.
    Stall,
    /// Closes connections, present and new.
    Refuse,
}

/// A proxy on a free loopback port. It runs on the runtime that started it,
/// and dropping it closes its connections. A test that blocks its thread, on a
/// runtime of one thread, blocks the proxy too.
#[derive(Debug)]
pub struct Proxy {
    addr: SocketAddr,
    control: Arc<Control>,
    accepting: JoinHandle<()>,
}

/// What the proxy and its connections tell each other.
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
    /// Starts a proxy that passes everything to `upstream`.
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

    /// Where a client connects to.
    pub fn url(&self) -> String {
        format!("nats://{}", self.addr)
    }

    /// Where the proxy listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Changes the mode, for present and new connections.
    pub fn set(&self, mode: Mode) {
        self.control.mode.send_replace(mode);
    }

    /// Closes the present connections, once; what they held is lost.
    pub fn cut(&self) {
        self.control.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Replaces the servers that the `INFO` of each new connection names. Everything after `INFO` passes unread,
    /// because it may be encrypted.
    pub fn advertise<S: Into<String>>(&self, servers: impl IntoIterator<Item = S>) {
        self.control.tampering.advertise(servers.into_iter().map(Into::into).collect());
    }

    /// Replaces the id of each message that clients send with this one, if it has the same length.
    pub fn set_message_id(&self, id: Option<&str>) {
        self.control.tampering.set_message_id(id.map(str::to_owned));
    }

    /// How many messages were swallowed so far.
    pub fn dropped_replies(&self) -> u64 {
        *self.control.dropped.borrow()
    }

    /// How many connections were passed on so far.
    pub fn connections(&self) -> u64 {
        *self.control.connections.borrow()
    }

    /// Waits until `n` messages were swallowed since the start.
    pub async fn await_dropped(&self, n: u64) {
        at_least(&self.control.dropped, n).await;
    }

    /// Waits until `n` connections were passed on since the start.
    pub async fn await_connections(&self, n: u64) {
        at_least(&self.control.connections, n).await;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Drops the set of connections too, which aborts them.
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
        // Subscribed here, so that no later cut is missed.
        let mut cuts = control.cuts.subscribe();
        let mut mode = control.mode.subscribe();
        let control = Arc::clone(&control);
        connections.spawn(async move {
            tokio::select! {
                biased;
                _ = mode.wait_for(|mode| *mode == Mode::Refuse) => {}
                _ = cuts.changed() => {}
                // An error on either side ends both.
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

/// Passes what the client sends, bytes as they are.
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

/// Passes what the server sends, frame by frame, but for those to swallow.
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

/// Changes the `INFO` that the server sends, and passes the rest unchanged.
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

/// Waits while the mode is [`Mode::Stall`], and gives the one after it.
async fn flowing(mode: &mut watch::Receiver<Mode>) -> Mode {
    *mode.wait_for(|mode| *mode != Mode::Stall).await.expect("the proxy holds the sender")
}
