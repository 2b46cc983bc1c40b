//! The record that the benchmarks store. The comparison with other servers stores it, too.

use kvtyped::prelude::*;

/// A record of about 200 bytes as JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "sessions", key = "{tenant}.{id}", history = 1)]
pub(crate) struct Session {
    pub(crate) tenant: String,
    pub(crate) id: u64,
    pub(crate) user: String,
    pub(crate) visits: u64,
    pub(crate) roles: Vec<String>,
    pub(crate) note: String,
}

impl Session {
    pub(crate) fn new(tenant: impl Into<String>, id: u64) -> Self {
        Self {
            tenant: tenant.into(),
            id,
            user: format!("user-{id:08}@example.com"),
            visits: 1,
            roles: vec!["reader".into(), "writer".into()],
            note: "n".repeat(72),
        }
    }

    /// Returns the same record with about 2,000 bytes.
    pub(crate) fn long(mut self) -> Self {
        self.note = "n".repeat(1_872);
        self
    }

    /// Returns the key, formatted by hand.
    pub(crate) fn by_hand(&self) -> String {
        format!("{}.{}", self.tenant, self.id)
    }

    /// Encodes the record by hand.
    pub(crate) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("it encodes")
    }

    /// Decodes a record by hand.
    pub(crate) fn decode(bytes: &[u8]) -> Self {
        serde_json::from_slice(bytes).expect("it decodes")
    }
}
