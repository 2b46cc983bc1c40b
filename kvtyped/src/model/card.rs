//! The card of a model: a description of its records in the metadata of their bucket.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::index::IndexCard;

/// The prefix of the metadata keys of this crate. User metadata must not begin with it.
pub(crate) const RESERVED_METADATA: &str = "kvtyped.";

/// The prefix of the metadata key of a card. The name of the model follows.
const PREFIX: &str = "kvtyped.model.";

/// The card of a model in the metadata of a bucket, `kvtyped.model.<name>`. Several models may share a bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ModelCard {
    /// The template of the keys, such as `{tenant}.{id}`.
    pub key: String,
    /// The name of the codec.
    pub codec: String,
    /// The newest schema version.
    pub version: u32,
    /// The schema version that programs write.
    pub writes: u32,
    /// The oldest schema version that records may have.
    pub oldest: u32,
    /// The fingerprint of the schema of `version`: 16 hexadecimal digits. `None` if the schema is unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    /// The name of the key codec. `None` for the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_codec: Option<String>,
    /// The indexes of the model, by their names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub indexes: BTreeMap<String, IndexCard>,
    /// The version of this crate that wrote the card.
    #[serde(default, rename = "crate", skip_serializing_if = "Option::is_none")]
    pub written_by: Option<String>,
    /// The fields that this version does not know. They are written back unchanged.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

impl ModelCard {
    /// Returns the metadata key of the card of a model.
    pub fn metadata_key(model: &str) -> String {
        format!("{PREFIX}{model}")
    }

    /// Returns the model of a metadata key. `None` for other metadata.
    pub fn model_of(metadata_key: &str) -> Option<&str> {
        metadata_key.strip_prefix(PREFIX).filter(|model| !model.is_empty())
    }

    /// Parses the text of a card.
    ///
    /// # Errors
    ///
    /// Returns the reason if the text is not a card, without its content.
    pub fn parse(text: &str) -> Result<Self, String> {
        let card: Self = serde_json::from_str(text).map_err(|error| match error.classify() {
            serde_json::error::Category::Data => "it lacks a field, or a field has another type".to_owned(),
            _ => "it is not JSON".to_owned(),
        })?;
        let is_ordered = 1 <= card.oldest && card.oldest <= card.writes && card.writes <= card.version;
        if is_ordered { Ok(card) } else { Err("its versions are not in order".to_owned()) }
    }

    /// Returns the text of the card: one line of JSON.
    pub fn to_text(&self) -> String {
        // A struct of texts and numbers always has a JSON form.
        serde_json::to_string(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::index::{IndexInfo, IndexKind, IndexState};
    use super::*;

    fn card() -> ModelCard {
        ModelCard {
            key: "{id}".into(),
            codec: "json".into(),
            version: 3,
            writes: 2,
            oldest: 1,
            schema: Some("00000000000000ff".into()),
            key_codec: None,
            indexes: BTreeMap::new(),
            written_by: None,
            other: BTreeMap::new(),
        }
    }

    #[test]
    fn card_reads_as_it_was_written() {
        let text = r#"{"key":"{id}","codec":"json","version":3,"writes":2,"oldest":1,"schema":"00000000000000ff"}"#;
        assert_eq!(card().to_text(), text);
        assert_eq!(ModelCard::parse(text), Ok(card()));
    }

    #[test]
    fn fields_of_a_later_program_stay() {
        let text = r#"{"key":"a","codec":"json","version":1,"writes":1,"oldest":1,"later":{"email":7}}"#;
        let card = ModelCard::parse(text).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(card.to_text(), text);
    }

    #[test]
    fn indexes_have_a_stable_form() {
        let text = concat!(
            r#"{"key":"{id}","codec":"json","version":3,"writes":2,"oldest":1,"schema":"00000000000000ff","indexes":{"#,
            r#""by_role":{"state":"writing","definition":"{team}.{role}","fingerprint":"98736000f8f821a4"},"#,
            r#""email":{"state":"readable","unique":true,"definition":"{email:lower}","fingerprint":"d4edcddf4ab75335"},"#,
            r#""joined":{"state":"dropping","eventual":true,"definition":"{joined:day}","fingerprint":"1980c46303a31e47"},"#,
            r#""tags":{"state":"pending","definition":"{tags}","fingerprint":"ed47f7f44cd29c91"}}}"#,
        );
        let unique = IndexInfo::new("email", IndexKind::Unique, "{email:lower}");
        let role = IndexInfo::new("by_role", IndexKind::Many, "{team}.{role}").segments(2);
        let joined = IndexInfo::new("joined", IndexKind::Many, "{joined:day}").segments(3).eventual();
        let tags = IndexInfo::new("tags", IndexKind::Many, "{tags}");
        let states = [
            (&unique, IndexState::Readable),
            (&role, IndexState::Writing),
            (&joined, IndexState::Dropping),
            (&tags, IndexState::Pending),
        ];
        let indexes = states.map(|(info, state)| (info.name.to_owned(), IndexCard::new(info, state)));
        let card = ModelCard { indexes: indexes.into(), ..card() };
        assert_eq!(card.to_text(), text);
        assert_eq!(ModelCard::parse(text), Ok(card.clone()));
        let [found, other] = ["email", "by_role"].map(|name| &card.indexes[name]);
        assert!(found.describes(&unique) && !other.describes(&role.segments(3)) && !other.describes(&role.eventual()));
    }

    #[test]
    fn unknown_state_of_an_index_stays() {
        let text = concat!(
            r#"{"key":"a","codec":"json","version":1,"writes":1,"oldest":1,"indexes":"#,
            r#"{"email":{"state":"resting","definition":"{email}","fingerprint":"0","since":3}}}"#,
        );
        let card = ModelCard::parse(text).unwrap_or_else(|error| panic!("{error}"));
        let state = &card.indexes["email"].state;
        assert_eq!(*state, IndexState::Unknown("resting".into()));
        assert!(state.is_maintained() && !state.is_readable());
        assert_eq!(card.to_text(), text);
    }

    #[test]
    fn invalid_card_is_refused_with_a_reason() {
        let reason = |text: &str| ModelCard::parse(text).expect_err("it is invalid");
        assert!(reason("{").contains("not JSON"));
        assert!(reason("[]").contains("another type"));
        assert!(reason(r#"{"key":"a"}"#).contains("lacks a field"));
        let versions = |version: u32, writes: u32, oldest: u32| {
            let card = ModelCard { version, writes, oldest, ..card() };
            ModelCard::parse(&card.to_text())
        };
        assert!(versions(3, 4, 1).is_err() && versions(3, 2, 3).is_err() && versions(3, 3, 0).is_err());
        assert!(versions(3, 3, 3).is_ok());
    }

    #[test]
    fn metadata_key_names_the_model() {
        assert_eq!(ModelCard::metadata_key("user"), "kvtyped.model.user");
        assert_eq!(ModelCard::model_of("kvtyped.model.user"), Some("user"));
        assert_eq!((ModelCard::model_of("kvtyped.model."), ModelCard::model_of("owner")), (None, None));
    }
}
