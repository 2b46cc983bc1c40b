//! TLS: trusted CA certificates, the client certificate, and the cause of a failed connection.

use std::error::Error as StdError;
use std::io;
use std::sync::Arc;

use async_nats::rustls::pki_types::pem::PemObject;
use async_nats::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use async_nats::rustls::{self, AlertDescription, CertificateError, ClientConfig, RootCertStore};
use async_nats::{ConnectError, ConnectOptions};

use super::secret_file::SecretFile;
use crate::error::{Error, ErrorKind, Result};

/// The encryption of a connection. No file is kept in memory: each file is read for every connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tls {
    /// Whether the connection must be encrypted.
    pub(crate) required: bool,
    /// Whether TLS starts before the server sends its first message.
    pub(crate) first: bool,
    /// The trusted CA certificates, instead of the system's.
    pub(crate) root_certificates: Option<SecretFile>,
    /// The client certificate and its key.
    pub(crate) client: Option<(SecretFile, SecretFile)>,
}

impl Tls {
    /// Returns whether a connection that is not encrypted is refused.
    pub(crate) fn is_required(&self) -> bool {
        self.required || self.first || self.root_certificates.is_some() || self.client.is_some()
    }

    /// Returns whether an attacker can change the list of other servers that a server sends, although the connection
    /// must be encrypted.
    pub(crate) fn starts_unencrypted(&self) -> bool {
        self.is_required() && !self.first
    }

    /// Adds these settings to the client options. Checks the files immediately, so that a missing or invalid file is
    /// reported at once.
    pub(crate) async fn apply(&self, mut client: ConnectOptions) -> Result<ConnectOptions> {
        if !self.is_required() {
            return Ok(client);
        }
        let tls = self.clone();
        let checked = tokio::task::spawn_blocking(move || tls.check()).await;
        checked.unwrap_or_else(|error| {
            Err(Error::unavailable("the task that reads the certificates ended").caused_by(error))
        })?;
        let Self { required: _, first, root_certificates, client: identity } = self.clone();
        client = client.require_tls(true);
        if first {
            client = client.tls_first();
        }
        if let Some(file) = root_certificates {
            client = client.add_root_certificates(file.path());
        }
        if let Some((certificate, key)) = identity {
            client = client.add_client_certificate(certificate.path(), key.path());
        }
        Ok(client)
    }

    fn check(&self) -> Result<()> {
        let provider = rustls::crypto::CryptoProvider::get_default().cloned();
        let provider = provider.unwrap_or_else(|| {
            let provider = rustls::crypto::ring::default_provider();
            // Otherwise the client would choose a provider by the features of the whole program, and panic if it found
            // two.
            let _ = provider.clone().install_default();
            Arc::new(provider)
        });
        let mut roots = RootCertStore::empty();
        if let Some(file) = &self.root_certificates {
            let invalid = |why: String| Error::invalid_config(format!("the certificates in {file}: {why}"));
            for certificate in certificates(file)? {
                roots.add(certificate).map_err(|error| invalid(error.to_string()))?;
            }
        }
        let Some((certificate, key)) = &self.client else { return Ok(()) };
        let chain = certificates(certificate)?;
        let pem = key.read_secret("the key of the client certificate")?;
        let invalid = |why: String| {
            Error::invalid_config(format!("the client certificate {certificate} with the key {key}: {why}"))
        };
        // The text of the cause may contain a part of the key.
        let key = PrivateKeyDer::from_pem_slice(&pem)
            .map_err(|_| invalid("the file contains no private key in the PEM format".into()))?;
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| invalid(error.to_string()))?.with_root_certificates(roots);
        let checked = builder.with_client_auth_cert(chain, key);
        checked.map(drop).map_err(|error| invalid(format!("they are not a pair: {error}")))
    }
}

fn certificates(file: &SecretFile) -> Result<Vec<CertificateDer<'static>>> {
    let pem = file.read("the file of certificates")?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(Error::invalid_config(format!("{file} contains no certificate in the PEM format"))),
    }
}

/// Explains why there is no encrypted connection, and how to fix it. Returns `None` if the cause is another one.
pub(crate) fn explain(error: &ConnectError, tls: &Tls) -> Option<Error> {
    let reason = match cause(error) {
        Some(rustls::Error::InvalidCertificate(why)) => match why {
            // `BadSignature` means that another CA has the same name.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "the server's certificate comes from an authority that is not trusted \
                here; name the certificate of the authority with `?ca=/path/ca.pem` or `root_certificates`"
                    .into()
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "the server's certificate is not valid for the name in the URL; connect with a name of the certificate"
                    .into()
            }
            why => format!("the server's certificate is rejected: {why}"),
        },
        Some(rustls::Error::AlertReceived(alert)) => match (alert, &tls.client) {
            (AlertDescription::ProtocolVersion, _) => {
                "the server supports neither TLS 1.2 nor TLS 1.3; update it".into()
            }
            (alert, Some(_)) => format!(
                "the server does not accept the client certificate ({alert:?}); use a certificate from an authority that \
                 the server trusts"
            ),
            (AlertDescription::CertificateRequired | AlertDescription::BadCertificate, None) => NO_CERTIFICATE.into(),
            (alert, None) => format!("the server refuses the connection ({alert:?})"),
        },
        Some(rustls::Error::InvalidMessage(_)) => {
            "the server does not start with TLS; use `nats://` if it has no TLS, or leave out `tls_first`".into()
        }
        Some(error) => error.to_string(),
        // The alert for a missing certificate may be lost when the server closes the connection.
        None if tls.is_required() && tls.client.is_none() && is_hung_up(error) => {
            format!("the server closed the connection, perhaps because {NO_CERTIFICATE}")
        }
        None => return None,
    };
    Some(Error::new(ErrorKind::Tls { reason }))
}

const NO_CERTIFICATE: &str = "the server asks for a client certificate; name one with `?cert=/path/cert.pem&key=/path/key.pem` or `client_certificate`";

fn causes(error: &ConnectError) -> impl Iterator<Item = &io::Error> {
    fn next<'a>(error: &&'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
        (*error).source()
    }
    std::iter::successors(error.source(), next).filter_map(|error| error.downcast_ref::<io::Error>())
}

fn cause(error: &ConnectError) -> Option<&rustls::Error> {
    causes(error).find_map(|error| error.get_ref()?.downcast_ref::<rustls::Error>())
}

fn is_hung_up(error: &ConnectError) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    causes(error).any(|error| matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof))
}
