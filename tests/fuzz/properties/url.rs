//! Store URLs: parsing returns servers or an error, and an error shows no secret.

use futures::FutureExt;
use kvtyped::ErrorKind;
use kvtyped::backend::nats::fuzzing;
use kvtyped::prelude::*;

use super::texts;

/// A marker at the place of passwords and tokens.
const SECRET: &str = "QXZ7w0rd";

/// Checks arbitrary bytes as a URL, and as parts of other URLs.
///
/// # Panics
///
/// Panics if a property does not hold.
pub fn check(bytes: &[u8]) {
    let [url, host, query, name] = texts(bytes);
    parsed(&url);
    for user in [format!("user:{SECRET}"), SECRET.to_owned(), format!("{SECRET}:{name}"), format!("{name}:{SECRET}")] {
        for scheme in ["nats://", "tls://", "", "http://"] {
            parsed(&format!("{scheme}{user}@{host}"));
            parsed(&format!("{scheme}{user}@{host}?{query}"));
            parsed(&format!("{scheme}127.0.0.1,{scheme}{user}@{host}?domain={query}"));
        }
    }
    memory(&name);
}

fn parsed(url: &str) {
    match fuzzing::servers(url) {
        Ok(servers) => {
            assert!(!servers.is_empty());
            for server in &servers {
                assert!(["nats://", "tls://"].iter().any(|scheme| server.starts_with(scheme)), "{server:?} of {url:?}");
                assert!(!server.contains(SECRET) || before_at(url), "{server:?} shows a secret of {url:?}");
            }
        }
        Err(error) => {
            assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{error:?}");
            assert!(!format!("{error} {error:?}").contains(SECRET), "{error:?} shows a secret of {url:?}");
        }
    }
}

/// Returns whether the secret is at a place without protection: in the host, or in an address without a user.
fn before_at(url: &str) -> bool {
    let addresses = url.split_once('?').map_or(url, |(addresses, _)| addresses);
    addresses.split(',').any(|address| {
        address.rsplit_once('@').is_none_or(|(_, host)| host.contains(SECRET)) && address.contains(SECRET)
    })
}

/// Checks that a memory URL opens exactly with the names that a bucket may have.
fn memory(name: &str) {
    let url = format!("memory:{name}");
    let opened = Store::connect(&*url).into_future().now_or_never().expect("no I/O is done");
    let plain = name.trim_end();
    let rest = plain.trim_start_matches('/');
    let legal = rest.len() <= 128 && rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    let nameless = ["", "//"].contains(&plain);
    assert_eq!(opened.is_ok(), legal && !rest.is_empty() || nameless, "{url:?}");
    if let Err(error) = opened {
        assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{error:?}");
    }
}
