//! The checks of the limits of the user's account.

use kvtyped::connect::{AccountUsage, Usage};
use kvtyped::{ErrorKind, Store};

use super::{Finding, fill_level};
use crate::fail::Failure;
use crate::time;

/// Checks the limits of the account. A store without a server has none.
pub(crate) async fn check(store: &Store, findings: &mut Vec<Finding>) -> Result<(), Failure> {
    let accounts = match store.account().await {
        Ok(accounts) => accounts,
        // The check of the server reports this.
        Err(error) if matches!(error.kind(), ErrorKind::PermissionDenied { .. }) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    findings.extend(accounts.iter().flat_map(of_account));
    Ok(())
}

fn of_account(account: &AccountUsage) -> Vec<Finding> {
    let tier = account.tier.as_ref().map(|tier| format!(" of tier `{tier}`")).unwrap_or_default();
    let count = |count: u64| count.to_string();
    let amounts: [(_, _, fn(u64) -> String); 4] = [
        ("bytes in files", account.file, time::bytes),
        ("bytes in memory", account.memory, time::bytes),
        ("streams (one for each bucket)", account.streams, count),
        ("consumers (one for each watch or list)", account.consumers, count),
    ];
    let mut found: Vec<_> =
        amounts.iter().filter_map(|(what, usage, shown)| scarce(what, *usage, *shown, &tier)).collect();
    if found.is_empty() {
        let shown = |usage: Usage, shown: fn(u64) -> String| match usage.limit {
            Some(limit) => format!("{} of {}", shown(usage.used), shown(limit)),
            None => shown(usage.used),
        };
        let domain = account.domain.as_ref().map(|domain| format!("; domain `{domain}`")).unwrap_or_default();
        found.push(Finding::ok(
            "account",
            format!(
                "the account uses {} in files, {} in memory and {} streams{tier}{domain}",
                shown(account.file, time::bytes),
                shown(account.memory, time::bytes),
                shown(account.streams, count),
            ),
        ));
    }
    found
}

/// Returns a finding if little is left.
fn scarce(what: &str, usage: Usage, shown: fn(u64) -> String, tier: &str) -> Option<Finding> {
    let limit = usage.limit?;
    let level = fill_level(usage.used, limit)?;
    let reason = format!("the account uses {} of its {} {what}{tier}", shown(usage.used), shown(limit));
    Some(Finding::new(level, "account", reason).repair("raise the limits of the account, or remove buckets"))
}
