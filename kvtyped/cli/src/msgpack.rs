//! MessagePack as JSON. What JSON cannot express is an object with one tag:
//!
//! | tag | value |
//! |---|---|
//! | `$bin` | bytes, as base64 |
//! | `$ext` | the type number and the bytes of an extension, as base64 |
//! | `$map` | pairs of a map whose keys are not different texts, or whose only key is a tag |
//! | `$f32` | a float of 32 bits |
//! | `$float` | `nan`, `inf` or `-inf` |

use std::collections::HashSet;

use data_encoding::BASE64;
use rmpv::{Integer, Utf8String, Value};

use crate::json::{Json, object};

const MAX_DEPTH: usize = 127;

const TAGS: [&str; 5] = ["$bin", "$ext", "$map", "$f32", "$float"];

/// Decodes bytes that are one complete value.
pub(crate) fn decode(bytes: &[u8]) -> Result<Json, String> {
    let mut rest = bytes;
    let value = rmpv::decode::read_value_with_max_depth(&mut rest, MAX_DEPTH)
        .map_err(|_| format!("not MessagePack after {} bytes", bytes.len() - rest.len()))?;
    if has_reserved(&value, bytes) {
        return Err("not MessagePack: the reserved byte 0xc1".to_owned());
    }
    match rest.len() {
        0 => Ok(to_json(value)),
        more => Err(format!("{more} bytes follow the MessagePack value")),
    }
}

/// Whether the value has the reserved byte, which `rmpv` reads as nil.
fn has_reserved(value: &Value, bytes: &[u8]) -> bool {
    let mut encoded = Vec::new();
    let is_encoded = rmpv::encode::write_value(&mut encoded, value).is_ok();
    is_encoded && encoded.iter().zip(bytes).find(|(encoded, byte)| encoded != byte) == Some((&0xc0, &0xc1))
}

/// Encodes a value.
pub(crate) fn encode(value: &Json) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    rmpv::encode::write_value(&mut bytes, &from_json(value)?).map_err(|error| error.to_string())?;
    Ok(bytes)
}

fn to_json(value: Value) -> Json {
    match value {
        Value::Nil => Json::Null,
        Value::Boolean(value) => Json::Bool(value),
        Value::Integer(number) => match (number.as_u64(), number.as_i64()) {
            (Some(number), _) => Json::Unsigned(number),
            (_, number) => Json::Signed(number.unwrap_or_default()),
        },
        Value::F32(number) if number.is_finite() => object! { "$f32" => f64::from(number) },
        // The sign and the payload of a NaN are lost, and the comparison of bytes finds it.
        Value::F32(number) => object! { "$f32" => special(number.into()) },
        Value::F64(number) if number.is_finite() => Json::Float(number),
        Value::F64(number) => object! { "$float" => special(number) },
        // A text that is not UTF-8 is not exact, and the comparison of bytes finds it.
        Value::String(text) => Json::Text(String::from_utf8_lossy(text.as_bytes()).into_owned()),
        Value::Binary(bytes) => object! { "$bin" => BASE64.encode(&bytes) },
        Value::Array(items) => Json::List(items.into_iter().map(to_json).collect()),
        Value::Map(pairs) => map(pairs),
        Value::Ext(kind, bytes) => {
            object! { "$ext" => vec![Json::from(i64::from(kind)), Json::from(BASE64.encode(&bytes))] }
        }
    }
}

fn special(number: f64) -> &'static str {
    match number {
        _ if number.is_nan() => "nan",
        _ if number > 0.0 => "inf",
        _ => "-inf",
    }
}

fn map(pairs: Vec<(Value, Value)>) -> Json {
    let mut keys = HashSet::new();
    let is_object = pairs.iter().all(|(key, _)| key.as_str().is_some_and(|key| keys.insert(key)));
    let is_tag = pairs.len() == 1 && keys.iter().any(|key| TAGS.contains(key));
    if is_object && !is_tag {
        let field = |(key, value): (Value, Value)| (key.as_str().unwrap_or_default().to_owned(), to_json(value));
        return Json::Object(pairs.into_iter().map(field).collect());
    }
    let pair = |(key, value)| Json::List(vec![to_json(key), to_json(value)]);
    object! { "$map" => pairs.into_iter().map(pair).collect::<Vec<_>>() }
}

