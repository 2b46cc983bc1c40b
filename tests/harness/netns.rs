//! Servers and clients in network namespaces of their own, and wires between them that can be cut.
//!
//! Each node, and each side on which clients are, is a namespace; a wire runs from each node to each other and to each side,
//! with two addresses of its own. All wires run through one more namespace, in which each is a bridge: where a bridge is
//! down, packets are lost without a word, and either end keeps its carrier, as in a network that is cut far away. Nothing
//! of this is seen outside the namespaces.
//!
//! It needs Linux, root and `ip` of iproute2; [`Unavailable`] tells what is missing. All namespaces are gone when the
//! [`Net`] is dropped, or when the process ends, however it ends.

mod ip;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::{fmt, io};

use tokio::runtime::{Builder, Handle, Runtime};

use crate::watchdog;

/// The port on which each node has its clients.
const CLIENTS: u16 = 4222;
/// The port on which each node has the other nodes.
pub(crate) const ROUTES: u16 = 6222;

/// How the paths of all namespaces of this process begin.
pub(crate) fn own_paths() -> String {
    format!("{}/{}", ip::FOLDER, ip::own_prefix())
}

/// Something that a wire runs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A node, by its number from 0.
    Node(usize),
    /// A side on which clients are, by its number from 0. The harness looks at the nodes from side 0.
    Side(usize),
}

/// Namespaces and the wires between them.
#[derive(Debug)]
pub struct Net {
    name: String,
    nodes: usize,
    /// One runtime each side: its threads, and so the connections that they open, are in the namespace.
    sides: Vec<Option<Runtime>>,
}

/// Why there are no namespaces here.
#[derive(Debug)]
#[non_exhaustive]
pub enum Unavailable {
    /// The system is not Linux.
    NotLinux,
    /// There is no `ip`.
    NoProgram(io::Error),
    /// `ip` refused: for want of rights, or of a kernel that has all that is needed.
    Refused {
        /// What it was to do.
        what: String,
        /// What it said.
        said: String,
    },
}

