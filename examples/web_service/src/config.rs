//! Configuration in layers: defaults < file < bucket < environment. A change of the bucket applies without a restart.

use kvtyped::prelude::*;

/// The layer in the bucket. A missing field keeps the value of the layers below. The file has the same format.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "web_config", key = "overlay")]
#[serde(deny_unknown_fields)]
pub struct Overlay {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub greeting: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_items: Option<u32>,
}

/// The configuration of the service.
#[derive(Clone, Debug, Serialize)]
pub struct Config {
    pub greeting: String,
    /// The largest number of items of an order.
    pub max_items: u32,
}

impl Config {
    /// Merges the layers. A later layer wins.
    fn of(layers: [&Overlay; 3]) -> Result<Self, String> {
        let mut config = Self { greeting: "Hello".to_owned(), max_items: 10 };
        for Overlay { greeting, max_items } in layers {
            config.greeting = greeting.clone().unwrap_or(config.greeting);
            config.max_items = max_items.unwrap_or(config.max_items);
        }
        match config.max_items {
            1..=100 => Ok(config),
            other => Err(format!("`max_items` is {other}; it must be from 1 to 100")),
        }
    }
}

/// Reads the file that `WEB_CONFIG` names, if any.
fn file() -> Result<Overlay, Box<dyn std::error::Error>> {
    let Some(path) = std::env::var_os("WEB_CONFIG") else { return Ok(Overlay::default()) };
    Ok(serde_json::from_slice(&std::fs::read(path)?)?)
}

/// Reads the environment variables.
fn environment() -> Result<Overlay, Box<dyn std::error::Error>> {
    let max_items = std::env::var("WEB_MAX_ITEMS").ok().map(|items| items.parse()).transpose()?;
    Ok(Overlay { greeting: std::env::var("WEB_GREETING").ok(), max_items })
}

/// Follows the record in the bucket. If it makes the configuration invalid, the last configuration stays.
pub async fn open(overlays: &Bucket<Overlay>) -> Result<Live<Config>, Box<dyn std::error::Error>> {
    let (file, environment) = (file()?, environment()?);
    let layers = move |overlay: &Overlay| Config::of([&file, overlay, &environment]);
    Ok(overlays.live(&OverlayKey).or_default().derive(layers).await?)
}
