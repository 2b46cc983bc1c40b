//! Where a bucket's data comes from, and where it goes.

/// Another bucket, as a mirror's origin or as one of several sources.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Source {
    /// The name of the other bucket, without the `KV_` of its stream. A bucket whose own name begins with `KV_` cannot
    /// be a source. The bucket need not exist yet.
    pub bucket: String,
    /// The JetStream domain in which it is, if it is another one.
    pub domain: Option<String>,
    /// The API prefix by which it is reached, if it is in another account: `$JS.hub.API`. Wins over `domain`.
    pub api_prefix: Option<String>,
    /// The prefix for deliveries across accounts.
    pub deliver_prefix: Option<String>,
    /// Which of its keys, as a filter on encoded keys: `eu.>`; all by default.
    pub keys: Option<String>,
    /// The revision to begin with; the first by default.
    pub start_revision: Option<u64>,
}

impl Source {
    /// All keys of the bucket of this name, in the same account and domain.
    pub fn new(bucket: impl Into<String>) -> Self {
        Self { bucket: bucket.into(), ..Self::default() }
    }

    /// In this JetStream domain.
    #[must_use]
    pub fn domain(mut self, domain: impl Into<String>) -> Self {
        self.domain = Some(domain.into());
        self
    }

    /// Reached by this API prefix.
    #[must_use]
    pub fn api_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.api_prefix = Some(prefix.into());
        self
    }

    /// With deliveries across accounts under this prefix.
    #[must_use]
    pub fn deliver_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.deliver_prefix = Some(prefix.into());
        self
    }

    /// Only the keys that match this filter on encoded keys: `eu.>`.
    #[must_use]
    pub fn keys(mut self, filter: impl Into<String>) -> Self {
        self.keys = Some(filter.into());
        self
    }

    /// From this revision on.
    #[must_use]
    pub fn start_revision(mut self, revision: u64) -> Self {
        self.start_revision = Some(revision);
        self
    }

    /// The prefix of the API of the account and domain in which it is, if that is another one.
    pub fn external_api(&self) -> Option<String> {
        let by_domain = || self.domain.as_ref().map(|domain| format!("$JS.{domain}.API"));
        self.api_prefix.clone().or_else(by_domain)
    }
}

/// Which servers of a cluster may store a bucket.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Placement {
    /// Those of this cluster.
    pub cluster: Option<String>,
    /// Those that have all these tags.
    pub tags: Vec<String>,
}

impl Placement {
    /// In the cluster of this name.
    pub fn cluster(cluster: impl Into<String>) -> Self {
        Self { cluster: Some(cluster.into()), tags: Vec::new() }
    }

    /// On servers that have all these tags.
    pub fn tags<S: Into<String>>(tags: impl IntoIterator<Item = S>) -> Self {
        Self { cluster: None, tags: tags.into_iter().map(Into::into).collect() }
    }
}

/// Where each write is published again, for subscribers that are no KV clients.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Republish {
    /// Which subjects of the bucket: `$KV.sessions.>`.
    pub source: String,
    /// Under which subject: `changes.>`.
    pub destination: String,
    /// Whether the value is left out.
    pub headers_only: bool,
}

impl Republish {
    /// What is written to `source` is published to `destination`.
    pub fn new(source: impl Into<String>, destination: impl Into<String>) -> Self {
        Self { source: source.into(), destination: destination.into(), headers_only: false }
    }

    /// Without the values.
    #[must_use]
    pub fn headers_only(mut self) -> Self {
        self.headers_only = true;
        self
    }
}
