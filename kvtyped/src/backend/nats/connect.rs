//! A URL and options, and the connection that they make.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{ConnectErrorKind, ConnectOptions, Event, ServerAddr, ServerError};

use super::convert;
use super::wire::{Violations, Wire};
use crate::error::{Error, Result};

/// How to reach JetStream.
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

    /// The prefix of the JetStream API, without a dot at its end.
    pub(super) fn api_prefix(&self) -> Result<String> {
        let by_domain = || self.domain.as_ref().map(|domain| format!("$JS.{domain}.API"));
        let prefix = self.prefix.clone().or_else(by_domain).unwrap_or_else(|| super::api::DEFAULT_PREFIX.into());
        let prefix = prefix.strip_suffix('.').unwrap_or(&prefix);
        let legal = |token: &str| {
            !token.is_empty() && !token.contains(|c: char| c.is_whitespace() || c.is_control() || "*>".contains(c))
        };
        if prefix.split('.').all(legal) {
            return Ok(prefix.to_owned());
        }
        Err(Error::invalid_config(format!("`{prefix}` is no prefix of a JetStream API, as `$JS.hub.API` is")))
    }
}

/// How often the server is asked whether it lives: it is given up after three times that.
const PING_INTERVAL: Duration = Duration::from_secs(2);

/// The longest pause between two attempts to connect again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);

/// How long one server may take to let us in before the next one is tried: a server that hangs takes connections, and
/// is silent.
const SERVER_PATIENCE: Duration = Duration::from_secs(2);

/// Connects, and tells the prefix of the API.
pub(super) async fn connect(url: &str, mut options: NatsOptions, connect: ConnectOptions) -> Result<(Wire, String)> {
    let target = Target::parse(url)?;
    if target.domain.is_some() || target.prefix.is_some() {
        (options.domain, options.prefix) = (target.domain, target.prefix);
    }
    let prefix = options.api_prefix()?;
    let timeout = options.connect_timeout.unwrap_or(Duration::from_secs(5));
    let violations = Arc::new(Violations::default());
    let reported = Arc::clone(&violations);
    let mut connect = connect
        .name(options.name.as_deref().unwrap_or("kvtyped"))
        .connection_timeout(timeout.min(SERVER_PATIENCE))
        .ping_interval(PING_INTERVAL)
        .reconnect_delay_callback(|attempts| match attempts {
            0 | 1 => Duration::ZERO,
            attempts => RECONNECT_PAUSE.min(Duration::from_millis(25) * u32::try_from(attempts).unwrap_or(u32::MAX)),
        })
        .event_callback(move |event| {
            match event {
                Event::ServerError(ServerError::Other(text)) => reported.report(&text),
                Event::Disconnected => reported.forget(),
                _ => {}
            }
            std::future::ready(())
        });
    if let Some(inbox) = options.inbox_prefix {
        connect = connect.custom_inbox_prefix(inbox);
    }
    connect = match target.user {
        Some((user, Some(password))) => connect.user_and_password(user, password),
        Some((token, None)) => connect.token(token),
        None => connect,
    };
    let connecting = async {
        loop {
            match connect.clone().connect(target.servers.as_slice()).await {
                Err(error) if error.kind() == ConnectErrorKind::TimedOut => {}
                connected => return connected.map_err(|error| convert::of_connect(error, &target.servers)),
            }
        }
    };
    let client = tokio::time::timeout(timeout, connecting).await.map_err(|_| Error::timeout(timeout))??;
    Ok((Wire::new(client, Some(violations)), prefix))
}

/// What a URL says.
pub(super) struct Target {
    /// Without a user: the client shows addresses when it is traced.
    pub(super) servers: Vec<ServerAddr>,
    /// A user and a password, or a token.
    user: Option<(String, Option<String>)>,
    domain: Option<String>,
    prefix: Option<String>,
}

impl Target {
    pub(super) fn parse(url: &str) -> Result<Self> {
        let (addresses, query) = url.split_once('?').unwrap_or((url, ""));
        let mut target = Self { servers: Vec::new(), user: None, domain: None, prefix: None };
        for address in addresses.split(',').map(str::trim).filter(|address| !address.is_empty()) {
            let (scheme, rest) = address.split_once("://").unwrap_or(("nats", address));
            if !matches!(scheme, "nats" | "tls") {
                return Err(wrong("a server's scheme is neither `nats` nor `tls`"));
            }
            let (user, host) = match rest.rsplit_once('@') {
                Some((user, host)) => (Some(user), host),
                None => (None, rest),
            };
            if let Some(user) = user {
                let user = match user.split_once(':') {
                    Some((user, password)) => (percent_decode(user)?, Some(percent_decode(password)?)),
                    None => (percent_decode(user)?, None),
                };
                if target.user.as_ref().is_some_and(|other| *other != user) {
                    return Err(wrong("its servers have different users, and a connection has one"));
                }
                target.user = Some(user);
            }
            let host = host.trim_end_matches('/');
            if host.contains('/') {
                return Err(wrong("a server has no path"));
            }
            if host.is_empty() {
                return Err(wrong("a server has no address"));
            }
            let server = format!("{scheme}://{host}").parse();
            target.servers.push(server.map_err(|_| wrong("a server's address is not `host:port`"))?);
        }
        if target.servers.is_empty() {
            return Err(wrong("it names no server"));
        }
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            match parameter.split_once('=') {
                Some(("domain", domain)) => target.domain = Some(percent_decode(domain)?),
                Some(("prefix", prefix)) => target.prefix = Some(percent_decode(prefix)?),
                _ => return Err(wrong("it has a parameter that is neither `domain` nor `prefix`")),
            }
        }
        Ok(target)
    }
}

/// An error that quotes nothing, since the URL may hold a password.
fn wrong(what: &str) -> Error {
    Error::invalid_config(format!("the URL of the server: {what}"))
}

fn percent_decode(text: &str) -> Result<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
        match (digit(), digit()) {
            (Some(high), Some(low)) => bytes.extend(u8::try_from(high * 16 + low)),
            _ => return Err(wrong("a `%` is not followed by two hexadecimal digits")),
        }
    }
    String::from_utf8(bytes).map_err(|_| wrong("a percent-encoded part is not UTF-8"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_url_names_servers_a_user_and_a_domain() {
        let target = Target::parse("nats://me:p%40ss@a:4222,tls://b?domain=hub").unwrap();
        let servers: Vec<_> = target.servers.iter().map(ServerAddr::as_url_str).collect();
        assert_eq!(servers, ["nats://a:4222", "tls://b"]);
        assert_eq!(target.user, Some(("me".into(), Some("p@ss".into()))));
        assert_eq!(target.domain.as_deref(), Some("hub"));
        assert_eq!(Target::parse("nats://s3cr3t@[::1]:4222").unwrap().user, Some(("s3cr3t".into(), None)));
    }

    #[test]
    fn a_wrong_url_is_refused_without_being_quoted() {
        for url in ["", "http://u:s3cr3t@a", "nats://u:s3cr3t@a b", "nats://u:s3cr3t%@a", "nats://u:s3cr3t@a?x=1"] {
            let error = Target::parse(url).err().unwrap();
            assert!(!format!("{error:?}").contains("s3cr3t"), "{error}");
        }
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
