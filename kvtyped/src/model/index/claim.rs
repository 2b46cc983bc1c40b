//! The claim of a unique value.

use serde::{Deserialize, Serialize};

use crate::key::Key;
use crate::revision::Revision;

/// The newest version of the format.
const VERSION: u32 = 1;

/// The claim of a unique value: the record that has the value, or that is about to be written with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The escaped key of the record.
    pub owner: Key,
    /// The revision of the record before the write that the claim is for. [`Revision::ZERO`] for a new record.
    pub expects: Revision,
}

#[derive(Serialize, Deserialize)]
struct Body<'a> {
    v: u32,
    owner: std::borrow::Cow<'a, str>,
    expects: u64,
}

impl Claim {
    /// Returns the body of the claim.
    pub fn encode(&self) -> Vec<u8> {
        let body = Body { v: VERSION, owner: self.owner.as_str().into(), expects: self.expects.get() };
        // A struct of a text and two numbers always has a JSON form.
        serde_json::to_vec(&body).unwrap_or_default()
    }

    /// Reads the body of a claim. Ignores fields that it does not know.
    ///
    /// # Errors
    ///
    /// Returns the reason if the bytes are no claim, or a claim of a newer version, without their content.
    pub fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        let body: Body<'_> = serde_json::from_slice(bytes).map_err(|_| "it is not a claim of a unique value")?;
        if body.v > VERSION {
            return Err("a newer version of the library has written the claim");
        }
        let owner = Key::new(body.owner).map_err(|_| "the owner of the claim is not a key")?;
        Ok(Self { owner, expects: Revision::new(body.expects) })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn claim() -> Claim {
        Claim { owner: Key::new("acme.7").unwrap(), expects: Revision::new(12) }
    }

    #[test]
    fn claim_is_stored_as_json() {
        let text = br#"{"v":1,"owner":"acme.7","expects":12}"#;
        assert_eq!(claim().encode(), text);
        assert_eq!(Claim::decode(text), Ok(claim()));
        assert_eq!(Claim::decode(br#"{"expects":12,"later":[1],"owner":"acme.7","v":1}"#), Ok(claim()));
    }

    #[test]
    fn invalid_claims_are_refused() {
        for text in ["", "{", "[]", r#"{"v":1,"owner":"a..b","expects":1}"#, r#"{"v":1,"owner":"a","expects":-1}"#] {
            assert!(Claim::decode(text.as_bytes()).is_err(), "{text}");
        }
        let newer = Claim::decode(br#"{"v":2,"owner":"a","expects":1}"#);
        assert!(newer.unwrap_err().contains("newer"));
    }
}
