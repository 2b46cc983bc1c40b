//! The rules about the values of attributes, and about several attributes together.

use quote::ToTokens;
use syn::{GenericParam, Generics, Type};

use crate::ctxt::Ctxt;
use crate::index;
use crate::model::{Field, Model, Segment, ungrouped};
use crate::serde_attr::struct_has_default;
use crate::version;

/// The third phase: checks every rule.
pub(crate) fn check(model: &Model<'_>, ctxt: &mut Ctxt) {
    check_has_key(model, ctxt);
    check_key_declared_once(model, ctxt);
    check_key_field_types(model, ctxt);
    check_single_value_field(model, ctxt);
    check_value_not_in_key(model, ctxt);
    check_every_field_stored(model, ctxt);
    check_no_lifetimes(&model.input.generics, "a model", ctxt);
    check_serde_reads_key_fields(model, ctxt);
    check_key_codec(model, ctxt);
    version::check(model, ctxt);
    index::check(model, ctxt);
}

fn check_key_codec(model: &Model<'_>, ctxt: &mut Ctxt) {
    let Some((variant, name)) = &model.key_codec else { return };
    if variant == "Path" && !matches!(model.segments.as_slice(), [Segment::Rest(_)]) {
        let message = "the key codec `path` requires a key of a single rest field; write `key = \"{path..}\"`";
        ctxt.error(name, message);
    }
    let has_equals_sign = |segment: &Segment| match segment {
        Segment::Literal(text) => text.contains('='),
        Segment::Field { prefix, suffix, .. } => prefix.contains('=') || suffix.contains('='),
        Segment::Rest(_) => false,
    };
    if variant != "Escaped" && model.segments.iter().any(has_equals_sign) {
        let codec = name.value();
        let message = format!("the key codec `{codec}` does not support `=` in the template; remove it");
        ctxt.error(name, message);
    }
}

fn check_serde_reads_key_fields(model: &Model<'_>, ctxt: &mut Ctxt) {
    // Serde sees only the value of a model with a value field.
    if model.value_field().is_some() {
        return;
    }
    let default_of_struct = struct_has_default(&model.input.attrs);
    for field in model.key_fields() {
        if let Some(mismatch) = field.serde.mismatch(&field.name(), default_of_struct) {
            ctxt.error(field.ident, mismatch);
        }
    }
}

fn check_has_key(model: &Model<'_>, ctxt: &mut Ctxt) {
    if model.segments.is_empty() && !model.has_template {
        let message = format!(
            "`{}` has no key; set a template with `#[kv(key = \"{{field}}\")]`, or mark the key fields with `#[kv(key)]`",
            model.input.ident
        );
        ctxt.error(&model.input.ident, message);
    }
}

fn check_key_declared_once(model: &Model<'_>, ctxt: &mut Ctxt) {
    if !model.has_template {
        return;
    }
    for mark in model.fields.iter().filter_map(|field| field.attrs.key.as_ref()) {
        let message =
            format!("the template `{}` already defines the key; remove this attribute or the template", model.template);
        ctxt.error(mark, message);
    }
}

fn check_key_field_types(model: &Model<'_>, ctxt: &mut Ctxt) {
    for field in model.key_fields() {
        let message = match ungrouped(field.ty) {
            Type::Reference(_) => {
                "a reference cannot be a key field, because a key owns its data; use `String` or another owned type"
            }
            Type::Path(path) => match path.path.segments.last() {
                Some(last) if last.ident == "Option" => {
                    "an `Option` cannot be a key field; use an enum variant or an empty string for the absent value"
                }
                Some(last) if last.ident == "f64" || last.ident == "f32" => {
                    "a float cannot be a key field, because equal numbers can have different texts; use an integer"
                }
                _ => continue,
            },
            _ => continue,
        };
        ctxt.error(field.ty, message);
    }
}

fn check_single_value_field(model: &Model<'_>, ctxt: &mut Ctxt) {
    for mark in model.fields.iter().filter_map(|field| field.attrs.value.as_ref()).skip(1) {
        let message = "a model has at most one `#[kv(value)]` field; remove this attribute, or remove all to store the whole struct";
        ctxt.error(mark, message);
    }
}

fn check_value_not_in_key(model: &Model<'_>, ctxt: &mut Ctxt) {
    for field in model.key_fields() {
        if let Some(mark) = &field.attrs.value {
            let message =
                format!("`{}` is a key field and cannot be the value; remove one of the two roles", field.name());
            ctxt.error(mark, message);
        }
    }
}

fn check_every_field_stored(model: &Model<'_>, ctxt: &mut Ctxt) {
    let Some(value) = model.value_field() else { return };
    let is_lost = |field: &&Field<'_>| field.attrs.value.is_none() && !model.is_key_field(field.ident);
    for field in model.fields.iter().filter(is_lost) {
        let (name, value) = (field.name(), value.name());
        let message = format!(
            "`{name}` would be lost, because only `{value}` and the key are stored; \
             add `{{{name}}}` to the key, or remove `#[kv(value)]` to store the whole struct"
        );
        ctxt.error(field.ident, message);
    }
}

pub(crate) fn check_no_lifetimes(generics: &Generics, subject: &str, ctxt: &mut Ctxt) {
    for param in &generics.params {
        if let GenericParam::Lifetime(lifetime) = param {
            let message = format!(
                "{subject} cannot have lifetime parameters, because it owns its data; remove `{}` and use owned types",
                lifetime.lifetime.to_token_stream()
            );
            ctxt.error(param, message);
        }
    }
}
