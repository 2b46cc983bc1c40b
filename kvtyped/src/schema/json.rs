//! Schemas as canonical JSON.
//!
//! ```text
//! {"kvtyped_schema":1,"shape":SHAPE}
//!
//! SHAPE = "open" "bool" "u8" .. "i128" "f32" "f64" "char" "text" "parsed_text" "bytes" "unit"
//!       | {"option":SHAPE} | {"seq":SHAPE} | {"tuple":[SHAPE,..]} | {"map":[KEY,VALUE]}
//!       | {"struct":{NAME:{"aliases":[NAME,..],"presence":"optional","type":SHAPE},..},"deny_unknown_fields":true}
//!       | {"enum":{NAME:{"aliases":[NAME,..],"content":SHAPE},..},"other":true,"tag":NAME}
//!       | {"again":DISTANCE}
//! ```
//!
//! The text has no white space. Names are in the order of their bytes, and the keys of this format are in the order
//! above. Defaults are absent: no alias, presence `required`, no content, `false`.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::error::SchemaError;
use super::shape::{Enum, Field, Int, Presence, Shape, Struct, Variant};

/// The format that this version writes.
const FORMAT: u64 = 1;

/// The largest accepted text, in bytes.
const MAX_LEN: usize = 1 << 20;

pub(super) fn write(shape: &Shape) -> String {
    let mut out = format!("{{\"kvtyped_schema\":{FORMAT},\"shape\":");
    write_shape(&mut out, shape);
    out.push('}');
    out
}

fn write_shape(out: &mut String, shape: &Shape) {
    match shape {
        Shape::Option(inner) => write_nested(out, "option", &[inner], false),
        Shape::Seq(item) => write_nested(out, "seq", &[item], false),
        Shape::Tuple(items) => write_nested(out, "tuple", &items.iter().collect::<Vec<_>>(), true),
        Shape::Map(key, value) => write_nested(out, "map", &[key, value], true),
        Shape::Struct(Struct { fields, deny_unknown }) => {
            out.push_str("{\"struct\":{");
            for (at, (name, field)) in fields.iter().enumerate() {
                write_name(out, at, name);
                write_aliases(out, &field.aliases);
                match field.presence {
                    Presence::Required => {}
                    Presence::Optional => out.push_str("\"presence\":\"optional\","),
                    Presence::Unknown => out.push_str("\"presence\":\"unknown\","),
                }
                out.push_str("\"type\":");
                write_shape(out, &field.shape);
                out.push('}');
            }
            out.push_str(if *deny_unknown { "},\"deny_unknown_fields\":true}" } else { "}}" });
        }
        Shape::Enum(Enum { variants, other, tag }) => {
            out.push_str("{\"enum\":{");
            for (at, (name, variant)) in variants.iter().enumerate() {
                write_name(out, at, name);
                write_aliases(out, &variant.aliases);
                match &variant.content {
                    Some(content) => {
                        out.push_str("\"content\":");
                        write_shape(out, content);
                    }
                    None if out.ends_with(',') => _ = out.pop(),
                    None => {}
                }
                out.push('}');
            }
            out.push_str(if *other { "},\"other\":true" } else { "}" });
            if let Some(tag) = tag {
                out.push_str(",\"tag\":");
                write_text(out, tag);
            }
            out.push('}');
        }
        Shape::Again(distance) => _ = write!(out, "{{\"again\":{distance}}}"),
        Shape::ParsedText => out.push_str("\"parsed_text\""),
        leaf => _ = write!(out, "\"{leaf}\""),
    }
}

fn write_nested(out: &mut String, kind: &str, shapes: &[&Shape], is_list: bool) {
    _ = write!(out, "{{\"{kind}\":");
    out.push_str(if is_list { "[" } else { "" });
    for (at, shape) in shapes.iter().enumerate() {
        out.push_str(if at > 0 { "," } else { "" });
        write_shape(out, shape);
    }
    out.push_str(if is_list { "]}" } else { "}" });
}

/// Writes the name of an entry and the start of its object.
fn write_name(out: &mut String, at: usize, name: &str) {
    out.push_str(if at > 0 { "," } else { "" });
    write_text(out, name);
    out.push_str(":{");
}

fn write_text(out: &mut String, text: &str) {
    _ = write!(out, "{}", Value::from(text));
}

fn write_aliases(out: &mut String, aliases: &BTreeSet<String>) {
    if aliases.is_empty() {
        return;
    }
    out.push_str("\"aliases\":[");
    for (at, alias) in aliases.iter().enumerate() {
        out.push_str(if at > 0 { "," } else { "" });
        write_text(out, alias);
    }
    out.push_str("],");
}

