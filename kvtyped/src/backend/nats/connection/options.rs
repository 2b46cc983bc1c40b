//! Options for the connection to JetStream.

use std::path::PathBuf;
use std::time::Duration;

use super::credentials::{Credentials, Secret};
use super::secret_file::SecretFile;
use super::tls::Tls;
use crate::error::{Error, Result};

/// The API prefix of the connected account and server.
pub(crate) const DEFAULT_PREFIX: &str = "$JS.API";

/// Options for the connection to JetStream. Their `Debug` shows no secret.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NatsOptions {
    /// The JetStream domain, such as `hub`, if it is not the domain of the server.
    pub domain: Option<String>,
    /// The prefix of the JetStream API, such as `$JS.hub.API`. Takes precedence over `domain`.
    pub prefix: Option<String>,
    /// The name of the connection in the server's monitoring. The default is `kvtyped`.
    pub name: Option<String>,
    /// The subject prefix of replies. The default is `_INBOX`. Permissions on the server can separate users by this
    /// prefix.
    pub inbox_prefix: Option<String>,
    /// The time limit for connecting. The default is 5 s.
    pub connect_timeout: Option<Duration>,
    /// Whether to avoid requests that permissions cannot limit to some keys; see [`restricted`](Self::restricted).
    pub restricted: bool,
    /// Whether to use servers that a server names before the encryption begins; see
    /// [`trust_discovered_servers`](Self::trust_discovered_servers).
    pub trust_discovered_servers: bool,
    pub(crate) credentials: Option<Credentials>,
    pub(crate) tls: Tls,
}

impl NatsOptions {
    /// Creates the default options.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the JetStream domain.
    #[must_use]
    pub fn domain(mut self, domain: impl Into<String>) -> Self {
        self.domain = Some(domain.into());
        self
    }

