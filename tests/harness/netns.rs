//! Servers and clients in separate network namespaces, connected by links that can be cut.
//!
//! Each node and each client side is a namespace. A link with two addresses connects each node to each other node and
//! to each side. All links pass through one more namespace, the hub; each link is a bridge there. A bridge that is down
//! drops packets silently, and both ends keep their carrier, as in a network that fails far away. Nothing is visible
//! outside of the namespaces.
//!
//! Requires Linux, root and `ip` of iproute2. [`Unavailable`] names the missing requirement. All namespaces are removed
//! when the [`Net`] is dropped or when the process ends for any reason.

mod ip;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::{fmt, io};

use tokio::runtime::{Builder, Handle, Runtime};

use crate::watchdog;

/// The client port of each node.
const CLIENTS: u16 = 4222;
/// The route port of each node, for the other nodes.
pub(crate) const ROUTES: u16 = 6222;

/// Returns the prefix of the paths of all namespaces of this process.
pub(crate) fn own_paths() -> String {
    format!("{}/{}", ip::FOLDER, ip::own_prefix())
}

/// An end of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A node, by its index.
    Node(usize),
    /// A client side, by its index. The harness itself uses side 0.
    Side(usize),
}

/// Namespaces and the links between them.
#[derive(Debug)]
pub struct Net {
    name: String,
    nodes: usize,
    /// One runtime per side. Its threads are in the namespace, and so are the connections that they open.
    sides: Vec<Option<Runtime>>,
}

/// The reason why namespaces are not available.
#[derive(Debug)]
#[non_exhaustive]
pub enum Unavailable {
    /// The system is not Linux.
    NotLinux,
    /// The program `ip` is missing.
    NoProgram(io::Error),
    /// `ip` failed: the process lacks permissions, or the kernel lacks a feature.
    Refused {
        /// The command.
        what: String,
        /// The error output.
        said: String,
    },
}

impl Net {
    /// Creates namespaces for `nodes` nodes and `sides` client sides, and the links between them.
    ///
    /// # Errors
    ///
    /// Returns an error if this machine does not support it. A test should report this and run the part that needs no
    /// namespaces.
    pub fn lay(nodes: usize, sides: usize) -> Result<Self, Unavailable> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        ip::remove_stale()?;
        // Starts the watchdog, in case this process is killed.
        watchdog::root();
        let name = format!("{}{}", ip::own_prefix(), NEXT.fetch_add(1, Ordering::Relaxed));
        // From here on, dropping `net` removes the namespaces.
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

    /// Returns the runtime of a side. A task on it connects, and reconnects, from the network of that side. The
    /// connection itself may be used anywhere.
    pub fn side(&self, side: usize) -> &Handle {
        self.sides[side].as_ref().expect("there until it is dropped").handle()
    }

    /// Returns the URL of a node for a client on a side.
    pub fn url(&self, side: usize, node: usize) -> String {
        format!("nats://{}", self.clients_of(node, side))
    }

    /// Returns the URLs of all nodes for a client on a side, separated by commas.
    pub fn urls(&self, side: usize) -> String {
        (0..self.nodes).map(|node| self.url(side, node)).collect::<Vec<_>>().join(",")
    }

    /// Cuts the link between two places: packets on it are lost. Does nothing if the link is already cut.
    pub fn cut(&self, a: Place, b: Place) {
        self.switch([Wire::between(self.nodes, a, b)], "down");
    }

    /// Restores the link between two places. Does nothing if the link is intact.
    pub fn heal(&self, a: Place, b: Place) {
        self.switch([Wire::between(self.nodes, a, b)], "up");
    }

    /// Cuts each link between a place in `apart` and a place that is not.
    pub fn part(&self, apart: &[Place]) {
        let wires = self.wires(self.sides.len());
        self.switch(wires.into_iter().filter(|wire| apart.contains(&wire.a) != apart.contains(&wire.b)), "down");
    }

    /// Restores all links.
    pub fn heal_all(&self) {
        self.switch(self.wires(self.sides.len()), "up");
    }

    fn switch(&self, wires: impl IntoIterator<Item = Wire>, to: &str) {
        let orders = wires.into_iter().map(|wire| format!("link set {} {to}", wire.name()));
        ip::batch(Some(&self.namespace("hub")), orders).expect("the links exist");
    }

    /// Returns all links. Two sides have no link between them.
    fn wires(&self, sides: usize) -> Vec<Wire> {
        let nodes = self.nodes;
        let from = move |node| {
            let others = (node + 1..nodes).map(Place::Node).chain((0..sides).map(Place::Side));
            others.map(move |other| Wire::between(nodes, Place::Node(node), other))
        };
        (0..nodes).flat_map(from).collect()
    }

    /// Returns the name of one of the namespaces.
    pub(crate) fn namespace(&self, of: &str) -> String {
        format!("{}-{of}", self.name)
    }

    /// Returns the name of the namespace of a node.
    pub(crate) fn namespace_of(&self, node: usize) -> String {
        self.namespace(&Place::Node(node).to_string())
    }

    /// Returns the number of nodes.
    pub(crate) fn nodes(&self) -> usize {
        self.nodes
    }

    /// Returns the address of a node for clients on a side.
    pub(crate) fn clients_of(&self, node: usize, side: usize) -> SocketAddr {
        let wire = Wire::between(self.nodes, Place::Node(node), Place::Side(side));
        (wire.addr(Place::Node(node)), CLIENTS).into()
    }

    /// Returns the route address of a node for the node `from`.
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
            // The `Net` may be dropped in an async context, where blocking is forbidden.
            side.shutdown_background();
        }
        ip::remove(&format!("{}-", self.name));
    }
}

/// The link between two places, the lower one first.
#[derive(Debug, Clone, Copy)]
struct Wire {
    a: Place,
    b: Place,
    /// The subnet number, unique among the links.
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

    /// Returns the address of a place on this link. Namespaces are isolated, so each net uses the same addresses.
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
