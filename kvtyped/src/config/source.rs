//! The origins and destinations of a bucket's data.

/// Another bucket, as the origin of a mirror or as one of several sources.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Source {
    /// The name of the other bucket, without the `KV_` of its stream. A bucket whose own name begins with `KV_` cannot
    /// be a source. The bucket need not exist yet.
    pub bucket: String,
    /// The JetStream domain of the bucket, if it is in another domain.
    pub domain: Option<String>,
    /// The API prefix of the bucket, if it is in another account: `$JS.hub.API`. Takes precedence over `domain`.
    pub api_prefix: Option<String>,
    /// The prefix for deliveries across accounts.
    pub deliver_prefix: Option<String>,
    /// A filter on encoded keys, such as `eu.>`. Default: all keys.
    pub keys: Option<String>,
    /// The revision to start with. Default: the first.
    pub start_revision: Option<u64>,
}

impl Source {
    /// Creates a source with all keys of the bucket of this name, in the same account and domain.
    pub fn new(bucket: impl Into<String>) -> Self {
        Self { bucket: bucket.into(), ..Self::default() }
    }

    /// Sets the JetStream domain.
    #[must_use]
    pub fn domain(mut self, domain: impl Into<String>) -> Self {
        self.domain = Some(domain.into());
        self
    }

    /// Sets the API prefix.
    #[must_use]
    pub fn api_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.api_prefix = Some(prefix.into());
        self
    }

    /// Sets the prefix for deliveries across accounts.
    #[must_use]
    pub fn deliver_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.deliver_prefix = Some(prefix.into());
        self
    }

    /// Copies only the keys that match this filter on encoded keys: `eu.>`.
    #[must_use]
    pub fn keys(mut self, filter: impl Into<String>) -> Self {
        self.keys = Some(filter.into());
        self
    }

    /// Starts with this revision.
    #[must_use]
    pub fn start_revision(mut self, revision: u64) -> Self {
        self.start_revision = Some(revision);
        self
    }

    /// Returns the API prefix of the other account or domain, if the bucket is in one.
    pub fn external_api(&self) -> Option<String> {
        let by_domain = || self.domain.as_ref().map(|domain| format!("$JS.{domain}.API"));
        self.api_prefix.clone().or_else(by_domain)
    }
}

/// The servers of a cluster that may store a bucket.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Placement {
    /// The servers of this cluster.
    pub cluster: Option<String>,
    /// The servers that have all these tags.
    pub tags: Vec<String>,
}

impl Placement {
    /// Selects the servers of this cluster.
    pub fn cluster(cluster: impl Into<String>) -> Self {
        Self { cluster: Some(cluster.into()), tags: Vec::new() }
    }

    /// Selects the servers that have all these tags.
    pub fn tags<S: Into<String>>(tags: impl IntoIterator<Item = S>) -> Self {
        Self { cluster: None, tags: tags.into_iter().map(Into::into).collect() }
    }
}

/// Publishes each write to another subject, for subscribers that are not KV clients.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Republish {
    /// The subjects of the bucket: `$KV.sessions.>`.
    pub source: String,
    /// The destination subject: `changes.>`.
    pub destination: String,
    /// Whether to omit the value.
    pub headers_only: bool,
}

impl Republish {
    /// Publishes the writes to `source` under `destination`.
    pub fn new(source: impl Into<String>, destination: impl Into<String>) -> Self {
        Self { source: source.into(), destination: destination.into(), headers_only: false }
    }

    /// Omits the values.
    #[must_use]
    pub fn headers_only(mut self) -> Self {
        self.headers_only = true;
        self
    }
}
