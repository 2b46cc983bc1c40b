//! TLS: trusted CA certificates and client certificates.

use harness::Server;
use kvtyped::connect::NatsOptions;
use kvtyped::prelude::*;
use kvtyped::{Error, ErrorKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::test_credentials::Authority;
use super::{Folder, is_let_in, is_refused};

/// The name in all certificates of these tests.
const NAMES: &[&str] = &["127.0.0.1"];

/// Certificate and key files of a CA, a server and a client.
struct Files {
    _folder: Folder,
    ca: String,
    server: [String; 2],
    client: [String; 2],
    /// Files of another CA.
    stranger_ca: String,
    stranger: [String; 2],
    empty: String,
}

impl Files {
    fn new() -> Self {
        let folder = Folder::new();
        let [authority, other] = [Authority::new(), Authority::new()];
        let issue = |authority: &Authority, name: &str| {
            let issued = authority.issue(NAMES);
            let certificate = folder.file(&format!("{name}-cert.pem"), &issued.certificate);
            [certificate, folder.file(&format!("{name}-key.pem"), &issued.key)]
        };
        Self {
            ca: folder.file("ca.pem", &authority.pem),
            server: issue(&authority, "server"),
            client: issue(&authority, "client"),
            stranger_ca: folder.file("stranger-ca.pem", &other.pem),
            stranger: issue(&other, "stranger"),
            empty: folder.file("empty.pem", "no certificate, and nobody's secret\n"),
            _folder: folder,
        }
    }

    fn config(&self, more: &str) -> String {
        let [certificate, key] = &self.server;
        format!("tls {{ cert_file: {certificate:?}, key_file: {key:?}, timeout: 10, {more} }}")
    }
}

/// Returns the reason of a TLS error.
fn reason(error: &Error) -> &str {
    let ErrorKind::Tls { reason } = error.kind() else { panic!("{error:?}") };
    reason
}

#[tokio::test]
async fn tls_accepts_only_servers_of_trusted_ca() {
    let files = Files::new();
    let server = Server::builder().config(&files.config("")).auth().start().await;
    let (addr, ca) = (server.addr(), &files.ca);
    for scheme in ["nats", "tls"] {
        is_let_in("the URL", Store::connect(format!("{scheme}://{addr}?ca={ca}"))).await;
        is_let_in(
            "the builder",
            Store::connect(format!("{scheme}://{addr}")).options(NatsOptions::new().root_certificates(ca)),
        )
        .await;
        let [url, other] = [format!("{scheme}://{addr}"), format!("{scheme}://{addr}?ca={}", files.stranger_ca)];
        for connect in [
            Store::connect(&url),
            Store::connect(other),
            Store::connect(url).options(NatsOptions::new().root_certificates(&files.stranger_ca)),
        ] {
            let error = is_refused("an unknown authority", connect).await;
            assert!(reason(&error).contains("`?ca=") && reason(&error).contains("`root_certificates`"), "{error}");
        }
    }
    let by_name = Store::connect(format!("tls://localhost:{}?ca={ca}", server.port()));
    let error = is_refused("another name", by_name).await;
    assert!(reason(&error).contains("name"), "{error}");
}

#[tokio::test]
async fn tls_authenticates_by_client_certificate() {
    let files = Files::new();
    let more = format!("ca_file: {:?}, verify: true", files.ca);
    let server = Server::builder().config(&files.config(&more)).auth().start().await;
    let url = format!("tls://{}?ca={}", server.addr(), files.ca);
    let with = |[certificate, key]: &[String; 2]| format!("{url}&cert={certificate}&key={key}");
    is_let_in("the URL", Store::connect(with(&files.client))).await;
    let [certificate, key] = &files.client;
    let built = Store::connect(server.url())
        .options(NatsOptions::new().root_certificates(&files.ca).client_certificate(certificate, key));
    is_let_in("the builder", built).await;

    for connect in
        [Store::connect(&url), Store::connect(server.url()).options(NatsOptions::new().root_certificates(&files.ca))]
    {
        let error = is_refused("nobody", connect).await;
        assert!(reason(&error).contains("?cert=") && reason(&error).contains("`client_certificate`"), "{error}");
    }
    let error = is_refused("a client of an unknown authority", Store::connect(with(&files.stranger))).await;
    assert!(reason(&error).contains("does not accept the client certificate"), "{error}");
}

#[tokio::test]
async fn tls_first_handshake_connects() {
    let files = Files::new();
    let server = Server::builder().config(&files.config("handshake_first: true")).silent().start().await;
    let url = format!("tls://{}?ca={}", server.addr(), files.ca);
    is_let_in("the URL", Store::connect(format!("{url}&tls_first=true"))).await;
    is_let_in(
        "the builder",
        Store::connect(server.url()).options(NatsOptions::new().root_certificates(&files.ca).tls_first()),
    )
    .await;
    // Both sides wait for the other side to send first.
    let error = Store::connect(url).timeout(Duration::from_secs(1)).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Timeout { .. }), "{error:?}");
}

