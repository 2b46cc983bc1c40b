//! Stored bytes as JSON values and back, by the model cards of the bucket.

use std::io::Write;
use std::process::{Command, Stdio};

use data_encoding::BASE64;
use kvtyped::Key;
use kvtyped::backend::RecordHeaders;
use kvtyped::config::BucketConfig;
use kvtyped::model::ModelCard;

use crate::json::{Json, object};
use crate::msgpack;
use crate::template::Template;

/// A codec that the tool knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Codec {
    Json,
    Msgpack,
    Text,
    Bytes,
}

impl Codec {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Msgpack => "msgpack",
            Self::Text => "text",
            Self::Bytes => "bytes",
        }
    }

    pub(crate) fn of_name(name: &str) -> Option<Self> {
        [Self::Json, Self::Msgpack, Self::Text, Self::Bytes].into_iter().find(|codec| codec.name() == name)
    }

    /// Decodes bytes. The reason of an error contains nothing of the value.
    pub(crate) fn decode(self, bytes: &[u8]) -> Result<Json, String> {
        match self {
            Self::Json => Json::parse(bytes).map_err(|error| {
                // The message of `serde_json` may quote the value.
                format!("not JSON at line {} column {}", error.line(), error.column())
            }),
            Self::Msgpack => msgpack::decode(bytes),
            Self::Text => match std::str::from_utf8(bytes) {
                Ok(text) => Ok(Json::from(text)),
                Err(error) => Err(format!("not UTF-8 after {} bytes", error.valid_up_to())),
            },
            Self::Bytes => Ok(object! { "$bin" => BASE64.encode(bytes) }),
        }
    }

    /// Encodes a value.
    pub(crate) fn encode(self, value: &Json) -> Result<Vec<u8>, String> {
        match (self, value) {
            (Self::Json, value) => Ok(value.line().into_bytes()),
            (Self::Msgpack, value) => msgpack::encode(value),
            (Self::Text, Json::Text(text)) => Ok(text.clone().into_bytes()),
            (Self::Text, _) => Err("the codec is `text`, so the value must be a JSON string".to_owned()),
            (Self::Bytes, value) => match value.get("$bin").and_then(Json::text) {
                Some(text) => BASE64.decode(text.as_bytes()).map_err(|_| "`$bin` is not base64".to_owned()),
                None => Err("the codec is `bytes`, so the value must be {\"$bin\": \"<base64>\"}".to_owned()),
            },
        }
    }

    /// Whether the encoding of the decoded value is the stored value, so that an edit loses nothing. Spaces between the
    /// parts of JSON do not count.
    pub(crate) fn is_exact(self, value: &Json, bytes: &[u8]) -> bool {
        let Ok(encoded) = self.encode(value) else { return false };
        encoded == bytes || self == Self::Json && encoded == without_spaces(bytes)
    }

    /// Guesses the codec of bytes, and decodes them.
    fn guess(bytes: &[u8]) -> (Self, Json) {
        let is_text = |text: &Json| text.text().is_some_and(|text| !text.contains(is_binary));
        for (codec, accepts) in [(Self::Json, None), (Self::Text, Some(&is_text)), (Self::Msgpack, None)] {
            match codec.decode(bytes) {
                Ok(value) if accepts.is_none_or(|accepts| accepts(&value)) => return (codec, value),
                _ => {}
            }
        }
        (Self::Bytes, object! { "$bin" => BASE64.encode(bytes) })
    }
}

/// Whether a character rarely occurs in texts.
fn is_binary(character: char) -> bool {
    character.is_control() && !matches!(character, '\n' | '\r' | '\t' | '\u{1b}')
}

/// Removes the spaces between the parts of JSON.
fn without_spaces(json: &[u8]) -> Vec<u8> {
    let (mut in_text, mut is_escaped) = (false, false);
    let keep = |byte: &u8| {
        let is_space = !in_text && byte.is_ascii_whitespace();
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if in_text => is_escaped = true,
            b'"' => in_text = !in_text,
            _ => {}
        }
        !is_space
    };
    json.iter().copied().filter(keep).collect()
}

/// A decoded value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Decoded {
    /// The name of the codec, also of one that the tool does not know.
    pub(crate) name: String,
    /// The codec, if the tool knows it.
    pub(crate) codec: Option<Codec>,
    /// Whether no model card names the codec.
    pub(crate) is_guessed: bool,
    /// The value, or the reason why it does not decode.
    pub(crate) value: Result<Json, String>,
}