    /// Sets the prefix of the JetStream API.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = Some(prefix.into());
        self
    }

    /// Sets the name of the connection.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Sets the subject prefix of replies.
    #[must_use]
    pub fn inbox_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.inbox_prefix = Some(prefix.into());
        self
    }

    /// Sets the time limit for connecting.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = Some(timeout);
        self
    }

    /// Reads records only with requests that permissions can limit to certain keys. Use it for users who may read only
    /// some keys of a bucket.
    ///
    /// Many keys are then read one by one. An interrupted watch lists all records again, unless nothing was written
    /// since. Reads from the leader and reads of a revision return `PermissionDenied`. A write whose acknowledgement is
    /// lost is `Unknown`, unless the acknowledgement still arrives. Without this option, most of these operations have
    /// the same result in the end, after a denial that the server logs. See [`permissions`](crate::permissions).
    #[must_use]
    pub fn restricted(mut self, on: bool) -> Self {
        self.restricted = on;
        self
    }

    /// Uses the servers of a cluster that the first server names, even if the connection must be encrypted.
    ///
    /// A server names the others before the encryption begins, so an attacker on the network can add a host to the list.
    /// The client would send its password there, if the attacker has a certificate for that host. So a connection that
    /// must be encrypted uses only the servers in the URL: name each of them there, or use [`tls_first`](Self::tls_first).
    /// With `tls_first`, and without encryption, discovered servers are always used. Off by default.
    ///
    /// A client with its own TLS configuration ([`Connect::client`](crate::connect::Connect::client)) decides this itself, unless
    /// these options or the URL require encryption.
    #[must_use]
    pub fn trust_discovered_servers(mut self, on: bool) -> Self {
        self.trust_discovered_servers = on;
        self
    }

    /// Authenticates with a user and a password.
    #[must_use]
    pub fn user_and_password(self, user: impl Into<String>, password: impl Into<Secret>) -> Self {
        self.authenticate(Credentials::UserAndPassword(user.into(), password.into()))
    }

    /// Authenticates with a token.
    #[must_use]
    pub fn token(self, token: impl Into<Secret>) -> Self {
        self.authenticate(Credentials::Token(token.into()))
    }

    /// Authenticates with the seed of an nkey (`SU..`). Requires the feature `nkeys`.
    #[must_use]
    pub fn nkey(self, seed: impl Into<Secret>) -> Self {
        self.authenticate(Credentials::Nkey(seed.into()))
    }

    /// Authenticates with the seed of an nkey in a file, which is read for every connection. Requires the feature
    /// `nkeys`.
    #[must_use]
    pub fn nkey_file(self, path: impl Into<PathBuf>) -> Self {
        self.authenticate(Credentials::NkeyFile(SecretFile::new(path)))
    }

    /// Authenticates with the text of a credentials file: a JSON Web Token and the seed of its key. Requires the
    /// feature `nkeys`.
    #[must_use]
    pub fn credentials(self, text: impl Into<Secret>) -> Self {
        self.authenticate(Credentials::Jwt(text.into()))
    }

    /// Authenticates with a credentials file (`.creds`). The file is read for every connection, so a replaced file
    /// takes effect at the next connection. Requires the feature `nkeys`.
    #[must_use]
    pub fn credentials_file(self, path: impl Into<PathBuf>) -> Self {
        self.authenticate(Credentials::JwtFile(SecretFile::new(path)))
    }

    /// Trusts the CA certificates (PEM) in this file instead of the system's. Requires an encrypted connection.
    #[must_use]
    pub fn root_certificates(mut self, path: impl Into<PathBuf>) -> Self {
        self.tls.root_certificates = Some(SecretFile::new(path));
        self
    }

    /// Presents this client certificate with its key (both PEM) to the server. Requires an encrypted connection.
    #[must_use]
    pub fn client_certificate(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.tls.client = Some((SecretFile::new(certificate), SecretFile::new(key)));
        self
    }

    /// Sets whether the connection must be encrypted, as `tls://` in the URL does.
    #[must_use]
    pub fn require_tls(mut self, on: bool) -> Self {
        self.tls.required = on;
        self
    }

    /// Starts TLS before the server sends its first message, for servers with `handshake_first`. Requires an encrypted
    /// connection.
    #[must_use]
    pub fn tls_first(mut self) -> Self {
        self.tls.first = true;
        self
    }

    fn authenticate(mut self, credentials: Credentials) -> Self {
        self.credentials = Some(credentials);
        self
    }

    /// Returns the prefix of the JetStream API, without a trailing dot.
    pub(crate) fn api_prefix(&self) -> Result<String> {
        let by_domain = || self.domain.as_ref().map(|domain| format!("$JS.{domain}.API"));
        let prefix = self.prefix.clone().or_else(by_domain).unwrap_or_else(|| DEFAULT_PREFIX.into());
        let prefix = prefix.strip_suffix('.').unwrap_or(&prefix);
        if is_subject(prefix) {
            return Ok(prefix.to_owned());
        }
        Err(Error::invalid_config(format!("`{prefix}` is not a JetStream API prefix such as `$JS.hub.API`")))
    }

    /// Returns the subject prefix of replies, if one is set.
    pub(crate) fn inbox(&self) -> Result<Option<&str>> {
        match self.inbox_prefix.as_deref() {
            Some(inbox) if inbox.starts_with('$') || !is_subject(inbox) => Err(Error::invalid_config(
                "the inbox prefix must be a subject without wildcards and without a leading `$`, such as `_INBOX_app`",
            )),
            inbox => Ok(inbox),
        }
    }
}

/// Returns whether the text is a subject without wildcards. The text becomes part of the protocol unchecked, so it must
/// not contain the end of a line.
fn is_subject(text: &str) -> bool {
    let legal = |token: &str| {
        !token.is_empty() && !token.contains(|c: char| c.is_whitespace() || c.is_control() || "*>".contains(c))
    };
    text.split('.').all(legal)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn inbox_prefix_must_be_a_valid_subject() {
        for wrong in ["x 1\r\nPUB pwn 5\r\nhello", "a b", ">", "a.*", "a..b", "", "$KV.sessions"] {
            let error = NatsOptions::new().inbox_prefix(wrong).inbox().unwrap_err();
            assert!(matches!(error.kind(), crate::error::ErrorKind::InvalidConfig { .. }), "{wrong:?}: {error}");
        }
        assert_eq!(NatsOptions::new().inbox_prefix("_INBOX_app.7").inbox().unwrap(), Some("_INBOX_app.7"));
        assert_eq!(NatsOptions::new().inbox().unwrap(), None);
    }

    #[test]
    fn api_prefix_derives_from_domain() {
        assert_eq!(NatsOptions::new().api_prefix().unwrap(), "$JS.API");
        assert_eq!(NatsOptions::new().domain("hub").api_prefix().unwrap(), "$JS.hub.API");
        assert_eq!(NatsOptions::new().domain("hub").prefix("acc.JS.").api_prefix().unwrap(), "acc.JS");
        assert!(NatsOptions::new().domain("a b").api_prefix().is_err());
        assert!(NatsOptions::new().prefix("a.>").api_prefix().is_err());
    }
}
