use crate::raw_client::Wire;
use crate::{Mode, Proxy, shared};
use serde_json::json;
use std::time::Duration;
use tokio::time::timeout;

const SILENCE: Duration = Duration::from_millis(200);

/// Starts a proxy in front of the shared server, and creates a stream for the subject there.
async fn proxy(subject: &str) -> Proxy {
    let server = shared().await;
    let stream = json!({ "name": subject, "subjects": [subject], "storage": "memory" });
    let made = server.api(&format!("$JS.API.STREAM.CREATE.{subject}"), &stream).await.unwrap();
    assert!(made["error"].is_null(), "{made}");
    Proxy::start(server.addr()).await
}

async fn stored(subject: &str) -> u64 {
    let info = shared().await.api(&format!("$JS.API.STREAM.INFO.{subject}"), &json!(null)).await.unwrap();
    info["state"]["messages"].as_u64().unwrap()
}

#[tokio::test]
async fn drop_replies_mode_loses_only_replies() {
    let proxy = proxy("drop").await;
    let mut wire = Wire::connect(proxy.addr()).await.unwrap();
    wire.request("drop", b"1").await.unwrap();

    proxy.set(Mode::DropReplies);
    let request = wire.request("drop", b"2");
    tokio::select! {
        biased;
        answer = request => panic!("{answer:?} came through"),
        () = proxy.await_dropped(1) => {}
    }
    assert_eq!(stored("drop").await, 2, "the request went through");
    assert_eq!(proxy.dropped_replies(), 1);

    proxy.set(Mode::Pass);
    let answer = wire.request("drop", b"3").await.unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(answer["seq"], 3);
    assert_eq!(proxy.connections(), 1);
}

#[tokio::test]
async fn stall_delays_requests_without_loss() {
    let proxy = proxy("stall").await;
    let mut wire = Wire::connect(proxy.addr()).await.unwrap();
    proxy.set(Mode::Stall);
    let request = wire.request("stall", b"1");
    tokio::pin!(request);
    timeout(SILENCE, &mut request).await.expect_err("nothing moves");
    assert_eq!(stored("stall").await, 0, "the request is held");
    proxy.set(Mode::Pass);
    request.await.unwrap();
    assert_eq!(stored("stall").await, 1);
}

#[tokio::test]
async fn stalled_request_arrives_after_client_drop() {
    let proxy = proxy("zombie").await;
    let mut wire = Wire::connect(proxy.addr()).await.unwrap();
    proxy.set(Mode::Stall);
    timeout(SILENCE, wire.request("zombie", b"1")).await.expect_err("nothing moves");
    drop(wire);
    assert_eq!(stored("zombie").await, 0);
    proxy.set(Mode::Pass);
    crate::wait::until("the request arrives", Duration::from_secs(5), async || {
        (stored("zombie").await == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn refused_and_cut_connections_end() {
    let proxy = proxy("refuse").await;
    let mut wire = Wire::connect(proxy.addr()).await.unwrap();
    proxy.cut();
    wire.request("refuse", b"1").await.expect_err("the connection is cut");

    let mut wire = Wire::connect(proxy.addr()).await.unwrap();
    proxy.set(Mode::Refuse);
    wire.request("refuse", b"1").await.expect_err("the connection is closed");
    Wire::open(proxy.addr()).await.err().expect("none is let in");
    assert_eq!(proxy.connections(), 2, "refused ones do not count");

    proxy.set(Mode::Pass);
    let mut wire = Wire::connect(proxy.addr()).await.unwrap();
    proxy.await_connections(3).await;
    wire.request("refuse", b"1").await.unwrap();
    drop(proxy);
    wire.request("refuse", b"1").await.expect_err("the proxy is gone");
}

// The proxy must not depend on the content or the length of a payload.
#[tokio::test]
async fn payloads_pass_unchanged() {
    let proxy = Proxy::start(shared().await.addr()).await;
    let mut wire = Wire::connect(proxy.addr()).await.unwrap();
    let mut responder = Wire::connect(proxy.addr()).await.unwrap();
    for payload in [b"MSG a 1 9\r\nHMSG".repeat(60_000), Vec::new(), b"\r\n".to_vec()] {
        let echo = async {
            let (reply, body) = responder.receive("echo").await.unwrap();
            let head = format!("PUB {reply} {}\r\n", body.len());
            responder.send(&[head.as_bytes(), &body, b"\r\n"].concat()).await.unwrap();
        };
        let ask = async {
            crate::wait::until("the responder is there", Duration::from_secs(5), async || {
                wire.request("echo", &payload).await.ok()
            })
            .await
        };
        let ((), answer) = tokio::join!(echo, ask);
        assert!(answer == payload);
    }
}
