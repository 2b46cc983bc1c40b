//! The usage and the limits of an account, as `$JS.API.INFO` returns them.

use serde_json::Value;

use crate::backend::{AccountUsage, Usage};

/// Reads the usage of an account: one item, or one for each tier.
pub(crate) fn usage(info: &Value) -> Vec<AccountUsage> {
    let domain = info["domain"].as_str().filter(|domain| !domain.is_empty());
    let read = |tier: Option<&str>, amounts: &Value| {
        // A negative limit means "unlimited".
        let amount = |used: &str, reserved: &str, limit: &str| {
            let used = [used, reserved].iter().filter_map(|field| amounts[*field].as_u64()).max();
            Usage::new(used.unwrap_or_default(), amounts["limits"][limit].as_u64())
        };
        AccountUsage {
            tier: tier.map(str::to_owned),
            domain: domain.map(str::to_owned),
            file: amount("storage", "reserved_storage", "max_storage"),
            memory: amount("memory", "reserved_memory", "max_memory"),
            streams: amount("streams", "", "max_streams"),
            consumers: amount("consumers", "", "max_consumers"),
        }
    };
    match info["tiers"].as_object().filter(|tiers| !tiers.is_empty()) {
        Some(tiers) => tiers.iter().map(|(name, amounts)| read(Some(name), amounts)).collect(),
        None => vec![read(None, info)],
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reserved_bytes_are_in_use_and_negative_limits_are_none() {
        let info = json!({
            "memory": 10, "storage": 20, "reserved_storage": 500, "streams": 3, "consumers": 1, "domain": "hub",
            "limits": { "max_memory": -1, "max_storage": 1000, "max_streams": 5, "max_consumers": -1 },
        });
        let [account] = <[AccountUsage; 1]>::try_from(usage(&info)).unwrap_or_default();
        assert_eq!((account.file, account.memory), (Usage::new(500, Some(1_000)), Usage::new(10, None)));
        assert_eq!((account.streams, account.consumers), (Usage::new(3, Some(5)), Usage::new(1, None)));
        assert_eq!((account.domain.as_deref(), account.tier), (Some("hub"), None));
    }

    #[test]
    fn each_tier_has_its_own_limits() {
        let tier = |used: u64| json!({ "storage": used, "streams": 1, "limits": { "max_storage": 100 } });
        let accounts = usage(&json!({ "storage": 3, "limits": {}, "tiers": { "R1": tier(1), "R3": tier(2) } }));
        let found: Vec<_> = accounts.iter().map(|account| (account.tier.as_deref(), account.file)).collect();
        assert_eq!(found, [(Some("R1"), Usage::new(1, Some(100))), (Some("R3"), Usage::new(2, Some(100)))]);
    }
}
