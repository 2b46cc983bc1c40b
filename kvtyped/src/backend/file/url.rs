//! URLs of files: `file:app.kv?sync=100ms&mode=0640`.

use std::time::Duration;

use super::options::{FileOptions, SyncMode};
use crate::error::{Error, Result};

impl FileOptions {
    /// Parses a URL without its scheme.
    pub(crate) fn from_url(rest: &str, timeout: Duration) -> Result<Self> {
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let path = match path.strip_prefix("//") {
            None => path,
            Some(path) if path.starts_with('/') => path,
            Some(_) => {
                return Err(invalid("the URL names a host; write `file:app.kv`, or `file:///folder/app.kv`"));
            }
        };
        let path = decode(path).ok_or_else(|| invalid("the path is not percent-encoded UTF-8"))?;
        if path.is_empty() || path.contains('\0') {
            return Err(invalid("the URL names no file; write `file:app.kv`"));
        }
        let mut options = Self::new(path, timeout);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match name {
                "sync" => options.sync = SyncMode::parse(value)?,
                "mode" => options.mode = Some(parse_mode(value)?),
                _ => return Err(invalid("the URL has an unknown parameter; use `sync` and `mode`")),
            }
        }
        Ok(options)
    }
}

impl SyncMode {
    /// Parses `always`, `off`, or a duration such as `100ms`, `2s` and `1m`.
    fn parse(text: &str) -> Result<Self> {
        match text {
            "always" => return Ok(Self::Always),
            "off" => return Ok(Self::Off),
            _ => {}
        }
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = match &text[digits.len()..] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            _ => 0,
        };
        let millis =
            digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)).filter(|millis| *millis > 0);
        let millis = millis.ok_or_else(|| invalid("`sync` must be `always`, `off`, or a duration such as `100ms`"))?;
        Ok(Self::Every(Duration::from_millis(millis)))
    }
}

/// Parses an octal permission.
fn parse_mode(text: &str) -> Result<u32> {
    let is_octal = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let mode = is_octal.then(|| u32::from_str_radix(text, 8).ok()).flatten();
    mode.filter(|mode| FileOptions::is_valid_mode(*mode)).ok_or_else(|| invalid(FileOptions::INVALID_MODE))
}

fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        let (high, low) = (digit(rest.next())?, digit(rest.next())?);
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(bytes).ok()
}

fn invalid(reason: &str) -> Error {
    Error::invalid_config(reason)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::path::Path;

    use super::*;

    fn parse(rest: &str) -> Result<FileOptions> {
        FileOptions::from_url(rest, Duration::from_secs(1))
    }

    #[test]
    fn every_form_of_a_path_is_read() {
        for (rest, path) in [
            ("app.kv", "app.kv"),
            ("./app.kv", "./app.kv"),
            ("../a/b", "../a/b"),
            ("/abs/app.kv", "/abs/app.kv"),
            ("///abs/app.kv", "/abs/app.kv"),
            ("my%20app%3F%25.kv?sync=off", "my app?%.kv"),
            ("%C3%BC", "ü"),
        ] {
            assert_eq!(parse(rest).unwrap().path, Path::new(path), "{rest}");
        }
    }

    #[test]
    fn parameters_are_read() {
        let options = parse("a?sync=100ms&mode=0640").unwrap();
        assert_eq!((options.sync, options.mode), (SyncMode::Every(Duration::from_millis(100)), Some(0o640)));
        assert_eq!(parse("a?sync=2s").unwrap().sync, SyncMode::Every(Duration::from_secs(2)));
        assert_eq!(parse("a?sync=1m").unwrap().sync, SyncMode::Every(Duration::from_secs(60)));
        assert_eq!(parse("a").unwrap().sync, SyncMode::Always);
        assert_eq!(parse("a").unwrap().mode, None);
    }

    #[test]
    fn invalid_urls_are_refused() {
        for rest in [
            "",
            "//",
            "//host/a",
            "?sync=off",
            "a?",
            "a%2",
            "a%zz",
            "%ff",
            "a%00",
            "a?sync",
            "a?sync=0ms",
            "a?sync=5",
            "a?sync=ms",
            "a?sync=-1s",
            "a?mode=",
            "a?mode=99",
            "a?mode=0400",
            "a?mode=10640",
            "a?mode=+640",
            "a?wal=1",
            "a?sync=99999999999999999999s",
        ] {
            // An empty query is no mistake.
            assert_eq!(parse(rest).is_err(), rest != "a?", "{rest}");
        }
    }
}
