//! The connection settings in a URL.

use async_nats::ServerAddr;

use super::credentials::Credentials;
use super::options::NatsOptions;
use super::secret_file::SecretFile;
use super::tls::Tls;
use crate::error::{Error, Result};

/// A parsed URL.
pub(crate) struct ServerUrl {
    /// The addresses of the servers, without a user: the client shows addresses in its traces.
    pub(crate) servers: Vec<ServerAddr>,
    /// The other settings in the URL.
    options: NatsOptions,
    /// The client certificate. It requires a key, and the key requires it.
    certificate: Option<SecretFile>,
    key: Option<SecretFile>,
}

impl ServerUrl {
    pub(crate) fn parse(url: &str) -> Result<Self> {
        // A URL from a shell variable or a file may have whitespace around it.
        let url = url.trim();
        // The address parser would silently drop some control characters.
        if url.contains(char::is_control) {
            return Err(invalid_url("it contains a control character, such as a tab or a line end"));
        }
        // A `#` would become a part of a value, such as a password.
        if url.contains('#') {
            return Err(invalid_url("it contains a `#`: write `%23`"));
        }
        let (addresses, query) = url.split_once('?').unwrap_or((url, ""));
        let mut parsed = Self { servers: Vec::new(), options: NatsOptions::new(), certificate: None, key: None };
        let mut user = None;
        for address in addresses.split(',').map(str::trim).filter(|address| !address.is_empty()) {
            let has_scheme = address.contains("://");
            let (scheme, rest) = address.split_once("://").unwrap_or(("nats", address));
            let scheme = scheme.to_ascii_lowercase();
            if !matches!(&*scheme, "nats" | "tls") {
                return Err(invalid_url("a server's scheme is neither `nats` nor `tls`"));
            }
            // One server with `tls` is enough: the client discovers other servers later, without a scheme.
            parsed.options.tls.required |= scheme == "tls";
            let (url_user, host) = match rest.rsplit_once('@') {
                Some((user, host)) => (Some(user), host),
                None => (None, rest),
            };
            if let Some(url_user) = url_user {
                // A password with a comma ends the first address early; its rest must not choose the server.
                let is_first = parsed.servers.is_empty();
                if url_user.contains('@') || !is_first && (user.is_none() || !has_scheme) {
                    return Err(invalid_url(
                        "the end of the user is ambiguous: write `,` and `@` in a user, password or token as `%2C` \
                         and `%40`, and name a user before the first server, with a scheme before each",
                    ));
                }
                let url_user = match url_user.split_once(':') {
                    Some((user, password)) => {
                        Credentials::UserAndPassword(percent_decode(user)?, percent_decode(password)?.into())
                    }
                    None => Credentials::Token(percent_decode(url_user)?.into()),
                };
                if user.as_ref().is_some_and(|other| *other != url_user) {
                    return Err(invalid_url("its servers have different users: name one user"));
                }
                user = Some(url_user);
            }
            let host = host.trim_end_matches('/');
            if host.contains('/') {
                return Err(invalid_url("a server has no path"));
            }
            if host.is_empty() {
                return Err(invalid_url("a server has no address"));
            }
            let server = format!("{scheme}://{host}").parse();
            parsed.servers.push(server.map_err(|_| invalid_url("a server's address is not `host:port`"))?);
        }
        if parsed.servers.is_empty() {
            return Err(invalid_url("it names no server"));
        }
        if let Some(user) = user {
            parsed.authenticate(user)?;
        }
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            parsed.apply_parameter(name, percent_decode(value)?)?;
        }
        parsed.options.tls.client = match (parsed.certificate.take(), parsed.key.take()) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some((certificate, key)),
            _ => return Err(invalid_url("it has only one of `cert` and `key`: set both")),
        };
        Ok(parsed)
    }

    fn apply_parameter(&mut self, name: &str, value: String) -> Result<()> {
        if value.is_empty() && PARAMETERS.contains(&name) {
            return Err(invalid_url(&format!("its parameter `{name}` has no value")));
        }
        match name {
            "domain" => self.options.domain = Some(value),
            "prefix" => self.options.prefix = Some(value),
            "inbox" => self.options.inbox_prefix = Some(value),
            "restricted" => self.options.restricted = parse_bool(name, &value)?,
            "trust_discovered_servers" => self.options.trust_discovered_servers = parse_bool(name, &value)?,
            "creds" => self.authenticate(Credentials::JwtFile(SecretFile::new(value)))?,
            "nkey" => self.authenticate(Credentials::NkeyFile(SecretFile::new(value)))?,
            "ca" => self.options.tls.root_certificates = Some(SecretFile::new(value)),
            "cert" => self.certificate = Some(SecretFile::new(value)),
            "key" => self.key = Some(SecretFile::new(value)),
            "tls_first" => self.options.tls.first = parse_bool(name, &value)?,
            _ => {
                return Err(invalid_url(&format!(
                    "it has an unknown parameter; the parameters are {}",
                    PARAMETERS.join(", ")
                )));
            }
        }
        Ok(())
    }

    fn authenticate(&mut self, credentials: Credentials) -> Result<()> {
        match self.options.credentials.replace(credentials) {
            None => Ok(()),
            Some(_) => Err(invalid_url("it has two kinds of credentials: keep one")),
        }
    }

    /// Merges these settings with other options. These settings take precedence; a flag is set if either side sets it.
    /// A domain and a prefix belong together, and so do a certificate and a key.
    pub(crate) fn merge_options(self, options: NatsOptions) -> NatsOptions {
        let mut own = self.options;
        if own.domain.is_none() && own.prefix.is_none() {
            (own.domain, own.prefix) = (options.domain, options.prefix);
        }
        own.tls = Tls {
            required: own.tls.required || options.tls.required,
            first: own.tls.first || options.tls.first,
            root_certificates: own.tls.root_certificates.or(options.tls.root_certificates),
            client: own.tls.client.or(options.tls.client),
        };
        NatsOptions {
            name: options.name,
            inbox_prefix: own.inbox_prefix.or(options.inbox_prefix),
            connect_timeout: options.connect_timeout,
            restricted: own.restricted || options.restricted,
            trust_discovered_servers: own.trust_discovered_servers || options.trust_discovered_servers,
            credentials: own.credentials.or(options.credentials),
            ..own
        }
    }
}

