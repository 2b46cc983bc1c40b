//! Authentication, without ever showing a secret.

use std::borrow::Cow;
use std::fmt;

use async_nats::ConnectOptions;

use super::secret_file::SecretFile;
#[cfg(not(feature = "nkeys"))]
use crate::error::Error;
use crate::error::Result;

/// A secret text, whose `Debug` shows nothing. A text converts into it, and with the feature `secrecy-0_10` a
/// `SecretString` does too.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&String> for Secret {
    fn from(text: &String) -> Self {
        Self(text.clone())
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl From<Cow<'_, str>> for Secret {
    fn from(text: Cow<'_, str>) -> Self {
        Self(text.into_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// The credentials of a connection. Their `Debug` shows the kind, and the path of a file.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Credentials {
    UserAndPassword(String, Secret),
    Token(Secret),
    /// The seed of an nkey.
    Nkey(Secret),
    NkeyFile(SecretFile),
    /// A JSON Web Token and a seed, in the format of a credentials file.
    Jwt(Secret),
    JwtFile(SecretFile),
}

impl Credentials {
    /// Returns client options with these credentials.
    ///
    /// Reads a file immediately, so that a missing or invalid file is reported at once. The file is read again for each
    /// new connection, so that a replaced file takes effect. If the caller passes client options, the file is read only
    /// here.
    pub(crate) async fn apply(self, client: Option<ConnectOptions>) -> Result<ConnectOptions> {
        match self {
            Self::UserAndPassword(user, password) => Ok(client.unwrap_or_default().user_and_password(user, password.0)),
            Self::Token(token) => Ok(client.unwrap_or_default().token(token.0)),
            #[cfg(feature = "nkeys")]
            signed => signed::apply(signed, client).await,
            #[cfg(not(feature = "nkeys"))]
            Self::Nkey(_) | Self::NkeyFile(_) | Self::Jwt(_) | Self::JwtFile(_) => {
                Err(Error::unsupported("the feature `nkeys` of kvtyped; enable it", "kvtyped without this feature"))
            }
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UserAndPassword(..) => f.write_str("UserAndPassword(..)"),
            Self::Token(_) => f.write_str("Token(..)"),
            Self::Nkey(_) => f.write_str("Nkey(..)"),
            Self::Jwt(_) => f.write_str("Jwt(..)"),
            Self::NkeyFile(file) => f.debug_tuple("NkeyFile").field(file).finish(),
            Self::JwtFile(file) => f.debug_tuple("JwtFile").field(file).finish(),
        }
    }
}

/// Credentials that sign a nonce of the server.
#[cfg(feature = "nkeys")]
mod signed {
    use async_nats::{Auth, AuthError, ConnectOptions};
    use nkeys::{KeyPair, KeyPairType};

    use super::Credentials;
    use crate::error::{Error, Result};

    /// The identity of a user, with the key that proves it.
    struct Identity {
        jwt: Option<String>,
        seed: String,
        key: KeyPair,
    }

    pub(crate) async fn apply(credentials: Credentials, client: Option<ConnectOptions>) -> Result<ConnectOptions> {
        let identity = load_identity(credentials.clone()).await?;
        let Some(client) = client else {
            return Ok(ConnectOptions::with_auth_callback(move |nonce| {
                let credentials = credentials.clone();
                async move {
                    let identity = load_identity(credentials).await.map_err(AuthError::new)?;
                    let mut auth = Auth::new();
                    auth.signature = Some(identity.key.sign(&nonce).map_err(AuthError::new)?);
                    auth.nkey = identity.jwt.is_none().then(|| identity.key.public_key());
                    auth.jwt = identity.jwt;
                    Ok(auth)
                }
            }));
        };
        let Identity { jwt, seed, key } = identity;
        let Some(jwt) = jwt else { return Ok(client.nkey(seed)) };
        let key = std::sync::Arc::new(key);
        Ok(client.jwt(jwt, move |nonce| {
            let signature = key.sign(&nonce).map_err(AuthError::new);
            async move { signature }
        }))
    }

    async fn load_identity(credentials: Credentials) -> Result<Identity> {
        let is_file = matches!(credentials, Credentials::NkeyFile(_) | Credentials::JwtFile(_));
        if !is_file {
            return identify(&credentials);
        }
        let learned = tokio::task::spawn_blocking(move || identify(&credentials)).await;
        learned.unwrap_or_else(|error| {
            Err(Error::unavailable("the task that reads the credentials ended").caused_by(error))
        })
    }

    fn identify(credentials: &Credentials) -> Result<Identity> {
        match credentials {
            Credentials::Nkey(seed) => from_seed(None, &seed.0, "the nkey"),
            Credentials::NkeyFile(file) => {
                let text = file.read_secret("the file of an nkey")?;
                let text = String::from_utf8_lossy(&text);
                let seed = section(&text, "NKEY SEED").unwrap_or(&text);
                from_seed(None, seed, &file.to_string())
            }
            Credentials::Jwt(text) => from_credentials_file(&text.0, "the credentials"),
            Credentials::JwtFile(file) => {
                let text = file.read_secret("the credentials file")?;
                from_credentials_file(&String::from_utf8_lossy(&text), &file.to_string())
            }
            Credentials::UserAndPassword(..) | Credentials::Token(_) => {
                Err(Error::invalid_config("a password or a token has no key; use an nkey or a credentials file"))
            }
        }
    }

    fn from_credentials_file(text: &str, what: &str) -> Result<Identity> {
        let (Some(jwt), Some(seed)) = (section(text, "USER JWT"), section(text, "NKEY SEED")) else {
            let needs = "`BEGIN NATS USER JWT` and `BEGIN USER NKEY SEED`, as `nsc generate creds` writes them";
            return Err(Error::invalid_config(format!("{what} lacks the sections {needs}")));
        };
        from_seed(Some(jwt.to_owned()), seed, what)
    }

    /// Omits the causes, because the nkeys library may quote the key in them.
    fn from_seed(jwt: Option<String>, seed: &str, what: &str) -> Result<Identity> {
        let seed = seed.trim();
        match KeyPair::from_seed(seed) {
            Ok(key) if key.key_pair_type() == KeyPairType::User => Ok(Identity { jwt, seed: seed.to_owned(), key }),
            Ok(_) => Err(Error::invalid_config(format!(
                "{what} contains another kind of key; use the seed of a user (`SU..`)"
            ))),
            Err(_) => {
                Err(Error::invalid_config(format!("{what} contains no nkey seed; use the seed of a user (`SU..`)")))
            }
        }
    }

    /// Returns the line after the heading with this name.
    fn section<'a>(text: &'a str, name: &str) -> Option<&'a str> {
        let mut lines = text.lines().map(str::trim);
        lines.find(|line| line.contains("BEGIN") && line.contains(name))?;
        lines.find(|line| !line.is_empty()).filter(|line| !line.starts_with('-'))
    }

    #[cfg(test)]
    mod tests {
        #![allow(clippy::unwrap_used)]

        use super::*;

        #[test]
        fn credentials_file_yields_jwt_and_seed() {
            let seed = KeyPair::new_user().seed().unwrap();
            let text = format!(
                "-----BEGIN NATS USER JWT-----\r\neyJ0.e.s\r\n------END NATS USER JWT------\r\n\n*** IMPORTANT ***\n\n\
                 -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
            );
            let identity = from_credentials_file(&text, "it").unwrap();
            assert_eq!((identity.jwt.as_deref(), identity.seed.as_str()), (Some("eyJ0.e.s"), seed.as_str()));
        }

        #[test]
        fn invalid_seed_error_omits_the_seed() {
            let account = KeyPair::new_account().seed().unwrap();
            let mut broken = KeyPair::new_user().seed().unwrap();
            broken.replace_range(20..22, "00");
            for seed in [account.as_str(), broken.as_str(), "SUnonsense", ""] {
                let error = from_seed(None, seed, "the nkey").err().unwrap();
                let text = format!("{error} {error:?}");
                assert!(seed.is_empty() || !text.contains(seed), "{text}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_secret() {
        let all = [
            Credentials::UserAndPassword("u5er".into(), "s3cr3t".into()),
            Credentials::Token("s3cr3t".into()),
            Credentials::Nkey("s3cr3t".into()),
            Credentials::Jwt("s3cr3t".into()),
        ];
        let text = format!("{all:?} {all:#?}");
        assert!(!text.contains("s3cr3t") && !text.contains("u5er"), "{text}");
    }
}
