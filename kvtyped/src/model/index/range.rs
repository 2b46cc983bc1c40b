//! Values that are stored in levels, from coarse to fine, so that a range is a union of prefixes.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::{SystemTime, UNIX_EPOCH};

/// A type whose values can be searched by range: `SystemTime` and the integers.
///
/// An implementation for another type returns the levels of a `SystemTime` or of an integer, in the same order: if
/// `a <= b`, then `a.levels() <= b.levels()`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be searched by range",
    label = "not a `SystemTime` or an integer",
    note = "remove `by`, or implement `kvtyped::model::index::RangeValue` for the type"
)]
pub trait RangeValue: Clone + Ord + Send + Sync + 'static {
    /// The levels of the type.
    const SCALE: Scale;

    /// Returns the number of each level, from coarse to fine.
    fn levels(&self) -> Vec<u32>;
}

/// A field that can be searched by range: a [`RangeValue`], or an `Option`, a `Vec` or a set of one.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be searched by range",
    label = "not a `SystemTime` or an integer, or an `Option`, `Vec` or set of one",
    note = "remove `by`, or implement `kvtyped::model::index::RangeValue` for the type"
)]
pub trait RangeField {
    /// The type of a single value.
    type Value: RangeValue;

    /// Calls `each` with each value of the field.
    fn each_value(&self, each: &mut dyn FnMut(&Self::Value));

    /// Calls `each` with the text of each value, up to the finest level. Called from generated code, like
    /// [`Indexable::each_segment`](super::Indexable).
    #[doc(hidden)]
    fn each_text(&self, by: By, each: &mut dyn FnMut(&str)) {
        self.each_value(&mut |value| {
            let (scale, mut levels) = (Self::Value::SCALE, value.levels());
            levels.truncate(scale.depth(by));
            each(&scale.segments(&levels).collect::<Vec<_>>().join("."));
        });
    }
}

#[diagnostic::do_not_recommend]
impl<V: RangeValue> RangeField for V {
    type Value = V;

    fn each_value(&self, each: &mut dyn FnMut(&V)) {
        each(self);
    }
}

/// Implements the trait for types with an iterator over their values.
macro_rules! by_iterator {
    ($($type:ty),* $(,)?) => {$(
        #[diagnostic::do_not_recommend]
        impl<V: RangeValue> RangeField for $type {
            type Value = V;

            fn each_value(&self, each: &mut dyn FnMut(&V)) {
                self.iter().for_each(each);
            }
        }
    )*};
}

by_iterator!(Option<V>, Vec<V>, BTreeSet<V>);

/// The levels of a type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Scale {
    /// The four digits of the year, the month, the day and the hour, in UTC.
    Calendar,
    /// This number of decimal digits.
    Digits(usize),
    /// 0 for a negative number and 1 for another, then this number of digits of the distance to the lowest number with
    /// this sign.
    SignedDigits(usize),
}

/// The finest level that an index stores: the attribute `by`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum By {
    /// `by = "year"`.
    Year,
    /// `by = "month"`.
    Month,
    /// `by = "day"`.
    Day,
    /// `by = "hour"`.
    Hour,
    /// `by = 1000` is the third power of ten: the last three digits are not stored.
    PowerOfTen(usize),
}

/// The most patterns of a lookup. Each is a request.
const MAX_PREFIXES: usize = 64;

/// Numbers of the first levels of a value.
type Path = Vec<u32>;

impl Scale {
    /// Whether an index of a type with this scale can have the attribute `by`.
    pub const fn has(self, by: By) -> bool {
        matches!(
            (self, by),
            (Self::Calendar, By::Year | By::Month | By::Day | By::Hour)
                | (Self::Digits(_) | Self::SignedDigits(_), By::PowerOfTen(_))
        ) && self.depth(by) > 0
    }

    /// Returns the number of levels that an index stores.
    pub const fn depth(self, by: By) -> usize {
        let (Self::Digits(digits) | Self::SignedDigits(digits)) = self else {
            return match by {
                By::Year => 4,
                By::Month => 5,
                By::Day => 6,
                By::Hour | By::PowerOfTen(_) => 7,
            };
        };
        let By::PowerOfTen(power) = by else { return digits };
        let sign = if let Self::SignedDigits(_) = self { 1 } else { 0 };
        if power < digits { digits - power + sign } else { 0 }
    }

