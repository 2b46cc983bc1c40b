//! Digests of secrets that are used as keys.

use std::fmt::Write;

/// Returns the first 16 bytes of SHA-256 in hexadecimal. The result is a key that does not reveal the secret.
pub(super) fn digest(secret: &[u8]) -> String {
    let digest = hmac_sha256::Hash::hash(secret);
    digest[..16].iter().fold(String::with_capacity(32), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::digest;

    #[test]
    fn digest_is_sha_256() {
        // The first half of the test vector "abc" of FIPS 180-2.
        assert_eq!(digest(b"abc"), "ba7816bf8f01cfea414140de5dae2223");
    }
}
