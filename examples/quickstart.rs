//! The main features in one program: model, store, read, update, handle a conflict, list, read the history.
//!
//! `cargo run --example quickstart` needs no server. With `KVTYPED_URL=nats://127.0.0.1:4222`, the same program runs on
//! a real server. With `KVTYPED_URL=file:app.kv` and `--features kvtyped-examples/file`, it runs on a file.

use std::time::SystemTime;

use kvtyped::prelude::*;
use kvtyped::{Error, Version};

/// A session. The bucket keeps one revision of each, and a session expires half an hour after its last write.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "quickstart_sessions", key = "{tenant}.{id}", codec = MsgPack, history = 1, ttl = "30m")]
struct Session {
    tenant: String,
    id: u64,
    user: String,
    visits: u32,
}

/// The only configuration record. The bucket keeps its last ten revisions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "quickstart_config", key = "app", history = 10)]
struct AppConfig {
    greeting: String,
    max_sessions: u32,
}

impl Session {
    fn new(tenant: &str, id: u64, user: &str) -> Self {
        Self { tenant: tenant.into(), id, user: user.into(), visits: 1 }
    }
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let url = std::env::var("KVTYPED_URL").unwrap_or_else(|_| "memory:".into());
    let store = Store::connect(url).await?;
    for left_from_before in ["quickstart_sessions", "quickstart_config"] {
        store.delete_bucket(left_from_before).await?;
    }
    let sessions: Bucket<Session> = store.bucket().await?;
    let configs: Bucket<AppConfig> = store.bucket().await?;

    println!("Store and read");
    let revision = sessions.put(&Session::new("acme", 7, "ada")).await?;
    sessions.put(&Session::new("acme", 8, "grace")).await?;
    sessions.put(&Session::new("umbrella, inc.", 1, "alan")).await?; // any text is a legal segment
    let key = SessionKey::new("acme", 7);
    println!("  wrote {key} at revision {revision}");
    let entry = sessions.get(&key).await?.expect("it was just written");
    println!("  read {} of {}, visits: {}", entry.user, entry.tenant, entry.visits);

    println!("Update with a closure that is retried");
    let first = || Session::new("acme", 9, "linus");
    for id in [7, 7, 9] {
        let key = SessionKey::new("acme", id);
        let entry = sessions.modify(&key, |session| session.visits += 1).or_insert_with(first).await?;
        println!("  {key}: {} has visits: {} at revision {}", entry.user, entry.visits, entry.revision());
    }

    println!("Meet a conflict");
    let stale = Session { visits: 100, ..entry.value().clone() };
    match sessions.update(&stale, entry.revision()).await {
        Ok(revision) => println!("  written at revision {revision}, which nobody expected"),
        Err(error) if error.is_conflict() => println!("  {error}"),
        Err(error) => return Err(error),
    }

    println!("List by a typed filter");
    let mut acme = sessions.list(SessionKey::filter().tenant("acme")).await?;
    while let Some(session) = acme.try_next().await? {
        println!("  {} is {}, visits: {}", session.key(), session.user, session.visits);
    }
    println!("  stored keys of all tenants:");
    let mut keys = sessions.keys(..).await?;
    while let Some(key) = keys.try_next().await? {
        println!("    {key} is session {} of {:?}", key.id, key.tenant);
    }

    println!("Look back");
    configs.create(&AppConfig { greeting: "hello".into(), max_sessions: 100 }).await?;
    configs.modify(&AppConfigKey, |config| config.max_sessions = 250).await?;
    configs.delete(&AppConfigKey).await?;
    configs.put(&AppConfig { greeting: "welcome back".into(), max_sessions: 250 }).await?;
    for version in configs.history(&AppConfigKey).await? {
        match version {
            Version::Put(entry) => {
                let age = SystemTime::now().duration_since(entry.created()).unwrap_or_default();
                println!("  revision {}, {} ms ago: {:?}", entry.revision(), age.as_millis(), entry.value());
            }
            Version::Removed { revision, reason, .. } => println!("  revision {revision}: {reason:?}"),
            other => println!("  {other:?}"),
        }
    }

    sessions.destroy().await?;
    configs.destroy().await?;
    store.close().await
}
