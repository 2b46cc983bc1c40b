//! Answers for values without a fixed shape: tagged and untagged enums, flattened structs, any value.

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{Deserializer, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;

use super::error::{Cause, Error};

/// The largest number of keys of an invented map.
const MAX_KEYS: usize = 16;

/// Answers for a value, until the type accepts one.
const ANSWERS: [Answer; 6] = [Answer::Text("a"), Answer::Int, Answer::Unit, Answer::Bool, Answer::Seq, Answer::Map];

/// The next answer for an open value: first a map that grows with each complaint, then other kinds.
#[derive(Clone, Debug, Default)]
pub(super) struct Guess {
    keys: Vec<Key>,
    /// 0 is the map.
    kind: usize,
}

#[derive(Clone, Debug)]
struct Key {
    name: &'static str,
    /// The known texts of the value: the variants of a tag.
    texts: &'static [&'static str],
    attempt: usize,
}

impl Key {
    fn answer(&self) -> Option<Answer> {
        match self.texts {
            [] => ANSWERS.get(self.attempt).copied(),
            texts => texts.get(self.attempt).map(|text| Answer::Text(text)),
        }
    }
}

impl Guess {
    /// Learns from a refusal. Returns whether another answer is left.
    pub(super) fn learn(&mut self, cause: Cause) -> bool {
        if self.kind > 0 {
            self.kind += 1;
            return self.kind <= ANSWERS.len();
        }
        match cause {
            Cause::MissingField(name) if self.keys.len() < MAX_KEYS && self.keys.iter().all(|key| key.name != name) => {
                self.keys.push(Key { name, texts: &[], attempt: 0 });
                return true;
            }
            Cause::UnknownVariant(texts) => {
                if let Some(key) = self.keys.last_mut().filter(|key| key.texts.is_empty() && !texts.is_empty()) {
                    (key.texts, key.attempt) = (texts, 0);
                    return true;
                }
            }
            _ => {}
        }
        // The next answer for the newest key. If none is left, the key before it gets the next one.
        while let Some(mut key) = self.keys.pop() {
            key.attempt += 1;
            if key.answer().is_some() {
                self.keys.push(key);
                return true;
            }
        }
        self.kind = 1;
        true
    }

    pub(super) fn answer<'de, V: Visitor<'de>>(&self, visitor: V) -> Result<V::Value, Error> {
        match self.kind.checked_sub(1) {
            None => {
                let entries = self.keys.iter().filter_map(|key| Some((key.name, key.answer()?)));
                visitor.visit_map(MapDeserializer::new(entries))
            }
            Some(at) => ANSWERS.get(at).copied().unwrap_or(Answer::Unit).deserialize_any(visitor),
        }
    }
}

/// A small value.
#[derive(Clone, Copy, Debug)]
pub(super) enum Answer {
    Text(&'static str),
    Int,
    Unit,
    Bool,
    Seq,
    Map,
}

impl IntoDeserializer<'_, Error> for Answer {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Answer {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self {
            Self::Text(text) => visitor.visit_str(text),
            Self::Int => visitor.visit_u64(1),
            Self::Unit => visitor.visit_unit(),
            Self::Bool => visitor.visit_bool(false),
            Self::Seq => visitor.visit_seq(SeqDeserializer::new(std::iter::empty::<Self>())),
            Self::Map => visitor.visit_map(MapDeserializer::new(std::iter::empty::<(&str, Self)>())),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self {
            Self::Unit => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self {
            Self::Text(text) => visitor.visit_enum(text.into_deserializer()),
            _ => self.deserialize_any(visitor),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }
}
