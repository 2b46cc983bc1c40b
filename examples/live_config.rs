//! Configuration that reloads itself: an invalid value is refused, and the last valid one stays.
//!
//! `cargo run --example live_config`; with `KVTYPED_URL=nats://127.0.0.1:4222` on a real server, where the program also
//! sees the changes of other clients (`nats kv put live_config app '{"greeting":"hi","workers":8}'`).

use kvtyped::Error;
use kvtyped::prelude::*;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "live_config", key = "app")]
struct AppConfig {
    greeting: String,
    workers: u32,
}

impl Default for AppConfig {
    fn default() -> Self {
        Self { greeting: "hello".into(), workers: 1 }
    }
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let url = std::env::var("KVTYPED_URL").unwrap_or_else(|_| "memory:".into());
    let store = Store::connect(url).await?;
    store.delete_bucket("live_config").await?;
    let configs: Bucket<AppConfig> = store.bucket().await?;

    let check = |config: &AppConfig| match config.workers {
        1..=64 => Ok(()),
        workers => Err(format!("{workers} workers: 1 to 64 are allowed")),
    };
    let config = configs.live(&AppConfigKey).or_default().validate(check).await?;
    println!("nothing is stored: {:?}", config.load());

    // The program reads the value, and another writer changes it.
    configs.put(&AppConfig { greeting: "welcome".into(), workers: 8 }).await?;
    println!("a change arrives:  {:?}", config.changed().await?);

    let mut values = config.subscribe();
    configs.put(&AppConfig { greeting: "oops".into(), workers: 1_000 }).await?;
    configs.put(&AppConfig { greeting: "welcome back".into(), workers: 16 }).await?;
    values.wait_for(|config| config.workers == 16).await.expect("the live value is there");
    println!("a bad one did not: {:?}", config.load());

    configs.put(&AppConfig { greeting: "oops".into(), workers: 0 }).await?;
    let refused = loop {
        match config.last_error() {
            Some(error) => break error,
            None => tokio::task::yield_now().await,
        }
    };
    println!("and says why:      {refused}");
    println!("still in use:      {:?}", config.load());

    configs.destroy().await?;
    store.close().await
}
