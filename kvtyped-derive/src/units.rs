//! Durations and sizes with units.

use std::time::Duration;

/// The remedy in errors about a duration.
pub(crate) const DURATION: &str =
    "use numbers with units, such as \"30m\" or \"1h30m\" (`ms`, `s`, `m`, `h`, `d`, `w`)";

/// The remedy in errors about a size.
pub(crate) const SIZE: &str =
    "use a number of bytes, or a number with a unit such as \"64KiB\" (`B`, `KB`, `MB`, `GB`, `KiB`, `MiB`, `GiB`)";

/// Parses `1h30m`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let mut rest = text;
    let mut total: u64 = 0;
    if text.is_empty() {
        return Err(format!("empty duration; {DURATION}"));
    }
    while !rest.is_empty() {
        let (number, unit, after) = part(rest);
        let millis: u64 = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "w" => 604_800_000,
            _ => return Err(format!("invalid duration `{text}`; {DURATION}")),
        };
        if number.is_empty() {
            return Err(format!("invalid duration `{text}`; {DURATION}"));
        }
        let part = number.parse::<u64>().ok().and_then(|number| number.checked_mul(millis));
        total = part
            .and_then(|part| total.checked_add(part))
            .ok_or_else(|| format!("duration `{text}` is too long; use at most 292 years"))?;
        rest = after;
    }
    Ok(Duration::from_millis(total))
}

/// Parses `64KiB`.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let (number, unit, after) = part(text);
    let bytes: u64 = match unit.trim_start() {
        "" | "B" => 1,
        "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(format!("invalid size `{text}`; {SIZE}")),
    };
    if number.is_empty() || !after.is_empty() {
        return Err(format!("invalid size `{text}`; {SIZE}"));
    }
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(bytes))
        .ok_or_else(|| format!("size `{text}` does not fit 64 bits; use a smaller size"))
}

/// Splits a text into its leading digits, the text up to the next digit, and the rest.
fn part(text: &str) -> (&str, &str, &str) {
    let (number, rest) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let (unit, rest) = rest.split_at(rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len()));
    (number, unit, rest)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{duration, size};

    #[test]
    fn durations_are_sums_of_units() {
        assert_eq!(duration("30m"), Ok(Duration::from_secs(1800)));
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("1w1d1s250ms"), Ok(Duration::from_millis(691_201_250)));
    }

    #[test]
    fn invalid_durations_are_rejected() {
        for text in ["", "30", "m", "30 m", "1.5h", "30min", "-1s", "99999999999999999w"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_support_decimal_and_binary_units() {
        let sizes = ["7", "7B", "64KiB", "64 KB", "1MiB", "1MB", "2GiB", "2GB"].map(size);
        let expected = [7, 7, 65_536, 64_000, 1_048_576, 1_000_000, 2_147_483_648, 2_000_000_000];
        assert_eq!(sizes, expected.map(Ok));
    }

    #[test]
    fn invalid_sizes_are_rejected() {
        for text in ["", "KB", "1TB", "1KB2", "1.5MB", "-1", "1kb", "99999999999999GiB"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
