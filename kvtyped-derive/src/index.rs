//! The indexes of a model: their names and their rules.

use proc_macro2::Span;
use quote::format_ident;
use syn::ext::IdentExt;
use syn::{Error, ExprPath, GenericArgument, Ident, Lit, LitStr, PathArguments, Result, Type};

use crate::ctxt::Ctxt;
use crate::index_attr::{Attribute, By};
use crate::model::{Field, Model, ungrouped};
use crate::names;
use crate::template::{self, Segment};

/// The largest number of fields of a compound index.
const MAX_FIELDS: usize = 8;

/// A resolved index.
pub(crate) struct Index {
    /// The attribute.
    pub(crate) ident: Ident,
    pub(crate) name: String,
    /// The generated function that creates a lookup.
    pub(crate) method: Ident,
    /// The positions of its fields. At least one.
    pub(crate) fields: Vec<usize>,
    pub(crate) is_unique: bool,
    pub(crate) by: Option<(By, Lit)>,
    pub(crate) with: Option<ExprPath>,
    pub(crate) hash: Option<Ident>,
    pub(crate) eventual: Option<Ident>,
    pub(crate) definition: String,
}

impl Index {
    /// Whether a lookup is built by setters, one for each segment after the first.
    pub(crate) fn has_setters(&self) -> bool {
        self.fields.len() > 1 && !self.is_unique && self.hash.is_none()
    }
}