impl Decoded {
    /// Returns the codec and the value, if encoding the value gives the same bytes.
    pub(crate) fn exact(&self, bytes: &[u8]) -> Result<(Codec, &Json), String> {
        let value = self.value.as_ref().map_err(Clone::clone)?;
        let codec = self.codec.ok_or_else(|| format!("the tool cannot encode the codec `{}`", self.name))?;
        match codec.is_exact(value, bytes) {
            true => Ok((codec, value)),
            false => Err(format!("JSON cannot show this {} value exactly, so an edit would change more", self.name)),
        }
    }
}

/// The models of a bucket, and how to decode their records.
#[derive(Debug, Clone, Default)]
pub(crate) struct Models {
    models: Vec<Model>,
    /// The models whose cards this version cannot read.
    unreadable: Vec<String>,
    /// A command that decodes values: bytes in, JSON out.
    decoder: Option<String>,
}

#[derive(Debug, Clone)]
pub(crate) struct Model {
    pub(crate) name: String,
    pub(crate) card: ModelCard,
    template: Template,
}

impl Models {
    /// Reads the cards in the metadata of a bucket.
    pub(crate) fn of(config: &BucketConfig) -> Self {
        let mut found = Self::default();
        for (key, text) in &config.metadata {
            let Some(name) = ModelCard::model_of(key).map(str::to_owned) else { continue };
            match ModelCard::parse(text) {
                Ok(card) => found.models.push(Model { name, template: Template::parse(&card.key), card }),
                Err(_) => found.unreadable.push(name),
            }
        }
        found
    }

    /// Returns the names of the models whose cards cannot be read, because a later version wrote them.
    pub(crate) fn unreadable(&self) -> &[String] {
        &self.unreadable
    }

    /// Decodes values with a command instead.
    pub(crate) fn decoded_with(self, decoder: Option<String>) -> Self {
        Self { decoder, ..self }
    }

    /// Returns all models.
    pub(crate) fn all(&self) -> &[Model] {
        &self.models
    }

    /// Returns the model of a key: the one whose template matches with the most literal text.
    pub(crate) fn of_key(&self, key: &str) -> Option<&Model> {
        let matching = self.models.iter().filter_map(|model| Some((model.template.matches(key)?, model)));
        matching.max_by_key(|(literals, _)| *literals).map(|(_, model)| model)
    }

    /// Returns the names of the models whose cards list indexes.
    pub(crate) fn indexed(&self) -> Vec<&str> {
        let has_indexes = |model: &&Model| !model.card.indexes.is_empty();
        self.models.iter().filter(has_indexes).map(|model| model.name.as_str()).collect()
    }

    /// Decodes a record.
    pub(crate) fn decode(&self, key: &Key, headers: &RecordHeaders, bytes: &[u8]) -> Decoded {
        let card = self.of_key(key.as_str()).map(|model| &model.card);
        if let Some(decoder) = &self.decoder {
            return Decoded {
                name: "custom".into(),
                codec: None,
                is_guessed: false,
                value: run_decoder(decoder, bytes),
            };
        }
        if let Some(encoding) = headers.encoding() {
            let name = card.map_or_else(|| "unknown".to_owned(), |card| card.codec.clone());
            let what = if headers.key_id().is_some() { "encrypted" } else { "encoded" };
            let key = headers.key_id().map_or_else(String::new, |key| format!("key {key}, "));
            let value = Err(format!("{what} ({key}{encoding}, {} bytes)", bytes.len()));
            return Decoded { name, codec: None, is_guessed: false, value };
        }
        let guessed = || {
            let (codec, value) = Codec::guess(bytes);
            Decoded { name: codec.name().to_owned(), codec: Some(codec), is_guessed: true, value: Ok(value) }
        };
        let Some(card) = card else { return guessed() };
        let is_newest = headers.version.unwrap_or(1) == card.version;
        match Codec::of_name(&card.codec) {
            Some(codec) => {
                let value = codec.decode(bytes);
                // The card names the codec of the newest version only.
                match value.is_err() && !is_newest {
                    true => guessed(),
                    false => Decoded { name: codec.name().to_owned(), codec: Some(codec), is_guessed: false, value },
                }
            }
            None => {
                let value = Err(format!("the codec `{}` is not built in; use `--decode-with CMD`", card.codec));
                Decoded { name: card.codec.clone(), codec: None, is_guessed: false, value }
            }
        }
    }
}

