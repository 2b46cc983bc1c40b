//! Functions that select the key of a request.
//!
//! Any function from the head of a request to an `Option<String>` is a key function. `None` lets the request pass
//! without a limit. The layer stores a digest of a key that is longer than 64 bytes.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use http::HeaderName;
use http::request::Parts;

use crate::integrations::digest::digest;

/// The key of requests without a usable client address. They share one quota, so that a client cannot avoid the limit
/// by a missing header.
const UNKNOWN: &str = "unknown";

/// Limits each value of a header, such as an API key. A request without the header is not limited: the service behind
/// the layer must refuse it.
///
/// The value may be a secret, so the key is a digest of it.
///
/// ```
/// use kvtyped::integrations::rate_limit::key;
///
/// const API_KEY: http::HeaderName = http::HeaderName::from_static("x-api-key");
/// let key = key::header(API_KEY);
/// let request = http::Request::builder().header(API_KEY, "abc").body(()).unwrap();
/// assert_eq!(key(&request.into_parts().0), Some("ba7816bf8f01cfea414140de5dae2223".to_owned()));
/// ```
pub fn header(name: HeaderName) -> impl Fn(&Parts) -> Option<String> + Send + Sync + 'static {
    move |request| request.headers.get(&name).map(|value| digest(value.as_bytes()))
}

/// Limits each address of a peer. `peer` returns the address, which the server stores in the request.
///
/// An IPv6 network of 64 bits has one quota, because one client usually owns it. Behind a proxy, all requests have the
/// address of the proxy: use [`forwarded`].
///
/// ```
/// use std::net::{IpAddr, SocketAddr};
/// use kvtyped::integrations::rate_limit::key;
///
/// // With axum: `request.extensions.get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.ip())`.
/// let key = key::peer_ip(|request| request.extensions.get::<SocketAddr>().map(SocketAddr::ip));
///
/// let peer = SocketAddr::from(([192, 0, 2, 1], 49152));
/// let (request, ()) = http::Request::builder().extension(peer).body(()).unwrap().into_parts();
/// assert_eq!(key(&request), Some("192.0.2.1".to_owned()));
/// ```
pub fn peer_ip(
    peer: impl Fn(&Parts) -> Option<IpAddr> + Send + Sync + 'static,
) -> impl Fn(&Parts) -> Option<String> + Send + Sync + 'static {
    move |request| Some(peer(request).map_or_else(|| UNKNOWN.to_owned(), network))
}

/// Limits each client address that proxies report in `X-Forwarded-For`. `trusted_proxies` is the number of proxies in
/// front of the service that append to the header, at least 1.
///
/// A proxy appends the address of its peer, so the function counts from the right. Addresses further left come from the
/// client, and prove nothing. Requests without a valid address share one quota. An IPv6 network of 64 bits has one
/// quota.
///
/// ```
/// use kvtyped::integrations::rate_limit::key;
///
/// let key = key::forwarded(1);
/// let request = http::Request::builder().header("x-forwarded-for", "203.0.113.9, 192.0.2.1").body(()).unwrap();
/// assert_eq!(key(&request.into_parts().0), Some("192.0.2.1".to_owned()));
/// ```
pub fn forwarded(trusted_proxies: usize) -> impl Fn(&Parts) -> Option<String> + Send + Sync + 'static {
    move |request| {
        // A header that is not text is one invalid entry, so that it does not move the count.
        let lines = request.headers.get_all("x-forwarded-for").iter().map(|line| line.to_str().unwrap_or("?"));
        let entries: Vec<_> = lines.flat_map(|line| line.split(',')).map(str::trim).collect();
        let at = entries.len().saturating_sub(trusted_proxies.max(1));
        let address = entries.get(at).and_then(|entry| address(entry));
        Some(address.map_or_else(|| UNKNOWN.to_owned(), network))
    }
}

/// Parses an address with or without a port.
fn address(entry: &str) -> Option<IpAddr> {
    let bare = entry.strip_prefix('[').and_then(|entry| entry.strip_suffix(']')).unwrap_or(entry);
    bare.parse().or_else(|_| entry.parse::<SocketAddr>().map(|address| address.ip())).ok()
}

/// Returns an IPv4 address, or the network of an IPv6 address.
fn network(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            format!("{}/64", Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(lines: &[&str]) -> Parts {
        let lines =
            lines.iter().fold(http::Request::builder(), |request, line| request.header("x-forwarded-for", *line));
        lines.body(()).unwrap().into_parts().0
    }

    #[test]
    fn forwarded_address_counts_from_the_right() {
        for (proxies, lines, expected) in [
            (1, &["192.0.2.1"] as &[_], "192.0.2.1"),
            (1, &["6.6.6.6, 192.0.2.1"], "192.0.2.1"),
            (1, &["6.6.6.6", "192.0.2.1"], "192.0.2.1"),
            (2, &["6.6.6.6, 192.0.2.1, 10.0.0.1"], "192.0.2.1"),
            (0, &["6.6.6.6, 192.0.2.1"], "192.0.2.1"),
            (2, &["192.0.2.1"], "192.0.2.1"),
            (1, &["192.0.2.1:4711"], "192.0.2.1"),
            (1, &["[2001:db8:1:2:3:4:5:6]:443"], "2001:db8:1:2::/64"),
            (1, &["[2001:db8:1:2:3:4:5:6]"], "2001:db8:1:2::/64"),
            (1, &["2001:db8:1:2:ffff::1"], "2001:db8:1:2::/64"),
            (1, &["::ffff:192.0.2.1"], "192.0.2.1"),
            (1, &["192.0.2.1, nonsense"], UNKNOWN),
            (1, &["192.0.2.1,"], UNKNOWN),
            (1, &[], UNKNOWN),
        ] {
            assert_eq!(forwarded(proxies)(&request(lines)).as_deref(), Some(expected), "{proxies} {lines:?}");
        }
    }

    #[test]
    fn header_value_is_absent_from_key() {
        let (request, ()) = http::Request::builder().header("x-api-key", "abc").body(()).unwrap().into_parts();
        assert_eq!(
            header(HeaderName::from_static("x-api-key"))(&request).as_deref(),
            Some("ba7816bf8f01cfea414140de5dae2223")
        );
        assert_eq!(header(http::header::AUTHORIZATION)(&request), None);
    }
}