pub(super) fn read(text: &str) -> Result<Shape, SchemaError> {
    if text.len() > MAX_LEN {
        return Err(SchemaError::too_large(text.len(), MAX_LEN));
    }
    let foreign = SchemaError::foreign;
    let value: Value = serde_json::from_str(text).map_err(|_| foreign("the text is not JSON, or nests too deep"))?;
    let format = value.get("kvtyped_schema").and_then(Value::as_u64);
    match format.ok_or_else(|| foreign("the text has no format number `kvtyped_schema`"))? {
        FORMAT => {}
        newer if newer > FORMAT => return Err(SchemaError::newer(newer, FORMAT)),
        _ => return Err(foreign("format 0 does not exist")),
    }
    let shape = value.get("shape").and_then(read_shape).ok_or_else(|| foreign("the text contains an unknown shape"))?;
    if shape.is_closed(0) { Ok(shape) } else { Err(foreign("a recursion has no target, or the shape nests too deep")) }
}

fn read_shape(value: &Value) -> Option<Shape> {
    if let Value::String(kind) = value {
        return read_leaf(kind);
    }
    let object = value.as_object()?;
    let boxed = |value: &Value| read_shape(value).map(Box::new);
    let is_setting = |key: &str| ["deny_unknown_fields", "other", "tag"].contains(&key);
    let (kind, content) = object.iter().find(|(key, _)| !is_setting(key))?;
    let settings: &[&str] = match kind.as_str() {
        "struct" => &["deny_unknown_fields"],
        "enum" => &["other", "tag"],
        _ => &[],
    };
    if object.keys().any(|key| key != kind && !settings.contains(&key.as_str())) {
        return None;
    }
    let flag = |name| object.get(name).map_or(Some(false), Value::as_bool);
    let tag = match object.get("tag") {
        Some(tag) => Some(tag.as_str()?.to_owned()),
        None => None,
    };
    Some(match kind.as_str() {
        "option" => Shape::Option(boxed(content)?),
        "seq" => Shape::Seq(boxed(content)?),
        "tuple" => Shape::Tuple(content.as_array()?.iter().map(read_shape).collect::<Option<_>>()?),
        "map" => match content.as_array()?.as_slice() {
            [key, value] => Shape::Map(boxed(key)?, boxed(value)?),
            _ => return None,
        },
        "struct" => {
            let fields = content.as_object()?.iter().map(|(name, field)| Some((name.clone(), read_field(field)?)));
            Shape::Struct(Struct { fields: fields.collect::<Option<_>>()?, deny_unknown: flag("deny_unknown_fields")? })
        }
        "enum" => {
            let variants =
                content.as_object()?.iter().map(|(name, variant)| Some((name.clone(), read_variant(variant)?)));
            Shape::Enum(Enum { variants: variants.collect::<Option<_>>()?, other: flag("other")?, tag })
        }
        "again" => Shape::Again(content.as_u64()?.try_into().ok()?),
        _ => return None,
    })
}

fn read_leaf(kind: &str) -> Option<Shape> {
    Some(match kind {
        "open" => Shape::Open,
        "bool" => Shape::Bool,
        "f32" => Shape::Float(32),
        "f64" => Shape::Float(64),
        "char" => Shape::Char,
        "text" => Shape::Text,
        "parsed_text" => Shape::ParsedText,
        "bytes" => Shape::Bytes,
        "unit" => Shape::Unit,
        _ => {
            let (sign, bits) = kind.split_at_checked(1)?;
            let bits = ["8", "16", "32", "64", "128"].contains(&bits).then(|| bits.parse().ok())??;
            match sign {
                "i" => Shape::Int(Int { signed: true, bits }),
                "u" => Shape::Int(Int { signed: false, bits }),
                _ => return None,
            }
        }
    })
}

fn read_field(value: &Value) -> Option<Field> {
    let object = known(value, &["aliases", "presence", "type"])?;
    let presence = match object.get("presence").map(Value::as_str) {
        None => Presence::Required,
        Some(Some("optional")) => Presence::Optional,
        Some(Some("unknown")) => Presence::Unknown,
        Some(_) => return None,
    };
    Some(Field { shape: read_shape(object.get("type")?)?, presence, aliases: read_aliases(object)? })
}

fn read_variant(value: &Value) -> Option<Variant> {
    let object = known(value, &["aliases", "content"])?;
    let content = match object.get("content") {
        None => None,
        Some(content) => Some(read_shape(content)?),
    };
    Some(Variant { content, aliases: read_aliases(object)? })
}

/// Returns the object, if it has no other keys.
fn known<'a>(value: &'a Value, keys: &[&str]) -> Option<&'a Map<String, Value>> {
    value.as_object().filter(|object| object.keys().all(|key| keys.contains(&key.as_str())))
}

fn read_aliases(object: &Map<String, Value>) -> Option<BTreeSet<String>> {
    let Some(aliases) = object.get("aliases") else { return Some(BTreeSet::new()) };
    aliases.as_array()?.iter().map(|alias| alias.as_str().map(str::to_owned)).collect()
}

/// Returns the 64-bit FNV-1a hash.
pub(super) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::fnv1a;

    #[test]
    fn fnv1a_matches_published_vectors() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }
}