/// Decodes bytes with a command.
fn run_decoder(decoder: &str, bytes: &[u8]) -> Result<Json, String> {
    let failed = |error: std::io::Error| format!("`{decoder}`: {error}");
    let mut child = Command::new("sh")
        .args(["-c", decoder])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let mut stdin = child.stdin.take().ok_or_else(|| format!("`{decoder}` has no input"))?;
    let bytes = bytes.to_vec();
    // A separate thread, because the command may write before it has read everything. A command that does not read all
    // of its input is no error.
    let writer = std::thread::spawn(move || stdin.write_all(&bytes));
    let output = child.wait_with_output().map_err(failed)?;
    let _ = writer.join();
    if !output.status.success() {
        return Err(format!("`{decoder}` failed: {}", output.status));
    }
    Json::parse(&output.stdout).map_err(|_| format!("the output of `{decoder}` is not JSON"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        Key::new(text).unwrap()
    }

    fn models(cards: &[(&str, &str, &str)]) -> Models {
        let mut config = BucketConfig::new("b");
        for (name, key, codec) in cards {
            let card = format!(r#"{{"key":"{key}","codec":"{codec}","version":2,"writes":2,"oldest":1}}"#);
            config.metadata.insert(ModelCard::metadata_key(name), card);
        }
        Models::of(&config)
    }

    #[test]
    fn codec_is_that_of_the_card_that_fits_the_key() {
        let models = models(&[("a", "doc.{name}", "text"), ("b", "{tenant}.{id}", "msgpack")]);
        let headers = RecordHeaders::of_version(Some(2));
        let decoded = models.decode(&key("doc.x"), &headers, b"17");
        assert_eq!((decoded.name.as_str(), decoded.is_guessed, decoded.value), ("text", false, Ok(Json::from("17"))));
        let decoded = models.decode(&key("acme.7"), &headers, b"{}");
        assert!(decoded.value.is_err() && decoded.name == "msgpack", "{decoded:?}");
        let decoded = models.decode(&key("other"), &headers, b"17");
        assert_eq!((decoded.name.as_str(), decoded.is_guessed), ("json", true));
    }

    #[test]
    fn codec_of_an_earlier_version_is_guessed() {
        let models = models(&[("a", "{id}", "msgpack")]);
        let decoded = models.decode(&key("7"), &RecordHeaders::NONE, br#"{"a":1}"#);
        assert_eq!((decoded.name.as_str(), decoded.is_guessed), ("json", true));
    }

    #[test]
    fn codecs_are_guessed() {
        for (bytes, codec) in [
            (&b"{\"a\":1}"[..], Codec::Json),
            (b"plain text", Codec::Text),
            (b"", Codec::Text),
            (b"\x81\xa1a\x01", Codec::Msgpack),
            (b"\x00\x01\xff", Codec::Bytes),
        ] {
            let (guessed, value) = Codec::guess(bytes);
            assert_eq!(guessed, codec, "{bytes:?}");
            assert!(guessed.is_exact(&value, bytes), "{bytes:?}");
        }
    }

    #[test]
    fn value_that_json_cannot_show_is_not_exact() {
        for (bytes, exact) in [
            (&b"{\"a\": [1, 2],\n \"b\": \"x y\"}"[..], true),
            (b"{\"a\":1.0e2}", false),
            (b"\"\\u0041\"", false),
            (b"{\"a\":1,\"a\":2}", true),
            (b"123456789012345678901234567890", false),
        ] {
            let value = Codec::Json.decode(bytes).unwrap();
            assert_eq!(Codec::Json.is_exact(&value, bytes), exact, "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn sealed_value_is_described() {
        let headers = RecordHeaders::NONE.with_encoding(Some("aead")).with_key_id(Some("k1"));
        let decoded = Models::default().decode(&key("a"), &headers, &[0; 412]);
        assert_eq!(decoded.value, Err("encrypted (key k1, aead, 412 bytes)".to_owned()));
    }

    #[test]
    fn command_decodes_values() {
        let with = |command: &str| Models::default().decoded_with(Some(command.to_owned()));
        let decode = |command| with(command).decode(&key("a"), &RecordHeaders::NONE, b"x").value;
        assert_eq!(decode("cat >/dev/null; echo '[1]'"), Ok(Json::List(vec![Json::from(1u8)])));
        assert!(
            decode("exit 3").unwrap_err().contains("failed") && decode("echo no").unwrap_err().contains("not JSON")
        );
    }
}
