//! The checks of a bucket: its leader and replicas, its limits, its markers, its records.

use std::time::{Duration, SystemTime};

use futures::StreamExt;
use kvtyped::backend::{BucketStatus, Capabilities};
use kvtyped::config::BucketConfig;
use kvtyped::connect::StoreInfo;

use super::{Finding, Level, cards, fill_level};
use crate::app::View;
use crate::fail::Failure;
use crate::records::{Checked, Checker};
use crate::time;

/// The number of keys that a finding names.
const MOST_KEYS: usize = 10;
/// The difference between two clocks that a finding reports.
const CLOCK_DIFFERENCE: Duration = Duration::from_secs(2);

/// Checks a bucket. Reads up to `sample` records.
pub(crate) async fn check(
    view: &View,
    info: Option<&StoreInfo>,
    sample: usize,
    findings: &mut Vec<Finding>,
) -> Result<(), Failure> {
    let mut found = Vec::new();
    let status = &view.status;
    clock(status, &mut found);
    replicas(status, &mut found);
    limits(status, &mut found);
    let server = info.and_then(|info| info.server.as_ref());
    value_size(&status.config, server.map(|server| server.max_payload), &mut found);
    features(status, info.map(|info| &info.capabilities), &mut found);
    settings(&status.config, &mut found);
    markers(view, &mut found).await?;
    cards::check(&status.config, &mut found);
    records(view, sample, &mut found).await?;
    if found.is_empty() {
        found.push(Finding::ok("bucket", format!("{} entries, {}", status.values, time::bytes(status.bytes))));
    }
    findings.extend(found.into_iter().map(|finding| finding.of_bucket(view.name())));
    Ok(())
}

fn clock(status: &BucketStatus, found: &mut Vec<Finding>) {
    let local = SystemTime::now();
    let difference = status.now.duration_since(local).or_else(|_| local.duration_since(status.now));
    let difference = difference.unwrap_or_default();
    if difference > CLOCK_DIFFERENCE {
        let reason = format!("the server's clock and the local clock differ by {}", time::short(difference));
        found.push(Finding::warning("clock", reason).repair("synchronize both clocks, for example with NTP"));
    }
}

fn replicas(status: &BucketStatus, found: &mut Vec<Finding>) {
    let name = &status.config.name;
    if !status.has_leader {
        let repair = format!("check the servers of the cluster; see `nats stream info KV_{name}`");
        found.push(Finding::error("leader", "the bucket has no leader, so it accepts no writes").repair(repair));
    }
    if status.replicas_behind > 0 {
        let reason = format!("{} replicas are offline or behind the leader", status.replicas_behind);
        found.push(Finding::warning("replicas", reason).repair("check the servers of the cluster"));
    }
    let raw = |path: &[&str]| path.iter().try_fold(status.raw.as_ref()?, |value, part| value.get(part)).cloned();
    let is_clustered = raw(&["cluster", "name"]).is_some_and(|name| name.as_str().is_some_and(|name| !name.is_empty()));
    if is_clustered && status.config.replicas.unwrap_or(1) == 1 {
        let reason = "the bucket is on one server of a cluster, and unavailable while that server is";
        found.push(Finding::note("replicas", reason).repair(format!("run `kvtyped bucket set {name} --replicas 3`")));
    }
    if let Some(lag) = raw(&["mirror", "lag"]).and_then(|lag| lag.as_u64()).filter(|lag| *lag > 0) {
        found.push(Finding::warning("mirror", format!("the mirror is {lag} entries behind its source")));
    }
    if let Some(consumers) = raw(&["state", "consumer_count"]).and_then(|count| count.as_u64()).filter(|n| *n > 100) {
        let reason =
            format!("{consumers} consumers read the bucket: watches, caches, or leftovers of stopped programs");
        found.push(Finding::warning("consumers", reason).repair(format!("see `nats consumer ls KV_{name}`")));
    }
}

fn limits(status: &BucketStatus, found: &mut Vec<Finding>) {
    let (name, bytes) = (&status.config.name, status.bytes);
    let Some(limit) = status.config.max_bytes.filter(|limit| *limit > 0) else { return };
    let Some(level) = fill_level(bytes, limit) else { return };
    let consequence = match level {
        Level::Error => "the bucket refuses writes when it is full",
        _ => "records need room to expire",
    };
    let reason = format!("{} of {} are used, and {consequence}", time::bytes(bytes), time::bytes(limit));
    let repair = format!("run `kvtyped bucket set {name} --max-bytes {}`, or remove records", limit.saturating_mul(2));
    found.push(Finding::new(level, "max_bytes", reason).repair(repair));
}

/// Finds a limit of values that the server does not allow.
fn value_size(config: &BucketConfig, max_payload: Option<usize>, found: &mut Vec<Finding>) {
    let (Some(size), Some(max_payload)) = (config.max_value_size, max_payload) else { return };
    let (size, max_payload) = (u64::from(size), max_payload as u64);
    if size > max_payload {
        let reason = format!(
            "the bucket allows values of {}, and the server messages of {}",
            time::bytes(size),
            time::bytes(max_payload)
        );
        let repair = format!(
            "run `kvtyped bucket set {} --max-value-size {max_payload}`, or raise `max_payload` of the server",
            config.name
        );
        found.push(Finding::warning("max_value_size", reason).repair(repair));
    }
}