    /// Returns the numbers of the level after these.
    fn children(self, path: &[u32]) -> RangeInclusive<u32> {
        match (self, path.len()) {
            (Self::SignedDigits(_), 0) => 0..=1,
            (Self::Calendar, 4) => 1..=12,
            (Self::Calendar, 5) => {
                let year = path.iter().take(4).fold(0, |year, digit| year * 10 + digit);
                1..=days_of_month(year, path.last().copied().unwrap_or(1))
            }
            (Self::Calendar, 6) => 0..=23,
            _ => 0..=9,
        }
    }

    /// Whether these are the first numbers of all levels after `path`.
    fn is_first(self, path: &[u32], rest: &[u32]) -> bool {
        self.is_edge(path, rest, RangeInclusive::start)
    }

    /// Whether these are the last numbers of all levels after `path`.
    fn is_last(self, path: &[u32], rest: &[u32]) -> bool {
        self.is_edge(path, rest, RangeInclusive::end)
    }

    fn is_edge(self, path: &[u32], rest: &[u32], edge: fn(&RangeInclusive<u32>) -> &u32) -> bool {
        let mut path = path.to_vec();
        rest.iter().all(|number| {
            let is_edge = edge(&self.children(&path)) == number;
            path.push(*number);
            is_edge
        })
    }

    /// Returns the segment of a number at a level.
    pub(super) fn segment(self, level: usize, number: u32) -> String {
        if self == Self::Calendar && level >= 4 { format!("{number:02}") } else { number.to_string() }
    }

    /// Returns the segments of a value.
    pub(super) fn segments(self, path: &[u32]) -> impl Iterator<Item = String> {
        path.iter().enumerate().map(move |(level, number)| self.segment(level, *number))
    }

    /// Returns at most 64 prefixes that together cover all values between two values. `None` is open. The prefixes cover
    /// only these values unless there are too many of them.
    pub(super) fn cover(self, low: Option<&[u32]>, high: Option<&[u32]>, depth: usize) -> Vec<Path> {
        for depth in (1..=depth).rev() {
            let mut found = Vec::new();
            self.descend(&mut Vec::new(), (low, high), depth, &mut found);
            if found.len() <= MAX_PREFIXES {
                return found;
            }
        }
        vec![Path::new()]
    }

    /// Appends the prefixes below `path`, whose next numbers are bounded.
    fn descend(self, path: &mut Path, bounds: (Option<&[u32]>, Option<&[u32]>), depth: usize, found: &mut Vec<Path>) {
        let low = bounds.0.and_then(<[u32]>::split_first).filter(|(first, rest)| {
            let is_whole = *self.children(path).start() == **first && self.is_first(&child(path, **first), rest);
            !is_whole
        });
        let high = bounds.1.and_then(<[u32]>::split_first).filter(|(last, rest)| {
            let is_whole = *self.children(path).end() == **last && self.is_last(&child(path, **last), rest);
            !is_whole
        });
        if path.len() == depth || (low.is_none() && high.is_none()) {
            found.push(path.clone());
            return;
        }
        let children = self.children(path);
        let first = low.map_or(*children.start(), |(first, _)| *first);
        let last = high.map_or(*children.end(), |(last, _)| *last);
        for number in first..=last {
            let below_low = low.filter(|(first, _)| **first == number).map(|(_, rest)| rest);
            let below_high = high.filter(|(last, _)| **last == number).map(|(_, rest)| rest);
            path.push(number);
            self.descend(path, (below_low, below_high), depth, found);
            path.pop();
        }
    }
}

fn child(path: &[u32], number: u32) -> Path {
    path.iter().copied().chain([number]).collect()
}

impl RangeValue for SystemTime {
    const SCALE: Scale = Scale::Calendar;

