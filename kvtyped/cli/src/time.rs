//! Times and durations as texts.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Returns a time as RFC 3339 in UTC, with nanoseconds.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    // No entry is from before 1970.
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:09}Z", since.subsec_nanos())
}

/// Returns the time that is this number of milliseconds after 1970.
pub(crate) fn of_millis(millis: u64) -> SystemTime {
    UNIX_EPOCH.checked_add(Duration::from_millis(millis)).unwrap_or(UNIX_EPOCH)
}

/// Returns the date that is this number of days after 1970-01-01 (Howard Hinnant, `civil_from_days`).
fn date(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

/// Returns a duration as its two largest units: `2d3h`, `15m12s`, `4.2s`, `12ms`.
pub(crate) fn short(duration: Duration) -> String {
    let (seconds, millis) = (duration.as_secs(), duration.subsec_millis());
    match seconds {
        0 => format!("{millis}ms"),
        1..=9 if millis >= 100 => format!("{seconds}.{}s", millis / 100),
        _ => {
            let units = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
            let mut rest = seconds;
            let parts = units.map(|(size, unit)| {
                let count = rest / size;
                rest %= size;
                (count, unit)
            });
            let shown = parts.iter().skip_while(|(count, _)| *count == 0).take(2).filter(|(count, _)| *count > 0);
            shown.map(|(count, unit)| format!("{count}{unit}")).collect()
        }
    }
}

/// Parses a duration: numbers with the units `ms`, `s`, `m`, `h` and `d`, such as `90s` and `1h30m`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a duration; write for example 500ms, 90s, 1h30m or 7d");
    let (mut total, mut rest) = (Duration::ZERO, text.trim());
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, more) = rest.split_at(digits);
        let unit = more.find(|letter: char| letter.is_ascii_digit()).unwrap_or(more.len());
        let (unit, more) = more.split_at(unit);
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let millis = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(wrong()),
        };
        let part = number.checked_mul(millis).map(Duration::from_millis).ok_or_else(wrong)?;
        total = total.checked_add(part).ok_or_else(wrong)?;
        rest = more;
    }
    Ok(total)
}

/// Returns a number of bytes with a unit: `512 B`, `1.4 KiB`.
pub(crate) fn bytes(count: u64) -> String {
    let (mut size, mut unit) = (count as f64, "B");
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if size < 1024.0 {
            break;
        }
        (size, unit) = (size / 1024.0, larger);
    }
    match unit {
        "B" => format!("{count} B"),
        unit => format!("{size:.1} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339() {
        let at = |seconds, nanos| rfc3339(UNIX_EPOCH + Duration::new(seconds, nanos));
        assert_eq!(at(0, 0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(at(951_782_399, 7), "2000-02-28T23:59:59.000000007Z");
        assert_eq!(at(951_782_400, 0), "2000-02-29T00:00:00.000000000Z");
        assert_eq!(at(4_107_542_399, 0), "2100-02-28T23:59:59.000000000Z");
        assert_eq!(at(4_107_542_400, 0), "2100-03-01T00:00:00.000000000Z");
    }

    #[test]
    fn durations_are_read_and_shown() {
        for (text, millis) in [("500ms", 500), ("90s", 90_000), ("1h30m", 5_400_000), ("7d", 604_800_000)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)));
        }
        for wrong in ["", "5", "s", "5x", "-5s", "1.5s", "99999999999999999999d", "5 s"] {
            assert!(parse_duration(wrong).is_err(), "{wrong:?}");
        }
        for (millis, text) in
            [(12, "12ms"), (4_250, "4.2s"), (912_345, "15m12s"), (183_600_000, "2d3h"), (60_000, "1m")]
        {
            assert_eq!(short(Duration::from_millis(millis)), text);
        }
        assert_eq!((bytes(512), bytes(1_434)), ("512 B".to_owned(), "1.4 KiB".to_owned()));
    }
}
