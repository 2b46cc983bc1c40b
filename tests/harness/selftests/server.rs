use crate::raw_client::Wire;
use crate::{Server, shared};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::timeout;

/// Creates a stream with one message, so that the store is used.
async fn make_stream(server: &Server) {
    let stream = json!({ "name": "S", "subjects": ["s"], "storage": "file" });
    let made = server.api("$JS.API.STREAM.CREATE.S", &stream).await.unwrap();
    assert!(made["error"].is_null(), "{made}");
    let mut wire = Wire::connect(server.addr()).await.unwrap();
    wire.request("s", b"payload").await.unwrap();
}

async fn messages(server: &Server) -> Value {
    let mut info = server.api("$JS.API.STREAM.INFO.S", &Value::Null).await.unwrap();
    info["state"]["messages"].take()
}

#[tokio::test]
async fn restart_keeps_port_and_store_in_new_process() {
    let server = Server::start().await;
    make_stream(&server).await;
    let (url, pid) = (server.url(), server.pid());

    server.kill().await;
    Wire::open(server.addr()).await.err().expect("nothing listens after a kill");
    server.restart().await;
    assert_eq!(server.url(), url);
    assert_ne!(server.pid(), pid);
    assert_eq!(messages(&server).await, 1);

    server.terminate().await;
    Wire::open(server.addr()).await.err().expect("nothing listens after an end");
    assert!(server.log().contains("Server Exiting"), "{}", server.log());
    server.restart().await;
    assert_eq!(messages(&server).await, 1);
    // A restart also restarts a running server, even a frozen one.
    server.freeze();
    server.restart().await;
    assert_eq!(messages(&server).await, 1);
}

#[tokio::test]
async fn frozen_server_answers_after_thaw() {
    let server = Server::start().await;
    let mut wire = Wire::connect(server.addr()).await.unwrap();
    server.freeze();
    {
        let request = wire.request("$JS.API.INFO", b"");
        tokio::pin!(request);
        timeout(Duration::from_millis(300), &mut request).await.expect_err("a frozen server is silent");
        server.thaw();
        request.await.expect("the request was kept");
    }
    server.freeze();
    server.kill().await;
}

#[tokio::test]
async fn dropped_server_stops_listening() {
    let server = Server::start().await;
    let addr = server.addr();
    server.freeze();
    drop(server);
    Wire::open(addr).await.err().expect("nothing listens after the drop");
}

#[tokio::test]
async fn options_reach_the_server() {
    let server = Server::builder().jetstream("domain: hub").config("max_payload: 4096").start().await;
    let wire = Wire::open(server.addr()).await.unwrap();
    assert_eq!(wire.info()["domain"], "hub");
    assert_eq!(wire.info()["max_payload"], 4096);

    let locked = Server::builder().config("authorization { user: a, password: b }").auth().start().await;
    assert!(Wire::connect(locked.addr()).await.is_err());

    let plain = Server::builder().no_jetstream().start().await;
    assert!(plain.api("$JS.API.INFO", &Value::Null).await.is_err());
}

#[tokio::test]
#[should_panic(expected = "no server: it ended; its log:")]
async fn server_start_failure_shows_the_log() {
    Server::builder().config("max_payload: nonsense").start().await;
}

// Two runtimes, one after the other, use the one shared server.
#[test]
fn shared_server_outlives_a_runtime() {
    let ask = || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let server = shared().await;
            server.api("$JS.API.INFO", &Value::Null).await.unwrap();
            server.pid()
        })
    };
    assert_eq!(ask(), ask());
}
