//! Schemas from JSON Schema, which describes tagged enums and flattened structs.
//!
//! The conversion follows the output of `schemars` 1. A part with another structure is open.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::shape::{Enum, Field, Int, MAX_DEPTH, Presence, Shape, Struct, Variant};

/// The largest number of shapes. Further ones are open.
const MAX_SHAPES: usize = 4_000;

/// The largest length of a tuple. Longer ones are open.
const MAX_TUPLE: usize = 64;

type Object = Map<String, Value>;

pub(super) fn convert(root: &Value) -> Shape {
    Converter { root, enclosing: Vec::new(), shapes: 0 }.shape(root, Some("#"))
}

struct Converter<'a> {
    root: &'a Value,
    /// The references that led to the enclosing shapes.
    enclosing: Vec<Option<&'a str>>,
    shapes: usize,
}

impl<'a> Converter<'a> {
    /// Converts a schema. `reference` is the reference that led to it.
    fn shape(&mut self, schema: &'a Value, reference: Option<&'a str>) -> Shape {
        let Some(object) = schema.as_object() else { return Shape::Open };
        self.shapes += 1;
        if self.enclosing.len() >= MAX_DEPTH || self.shapes > MAX_SHAPES {
            return Shape::Open;
        }
        if let Some(target) = object.get("$ref").and_then(Value::as_str) {
            return self.referenced(target);
        }
        self.enclosing.push(reference);
        let shape = self.described(object);
        self.enclosing.pop();
        shape
    }

    fn referenced(&mut self, target: &'a str) -> Shape {
        if let Some(distance) = self.enclosing.iter().rev().position(|enclosing| *enclosing == Some(target)) {
            return Shape::Again(distance + 1);
        }
        let schema = target.strip_prefix('#').and_then(|pointer| self.root.pointer(pointer));
        // A reference to a reference may be endless.
        match schema.filter(|schema| schema.get("$ref").is_none()) {
            Some(schema) => self.shape(schema, Some(target)),
            None => Shape::Open,
        }
    }

    /// Converts a schema that is no reference. The enclosing shapes include it.
    fn described(&mut self, object: &'a Object) -> Shape {
        let choices = ["oneOf", "anyOf"].into_iter().find_map(|key| object.get(key)?.as_array());
        if let Some(choices) = choices {
            // A flattened enum adds fields to the choices.
            let is_mixed = ["properties", "allOf", "additionalProperties"].iter().any(|key| object.contains_key(*key));
            return if is_mixed { Shape::Open } else { self.choice(choices) };
        }
        if object.contains_key("allOf") {
            return Shape::Open;
        }
        if let Some(names) = variant_names(object) {
            let variants = names.into_iter().map(|name| (name.to_owned(), Variant::default()));
            return Shape::Enum(Enum { variants: variants.collect(), ..Enum::default() });
        }
        match object.get("type") {
            Some(Value::String(kind)) => self.kind(kind, object),
            Some(Value::Array(kinds)) => match kinds.as_slice() {
                [Value::String(kind), Value::String(null)] if null == "null" => {
                    // The shape of the value is inside of the option.
                    self.enclosing.push(None);
                    let inner = self.kind(kind, object);
                    self.enclosing.pop();
                    Shape::Option(Box::new(inner))
                }
                _ => Shape::Open,
            },
            _ => Shape::Open,
        }
    }

    fn kind(&mut self, kind: &str, object: &'a Object) -> Shape {
        let number = |key: &str| object.get(key).and_then(Value::as_u64);
        let format = object.get("format").and_then(Value::as_str);
        match kind {
            "boolean" => Shape::Bool,
            "null" => Shape::Unit,
            "integer" => format.and_then(integer).map_or(Shape::Open, Shape::Int),
            "number" => Shape::Float(if format == Some("float") { 32 } else { 64 }),
            "string" if format.is_some() || object.contains_key("pattern") => Shape::ParsedText,
            "string" if number("minLength") == Some(1) && number("maxLength") == Some(1) => Shape::Char,
            "string" => Shape::Text,
            "array" => self.array(object),
            "object" => self.object(object, None),
            _ => Shape::Open,
        }
    }

    fn array(&mut self, object: &'a Object) -> Shape {
        if let Some(items) = object.get("prefixItems").and_then(Value::as_array) {
            return Shape::Tuple(items.iter().map(|item| self.shape(item, None)).collect());
        }
        let Some(item) = object.get("items") else { return Shape::Open };
        let before = self.shapes;
        let item = self.shape(item, None);
        let length = |key| object.get(key).and_then(Value::as_u64).and_then(|length| usize::try_from(length).ok());
        match (length("minItems"), length("maxItems")) {
            (Some(len), Some(max)) if len == max => match len {
                0..=MAX_TUPLE => {
                    self.shapes += (self.shapes - before) * len;
                    if self.shapes > MAX_SHAPES { Shape::Open } else { Shape::Tuple(vec![item; len]) }
                }
                _ => Shape::Open,
            },
            _ => Shape::Seq(Box::new(item)),
        }
    }