/// The query parameters. A URL may contain only the paths of secrets, because URLs are logged.
const PARAMETERS: &[&str] = &[
    "domain",
    "prefix",
    "inbox",
    "restricted",
    "trust_discovered_servers",
    "creds",
    "nkey",
    "ca",
    "cert",
    "key",
    "tls_first",
];

fn parse_bool(name: &str, value: &str) -> Result<bool> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(invalid_url(&format!("its parameter `{name}` is neither `true` nor `false`"))),
    }
}

/// Creates an error that quotes nothing, because the URL may contain a password.
fn invalid_url(what: &str) -> Error {
    Error::invalid_config(format!("the URL of the server: {what}"))
}

fn percent_decode(text: &str) -> Result<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
        match (digit(), digit()) {
            (Some(high), Some(low)) => bytes.extend(u8::try_from(high * 16 + low)),
            _ => return Err(invalid_url("a `%` is not followed by two hexadecimal digits")),
        }
    }
    String::from_utf8(bytes).map_err(|_| invalid_url("a percent-encoded part is not UTF-8"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn url_sets_servers_credentials_and_domain() {
        let parsed = ServerUrl::parse("NATS://me:p%40ss@a:4222,tls://b?domain=hub").unwrap();
        let servers: Vec<_> = parsed.servers.iter().map(ServerAddr::as_url_str).collect();
        assert_eq!(servers, ["nats://a:4222", "tls://b"]);
        let options = parsed.merge_options(NatsOptions::new().domain("elsewhere").name("me"));
        assert_eq!(options.credentials, Some(Credentials::UserAndPassword("me".into(), "p@ss".into())));
        assert_eq!((options.domain.as_deref(), options.name.as_deref()), (Some("hub"), Some("me")));
        assert!(options.tls.is_required(), "TLS of one server applies to all");
        let token = ServerUrl::parse("nats://s3cr3t@[::1]:4222").unwrap().merge_options(NatsOptions::new());
        assert_eq!(token, NatsOptions::new().token("s3cr3t"));
    }

    #[test]
    fn url_options_equal_builder_options() {
        let options = |url: &str| ServerUrl::parse(url).unwrap().merge_options(NatsOptions::new());
        let all = options("nats://a?creds=/a%20b.creds&ca=/ca&cert=/c&key=/k&tls_first=true&inbox=_I&restricted=true");
        let built = NatsOptions::new().credentials_file("/a b.creds").root_certificates("/ca").tls_first();
        assert_eq!(all, built.client_certificate("/c", "/k").inbox_prefix("_I").restricted(true));
        let trusting = options("tls://a?trust_discovered_servers=true");
        assert_eq!(trusting, NatsOptions::new().require_tls(true).trust_discovered_servers(true));
        assert_eq!(options("nats://a?nkey=/user.nk"), NatsOptions::new().nkey_file("/user.nk"));
        assert_eq!(options("tls://a"), NatsOptions::new().require_tls(true));
    }

    #[test]
    fn encoded_comma_does_not_split_servers() {
        for url in ["nats://u:a%2Cb@c:4222", "nats://u:a%2Cb@c:4222,nats://u:a%2Cb@d", "nats://u:a%2Cb@c:4222,d"] {
            let parsed = ServerUrl::parse(url).unwrap();
            assert!(parsed.servers.iter().all(|server| ["c", "d"].contains(&server.host())), "{url}");
            let options = parsed.merge_options(NatsOptions::new());
            assert_eq!(options.credentials, Some(Credentials::UserAndPassword("u".into(), "a,b".into())), "{url}");
        }
    }

    #[test]
    fn invalid_url_error_omits_secrets() {
        for url in [
            "",
            "http://u:s3cr3t@a",
            "nats://u:s3cr3t@a b",
            "nats://u:s3cr3t%@a",
            "nats://u:s3cr3t@a?x=1",
            "nats://a?token=s3cr3t",
            "nats://u:s3cr3t@a?creds=/f",
            "nats://u:s3cr3t@a?cert=/f",
            "nats://a?s3cr3t",
            "nats://a?tls_first=s3cr3t",
            "nats://u:s3cr3t@a?ca=",
            "nats://u:s3cr3t@a#b",
            "nats://u:s3cr3t@a\rb",
            "nats://u:s3cr3t@a?domain=h\tb",
            "nats://u:s3c#r3t@a",
            "nats://u:4222,s3cr3t@a",
            "nats://u:s3cr3t,4222@a",
            "nats://u:s3cr3t@a,u:s3cr3t@b",
            "nats://u:s3cr3t@a,b@c",
            "nats://u:s3c@r3t@a",
            "nats://s3c,r3t@a",
            "nats://a,nats://u:s3cr3t@b",
            "nats://u:4222,nats://s3cr3t@a",
        ] {
            let error = ServerUrl::parse(url).err().unwrap();
            let text = format!("{error:?}");
            assert!(!["s3cr3t", "s3c", "r3t"].iter().any(|part| text.contains(part)), "{error}");
        }
    }
}
