//! How to reach JetStream, and who one is.

use std::path::PathBuf;
use std::time::Duration;

use super::api;
use super::credentials::Credentials;
use super::file::File;
use super::tls::Tls;
use crate::error::{Error, Result};

/// How to reach JetStream, and who one is. Its `Debug` shows no secret.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NatsOptions {
    /// The JetStream domain, if it is not the server's own: `hub`.
    pub domain: Option<String>,
    /// The prefix of the JetStream API: `$JS.hub.API`. Wins over `domain`.
    pub prefix: Option<String>,
    /// The name of the connection, as the server's monitoring shows it; `kvtyped` by default.
    pub name: Option<String>,
    /// Under which subjects answers arrive; `_INBOX` by default. A server's permissions can keep users apart by it.
    pub inbox_prefix: Option<String>,
    /// How long connecting may take; 5 s by default.
    pub connect_timeout: Option<Duration>,
    /// Whether nothing is asked for that cannot be limited to some keys; see [`confined`](Self::confined).
    pub confined: bool,
    /// Whether to use servers that a server names before the encryption begins; see
    /// [`trust_discovered_servers`](Self::trust_discovered_servers).
    pub trust_discovered_servers: bool,
    pub(super) credentials: Option<Credentials>,
    pub(super) tls: Tls,
}

impl NatsOptions {
    /// The plain ones.
    pub fn new() -> Self {
        Self::default()
    }

    /// In this JetStream domain.
    #[must_use]
    pub fn domain(mut self, domain: impl Into<String>) -> Self {
        self.domain = Some(domain.into());
        self
    }

