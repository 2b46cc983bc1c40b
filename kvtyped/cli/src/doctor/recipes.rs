//! The needs of the recipes in a bucket.

use std::collections::BTreeSet;

use kvtyped::Store;
use kvtyped::recipes::RecipeKind;

use super::Finding;
use crate::app::View;
use crate::fail::Failure;

/// Checks that the recipes of a bucket can work with its settings.
pub(crate) async fn check(store: &Store, view: &View, findings: &mut Vec<Finding>) -> Result<(), Failure> {
    let (name, config) = (view.name(), &view.status.config);
    let kinds: BTreeSet<_> = store.recipes(name).await?.into_iter().map(|recipe| recipe.kind).collect();
    let leases: Vec<_> = kinds.iter().filter(|kind| has_leases(**kind)).map(|kind| kind.as_str()).collect();
    if leases.is_empty() {
        return Ok(());
    }
    let leases = leases.join(", ");
    let mut found = Vec::new();
    let mut needs = |is_met: bool, reason: &str, repair: String| {
        if !is_met {
            let reason = format!("the bucket has records of {leases}, and {reason}");
            found.push(Finding::error("recipes", reason).repair(repair).of_bucket(name));
        }
    };
    needs(
        config.history.unwrap_or(1) == 1,
        "keeps a history, so an expired lease reappears",
        format!("run `kvtyped bucket set {name} --history 1`"),
    );
    needs(
        config.limit_markers.is_some() && view.status.entry_ttl,
        "writes no markers for expired leases",
        format!("run `kvtyped bucket set {name} --limit-markers 1s`, on nats-server 2.11 or newer"),
    );
    needs(
        config.rollups != Some(false),
        "allows no rollups, which markers need",
        format!("run `kvtyped bucket set {name} --rollups true`"),
    );
    needs(config.mirror.is_none(), "is a mirror, which lags behind its source", "use the source".to_owned());
    if found.is_empty() {
        found.push(Finding::ok("recipes", format!("the settings fit {leases}")).of_bucket(name));
    }
    findings.extend(found);
    Ok(())
}

/// Whether records of a kind expire.
fn has_leases(kind: RecipeKind) -> bool {
    !matches!(kind, RecipeKind::Counters | RecipeKind::Ids)
}
