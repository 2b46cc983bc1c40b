//! Forged lists of servers before a connection that must be encrypted.

use harness::{Mode, Proxy, Server};
use kvtyped::prelude::*;

use super::test_credentials::Authority;
use super::{Folder, PATIENT};
use crate::support::{Session, unique};

/// A server that requires TLS, an attacker who rewrites its `INFO`, and the attacker's own host.
///
/// The attacker's host has a certificate for its own name from a CA that the client trusts, like any public host.
struct Scene {
    ca: String,
    _folder: Folder,
    _servers: [Server; 2],
    /// The attacker, between the client and its server.
    between: Proxy,
    /// In front of the attacker's host.
    second_proxy: Proxy,
}

impl Scene {
    async fn new() -> Self {
        let folder = Folder::new();
        let authority = Authority::new();
        let server = |name: &str| {
            let issued = authority.issue(&[name]);
            let certificate = folder.file(&format!("{name}-cert.pem"), &issued.certificate);
            let key = folder.file(&format!("{name}-key.pem"), &issued.key);
            // Both servers accept the client's password, so a server that accepts the client has received it.
            let config = format!(
                "tls {{ cert_file: {certificate:?}, key_file: {key:?}, timeout: 10 }}\n\
                 authorization {{ user: u, password: secret }}"
            );
            Server::builder().config(&config).auth()
        };
        let (own, theirs) = tokio::join!(server("127.0.0.1").start(), server("localhost").start());
        let (between, second_proxy) = tokio::join!(Proxy::start(own.addr()), Proxy::start(theirs.addr()));
        let forged = format!("localhost:{}", second_proxy.addr().port());
        between.advertise([forged.as_str()]);
        second_proxy.advertise([forged.as_str()]);
        let ca = folder.file("ca.pem", &authority.pem);
        Self { ca, _folder: folder, _servers: [own, theirs], between, second_proxy }
    }

    async fn connect(&self, more: &str) -> Store {
        let url = format!("tls://u:secret@{}?ca={}{more}", self.between.addr(), self.ca);
        Store::connect(url).timeout(PATIENT).await.expect("it is let in")
    }

    /// Opens a bucket, which needs an authenticated user.
    async fn works(store: &Store) {
        let bucket: Bucket<Session> = store.bucket().name(unique("guests")).await.expect("the bucket opens");
        bucket.put(&Session::new("acme", 7)).await.expect("it is written");
    }
}

#[tokio::test]
async fn forged_host_receives_no_password() {
    let scene = Scene::new().await;
    let store = scene.connect("").await;
    Scene::works(&store).await;
    // If the client used the forged host, it would choose it for half of its connections.
    for connection in 2..=12 {
        scene.between.cut();
        tokio::select! {
            () = scene.between.await_connections(connection) => {}
            () = scene.second_proxy.await_connections(1) => panic!("the attacker's host was asked"),
        }
        Scene::works(&store).await;
    }
    assert_eq!(scene.second_proxy.connections(), 0, "the attacker's host was asked");
}

/// The control: a client that trusts discovered servers connects to the host and sends its password.
#[tokio::test]
async fn trusting_client_authenticates_to_forged_host() {
    let scene = Scene::new().await;
    let store = scene.connect("&trust_discovered_servers=true").await;
    Scene::works(&store).await;
    scene.between.set(Mode::Refuse);
    scene.second_proxy.await_connections(1).await;
    Scene::works(&store).await;
}