/// Resolves the indexes of the fields, and then the indexes of the struct.
pub(crate) fn resolve(of_struct: Vec<Attribute>, fields: &mut [Field<'_>], ctxt: &mut Ctxt) -> Vec<Index> {
    let mut indexes = Vec::new();
    for (at, field) in fields.iter_mut().enumerate() {
        for attribute in std::mem::take(&mut field.attrs.indexes) {
            indexes.extend(of_field(attribute, at, field, ctxt));
        }
    }
    let names: Vec<String> = fields.iter().map(Field::name).collect();
    for attribute in of_struct {
        let Attribute { ident, hash, eventual, compound, .. } = attribute;
        for (name, literal) in compound {
            let Some(fields) = fields_of(&literal, &names, ctxt) else { continue };
            let text = name.unraw().to_string();
            if let Err(error) = check_name(&text, name.span()) {
                ctxt.push(error);
                continue;
            }
            indexes.push(Index {
                is_unique: ident == "unique",
                ident: ident.clone(),
                name: text,
                method: name,
                fields,
                by: None,
                with: None,
                hash: hash.clone(),
                eventual: eventual.clone(),
                definition: literal.value(),
            });
        }
    }
    indexes
}

fn of_field(attribute: Attribute, at: usize, field: &Field<'_>, ctxt: &mut Ctxt) -> Option<Index> {
    let Attribute { ident, name, by, with, hash, eventual, .. } = attribute;
    let (text, span) = match &name {
        Some(literal) => (literal.value(), literal.span()),
        None => (field.name(), field.ident.span()),
    };
    ctxt.ok(check_name(&text, span))?;
    let suffix = match (&by, &with) {
        (Some((By::PowerOfTen(power), _)), _) => format!(":1{}", "0".repeat(*power)),
        (Some((_, Lit::Str(unit))), _) => format!(":{}", unit.value()),
        (_, Some(path)) => format!(":{}", quote::quote!(#path).to_string().replace(' ', "")),
        _ => String::new(),
    };
    Some(Index {
        is_unique: ident == "unique",
        ident,
        method: format_ident!("by_{text}", span = span),
        name: text,
        fields: vec![at],
        by,
        with,
        hash,
        eventual,
        definition: format!("{{{}{suffix}}}", field.name()),
    })
}

fn check_name(name: &str, span: Span) -> Result<()> {
    let is_valid = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if !name.is_empty() && name.len() <= 64 && name.chars().all(is_valid) {
        return Ok(());
    }
    let message = format!(
        "{name:?} is not a valid name of an index; set `name = \"..\"` to `[a-zA-Z0-9_]+`, at most 64 characters"
    );
    Err(Error::new(span, message))
}

/// Returns the positions of the fields of a compound index.
fn fields_of(literal: &LitStr, names: &[String], ctxt: &mut Ctxt) -> Option<Vec<usize>> {
    let before = ctxt.count();
    let template = template::parse(literal, ctxt);
    let mut fields = Vec::new();
    for segment in template.segments {
        let name = match segment {
            Segment::Field { prefix, name, suffix } if prefix.is_empty() && suffix.is_empty() => name,
            _ => {
                ctxt.error(literal, "an index has fields only; remove literals and `..`, as in `\"{team}.{role}\"`");
                continue;
            }
        };
        match names.iter().position(|field| *field == name.text) {
            Some(field) => fields.push(field),
            None => {
                let suggestion = names::suggest(&name.text, names.iter().map(|name| &**name));
                ctxt.push(Error::new(name.span, format!("there is no field `{}`; {suggestion}", name.text)));
            }
        }
    }
    if ctxt.count() > before {
        return None;
    }
    if fields.len() == 1 {
        ctxt.error(literal, "an index of one field is an attribute of the field; write `#[kv(index)]` on the field");
        return None;
    }
    if fields.len() > MAX_FIELDS {
        let message = format!("an index has at most {MAX_FIELDS} fields, and this one has {}", fields.len());
        ctxt.error(literal, message);
        return None;
    }
    Some(fields)
}

/// Checks the rules of indexes.
pub(crate) fn check(model: &Model<'_>, ctxt: &mut Ctxt) {
    for (at, index) in model.indexes.iter().enumerate() {
        let before = model.indexes.iter().take(at);
        if let Some(other) = before.clone().find(|other| other.name == index.name) {
            let message = format!(
                "two indexes have the name `{}`; set another one with `{}(name = \"..\")`",
                other.name, index.ident
            );
            ctxt.push(Error::new(index.method.span(), message));
        } else if let Some(other) = before.clone().find(|other| other.method == index.method) {
            let message = format!(
                "the indexes `{}` and `{}` both generate the function `{}`; rename one of them",
                other.name, index.name, index.method
            );
            ctxt.push(Error::new(index.method.span(), message));
        }
        check_options(index, ctxt);
        check_fields(model, index, ctxt);
        if model.value_field().is_some() {
            let message = "a model with `#[kv(value)]` has no indexes; remove `#[kv(value)]` to store the whole struct";
            ctxt.error(&index.ident, message);
        }
    }
}

fn check_options(index: &Index, ctxt: &mut Ctxt) {
    if let (true, Some(eventual)) = (index.is_unique, &index.eventual) {
        ctxt.error(eventual, "a unique index cannot be eventual, because each write must check it; remove `eventual`");
    }
    let Some((_, literal)) = &index.by else { return };
    let message = if index.is_unique {
        "`by` cannot be combined with `unique`, because all values of one unit would be equal; use `index`"
    } else if index.hash.is_some() {
        "`by` cannot be combined with `hash`, because hashes have no ranges; remove one of the two"
    } else if index.with.is_some() {
        "`by` cannot be combined with `with`; remove one of the two"
    } else {
        return;
    };
    ctxt.error(literal, message);
}

fn check_fields(model: &Model<'_>, index: &Index, ctxt: &mut Ctxt) {
    let fields = || index.fields.iter().filter_map(|field| model.fields.get(*field));
    let place = &index.method;
    let is_plain = index.by.is_none() && index.with.is_none();
    for field in fields() {
        let name = field.name();
        let is_of_key = model.is_key_field(field.ident);
        if field.serde.is_skipped() && !is_of_key {
            let message =
                format!("serde does not store `{name}`, so a record that is read has another value; remove `skip`");
            ctxt.push(Error::new(place.span(), message));
        }
        if is_plain && let Some(float) = float_in(field.ty) {
            let message = format!(
                "`{float}` cannot be indexed, because equal numbers can have different texts; \
                 index a function of the field with `#[kv(index(with = function))]`"
            );
            ctxt.error(field.ty, message);
        }
        let is_whole_key = matches!(model.key_fields().as_slice(), [only] if only.ident == field.ident);
        if is_of_key && is_plain && index.fields.len() == 1 && (!index.is_unique || is_whole_key) {
            let message = match index.is_unique {
                true => format!("`{name}` is the key, so it is unique already; remove this attribute"),
                false => format!(
                    "`{name}` is a field of the key; remove the index, and use the filter `{}::filter().{name}(..)`",
                    model.key
                ),
            };
            ctxt.error(&index.ident, message);
        }
    }
    if fields().filter(|field| list_of(field.ty).is_some()).count() > 1 {
        let message =
            "an index has at most one field with several values, because it has an entry for each combination";
        ctxt.push(Error::new(place.span(), message));
    }
}

/// Returns the name of the float that the type is, or contains.
fn float_in(ty: &Type) -> Option<String> {
    let name = last_segment(single_of(ty))?.ident.to_string();
    (name == "f32" || name == "f64").then_some(name)
}

/// Returns the type of one value: the parameter of an `Option`, `Vec` or set, or the type itself.
pub(crate) fn single_of(ty: &Type) -> &Type {
    parameter_of(ty, &["Option", "Vec", "BTreeSet", "HashSet"]).unwrap_or_else(|| ungrouped(ty))
}

fn list_of(ty: &Type) -> Option<&Type> {
    parameter_of(ty, &["Vec", "BTreeSet", "HashSet"])
}

fn parameter_of<'a>(ty: &'a Type, names: &[&str]) -> Option<&'a Type> {
    let segment = last_segment(ty)?;
    let PathArguments::AngleBracketed(arguments) = &segment.arguments else { return None };
    match arguments.args.first() {
        Some(GenericArgument::Type(inner)) if names.iter().any(|name| segment.ident == name) => Some(ungrouped(inner)),
        _ => None,
    }
}

fn last_segment(ty: &Type) -> Option<&syn::PathSegment> {
    match ungrouped(ty) {
        Type::Path(path) => path.path.segments.last(),
        _ => None,
    }
}
