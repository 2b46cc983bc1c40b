//! Secret strings in records and in credentials.

use harness::Server;
use kvtyped::connect::NatsOptions;
use kvtyped::prelude::*;
use kvtyped::{ErrorKind, RawRecord};
use secrecy::{ExposeSecret, SecretString};

use crate::support::{on_both_backends, unique};

const SENTINEL: &str = "s3cr3t-sentinel";

#[derive(Clone, Debug, Serialize, Deserialize, KvModel)]
#[kv(key = "{name}")]
struct Upstream {
    name: String,
    #[serde(with = "kvtyped::integrations::secrecy_0_10")]
    token: SecretString,
}

on_both_backends! {
    async fn secret_is_stored_as_text_and_hidden_in_debug(world: World) {
        let name = unique("upstream");
        let upstreams: Bucket<Upstream> = world.store.bucket().name(&name).await.unwrap();
        let upstream = Upstream { name: "search".to_owned(), token: SecretString::from(SENTINEL) };
        upstreams.put(&upstream).await.unwrap();
        let entry = upstreams.get(&upstream.key()).await.unwrap().expect("it is stored");
        assert_eq!(entry.token.expose_secret(), SENTINEL);
        let live = upstreams.live(&upstream.key()).await.unwrap();
        for debug in [format!("{entry:?}"), format!("{live:?}"), format!("{upstream:?}")] {
            assert!(!debug.contains(SENTINEL), "{debug}");
        }
        // Other clients read plain JSON.
        let raw: Bucket<RawRecord> = world.store.raw(&name).await.unwrap();
        let stored = raw.get(&kvtyped::Key::new("search").unwrap()).await.unwrap().expect("it is stored");
        assert!(String::from_utf8_lossy(&stored.bytes).contains(&format!("\"token\":\"{SENTINEL}\"")));
        // A secret that does not decode is not quoted.
        raw.put(&RawRecord::new(kvtyped::Key::new("search").unwrap(), format!(r#"{{"name":"{SENTINEL}","token":7}}"#)))
            .await
            .unwrap();
        let error = upstreams.get(&upstream.key()).await.unwrap_err();
        assert!(!format!("{error:?} {}", error.report()).contains(SENTINEL), "{error:?}");
    }
}

#[tokio::test]
async fn connect_accepts_secret_credentials() {
    let config = format!(r#"authorization {{ token: "{SENTINEL}" }}"#);
    let server = Server::builder().config(&config).auth().start().await;
    let token = SecretString::from(SENTINEL);
    let options = NatsOptions::new().token(&token);
    assert!(!format!("{options:?}").contains(SENTINEL), "{options:?}");
    let store = Store::connect(server.url()).options(options).await.unwrap();
    store.ping().await.unwrap();
    let wrong = NatsOptions::new().token(SecretString::from("wrong"));
    let error = Store::connect(server.url()).options(wrong).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Unauthorized), "{error}");

    let config = format!(r#"authorization {{ user: app, password: "{SENTINEL}" }}"#);
    let server = Server::builder().config(&config).auth().start().await;
    let options = NatsOptions::new().user_and_password("app", token);
    Store::connect(server.url()).options(options).await.unwrap().ping().await.unwrap();
}
