//! Durations and sizes in attributes of the derive: the parser agrees with a slower reference implementation.

#[path = "../../../kvtyped-derive/src/units.rs"]
mod read;

/// The units of durations, in milliseconds.
const DURATIONS: [(&str, u128); 6] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000), ("w", 604_800_000)];

/// The units of sizes, in bytes.
const SIZES: [(&str, u128); 8] = [
    ("", 1),
    ("B", 1),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];

/// Checks arbitrary bytes.
///
/// # Panics
///
/// Panics if a property does not hold.
pub fn check(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let read = read::duration(&text).ok().map(|duration| duration.as_millis());
    assert_eq!(read, duration(&text), "the duration {text:?}");
    assert_eq!(read::size(&text).ok().map(u128::from), size(&text), "the size {text:?}");
    for error in [read::duration(&text).err(), read::size(&text).err()].into_iter().flatten() {
        assert!(error.contains(&*text) || text.is_empty(), "{error:?} does not say what is wrong");
    }
}

/// Returns the sum of the numbers with units, if it fits.
fn duration(text: &str) -> Option<u128> {
    let (mut rest, mut sum) = (text, 0_u128);
    while !rest.is_empty() {
        let (number, after) = number(rest)?;
        // `m` is a prefix of `ms`, so the longest matching unit applies.
        let mut units = DURATIONS.into_iter().filter(|(unit, _)| after.starts_with(unit)).collect::<Vec<_>>();
        units.sort_by_key(|(unit, _)| unit.len());
        let (unit, millis) = units.pop()?;
        sum = sum.checked_add(fits(number.checked_mul(millis)?)?)?;
        rest = &after[unit.len()..];
    }
    (!text.is_empty()).then_some(fits(sum)?)
}

fn size(text: &str) -> Option<u128> {
    let (number, unit) = number(text)?;
    let unit = unit.trim_start();
    let (_, bytes) = SIZES.into_iter().find(|(name, _)| *name == unit)?;
    fits(number.checked_mul(bytes)?)
}

/// Parses the leading number. Returns it with the remaining text, if it exists and fits.
fn number(text: &str) -> Option<(u128, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let value = text[..digits].bytes().try_fold(0_u128, |value, digit| fits(value * 10 + u128::from(digit - b'0')));
    (digits > 0).then_some((value?, &text[digits..]))
}

fn fits(number: u128) -> Option<u128> {
    (number <= u64::MAX.into()).then_some(number)
}
