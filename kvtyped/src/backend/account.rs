//! The usage and the limits of an account on a server.

/// The JetStream usage and limits of an account; see [`Store::account`](crate::Store::account).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct AccountUsage {
    /// The tier whose limits these are, such as `R3` for streams with three replicas. `None` for an account without
    /// tiers.
    pub tier: Option<String>,
    /// The JetStream domain of the servers.
    pub domain: Option<String>,
    /// Bytes in files.
    pub file: Usage,
    /// Bytes in memory.
    pub memory: Usage,
    /// The number of streams. Each bucket is a stream.
    pub streams: Usage,
    /// The number of consumers. Each watch and each list uses one while it runs.
    pub consumers: Usage,
}

/// An amount in use, and its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Usage {
    /// The amount in use. Bytes that streams with `max_bytes` reserve are in use.
    pub used: u64,
    /// The limit of the account. `None` if the account has no limit; the server may still have one.
    pub limit: Option<u64>,
}

impl Usage {
    /// Creates an amount in use with its limit. For backends.
    pub fn new(used: u64, limit: Option<u64>) -> Self {
        Self { used, limit }
    }
}
