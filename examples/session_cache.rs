//! A local copy of all sessions: read without the network, updated by a watch, looked up by user or by key.
//!
//! `cargo run --example session_cache`; with `KVTYPED_URL=nats://127.0.0.1:4222` on a real server.

use kvtyped::Error;
use kvtyped::prelude::*;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "session_cache", key = "{tenant}.{id}", codec = MsgPack, history = 1)]
struct Session {
    tenant: String,
    id: u64,
    user: String,
}

fn session(tenant: &str, id: u64, user: &str) -> Session {
    Session { tenant: tenant.into(), id, user: user.into() }
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let url = std::env::var("KVTYPED_URL").unwrap_or_else(|_| "memory:".into());
    let store = Store::connect(url).await?;
    store.delete_bucket("session_cache").await?;
    let sessions: Bucket<Session> = store.bucket().await?;
    sessions.put(&session("acme", 1, "ada")).await?;
    sessions.put(&session("acme", 2, "grace")).await?;

    // The cache contains all existing records once the future completes.
    let cache = sessions.cache(SessionKey::filter().tenant("acme")).await?;
    let by_user = cache.index_by(|session| session.user.clone());
    println!("sessions of acme: {}", cache.len());

    let mut changes = cache.changes();
    sessions.put(&session("acme", 3, "ada")).await?;
    sessions.put(&session("umbrella", 1, "alan")).await?; // not in the filter
    sessions.put(&session("acme", 2, "linus")).await?;
    let last = sessions.delete(&SessionKey::new("acme", 1)).await?;

    // A writer that must read its own write from the cache waits for its revision.
    cache.wait_for_revision(last).await?;
    for _ in 0..3 {
        if let Some(Ok(change)) = changes.next().await {
            let user = |entry: &Option<std::sync::Arc<Entry<Session>>>| entry.as_ref().map(|entry| entry.user.clone());
            println!("{}: {:?} -> {:?}", change.key, user(&change.old), user(&change.new));
        }
    }
    println!("sessions of ada: {:?}", by_user.get(&"ada".to_owned()).iter().map(|s| s.id).collect::<Vec<_>>());
    println!("acme.2 belongs to {}", cache.get(&SessionKey::new("acme", 2)).expect("it is cached").user);

    sessions.destroy().await?;
    store.close().await
}