    /// A time before the year 0 has the levels of the first hour of that year. A time after the year 9999 has the levels
    /// of the last hour of that year.
    fn levels(&self) -> Vec<u32> {
        let seconds = match self.duration_since(UNIX_EPOCH) {
            Ok(after) => i128::from(after.as_secs()),
            // A part of a second before a full second belongs to the second before.
            Err(before) => {
                let before = before.duration();
                -i128::from(before.as_secs()) - i128::from(before.subsec_nanos() > 0)
            }
        };
        let seconds = seconds.clamp(FIRST_SECOND, LAST_SECOND);
        let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        let (year, month, day) = date(days);
        let digit = |power: u32| year / power % 10;
        vec![
            digit(1000),
            digit(100),
            digit(10),
            digit(1),
            month,
            day,
            u32::try_from(second / 3_600).unwrap_or_default(),
        ]
    }
}

/// The first second of the year 0 and the last one of the year 9999, since 1970.
const FIRST_SECOND: i128 = -62_167_219_200;
const LAST_SECOND: i128 = 253_402_300_799;

/// Returns the year, the month and the day of a number of days since 1970, in the proleptic Gregorian calendar.
fn date(days: i128) -> (u32, u32, u32) {
    // Days since the 1st of March of the year 0, so that a leap day is the last day of a year.
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (year, month) = if month < 10 { (0, month + 3) } else { (1, month - 9) };
    let number = |number: i128| u32::try_from(number).unwrap_or_default();
    (number(era * 400 + year_of_era + year), number(month), number(day))
}

