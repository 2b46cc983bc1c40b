//! The differences between an existing bucket and the configuration that a program requests.

use std::fmt;
use std::time::Duration;

use super::BucketConfig;

/// The reaction to a bucket whose settings differ from the settings of the model and the builder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Drift {
    /// Fails, and lists every difference in the error.
    #[default]
    Fail,
    /// Uses the bucket unchanged.
    ///
    /// Operations then work as far as the bucket allows. An [`irregular`](BucketConfig::irregular) setting breaks a
    /// guarantee of this crate: with `discard = old`, for example, a full bucket drops acknowledged records.
    /// [`status`](crate::ReadBucket::status) lists such settings.
    Adopt,
    /// Changes the settings that the model and the builder set, and repairs [`irregular`](BucketConfig::irregular)
    /// settings. All other settings stay.
    ///
    /// A server refuses some changes with `InvalidConfig`, and then nothing changes: to allow purges that are denied,
    /// to unseal a stream, or to leave the retention `workqueue`. Some changes are permanent: once `deny_delete` is
    /// set, it stays set.
    Update,
}

/// One setting that differs from the requested value.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Difference {
    /// The name of the setting.
    pub setting: &'static str,
    /// The requested value.
    pub wanted: String,
    /// The value of the bucket.
    pub found: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: wanted {}, found {}", self.setting, self.wanted, self.found)
    }
}

impl BucketConfig {
    /// Returns every setting that is set in `self` and differs in `found`, in the order of the fields, and then the
    /// [`irregular`](BucketConfig::irregular) settings of `found`.
    ///
    /// ```
    /// use kvtyped::config::BucketConfig;
    ///
    /// let mut wanted = BucketConfig::new("sessions");
    /// wanted.history = Some(5);
    /// let mut found = BucketConfig::new("sessions");
    /// found.history = Some(1);
    /// found.description = Some("nobody asked".into());
    /// let differences: Vec<_> = wanted.differences(&found).iter().map(ToString::to_string).collect();
    /// assert_eq!(differences, ["history: wanted 5, found 1"]);
    /// ```
    pub fn differences(&self, found: &Self) -> Vec<Difference> {
        // Destructured, so that a new setting cannot be forgotten.
        let Self {
            name: _,
            history,
            ttl,
            max_value_size,
            max_bytes,
            storage,
            replicas,
            compression,
            description,
            placement,
            republish,
            mirror,
            sources,
            metadata,
            limit_markers,
            rollups,
            atomic,
            index_entries,
            write_epochs,
            write_epoch: _,
            irregular: _,
        } = self;
        let mut differences = Vec::new();
        let mut compare = |setting, wanted: Option<String>, found: Option<String>| {
            if let Some(wanted) = wanted
                && found.as_ref() != Some(&wanted)
            {
                let found = found.unwrap_or_else(|| "none".into());
                differences.push(Difference { setting, wanted, found });
            }
        };
        compare("history", show(history), show(&found.history));
        compare("ttl", show(ttl), show(&found.ttl));
        compare("max_value_size", show(max_value_size), show(&found.max_value_size));
        compare("max_bytes", show(max_bytes), show(&found.max_bytes));
        compare("storage", show(storage), show(&found.storage));
        compare("replicas", show(replicas), show(&found.replicas));
        compare("compression", show(compression), show(&found.compression));
        compare("description", show(description), show(&found.description));
        compare("placement", show(placement), show(&found.placement));
        compare("republish", show(republish), show(&found.republish));
        compare("mirror", show(mirror), show(&found.mirror));
        let markers = |markers: &Option<Duration>| match markers {
            Some(stay) if stay.is_zero() => Some("off".to_owned()),
            markers => show(markers),
        };
        let wanted_markers = limit_markers.filter(|stay| !stay.is_zero() || found.limit_markers.is_some());
        compare("limit_markers", markers(&wanted_markers), markers(&found.limit_markers));
        compare("rollups", show(rollups), show(&found.rollups));
        compare("atomic", show(atomic), show(&found.atomic));
        // A mirror stores the entries of its origin, and has no setting.
        let wanted_entries = index_entries.filter(|_| found.mirror.is_none());
        compare("index_entries", show(&wanted_entries), show(&found.index_entries));
        compare("write_epochs", show(write_epochs), show(&found.write_epochs));
        if !sources.is_empty() {
            compare("sources", Some(format!("{sources:?}")), Some(format!("{:?}", found.sources)));
        }
        for (key, value) in metadata {
            compare("metadata", Some(format!("{key}={value}")), found.metadata.get(key).map(|v| format!("{key}={v}")));
        }
        // A setting that is compared above may be wanted with its irregular value.
        let is_compared = |difference: &Difference| difference.setting == "allow_rollup_hdrs" && rollups.is_some();
        differences.extend(found.irregular.iter().filter(|difference| !is_compared(difference)).cloned());
        differences
    }
}

fn show<V: fmt::Debug>(setting: &Option<V>) -> Option<String> {
    setting.as_ref().map(|value| format!("{value:?}"))
}
