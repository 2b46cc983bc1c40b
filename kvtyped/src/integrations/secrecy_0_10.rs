//! Secret strings of `secrecy` 0.10 in records and in credentials.
//!
//! A [`SecretString`] shows no content in its `Debug` output and is erased on drop. It does not implement `Serialize`,
//! so that nothing stores it by accident. This module stores it on purpose, as plain text:
//!
//! ```
//! use kvtyped::prelude::*;
//! use secrecy::{ExposeSecret, SecretString};
//!
//! #[derive(Clone, Debug, Serialize, Deserialize, KvModel)]
//! #[kv(key = "{name}")]
//! struct Upstream {
//!     name: String,
//!     #[serde(with = "kvtyped::integrations::secrecy_0_10")]
//!     token: SecretString,
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), kvtyped::Error> {
//! # let upstreams: Bucket<Upstream> = Store::memory().bucket().await?;
//! let upstream = Upstream { name: "billing".into(), token: SecretString::from("s3cret") };
//! upstreams.put(&upstream).await?;
//!
//! let entry = upstreams.get(&upstream.key()).await?.expect("it was just written");
//! assert_eq!(entry.token.expose_secret(), "s3cret");
//! assert!(!format!("{entry:?}").contains("s3cret"));
//! # Ok(())
//! # }
//! ```
//!
//! The bucket contains the plain text: restrict who may read it. The copies of the bytes that are sent and received are
//! not erased.
//!
//! The credentials of [`NatsOptions`](kvtyped::connect::NatsOptions) can be secret strings too. The client needs the
//! plain text for each new connection, so that copy is not erased.
//!
//! ```
//! # #[cfg(feature = "nats")] {
//! use kvtyped::connect::NatsOptions;
//! use secrecy::SecretString;
//!
//! let token = SecretString::from("s3cr3t");
//! let options = NatsOptions::new().token(&token);
//! assert!(!format!("{options:?}").contains("s3cr3t"));
//! # }
//! ```

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serializer};

/// Serializes the secret as plain text. For `#[serde(with = "..")]`.
///
/// # Errors
///
/// Returns the errors of the serializer.
pub fn serialize<S: Serializer>(secret: &SecretString, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(secret.expose_secret())
}

/// Deserializes a secret from plain text. For `#[serde(with = "..")]`.
///
/// # Errors
///
/// Returns the errors of the deserializer.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SecretString, D::Error> {
    String::deserialize(deserializer).map(SecretString::from)
}

#[cfg(feature = "nats")]
impl From<SecretString> for kvtyped::connect::Secret {
    fn from(secret: SecretString) -> Self {
        Self::from(&secret)
    }
}

#[cfg(feature = "nats")]
impl From<&SecretString> for kvtyped::connect::Secret {
    fn from(secret: &SecretString) -> Self {
        Self::from(secret.expose_secret())
    }
}