#[tokio::test]
async fn unusable_file_is_named_in_error() {
    let files = Files::new();
    let Files { ca, client: [certificate, key], stranger: [_, other_key], empty, .. } = &files;
    let missing = "/nowhere/a.pem".to_owned();
    let secret = std::fs::read_to_string(key).unwrap();
    let secret = secret.lines().nth(1).expect("a line of the key");
    let wrong = [
        (format!("ca={missing}"), &missing),
        (format!("ca={empty}"), empty),
        (format!("ca={key}"), key),
        (format!("ca={ca}&cert={missing}&key={key}"), &missing),
        (format!("ca={ca}&cert={certificate}&key={missing}"), &missing),
        (format!("ca={ca}&cert={certificate}&key={empty}"), empty),
        (format!("ca={ca}&cert={key}&key={key}"), key),
        (format!("ca={ca}&cert={certificate}&key={other_key}"), other_key),
    ];
    for (query, path) in wrong {
        let error = is_refused(&query, Store::connect(format!("tls://127.0.0.1:1?{query}"))).await;
        assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{query}: {error:?}");
        let reported = format!("{error} {error:?}");
        assert!(
            reported.contains(path.as_str()) && !reported.contains(secret) && !reported.contains("nobody's"),
            "{reported}"
        );
    }
}

/// Starts a server that announces no TLS and records the bytes that it receives.
async fn eavesdropper() -> (u16, tokio::task::JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a port");
    let port = listener.local_addr().expect("it listens").port();
    let received = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a client connects");
        let info = r#"INFO {"server_id":"x","server_name":"x","version":"2.11.0","proto":1,"go":"go","host":"0.0.0.0","port":1,"headers":true,"max_payload":1048576,"client_id":1}"#;
        stream.write_all(format!("{info}\r\n").as_bytes()).await.expect("the client is connected");
        let mut received = Vec::new();
        let mut buffer = [0; 1024];
        while let Ok(Ok(read @ 1..)) = tokio::time::timeout(Duration::from_secs(1), stream.read(&mut buffer)).await {
            received.extend_from_slice(&buffer[..read]);
            if received.ends_with(b"PING\r\n") {
                break;
            }
            // A reply that is not valid in the TLS protocol.
            let _ = stream.write_all(b"PONG\r\n").await;
        }
        received
    });
    (port, received)
}

/// A client that requires encryption sends no secret to a server that announces none.
#[tokio::test]
async fn required_tls_prevents_plaintext_password() {
    let files = Files::new();
    let password = "pa55word-in-the-clear";
    let hears = async |url: &dyn Fn(u16) -> String| {
        let (port, received) = eavesdropper().await;
        let connected = Store::connect(url(port)).timeout(Duration::from_secs(2)).await;
        let received = String::from_utf8_lossy(&received.await.unwrap()).into_owned();
        (connected.err(), received)
    };
    for url in [
        &|port| format!("tls://u:{password}@127.0.0.1:{port}") as String,
        &|port| format!("nats://u:{password}@127.0.0.1:{port}?ca={}", files.ca),
        &|port| format!("nats://u:{password}@127.0.0.1:{port},tls://127.0.0.1:1?ca={}", files.ca),
    ] as [&dyn Fn(u16) -> String; 3]
    {
        let (error, received) = hears(url).await;
        let error = error.expect("it is refused");
        assert!(!received.is_empty() && !received.contains(password), "{received}");
        assert!(matches!(error.kind(), ErrorKind::Tls { .. } | ErrorKind::Unavailable { .. }), "{error:?}");
    }
    // The control: without this requirement, the server receives the password.
    let (_, received) = hears(&|port| format!("nats://u:{password}@127.0.0.1:{port}")).await;
    assert!(received.contains(password), "{received}");
}
