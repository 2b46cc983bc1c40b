//! The place of a bucket: a store and a name.

use crate::context::without_userinfo;
use crate::fail::Failure;

/// A store that an argument names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StoreName {
    /// The store of the options and the context.
    Current,
    Url(String),
    Context(String),
}

/// A bucket in a store: `B`, `@CONTEXT/B` or `URL/B`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) store: StoreName,
    pub(crate) bucket: String,
}

impl Address {
    /// Parses an argument.
    pub(crate) fn parse(text: &str) -> Result<Self, Failure> {
        let wrong = || {
            let text = without_userinfo(text);
            Failure::usage(format!("`{text}` names no bucket; write BUCKET, @CONTEXT/BUCKET or URL/BUCKET"))
        };
        if let Some(rest) = text.strip_prefix('@') {
            let (context, bucket) = rest.split_once('/').ok_or_else(wrong)?;
            return Ok(Self { store: StoreName::Context(context.to_owned()), bucket: bucket.to_owned() });
        }
        if !text.contains([':', '/']) {
            return Ok(Self { store: StoreName::Current, bucket: text.to_owned() });
        }
        let (path, query) = match text.split_once('?') {
            Some((path, query)) => (path, format!("?{query}")),
            None => (text, String::new()),
        };
        let (url, bucket) = path.rsplit_once('/').ok_or_else(wrong)?;
        // In `nats://host`, the last slash belongs to the scheme.
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        if bucket.is_empty() || !bucket.bytes().all(is_name) || url.ends_with('/') || !url.contains(':') {
            return Err(wrong());
        }
        let url = format!("{url}{query}");
        check_argument(&url)?;
        Ok(Self { store: StoreName::Url(url), bucket: bucket.to_owned() })
    }
}

/// Refuses a URL with a user and a password, because other users of the machine can read arguments.
pub(crate) fn check_argument(url: &str) -> Result<(), Failure> {
    match without_userinfo(url) == url {
        true => Ok(()),
        false => Err(Failure::usage("the URL of an argument contains credentials, which `ps` shows to other users")
            .hint("set the URL in KVTYPED_URL or in a context, or use `--creds FILE`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_name_a_store_and_a_bucket() {
        let url = |url: &str| StoreName::Url(url.to_owned());
        for (text, store, bucket) in [
            ("sessions", StoreName::Current, "sessions"),
            ("@prod/sessions", StoreName::Context("prod".into()), "sessions"),
            ("nats://host:4222/sessions", url("nats://host:4222"), "sessions"),
            ("nats://host/sessions?domain=hub", url("nats://host?domain=hub"), "sessions"),
            ("file:app.kv/sessions", url("file:app.kv"), "sessions"),
            ("file:/var/app.kv/sessions", url("file:/var/app.kv"), "sessions"),
            ("memory:name/sessions", url("memory:name"), "sessions"),
        ] {
            let address = Address::parse(text).unwrap();
            assert_eq!((address.store, address.bucket.as_str()), (store, bucket), "{text}");
        }
        for wrong in
            ["nats://host", "nats://host/", "@prod", "a/b", "nats://u:p@host/b", "file:/var/app.kv", "file:app.kv"]
        {
            assert!(Address::parse(wrong).is_err(), "{wrong}");
        }
    }
}
