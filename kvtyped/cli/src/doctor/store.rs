//! The checks of the connection, the server and its features.

use kvtyped::connect::StoreInfo;
use kvtyped::{ErrorKind, Store};

use super::Finding;
use crate::fail::{Failure, message_of};
use crate::time;

/// A round trip that makes leases unreliable.
const SLOW: std::time::Duration = std::time::Duration::from_millis(500);

/// The result of the check of a store.
pub(crate) enum Checked {
    /// The store cannot be used.
    Unusable,
    /// The store can be used. Its capabilities are unknown if the user may not ask for them.
    Usable(Option<StoreInfo>),
}

/// Checks the connection and the server.
pub(crate) async fn check(store: &Store, url: &str, findings: &mut Vec<Finding>) -> Result<Checked, Failure> {
    let health = store.health().await?;
    let Some(round_trip) = health.round_trip else {
        findings.push(
            Finding::error("connection", format!("{url} does not answer"))
                .repair("check that the server runs and that the network lets the port through"),
        );
        return Ok(Checked::Unusable);
    };
    let answered = format!("{url} answered in {}", time::short(round_trip));
    findings.push(match round_trip > SLOW {
        true => Finding::warning("connection", answered).repair("use longer TTLs for leases, or a nearer server"),
        false => Finding::ok("connection", answered),
    });
    let info = match store.info().await {
        Ok(info) => info,
        Err(error) if matches!(error.kind(), ErrorKind::PermissionDenied { .. }) => {
            let reason =
                "the user may not ask for the features of the server (`$JS.API.INFO`), so they are not checked";
            findings.push(Finding::note("jetstream", reason));
            return Ok(Checked::Usable(None));
        }
        Err(error) => {
            findings.push(Finding::error("jetstream", message_of(&error)).repair("enable JetStream on the server"));
            return Ok(Checked::Unusable);
        }
    };
    if let Some(server) = &info.server {
        let cluster = match &server.cluster {
            Some(cluster) => format!("in cluster `{cluster}`"),
            None => "without a cluster".to_owned(),
        };
        let text = format!(
            "nats-server {} on {}:{}, {cluster}, messages of up to {}",
            server.version,
            server.host,
            server.port,
            time::bytes(server.max_payload as u64)
        );
        findings.push(Finding::ok("server", text));
    }
    findings.push(Finding::ok("backend", info.capabilities.backend.clone()));
    for (feature, is_there, needs) in features(&info) {
        findings.push(match is_there {
            true => Finding::ok("feature", format!("{feature}: available")),
            false => Finding::note("feature", format!("{feature}: not available")).repair(match info.server {
                Some(_) => format!("upgrade the server to nats-server {needs}"),
                None => format!("use a server: nats-server {needs} or newer"),
            }),
        });
    }
    Ok(Checked::Usable(Some(info)))
}

/// Returns the features, whether the server has them, and the version of the server that they need.
fn features(info: &StoreInfo) -> [(&'static str, bool, &'static str); 5] {
    let capabilities = &info.capabilities;
    [
        ("TTLs of single records, locks and other leases", capabilities.key_ttl, "2.11"),
        ("transactions", capabilities.atomic, "2.12.1"),
        ("counters of the server", capabilities.counters, "2.12"),
        ("write epochs", capabilities.write_epochs, "2.11"),
        ("mirrors", capabilities.mirrors, "2.10"),
    ]
}