/// Finds features that the server supports and the bucket does not enable.
fn features(status: &BucketStatus, capabilities: Option<&Capabilities>, found: &mut Vec<Finding>) {
    let (Some(capabilities), config) = (capabilities, &status.config) else { return };
    let name = &config.name;
    if config.mirror.is_some() {
        return;
    }
    if capabilities.key_ttl && !status.entry_ttl {
        let reason = "without limit markers, single records cannot have a TTL, and there are no locks and other leases";
        let history = if config.history.unwrap_or(1) > 1 { "--history 1 " } else { "" };
        let repair = format!("run `kvtyped bucket set {name} {history}--limit-markers 5m`");
        found.push(Finding::note("ttl", reason).repair(repair));
    }
    if capabilities.atomic && config.atomic == Some(false) {
        let reason = "the bucket supports no transactions";
        found.push(Finding::note("atomic", reason).repair(format!("run `kvtyped bucket set {name} --atomic true`")));
    }
}

fn settings(config: &BucketConfig, found: &mut Vec<Finding>) {
    if !config.irregular.is_empty() {
        let settings: Vec<_> = config.irregular.iter().map(ToString::to_string).collect();
        let reason = format!("the stream has settings of no bucket: {}", settings.join("; "));
        let repair = "open the bucket once with its program, and update its settings";
        found.push(Finding::warning("settings", reason).repair(repair));
    }
    if config.limit_markers.is_some() && config.history.is_some_and(|history| history > 1) {
        let reason = "the bucket keeps a history, so single records cannot have a TTL";
        found.push(Finding::note("ttl", reason));
    }
}

/// Finds delete markers that take more room than the records.
async fn markers(view: &View, found: &mut Vec<Finding>) -> Result<(), Failure> {
    let status = &view.status;
    if status.config.history.unwrap_or(1) > 1 || status.values == 0 {
        return Ok(());
    }
    let live = view.bucket.count(..).include_reserved().await?;
    let markers = status.values.saturating_sub(live);
    if markers > live.max(100) {
        let reason = format!("{markers} of {} entries are delete markers", status.values);
        let repair = format!("run `kvtyped bucket compact {}`", view.name());
        found.push(Finding::warning("markers", reason).repair(repair));
    }
    Ok(())
}

/// Reads a sample of records, and finds the ones that do not fit their model.
async fn records(view: &View, sample: usize, found: &mut Vec<Finding>) -> Result<(), Failure> {
    if sample == 0 {
        return Ok(());
    }
    let checker = Checker::of(&view.status.config);
    let mut entries = view.bucket.list(..).limit(sample).await?;
    let (mut read, mut wrong, mut keys, mut first) = (0u64, 0u64, Vec::new(), None);
    let (mut illegal, mut illegal_keys) = (0u64, Vec::new());
    let history = view.status.config.history.filter(|history| *history > 1);
    let (mut expiring, mut expiring_keys) = (0u64, Vec::new());
    while let Some(entry) = entries.next().await {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) if error.key().is_some() => {
                illegal += 1;
                illegal_keys.extend(error.key().filter(|_| illegal_keys.len() < MOST_KEYS).map(str::to_owned));
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        read += 1;
        if history.is_some() && entry.ttl().is_some_and(|ttl| !ttl.is_never()) {
            expiring += 1;
            if expiring_keys.len() < MOST_KEYS {
                expiring_keys.push(entry.key().to_string());
            }
        }
        if let Checked::Problem { model, version, reason } = checker.check(&entry) {
            wrong += 1;
            if keys.len() < MOST_KEYS {
                keys.push(entry.key().to_string());
            }
            first.get_or_insert_with(|| format!("model `{model}`, version {version}: {reason}"));
        }
    }
    if let Some(first) = first {
        let reason = format!("{wrong} of {read} sampled records do not fit their model (first: {first})");
        let repair = format!("run `kvtyped schema check {}`, and correct them with `kvtyped edit`", view.name());
        found.push(Finding::error("records", reason).repair(repair).keys(keys));
    }
    if let Some(history) = history.filter(|_| expiring > 0) {
        let reason = format!(
            "{expiring} of {read} sampled records have a TTL, and `history` is {history}: a server raises such a TTL to that \
             of the limit markers, and an older value may reappear at its end"
        );
        let name = view.name();
        let repair = format!(
            "run `kvtyped bucket set {name} --history 1`, or write the records with `kvtyped put {name} KEY --no-ttl`"
        );
        found.push(Finding::warning("ttl", reason).repair(repair).keys(expiring_keys));
    }
    if illegal > 0 {
        let reason = format!("{illegal} entries have invalid keys");
        found.push(Finding::warning("keys", reason).keys(illegal_keys));
    }
    Ok(())
}
