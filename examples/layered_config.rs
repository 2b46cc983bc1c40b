//! Configuration in layers: defaults < bucket < environment. A change of the bucket applies without a restart.
//!
//! `cargo run --example layered_config`; `APP_WORKERS=3` overrides one field. A library such as `figment` merges the
//! layers in the same place.

use kvtyped::Error;
use kvtyped::prelude::*;

/// The layer in the bucket. A missing field keeps the value of the layers below.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "layered_config", key = "overlay")]
struct Overlay {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    greeting: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    workers: Option<u32>,
}

/// The merged configuration.
#[derive(Clone, Debug, PartialEq)]
struct AppConfig {
    greeting: String,
    workers: u32,
}

impl AppConfig {
    fn merge(overlay: &Overlay) -> Result<Self, String> {
        let Overlay { greeting, workers } = overlay.clone();
        let workers = match std::env::var("APP_WORKERS") {
            Ok(workers) => workers.parse().map_err(|_| "`APP_WORKERS` is not a number".to_owned())?,
            Err(_) => workers.unwrap_or(1),
        };
        match workers {
            1..=64 => Ok(Self { greeting: greeting.unwrap_or_else(|| "hello".to_owned()), workers }),
            _ => Err(format!("{workers} workers: 1 to 64 are allowed")),
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let url = std::env::var("KVTYPED_URL").unwrap_or_else(|_| "memory:".into());
    let store = Store::connect(url).await?;
    store.delete_bucket("layered_config").await?;
    let overlays: Bucket<Overlay> = store.bucket().await?;
    let config: Live<AppConfig> = overlays.live(&OverlayKey).or_default().derive(AppConfig::merge).await?;
    println!("without a record: {:?}", config.load());

    overlays.put(&Overlay { greeting: Some("welcome".into()), workers: None }).await?;
    println!("one field:        {:?}", config.changed().await?);

    let mut errors = config.errors();
    overlays.put(&Overlay { greeting: Some("oops".into()), workers: Some(1_000) }).await?;
    if std::env::var_os("APP_WORKERS").is_none() {
        let refused = errors.wait_for(Option::is_some).await.expect("the live value is there").clone();
        println!("refused:          {}", refused.map(|error| error.to_string()).unwrap_or_default());
        println!("still in use:     {:?}", config.load());
    }

    overlays.destroy().await?;
    store.close().await
}