fn from_json(value: &Json) -> Result<Value, String> {
    Ok(match value {
        Json::Null => Value::Nil,
        Json::Bool(value) => Value::Boolean(*value),
        Json::Unsigned(number) => Value::Integer(Integer::from(*number)),
        Json::Signed(number) => Value::Integer(Integer::from(*number)),
        Json::Float(number) => Value::F64(*number),
        Json::Text(text) => Value::String(Utf8String::from(text.as_str())),
        Json::List(items) => Value::Array(items.iter().map(from_json).collect::<Result<_, _>>()?),
        Json::Object(fields) => match fields.as_slice() {
            [(tag, value)] if TAGS.contains(&tag.as_str()) => {
                tagged(tag, value)?.ok_or_else(|| format!("the value of the tag `{tag}` is invalid"))?
            }
            fields => {
                let pair = |(key, value): &(String, Json)| Ok((Value::from(key.as_str()), from_json(value)?));
                Value::Map(fields.iter().map(pair).collect::<Result<_, String>>()?)
            }
        },
    })
}

/// Returns the value of a tag. `None` if the value does not fit the tag.
fn tagged(tag: &str, value: &Json) -> Result<Option<Value>, String> {
    let base64 = |value: &Json| BASE64.decode(value.text()?.as_bytes()).ok();
    Ok(match (tag, value) {
        ("$bin", value) => base64(value).map(Value::Binary),
        ("$ext", Json::List(items)) => match items.as_slice() {
            [kind, bytes] => {
                let kind = match kind {
                    Json::Unsigned(kind) => i8::try_from(*kind).ok(),
                    Json::Signed(kind) => i8::try_from(*kind).ok(),
                    _ => None,
                };
                kind.zip(base64(bytes)).map(|(kind, bytes)| Value::Ext(kind, bytes))
            }
            _ => None,
        },
        ("$map", Json::List(pairs)) => {
            let mut map = Vec::with_capacity(pairs.len());
            for pair in pairs {
                let Json::List(pair) = pair else { return Ok(None) };
                let [key, value] = pair.as_slice() else { return Ok(None) };
                map.push((from_json(key)?, from_json(value)?));
            }
            Some(Value::Map(map))
        }
        ("$f32", value) => number(value).map(|number| Value::F32(number as f32)),
        ("$float", value) => number(value).map(Value::F64),
        _ => None,
    })
}

fn number(value: &Json) -> Option<f64> {
    match value {
        Json::Float(number) => Some(*number),
        Json::Unsigned(number) => Some(*number as f64),
        Json::Signed(number) => Some(*number as f64),
        Json::Text(text) => match text.as_str() {
            "nan" => Some(f64::NAN),
            "inf" => Some(f64::INFINITY),
            "-inf" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tagged_values_are_read_as_they_were_shown() {
        let values = [
            Value::Map(vec![(Value::from("a"), Value::Binary(vec![0, 255])), (Value::from("b"), Value::F32(1.5))]),
            Value::Map(vec![(Value::from(1), Value::Nil)]),
            Value::Map(vec![(Value::from("$bin"), Value::from("x"))]),
            Value::Map(vec![(Value::from("a"), Value::Nil), (Value::from("a"), Value::from(-7))]),
            Value::Array(vec![Value::Ext(-1, vec![1, 2]), Value::F64(0.1), Value::from(u64::MAX), Value::F64(1.0)]),
            Value::F64(f64::NEG_INFINITY),
            Value::F32(f32::INFINITY),
        ];
        for value in values {
            let mut bytes = Vec::new();
            rmpv::encode::write_value(&mut bytes, &value).unwrap();
            let json = decode(&bytes).unwrap();
            let text = Json::parse(json.line().as_bytes()).unwrap();
            assert_eq!(encode(&text).unwrap(), bytes, "{}", json.line());
        }
    }

    #[test]
    fn records_of_the_library_are_the_same_bytes() {
        use kvtyped::codec::{Codec, MsgPack};
        type Record = std::collections::BTreeMap<String, Vec<Option<i64>>>;
        let record: Record = [("numbers".to_owned(), vec![Some(1), None, Some(-129), Some(i64::MAX)])].into();
        let bytes = <MsgPack as Codec<Record>>::encode(&record).unwrap();
        assert_eq!(encode(&decode(&bytes).unwrap()).unwrap(), bytes);
    }

    #[test]
    fn hostile_bytes_are_refused() {
        let deep = [0x91; 100_000];
        for bytes in [&b"\xdd\xff\xff\xff\xff"[..], b"\xc6\xff\xff\xff\xff", &deep, b"\x01\x02", b"", b"\xc1"] {
            assert!(decode(bytes).is_err());
        }
    }
}