    /// By this prefix of the JetStream API.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = Some(prefix.into());
        self
    }

    /// Under this name of the connection.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// With answers under these subjects.
    #[must_use]
    pub fn inbox_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.inbox_prefix = Some(prefix.into());
        self
    }

    /// Giving up connecting after this time.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = Some(timeout);
        self
    }

    /// For a user who may read some keys of a bucket only: asks for nothing that a permission cannot limit to them.
    ///
    /// Many keys are then read one by one; a watch that was interrupted lists anew unless nothing was written meanwhile;
    /// reads of the leader and of a revision are refused as `PermissionDenied`; and a write whose acknowledgement is lost
    /// is `Unknown`, unless an answer still comes. Without it much of that comes to the same in the end, after a denial
    /// that the server logs. See [`permissions`](crate::permissions).
    #[must_use]
    pub fn confined(mut self, on: bool) -> Self {
        self.confined = on;
        self
    }

    /// Uses the servers of a cluster that the first server names, also if the connection must be encrypted.
    ///
    /// A server names the others before the encryption begins, so an attacker on the network can add a host to the list.
    /// The client would send its password there, if the attacker has a certificate for that host. So a connection that
    /// must be encrypted uses only the servers in the URL: name each of them there, or use [`tls_first`](Self::tls_first).
    /// With `tls_first`, and without encryption, discovered servers are always used. Off by default.
    ///
    /// A client with its own TLS configuration ([`Connect::client`](crate::Connect::client)) decides this itself, unless
    /// these options or the URL require encryption.
    #[must_use]
    pub fn trust_discovered_servers(mut self, on: bool) -> Self {
        self.trust_discovered_servers = on;
        self
    }

    /// Signing in with a user and a password.
    #[must_use]
    pub fn user_and_password(self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.sign_in(Credentials::UserAndPassword(user.into(), password.into()))
    }

    /// Signing in with a token.
    #[must_use]
    pub fn token(self, token: impl Into<String>) -> Self {
        self.sign_in(Credentials::Token(token.into()))
    }

    /// Signing in with an nkey, of which this is the seed (`SU..`). It needs the feature `nkeys`.
    #[must_use]
    pub fn nkey(self, seed: impl Into<String>) -> Self {
        self.sign_in(Credentials::Nkey(seed.into()))
    }

    /// As [`nkey`](Self::nkey), with the seed in a file, which is read for every connection. It needs the feature `nkeys`.
    #[must_use]
    pub fn nkey_file(self, path: impl Into<PathBuf>) -> Self {
        self.sign_in(Credentials::NkeyFile(File::at(path)))
    }

    /// Signing in with the text of a credentials file: a JSON Web Token and the seed of its key. It needs the feature `nkeys`.
    #[must_use]
    pub fn credentials(self, text: impl Into<String>) -> Self {
        self.sign_in(Credentials::Jwt(text.into()))
    }

    /// Signing in with a credentials file (`.creds`). It is read for every connection, so one that was replaced counts from
    /// the next one on. It needs the feature `nkeys`.
    #[must_use]
    pub fn credentials_file(self, path: impl Into<PathBuf>) -> Self {
        self.sign_in(Credentials::JwtFile(File::at(path)))
    }

    /// Trusting the authorities whose certificates (PEM) are in this file, in place of the system's. The connection is
    /// encrypted, or not made.
    #[must_use]
    pub fn root_certificates(mut self, path: impl Into<PathBuf>) -> Self {
        self.tls.authorities = Some(File::at(path));
        self
    }

    /// Showing the server this certificate, of which this is the key (both PEM). The connection is encrypted, or not made.
    #[must_use]
    pub fn client_certificate(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.tls.client = Some((File::at(certificate), File::at(key)));
        self
    }

    /// Whether the connection is encrypted, or not made; `tls://` says the same.
    #[must_use]
    pub fn require_tls(mut self, on: bool) -> Self {
        self.tls.required = on;
        self
    }

    /// Encrypting before the server says anything, for servers with `handshake_first`.
    #[must_use]
    pub fn tls_first(mut self) -> Self {
        self.tls.first = true;
        self
    }

    fn sign_in(mut self, credentials: Credentials) -> Self {
        self.credentials = Some(credentials);
        self
    }

    /// The prefix of the JetStream API, without a dot at its end.
    pub(super) fn api_prefix(&self) -> Result<String> {
        let by_domain = || self.domain.as_ref().map(|domain| format!("$JS.{domain}.API"));
        let prefix = self.prefix.clone().or_else(by_domain).unwrap_or_else(|| api::DEFAULT_PREFIX.into());
        let prefix = prefix.strip_suffix('.').unwrap_or(&prefix);
        if is_subject(prefix) {
            return Ok(prefix.to_owned());
        }
        Err(Error::invalid_config(format!("`{prefix}` is no prefix of a JetStream API, as `$JS.hub.API` is")))
    }

    /// The prefix under which answers arrive, if one is wanted.
    pub(super) fn inbox(&self) -> Result<Option<&str>> {
        match self.inbox_prefix.as_deref() {
            Some(inbox) if inbox.starts_with('$') || !is_subject(inbox) => Err(Error::invalid_config(
                "the prefix of the inbox is no subject of one's own without wildcards, as `_INBOX_app` is",
            )),
            inbox => Ok(inbox),
        }
    }
}

/// Whether it is a subject that names one place: what goes into the protocol unchecked must not end a line there.
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
    fn an_inbox_is_a_subject_and_nothing_else() {
        for wrong in ["x 1\r\nPUB pwn 5\r\nhello", "a b", ">", "a.*", "a..b", "", "$KV.sessions"] {
            let error = NatsOptions::new().inbox_prefix(wrong).inbox().unwrap_err();
            assert!(matches!(error.kind(), crate::error::ErrorKind::InvalidConfig { .. }), "{wrong:?}: {error}");
        }
        assert_eq!(NatsOptions::new().inbox_prefix("_INBOX_app.7").inbox().unwrap(), Some("_INBOX_app.7"));
        assert_eq!(NatsOptions::new().inbox().unwrap(), None);
    }

    #[test]
    fn a_prefix_is_made_of_the_domain() {
        assert_eq!(NatsOptions::new().api_prefix().unwrap(), "$JS.API");
        assert_eq!(NatsOptions::new().domain("hub").api_prefix().unwrap(), "$JS.hub.API");
        assert_eq!(NatsOptions::new().domain("hub").prefix("acc.JS.").api_prefix().unwrap(), "acc.JS");
        assert!(NatsOptions::new().domain("a b").api_prefix().is_err());
        assert!(NatsOptions::new().prefix("a.>").api_prefix().is_err());
    }
}
