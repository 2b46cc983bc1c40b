//! The schema versions of a model or of an older version: numbers, rules and the stored name of the version field.

use syn::{Attribute, Error, Ident, LitInt, LitStr, Result, Type};

use crate::attr::{Container, Versions};
use crate::ctxt::Ctxt;
use crate::model::{Field, Model, ungrouped};
use crate::names;
use crate::serde_attr::{self, SerdeField};

/// The version of a type, and the previous version.
pub(crate) struct Version {
    pub(crate) number: u32,
    pub(crate) upgrade_from: Option<Type>,
    /// The oldest version to write, if it is older than this one.
    pub(crate) writes: Option<(u32, LitInt)>,
}

impl Version {
    pub(crate) fn resolve(attrs: Versions, ctxt: &mut Ctxt) -> Self {
        let Versions { version, upgrade_from, writes } = attrs;
        let number = version.and_then(|literal| ctxt.ok(number(&literal, "version", u32::MAX)));
        let newest = number.unwrap_or(if upgrade_from.is_some() { u32::MAX } else { 1 });
        if let (None, Some(previous)) = (number, &upgrade_from) {
            ctxt.error(previous, "`upgrade_from` needs the number of the new version; add `version = 2`");
        }
        let writes = writes.and_then(|literal| {
            let oldest = ctxt.ok(self::number(&literal, "writes", newest))?;
            if oldest < newest && upgrade_from.is_none() {
                let message = format!("`writes = {oldest}` needs a conversion to an older version; add `upgrade_from`");
                ctxt.error(&literal, message);
            }
            Some((oldest, literal)).filter(|(oldest, _)| *oldest < newest)
        });
        Self { number: newest, upgrade_from, writes }
    }
}

/// The attributes of a model about versions, apart from its [`Version`].
pub(crate) struct Schema {
    pub(crate) name: String,
    pub(crate) unversioned: Option<u32>,
    /// The literal of `newer = "keep"`.
    pub(crate) keeps_newer: Option<LitStr>,
}

impl Schema {
    pub(crate) fn resolve(attrs: &Container, model: &Ident, version: u32, ctxt: &mut Ctxt) -> Self {
        let name = name(attrs, model);
        let unversioned = attrs.unversioned.as_ref().map(|literal| number(literal, "unversioned", version));
        let keeps_newer = attrs.newer.as_ref().map(|literal| match &*literal.value() {
            "keep" => Ok(Some(literal.clone())),
            "refuse" => Ok(None),
            other => {
                let suggestion = names::suggest(other, ["keep", "refuse"]);
                Err(Error::new_spanned(literal, format!("unknown rule `{other}` for newer records; {suggestion}")))
            }
        });
        Self {
            name: ctxt.ok(name).unwrap_or_default(),
            unversioned: unversioned.and_then(|number| ctxt.ok(number)),
            keeps_newer: keeps_newer.and_then(|keeps| ctxt.ok(keeps)).flatten(),
        }
    }
}

fn name(attrs: &Container, model: &Ident) -> Result<String> {
    const RULE: &str = "`[a-z0-9_-]+`, at most 64 characters";
    let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-');
    let is_valid = |name: &str| !name.is_empty() && name.len() <= 64 && name.chars().all(valid);
    match &attrs.name {
        Some(literal) if is_valid(&literal.value()) => Ok(literal.value()),
        Some(literal) => {
            let message = format!("{:?} is not a valid model name; use {RULE}", literal.value());
            Err(Error::new_spanned(literal, message))
        }
        None => {
            let name = names::snake_case(&syn::ext::IdentExt::unraw(model).to_string());
            // The name of the bucket has the same default, so its error is enough.
            if is_valid(&name) || attrs.bucket.is_none() {
                return Ok(name);
            }
            let message = format!("`{name}` is not a valid model name; set one with `name = \"..\"` ({RULE})");
            Err(Error::new_spanned(model, message))
        }
    }
}

fn number(literal: &LitInt, attribute: &str, maximum: u32) -> Result<u32> {
    match literal.base10_parse::<u32>() {
        Ok(number) if (1..=maximum).contains(&number) => Ok(number),
        _ => {
            let message = match maximum {
                1 => format!("`{attribute} = {literal}` is out of range; the only version is 1"),
                maximum => format!("`{attribute} = {literal}` is out of range; use a number from 1 to {maximum}"),
            };
            Err(Error::new_spanned(literal, message))
        }
    }
}

/// Checks the rules of a model about fields with a role for versions.
pub(crate) fn check(model: &Model<'_>, ctxt: &mut Ctxt) {
    let marks = model.fields.iter().filter_map(|field| Some((field.attrs.version.as_ref()?, field.ty, &field.serde)));
    check_version_fields(marks, ctxt);
    if model.value_field().is_some() {
        for mark in model.fields.iter().filter_map(|field| field.attrs.version.as_ref()) {
            let message = "a model with `#[kv(value)]` stores its version in a header; remove this attribute";
            ctxt.error(mark, message);
        }
    }
    let is_rest = |field: &&Field<'_>| field.serde.flatten && is_unknown_fields(field.ty);
    let rest = model.fields.iter().position(|field| is_rest(&field));
    if let (None, Some(keep)) = (rest, &model.schema.keeps_newer) {
        let message = match model.value_field() {
            Some(_) => "a model with `#[kv(value)]` cannot keep newer records; remove one of the two attributes",
            None => {
                "`newer = \"keep\"` needs a field for the fields of the newer version; \
                 add `#[serde(flatten)] rest: kvtyped::UnknownFields`"
            }
        };
        ctxt.error(keep, message);
    }
    let after = model.fields.iter().skip(rest.map_or(usize::MAX, |rest| rest.saturating_add(1)));
    for field in after.filter(|field| field.serde.flatten) {
        let message = "a flattened field after `UnknownFields` would be stored twice; move it before `UnknownFields`";
        ctxt.error(field.ident, message);
    }
}

/// Checks the fields with `#[kv(version)]`.
pub(crate) fn check_version_fields<'a>(
    marks: impl Iterator<Item = (&'a Ident, &'a Type, &'a SerdeField)>,
    ctxt: &mut Ctxt,
) {
    for (at, (mark, ty, serde)) in marks.enumerate() {
        if at > 0 {
            ctxt.error(mark, "a record has at most one `#[kv(version)]` field; remove this attribute");
        }
        if !last_segment_is(ty, "u32") {
            ctxt.error(ty, "a version is a `u32`; change the type of the field");
        }
        if serde.may_be_missing() || serde.flatten {
            let message = "serde must write and read the version field as it is; remove `skip` or `flatten`";
            ctxt.error(mark, message);
        }
    }
}

fn is_unknown_fields(ty: &Type) -> bool {
    last_segment_is(ty, "UnknownFields")
}

fn last_segment_is(ty: &Type, name: &str) -> bool {
    match ungrouped(ty) {
        Type::Path(path) => path.path.segments.last().is_some_and(|segment| segment.ident == name),
        _ => false,
    }
}

/// Returns the name of the version field in the stored record.
pub(crate) fn stored_name(field: &Field<'_>, container: &[Attribute]) -> String {
    let name = field.name();
    match field.serde.written_as() {
        Some(written) => written.to_owned(),
        None => serde_attr::case_of_fields(container).map_or(name.clone(), |case| case.apply_to_field(&name)),
    }
}
