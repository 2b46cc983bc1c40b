//! The connection that a URL and options make.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{ClientError, ConnectErrorKind, ConnectOptions, Event, ServerError};

use super::convert;
use super::options::NatsOptions;
use super::target::Target;
use super::wire::{Violations, Wire};
use crate::error::{Error, Result};

/// How often the server is asked whether it lives: it is given up after three times that.
const PING_INTERVAL: Duration = Duration::from_secs(2);

/// The longest pause between two attempts to connect again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);

/// How long one server may take to let us in before the next one is tried: a server that hangs takes connections, and
/// is silent.
const SERVER_PATIENCE: Duration = Duration::from_secs(2);

/// Connects, and tells the prefix of the API.
pub(super) async fn connect(url: &str, options: NatsOptions, client: Option<ConnectOptions>) -> Result<(Wire, String)> {
    let target = Target::parse(url)?;
    let servers = target.servers.clone();
    let options = target.or(options);
    let prefix = options.api_prefix()?;
    let inbox = options.inbox()?.map(str::to_owned);
    let timeout = options.connect_timeout.unwrap_or(Duration::from_secs(5));
    let violations = Arc::new(Violations::default());
    let reported = Arc::clone(&violations);
    let connect = match options.credentials {
        Some(credentials) => credentials.apply(client).await?,
        None => client.unwrap_or_default(),
    };
    let mut connect = options.tls.apply(connect).await?;
    if options.tls.begins_in_the_clear() && !options.trust_discovered_servers {
        connect = connect.ignore_discovered_servers();
    }
    connect = connect
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
                Event::Connected => reported.refuse(false),
                Event::ClientError(ClientError::Other(text)) => reported.refuse(convert::is_of_credentials(&text)),
                _ => {}
            }
            std::future::ready(())
        });
    if let Some(inbox) = inbox {
        connect = connect.custom_inbox_prefix(inbox);
    }
    let connecting = async {
        loop {
            match connect.clone().connect(servers.as_slice()).await {
                Err(error) if error.kind() == ConnectErrorKind::TimedOut => {}
                connected => return connected.map_err(|error| convert::of_connect(error, &servers, &options.tls)),
            }
        }
    };
    let client = tokio::time::timeout(timeout, connecting).await.map_err(|_| Error::timeout(timeout))??;
    Ok((Wire::new(client, Some(violations), options.confined), prefix))
}
