//! Test certificates and tokens.

use nkeys::KeyPair;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer};
use serde_json::{Value, json};
use std::time::{Duration, SystemTime};

/// A certificate authority.
pub(super) struct Authority {
    issuer: Issuer<'static, rcgen::KeyPair>,
    /// The certificate of the authority.
    pub(super) pem: String,
}

/// A certificate and its key.
pub(super) struct Issued {
    pub(super) certificate: String,
    pub(super) key: String,
}

impl Authority {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no name is wrong");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().expect("a key can be made");
        let pem = params.self_signed(&key).expect("it can be signed").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Issues a certificate for these names.
    pub(super) fn issue(&self, names: &[&str]) -> Issued {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("the names are legal");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = rcgen::KeyPair::generate().expect("a key can be made");
        let certificate = params.signed_by(&key, &self.issuer).expect("it can be signed").pem();
        Issued { certificate, key: key.serialize_pem() }
    }
}

/// An operator with one account for all users.
pub(super) struct Operator {
    key: KeyPair,
    account: KeyPair,
    system: KeyPair,
}

impl Operator {
    pub(super) fn new() -> Self {
        Self { key: KeyPair::new_operator(), account: KeyPair::new_account(), system: KeyPair::new_account() }
    }

    /// Returns the server configuration of the operator.
    pub(super) fn config(&self) -> String {
        let own = token(&self.key, &self.key, None, &json!({ "type": "operator", "version": 2 }));
        let [account, system] = [&self.account, &self.system].map(|account| {
            let limits = json!({
                "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1,
                "leaf": -1, "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1,
            });
            let limits = if account.public_key() == self.system.public_key() { json!({ "conn": -1 }) } else { limits };
            let claims = json!({ "type": "account", "version": 2, "limits": limits });
            format!("{}: {}", account.public_key(), token(&self.key, account, None, &claims))
        });
        let system_account = self.system.public_key();
        format!(
            "operator: {own}\nsystem_account: {system_account}\nresolver: MEMORY\n\
             resolver_preload: {{\n{account}\n{system}\n}}"
        )
    }

    /// Returns the content of a credentials file for a new user of the account. The user is valid for the given time.
    pub(super) fn credentials(&self, valid: Duration) -> String {
        credentials_by(&self.account, valid)
    }
}

/// Returns the content of a credentials file for a new user of `account`.
pub(super) fn credentials_by(account: &KeyPair, valid: Duration) -> String {
    let user = KeyPair::new_user();
    let claims = json!({ "type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1, "pub": {}, "sub": {} });
    let jwt = token(account, &user, Some(now() + valid.as_secs()), &claims);
    let seed = user.seed().expect("it has one");
    format!(
        "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )
}

fn token(by: &KeyPair, of: &KeyPair, until: Option<u64>, claims: &Value) -> String {
    let mut payload = json!({
        "jti": of.public_key(), "iat": now(), "iss": by.public_key(), "sub": of.public_key(), "name": "test",
        "nats": claims,
    });
    if let Some(until) = until {
        payload["exp"] = json!(until);
    }
    let header = json!({ "typ": "JWT", "alg": "ed25519-nkey" });
    let signed = format!("{}.{}", base64(header.to_string().as_bytes()), base64(payload.to_string().as_bytes()));
    let signature = by.sign(signed.as_bytes()).expect("it can sign");
    format!("{signed}.{}", base64(&signature))
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("it is later").as_secs()
}

/// Encodes bytes as base64 for URLs, without padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..=chunk.len() {
            text.push(DIGITS[(bits >> (18 - 6 * place) & 63) as usize].into());
        }
    }
    text
}