fn days_of_month(year: u32, month: u32) -> u32 {
    match month {
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Returns the decimal digits of a number, with leading zeros.
fn digits(number: u128, count: usize) -> impl Iterator<Item = u32> {
    format!("{number:0count$}").into_bytes().into_iter().map(|digit| u32::from(digit.wrapping_sub(b'0')))
}

macro_rules! unsigned {
    ($($type:ty => $digits:literal),* $(,)?) => {$(
        impl RangeValue for $type {
            const SCALE: Scale = Scale::Digits($digits);

            fn levels(&self) -> Vec<u32> {
                digits(*self as u128, $digits).collect()
            }
        }
    )*};
}

macro_rules! signed {
    ($($type:ty => $digits:literal),* $(,)?) => {$(
        impl RangeValue for $type {
            const SCALE: Scale = Scale::SignedDigits($digits);

            fn levels(&self) -> Vec<u32> {
                let lowest = if *self < 0 { <$type>::MIN } else { 0 };
                let distance = (*self as i128).wrapping_sub(lowest as i128).unsigned_abs();
                [u32::from(*self >= 0)].into_iter().chain(digits(distance, $digits)).collect()
            }
        }
    )*};
}

unsigned!(u8 => 3, u16 => 5, u32 => 10, u64 => 20, u128 => 39, usize => 20);
signed!(i8 => 3, i16 => 5, i32 => 10, i64 => 19, i128 => 39, isize => 19);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use super::*;

    fn time(seconds: i64) -> SystemTime {
        let duration = Duration::from_secs(seconds.unsigned_abs());
        if seconds < 0 { UNIX_EPOCH - duration } else { UNIX_EPOCH + duration }
    }

    fn text(path: &[u32]) -> String {
        Scale::Calendar.segments(path).collect::<Vec<_>>().join(".")
    }

    fn covers(low: i64, high: i64, by: By) -> Vec<String> {
        let (low, high) = (time(low).levels(), time(high).levels());
        let depth = Scale::Calendar.depth(by);
        let paths = Scale::Calendar.cover(Some(&low[..depth]), Some(&high[..depth]), depth);
        paths.iter().map(|path| text(path)).collect()
    }

    #[test]
    fn times_have_their_utc_date() {
        for (seconds, expected) in [
            (0, "1.9.7.0.01.01.00"),
            (-1, "1.9.6.9.12.31.23"),
            (951_782_400, "2.0.0.0.02.29.00"),
            (1_796_083_200, "2.0.2.6.12.01.00"),
            (4_107_542_399, "2.1.0.0.02.28.23"),
            (-2_203_891_200, "1.9.0.0.03.01.00"),
            (-62_167_219_200, "0.0.0.0.01.01.00"),
            (-99_999_999_999, "0.0.0.0.01.01.00"),
            (253_402_300_799, "9.9.9.9.12.31.23"),
            (999_999_999_999, "9.9.9.9.12.31.23"),
        ] {
            assert_eq!(text(&time(seconds).levels()), expected, "{seconds}");
        }
        assert_eq!(text(&(UNIX_EPOCH - Duration::from_nanos(1)).levels()), "1.9.6.9.12.31.23");
    }

    #[test]
    fn integers_keep_their_order() {
        assert_eq!(300_u16.levels(), [0, 0, 3, 0, 0]);
        assert_eq!((-1_i8).levels(), [0, 1, 2, 7]);
        assert_eq!(i8::MIN.levels(), [0, 0, 0, 0]);
        let numbers = [i128::MIN, i128::MIN + 1, -1_000, -999, -1, 0, 1, 9, 10, i128::MAX];
        assert!(numbers.is_sorted_by(|a, b| a.levels() < b.levels()));
        assert!((i16::MIN..i16::MAX).all(|number| number.levels() < (number + 1).levels()));
        assert_eq!(u128::MAX.levels().len(), 39);
        assert_eq!(i64::MAX.levels().len(), 20);
    }

    #[test]
    fn whole_months_and_years_are_one_prefix() {
        // 2026-11-30 to 2027-02-01, both included.
        assert_eq!(
            covers(1_795_996_800, 1_801_440_000, By::Day),
            ["2.0.2.6.11.30", "2.0.2.6.12", "2.0.2.7.01", "2.0.2.7.02.01"]
        );
        // The whole year 2024, and the 29th of February.
        assert_eq!(covers(1_704_067_200, 1_735_689_599, By::Hour), ["2.0.2.4"]);
        assert_eq!(covers(1_709_164_800, 1_709_251_199, By::Hour), ["2.0.2.4.02.29"]);
        assert_eq!(covers(1_709_164_800, 1_709_164_801, By::Hour), ["2.0.2.4.02.29.00"]);
    }

    #[test]
    fn open_range_has_few_prefixes() {
        let low = time(1_796_083_200).levels();
        let from = Scale::Calendar.cover(Some(&low[..6]), None, 6);
        assert_eq!(from.iter().map(|path| text(path)).next().unwrap(), "2.0.2.6.12");
        assert_eq!(from.len(), 1 + 3 + 7 + 9 + 7);
        assert_eq!(Scale::Calendar.cover(None, None, 6), [Path::new()]);
    }

    #[test]
    fn long_list_of_prefixes_gets_coarser() {
        // 2026-01-10T13 to 2026-12-20T11 has 73 prefixes of hours, days and months.
        let prefixes = covers(1_768_050_000, 1_797_764_400, By::Hour);
        assert_eq!(prefixes.len(), 22 + 10 + 20);
        assert_eq!(prefixes.first().unwrap(), "2.0.2.6.01.10");
        assert_eq!(prefixes.last().unwrap(), "2.0.2.6.12.20");
    }

    #[test]
    fn cover_of_numbers_is_exact() {
        for (low, high) in [(0, 255), (7, 7), (0, 9), (19, 201), (99, 101), (250, 255), (1, 254)] {
            let prefixes = Scale::Digits(3).cover(Some(&u8::levels(&low)), Some(&u8::levels(&high)), 3);
            let matches = |number: u8| prefixes.iter().filter(|prefix| number.levels().starts_with(prefix)).count();
            for number in 0..=u8::MAX {
                assert_eq!(matches(number), usize::from((low..=high).contains(&number)), "{number} in {low}..={high}");
            }
        }
    }

    #[test]
    fn depth_follows_the_attribute() {
        let signed = i32::SCALE;
        assert_eq!([By::PowerOfTen(0), By::PowerOfTen(3)].map(|by| signed.depth(by)), [11, 8]);
        assert!(signed.has(By::PowerOfTen(9)) && !signed.has(By::PowerOfTen(10)) && !signed.has(By::Day));
        assert!(Scale::Calendar.has(By::Year) && !Scale::Calendar.has(By::PowerOfTen(0)));
        assert!(!u8::SCALE.has(By::PowerOfTen(3)) && u8::SCALE.has(By::PowerOfTen(2)));
    }
}
