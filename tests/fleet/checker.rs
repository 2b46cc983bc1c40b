//! The rules that the stored writes of a fleet obey.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::recorder::{Record, Stored};

/// A rule of a deploy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rule {
    /// A field of the new program stays until a program that knows it removes it.
    FieldsStay,
    /// After the switch, no program writes an older version.
    NoOlderVersion,
    /// Writes of an earlier epoch are stored before all writes of a later one.
    EpochsInOrder,
    /// A migration changes no other field.
    RewritesKeepFields,
    /// An old program sees records that are too new, and no other error.
    OnlyKnownErrors,
}

/// The version that programs write, by the first write epoch of that version.
pub(super) type Targets = BTreeMap<u64, u32>;

fn field(record: &Record, name: &str) -> Option<String> {
    let json: serde_json::Value = serde_json::from_slice(&record.value).expect("every record is JSON");
    json[name].as_str().map(str::to_owned)
}

/// Checks the writes in the order of their revisions. Returns the broken rules.
pub(super) fn check(stored: &[Stored], targets: &Targets, whole: &HashSet<String>) -> Vec<(Rule, String)> {
    let mut broken = Vec::new();
    let mut newest: BTreeMap<&str, &Record> = BTreeMap::new();
    let mut emails: BTreeSet<String> = BTreeSet::new();
    // The latest epoch, the version that it takes, and the newest version that was written for it.
    let (mut latest, mut target, mut floor) = (0, 1, 1);
    let mut is_back = false;
    for write in stored {
        let Stored { revision, key, by_new, epoch, record } = write;
        let mut report = |rule: Rule, what: &str| {
            broken.push((rule, format!("revision {revision} of key {key}, by_new {by_new}, epoch {epoch:?}: {what}")));
        };
        // The leases of maintenance are not records of the model.
        if key.starts_with('=') {
            continue;
        }
        if let Some(epoch) = *epoch {
            if epoch < latest {
                report(Rule::EpochsInOrder, &format!("after epoch {latest}"));
            }
            latest = latest.max(epoch);
            let now = targets.range(..=latest).next_back().map_or(1, |(_, version)| *version);
            if now != target {
                is_back = now < target;
                (target, floor) = (now, now);
            }
        }
        let before = newest.get(key.as_str()).copied();
        let Some(record) = record else {
            newest.remove(key.as_str());
            continue;
        };
        newest.insert(key, record);
        // A touch stores the same bytes under the same version.
        if before.is_some_and(|before| (before.version, &before.value) == (record.version, &record.value)) {
            continue;
        }
        if record.version < floor {
            report(Rule::NoOlderVersion, &format!("version {} after version {floor}", record.version));
        }
        if !is_back {
            floor = floor.max(record.version);
        }
        if record.is_rewrite && before.is_some_and(|before| field(before, "name") != field(record, "name")) {
            report(Rule::RewritesKeepFields, "another name");
        }
        let (had, has) = (before.and_then(|before| field(before, "email")), field(record, "email"));
        match &has {
            _ if has == had => {}
            Some(email) if !by_new || !emails.insert(format!("{key} {email}")) => {
                report(Rule::FieldsStay, "an earlier value is back");
            }
            Some(_) => {}
            // The programs go back to a version without the field.
            None if is_back && record.version == 1 => {}
            None if *by_new && field(record, "name").is_some_and(|name| whole.contains(&name)) => {}
            None => report(Rule::FieldsStay, "the field is lost"),
        }
    }
    broken
}