impl Net {
    /// Lays the wires between so many nodes, and from each to so many sides of clients.
    ///
    /// # Errors
    ///
    /// Where this machine does not allow it: a test says so aloud, and does what it can without.
    pub fn lay(nodes: usize, sides: usize) -> Result<Self, Unavailable> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        ip::remove_stale()?;
        // For the case that this process is killed.
        watchdog::root();
        let name = format!("{}{}", ip::own_prefix(), NEXT.fetch_add(1, Ordering::Relaxed));
        // From here on, dropping it removes what there is.
        let mut net = Self { name, nodes, sides: Vec::new() };
        let places: Vec<_> = (0..nodes).map(Place::Node).chain((0..sides).map(Place::Side)).collect();
        let hub = net.namespace("hub");
        let all = places.iter().map(|place| net.namespace(&place.to_string())).chain([hub.clone()]);
        ip::batch(None, all.map(|namespace| format!("netns add {namespace}")))?;
        let wires = net.wires(sides);
        let (mut ends, mut bridges) = (Vec::new(), Vec::new());
        for wire in &wires {
            let bridge = wire.name();
            bridges.push(format!("link add {bridge} type bridge"));
            for (here, there) in [(wire.a, wire.b), (wire.b, wire.a)] {
                let (inner, outer) = (there.to_string(), format!("{here}{there}"));
                let namespace = net.namespace(&here.to_string());
                ends.push(format!("link add {inner} netns {namespace} type veth peer name {outer} netns {hub}"));
                bridges.extend([format!("link set {outer} master {bridge}"), format!("link set {outer} up")]);
            }
            bridges.push(format!("link set {bridge} up"));
        }
        ip::batch(None, ends)?;
        ip::batch(Some(&hub), bridges)?;
        for place in places {
            let mine = wires.iter().filter(|wire| wire.a == place || wire.b == place);
            let up = mine.flat_map(|wire| {
                let there = if wire.a == place { wire.b } else { wire.a };
                let addr = wire.addr(place);
                [format!("addr add {addr}/24 dev {there}"), format!("link set {there} up")]
            });
            ip::batch(Some(&net.namespace(&place.to_string())), ["link set lo up".to_owned()].into_iter().chain(up))?;
        }
        for side in 0..sides {
            let runtime = net.runtime(Place::Side(side))?;
            net.sides.push(Some(runtime));
        }
        Ok(net)
    }

    /// The runtime of a side. What connects in a task of it connects from that side, and again from there whenever the
    /// connection is lost; the connection may be used everywhere.
    pub fn side(&self, side: usize) -> &Handle {
        self.sides[side].as_ref().expect("there until it is dropped").handle()
    }

    /// Where a client on a side reaches a node.
    pub fn url(&self, side: usize, node: usize) -> String {
        format!("nats://{}", self.clients_of(node, side))
    }

    /// Where a client on a side reaches all nodes, with commas between them.
    pub fn urls(&self, side: usize) -> String {
        (0..self.nodes).map(|node| self.url(side, node)).collect::<Vec<_>>().join(",")
    }

    /// Cuts the wire between two places: what is sent over it is lost. Nothing happens if it is cut.
    pub fn cut(&self, a: Place, b: Place) {
        self.switch([Wire::between(self.nodes, a, b)], "down");
    }

    /// Mends the wire between two places. Nothing happens if it is whole.
    pub fn heal(&self, a: Place, b: Place) {
        self.switch([Wire::between(self.nodes, a, b)], "up");
    }

    /// Cuts each wire between one of these places and one of the others.
    pub fn part(&self, apart: &[Place]) {
        let wires = self.wires(self.sides.len());
        self.switch(wires.into_iter().filter(|wire| apart.contains(&wire.a) != apart.contains(&wire.b)), "down");
    }

    /// Mends all wires.
    pub fn heal_all(&self) {
        self.switch(self.wires(self.sides.len()), "up");
    }

    fn switch(&self, wires: impl IntoIterator<Item = Wire>, to: &str) {
        let orders = wires.into_iter().map(|wire| format!("link set {} {to}", wire.name()));
        ip::batch(Some(&self.namespace("hub")), orders).expect("what was laid can be switched");
    }

    /// All wires: there is none between two sides.
    fn wires(&self, sides: usize) -> Vec<Wire> {
        let nodes = self.nodes;
        let from = move |node| {
            let others = (node + 1..nodes).map(Place::Node).chain((0..sides).map(Place::Side));
            others.map(move |other| Wire::between(nodes, Place::Node(node), other))
        };
        (0..nodes).flat_map(from).collect()
    }

    /// The name of one of its namespaces.
    pub(crate) fn namespace(&self, of: &str) -> String {
        format!("{}-{of}", self.name)
    }

    /// The name of the namespace of a node.
    pub(crate) fn namespace_of(&self, node: usize) -> String {
        self.namespace(&Place::Node(node).to_string())
    }

    /// How many nodes there are.
    pub(crate) fn nodes(&self) -> usize {
        self.nodes
    }

    /// Where a node has its clients of a side.
    pub(crate) fn clients_of(&self, node: usize, side: usize) -> SocketAddr {
        let wire = Wire::between(self.nodes, Place::Node(node), Place::Side(side));
        (wire.addr(Place::Node(node)), CLIENTS).into()
    }

    /// Where a node is for another node.
    pub(crate) fn route(&self, node: usize, from: usize) -> SocketAddr {
        let wire = Wire::between(self.nodes, Place::Node(node), Place::Node(from));
        (wire.addr(Place::Node(node)), ROUTES).into()
    }

    #[cfg(target_os = "linux")]
    fn runtime(&self, place: Place) -> Result<Runtime, Unavailable> {
        use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
        use std::os::fd::AsFd;

        let path = format!("{}/{}", ip::FOLDER, self.namespace(&place.to_string()));
        let refused =
            |error: io::Error| Unavailable::Refused { what: format!("enter {path}"), said: error.to_string() };
        let namespace = std::fs::File::open(&path).map_err(refused)?;
        let enter = move || {
            let entered = move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network));
            entered.expect("root may enter a namespace");
        };
        Builder::new_multi_thread().worker_threads(2).enable_all().on_thread_start(enter).build().map_err(refused)
    }

    #[cfg(not(target_os = "linux"))]
    fn runtime(&self, _: Place) -> Result<Runtime, Unavailable> {
        Err(Unavailable::NotLinux)
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for side in self.sides.iter_mut().filter_map(Option::take) {
            // It may be dropped where nothing may block.
            side.shutdown_background();
        }
        ip::remove(&format!("{}-", self.name));
    }
}

/// The wire between two places, the lower first.
#[derive(Debug, Clone, Copy)]
struct Wire {
    a: Place,
    b: Place,
    /// No two wires have the same.
    net: u8,
}

impl Wire {
    fn between(nodes: usize, a: Place, b: Place) -> Self {
        let number = |place| match place {
            Place::Node(node) => node,
            Place::Side(side) => nodes + side,
        };
        let (a, b) = if number(a) < number(b) { (a, b) } else { (b, a) };
        assert!(matches!(a, Place::Node(_)) && a != b, "no wire runs between {a} and {b}");
        let net = u8::try_from(number(b) * (number(b) - 1) / 2 + number(a)).expect("few places");
        Self { a, b, net }
    }

    fn name(&self) -> String {
        format!("{}-{}", self.a, self.b)
    }

    /// The address of a place on this wire. Namespaces share nothing, so each net has the same.
    fn addr(&self, of: Place) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, self.net, if of == self.a { 1 } else { 2 })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(node) => write!(f, "n{node}"),
            Self::Side(side) => write!(f, "s{side}"),
        }
    }
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLinux => write!(f, "network namespaces are a matter of Linux"),
            Self::NoProgram(why) => write!(f, "there is no `ip` of iproute2: {why}"),
            Self::Refused { what, said } => write!(f, "this machine refused `{what}`: {said}"),
        }
    }
}

impl std::error::Error for Unavailable {}
