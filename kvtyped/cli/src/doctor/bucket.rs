//! The checks of a bucket: its leader and replicas, its limits, its markers, its records.

use std::time::{Duration, SystemTime};

use futures::StreamExt;
use kvtyped::backend::BucketStatus;
use kvtyped::config::BucketConfig;
use kvtyped::model::ModelCard;

use super::Finding;
use crate::app::View;
use crate::fail::Failure;
use crate::records::{Checked, Checker};
use crate::time;

/// The number of keys that a finding names.
const MOST_KEYS: usize = 10;
/// The difference between two clocks that a finding reports.
const CLOCK_DIFFERENCE: Duration = Duration::from_secs(2);

/// Checks a bucket. Reads up to `sample` records.
pub(crate) async fn check(view: &View, sample: usize, findings: &mut Vec<Finding>) -> Result<(), Failure> {
    let mut found = Vec::new();
    let status = &view.status;
    clock(status, &mut found);
    replicas(status, &mut found);
    limits(status, &mut found);
    settings(&status.config, &mut found);
    markers(view, &mut found).await?;
    cards(&status.config, &mut found);
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
    let repair = format!("run `kvtyped bucket set {name} --max-bytes {}`, or remove records", limit.saturating_mul(2));
    let used = format!("{} of {} are used", time::bytes(bytes), time::bytes(limit));
    if bytes.saturating_mul(20) >= limit.saturating_mul(19) {
        let reason = format!("{used}, and the bucket refuses writes when it is full");
        found.push(Finding::error("max_bytes", reason).repair(repair));
    } else if bytes.saturating_mul(8) >= limit.saturating_mul(7) {
        let reason = format!("{used}, and records need room to expire");
        found.push(Finding::warning("max_bytes", reason).repair(repair));
    }
}

fn settings(config: &BucketConfig, found: &mut Vec<Finding>) {
    if !config.irregular.is_empty() {
        let settings: Vec<_> = config.irregular.iter().map(ToString::to_string).collect();
        let reason = format!("the stream has settings of no bucket: {}", settings.join("; "));
        let repair = "open the bucket once with its program and `.on_drift(Drift::Update)`";
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

fn cards(config: &BucketConfig, found: &mut Vec<Finding>) {
    for (key, text) in &config.metadata {
        let Some(model) = ModelCard::model_of(key) else { continue };
        match ModelCard::parse(text) {
            Err(reason) => found.push(
                Finding::error("card", format!("the card of model `{model}` is unreadable: {reason}"))
                    .repair("open the bucket with a program of the model and `.on_drift(Drift::Update)`"),
            ),
            Ok(card) if card.oldest < card.writes => found.push(
                Finding::note(
                    "versions",
                    format!("records of model `{model}` may have the versions {} to {}", card.oldest, card.version),
                )
                .repair("run the program's `migrate` if older programs are gone"),
            ),
            Ok(card) if !card.indexes.is_empty() => found.push(Finding::note(
                "indexes",
                format!("model `{model}` has indexes, which only its program can verify"),
            )),
            Ok(_) => {}
        }
    }
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
        let repair = format!("run `kvtyped schema check {}`, and mend them with `kvtyped edit`", view.name());
        found.push(Finding::error("records", reason).repair(repair).keys(keys));
    }
    if illegal > 0 {
        let reason = format!("{illegal} entries have keys that are no keys of records");
        found.push(Finding::warning("keys", reason).keys(illegal_keys));
    }
    Ok(())
}