    /// Converts an object without the property that is the tag of an enum.
    fn object(&mut self, object: &'a Object, tag: Option<&str>) -> Shape {
        let rest = object.get("additionalProperties");
        let properties = object.get("properties").and_then(Value::as_object);
        if object.contains_key("unevaluatedProperties") && rest.is_none() {
            return Shape::Open;
        }
        let Some(properties) = properties else {
            let patterns = object.get("patternProperties").and_then(Value::as_object);
            return match (rest, patterns.and_then(|patterns| patterns.values().next())) {
                (_, Some(value)) => Shape::Map(Box::new(Shape::Open), Box::new(self.shape(value, None))),
                (Some(value), None) if value.is_object() => {
                    Shape::Map(Box::new(Shape::Text), Box::new(self.shape(value, None)))
                }
                (Some(Value::Bool(true)), None) => Shape::Map(Box::new(Shape::Text), Box::new(Shape::Open)),
                _ => Shape::Struct(Struct { fields: BTreeMap::new(), deny_unknown: rest == Some(&Value::Bool(false)) }),
            };
        };
        if rest.is_some_and(|rest| *rest != Value::Bool(false)) {
            // Fields and a flattened map.
            return Shape::Open;
        }
        let required = required(object);
        let fields = properties.iter().filter(|(name, _)| tag != Some(name.as_str())).map(|(name, schema)| {
            let is_required = required.contains(name.as_str());
            let presence = if is_required { Presence::Required } else { Presence::Optional };
            (name.clone(), Field { shape: self.shape(schema, None), presence, aliases: BTreeSet::new() })
        });
        Shape::Struct(Struct { fields: fields.collect(), deny_unknown: rest.is_some() })
    }

    fn choice(&mut self, choices: &'a [Value]) -> Shape {
        if let [value, null] = choices
            && null.get("type").and_then(Value::as_str) == Some("null")
        {
            return Shape::Option(Box::new(self.shape(value, None)));
        }
        let objects: Option<Vec<_>> = choices.iter().map(Value::as_object).collect();
        let Some(objects) = objects else { return Shape::Open };
        let tagged = tag(&objects).and_then(|tag| self.tagged(&objects, tag));
        tagged.or_else(|| self.external(&objects)).map_or(Shape::Open, Shape::Enum)
    }

    /// Converts an enum whose variants contain their name in a property.
    fn tagged(&mut self, objects: &[&'a Object], tag: &'a str) -> Option<Enum> {
        let mut variants = BTreeMap::new();
        for object in objects {
            let name = object.get("properties")?.get(tag)?.get("const")?.as_str()?;
            if object.contains_key("$ref") || object.contains_key("allOf") {
                return None;
            }
            self.enclosing.push(None);
            let content = self.object(object, Some(tag));
            self.enclosing.pop();
            variants.insert(name.to_owned(), Variant { content: Some(content), aliases: BTreeSet::new() });
        }
        Some(Enum { variants, other: false, tag: Some(tag.to_owned()) })
    }

    /// Converts an enum whose variants are texts, or objects with the name as the only property.
    fn external(&mut self, objects: &[&'a Object]) -> Option<Enum> {
        let mut it = Enum::default();
        for object in objects {
            if let Some(names) = variant_names(object) {
                it.variants.extend(names.into_iter().map(|name| (name.to_owned(), Variant::default())));
                continue;
            }
            let properties = object.get("properties")?.as_object().filter(|properties| properties.len() == 1)?;
            let (name, content) = properties.iter().next()?;
            if !required(object).contains(name.as_str())
                || object.get("additionalProperties") != Some(&Value::Bool(false))
            {
                return None;
            }
            let content = Some(self.shape(content, None));
            it.variants.insert(name.clone(), Variant { content, aliases: BTreeSet::new() });
        }
        Some(it)
    }
}

/// Returns the texts of `{"type":"string","enum":[..]}` and `{"type":"string","const":..}`.
fn variant_names(object: &Object) -> Option<Vec<&str>> {
    match (object.get("enum"), object.get("const")) {
        (Some(names), None) => names.as_array()?.iter().map(Value::as_str).collect(),
        (None, Some(name)) => Some(vec![name.as_str()?]),
        _ => None,
    }
}

fn required(object: &Object) -> BTreeSet<&str> {
    object.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Returns the property that is a constant text in all objects.
fn tag<'a>(objects: &[&'a Object]) -> Option<&'a str> {
    let is_tag = |object: &Object, name: &str| {
        let constant = object.get("properties").and_then(|it| it.get(name)?.get("const"));
        constant.is_some_and(Value::is_string) && required(object).contains(name)
    };
    let names = objects.first()?.get("properties")?.as_object()?.keys();
    names.map(String::as_str).find(|name| objects.iter().all(|object| is_tag(object, name)))
}

fn integer(format: &str) -> Option<Int> {
    let (signed, bits) = match format.strip_prefix('u') {
        Some(rest) => (false, rest.strip_prefix("int")?),
        None => (true, format.strip_prefix("int")?),
    };
    let bits = match bits {
        "8" => 8,
        "16" => 16,
        "32" => 32,
        "64" | "" => 64,
        "128" => 128,
        _ => return None,
    };
    Some(Int { signed, bits })
}
