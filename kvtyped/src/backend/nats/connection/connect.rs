//! Creation of clients from a URL and options.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, ClientError, ConnectError, ConnectErrorKind, ConnectOptions, Event, ServerAddr, ServerError};
use tokio::sync::Notify;

use super::options::NatsOptions;
use super::tls::{self, Tls};
use super::url::ServerUrl;
use super::violations::PermissionViolations;
use crate::error::{Error, ErrorKind, Result};

/// The interval of pings to the server. A connection is given up after three intervals without a reply.
const PING_INTERVAL: Duration = Duration::from_secs(2);

/// The longest pause between two attempts to reconnect.
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);

/// The time limit of the handshake with one server before the client tries the next one. A hung server accepts
/// connections and stays silent.
const SERVER_TIMEOUT: Duration = Duration::from_secs(2);

/// Connects clients by a URL and options. It has no `Debug`, because it holds secrets.
pub(crate) struct Connector {
    servers: Vec<ServerAddr>,
    options: NatsOptions,
    client: Option<ConnectOptions>,
    violations: Arc<PermissionViolations>,
    /// Notified when a client has connected or lost its connection.
    events: Arc<Notify>,
}

impl Connector {
    /// # Errors
    ///
    /// Returns `InvalidConfig` if the URL or an option is invalid.
    pub(crate) fn new(url: &str, options: NatsOptions, client: Option<ConnectOptions>) -> Result<Self> {
        let url = ServerUrl::parse(url)?;
        let servers = url.servers.clone();
        let options = url.merge_options(options);
        options.inbox()?;
        Ok(Self { servers, options, client, violations: Arc::default(), events: Arc::default() })
    }

    /// Returns the prefix of the JetStream API.
    pub(crate) fn api_prefix(&self) -> Result<String> {
        self.options.api_prefix()
    }

    /// Returns the name that the program gave the connection.
    pub(crate) fn connection_name(&self) -> Option<String> {
        self.options.name.clone()
    }

    pub(crate) fn is_restricted(&self) -> bool {
        self.options.restricted
    }

    /// Returns the time limit for connecting.
    pub(crate) fn timeout(&self) -> Duration {
        self.options.connect_timeout.unwrap_or(Duration::from_secs(5))
    }

    /// Returns the denials that the servers of all connections reported.
    pub(crate) fn violations(&self) -> &Arc<PermissionViolations> {
        &self.violations
    }

    /// Returns the notification of events of all connections.
    pub(crate) fn events(&self) -> &Arc<Notify> {
        &self.events
    }

    /// Returns the host and the port of the URL, unless it names several servers.
    pub(crate) fn target(&self) -> Option<(String, u16)> {
        match self.servers.as_slice() {
            [server] => Some((server.host().to_owned(), server.port())),
            _ => None,
        }
    }

    /// Connects a new client, within `limit` and the [`timeout`](Self::timeout).
    pub(crate) async fn connect(&self, limit: Duration) -> Result<Client> {
        let timeout = self.timeout().min(limit);
        let connecting = async {
            let connect = self.client_options().await?;
            loop {
                match connect.clone().connect(self.servers.as_slice()).await {
                    Err(error) if error.kind() == ConnectErrorKind::TimedOut => {}
                    connected => {
                        return connected.map_err(|e| from_connect_error(e, &self.servers, &self.options.tls));
                    }
                }
            }
        };
        tokio::time::timeout(timeout, connecting).await.map_err(|_| Error::timeout(timeout))?
    }

    /// Builds the options of one client. Reads the files here, so that each client uses their current content.
    async fn client_options(&self) -> Result<ConnectOptions> {
        let NatsOptions { name, credentials, tls, .. } = self.options.clone();
        let connect = match credentials {
            Some(credentials) => credentials.apply(self.client.clone()).await?,
            None => self.client.clone().unwrap_or_default(),
        };
        let (violations, events) = (Arc::clone(&self.violations), Arc::clone(&self.events));
        let mut connect = tls.apply(connect).await?;
        if tls.starts_unencrypted() && !self.options.trust_discovered_servers {
            connect = connect.ignore_discovered_servers();
        }
        let connect = connect
            .name(name.as_deref().unwrap_or("kvtyped"))
            .connection_timeout(self.timeout().min(SERVER_TIMEOUT))
            .ping_interval(PING_INTERVAL)
            .reconnect_delay_callback(|attempts| match attempts {
                0 | 1 => Duration::ZERO,
                attempts => {
                    RECONNECT_PAUSE.min(Duration::from_millis(25) * u32::try_from(attempts).unwrap_or(u32::MAX))
                }
            })
            .event_callback(move |event| {
                if matches!(event, Event::Connected | Event::Disconnected | Event::Closed) {
                    events.notify_one();
                }
                match event {
                    Event::ServerError(ServerError::Other(text)) => violations.report(&text),
                    Event::Disconnected => violations.forget_denied_inbox(),
                    Event::Connected => violations.set_unauthorized(false),
                    Event::ClientError(ClientError::Other(text)) => violations.set_unauthorized(is_auth_error(&text)),
                    _ => {}
                }
                std::future::ready(())
            });
        Ok(match self.options.inbox()? {
            Some(inbox) => connect.custom_inbox_prefix(inbox),
            None => connect,
        })
    }
}

/// Returns whether reconnecting failed because of the credentials. The client reports the kind of the error only as
/// text.
fn is_auth_error(text: &str) -> bool {
    [ConnectErrorKind::AuthorizationViolation, ConnectErrorKind::Authentication]
        .iter()
        .any(|kind| kind.to_string() == text)
}

/// Converts a connection error. The message names the servers without their users.
fn from_connect_error(error: ConnectError, servers: &[ServerAddr], tls: &Tls) -> Error {
    if let Some(reason) = tls::explain(&error, tls) {
        return reason.caused_by(error);
    }
    match error.kind() {
        ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
            Error::new(ErrorKind::Unauthorized)
        }
        ConnectErrorKind::ServerParse => Error::invalid_config("the server URL is invalid; write `nats://host:port`"),
        _ => {
            let servers: Vec<_> = servers.iter().map(|server| format!("{}:{}", server.host(), server.port())).collect();
            Error::unavailable(format!("cannot connect to {}; check the address and the server", servers.join(", ")))
                .caused_by(error)
        }
    }
}
