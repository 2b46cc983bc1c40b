//! The part of `#[serde(..)]` that decides whether serde reads back a field of the key.

use syn::meta::ParseNestedMeta;
use syn::{Attribute, LitStr};

use crate::names::Case;

/// The serde attributes of a field.
#[derive(Default)]
pub(crate) struct SerdeField {
    pub(crate) flatten: bool,
    skip_serializing: bool,
    skip_serializing_if: bool,
    skip_deserializing: bool,
    default: bool,
    /// The name that serde writes, if an attribute sets it.
    written_as: Option<String>,
    /// The name that serde reads, if an attribute sets it.
    read_as: Option<String>,
    aliases: Vec<String>,
}

impl SerdeField {
    pub(crate) fn read(attributes: &[Attribute]) -> Self {
        let mut found = Self::default();
        each(attributes, |meta| {
            let name = meta.path.get_ident().map(ToString::to_string).unwrap_or_default();
            match &*name {
                "skip" => (found.skip_serializing, found.skip_deserializing) = (true, true),
                "skip_serializing" => found.skip_serializing = true,
                "skip_serializing_if" => found.skip_serializing_if = true,
                "skip_deserializing" => found.skip_deserializing = true,
                "default" => found.default = true,
                "flatten" => found.flatten = true,
                "alias" => found.aliases.push(meta.value()?.parse::<LitStr>()?.value()),
                "rename" if meta.input.peek(syn::token::Paren) => meta.parse_nested_meta(|side| {
                    let text = Some(side.value()?.parse::<LitStr>()?.value());
                    if side.path.is_ident("serialize") {
                        found.written_as = text;
                    } else {
                        found.read_as = text;
                    }
                    Ok(())
                })?,
                "rename" => {
                    let text = meta.value()?.parse::<LitStr>()?.value();
                    (found.written_as, found.read_as) = (Some(text.clone()), Some(text));
                }
                _ => {}
            }
            Ok(())
        });
        found
    }

    /// Whether a stored record never contains the field, so that its value comes from the key.
    pub(crate) fn is_skipped(&self) -> bool {
        self.skip_serializing || self.skip_deserializing
    }

    /// Whether a stored record may lack the field.
    pub(crate) fn may_be_missing(&self) -> bool {
        self.is_skipped() || self.skip_serializing_if
    }

    /// Returns the name that serde writes, if an attribute of the field sets it.
    pub(crate) fn written_as(&self) -> Option<&str> {
        self.written_as.as_deref()
    }

    /// Returns the reason why serde cannot read back the field `name`, or `None` if it can.
    pub(crate) fn mismatch(&self, name: &str, default_of_struct: bool) -> Option<String> {
        if self.skip_deserializing {
            return None;
        }
        let omits = self.skip_serializing || self.skip_serializing_if;
        if omits && !self.default && !default_of_struct {
            let attribute = if self.skip_serializing { "skip_serializing" } else { "skip_serializing_if" };
            return Some(format!(
                "serde cannot read a record without `{name}`, which `{attribute}` omits; add `#[serde(default)]`"
            ));
        }
        let written = self.written_as.as_deref().unwrap_or(name);
        let read = self.read_as.as_deref().unwrap_or(name);
        // `rename_all` may rename one side only, and is not parsed here.
        let split = (self.written_as.is_some() || self.read_as.is_some()) && self.written_as != self.read_as;
        if self.is_skipped() || !split || written == read || self.aliases.iter().any(|alias| alias == written) {
            return None;
        }
        Some(format!(
            "serde writes `{name}` as `{written}` but reads it as `{read}`; use one name, or add `alias = \"{written}\"`"
        ))
    }
}

/// Whether serde fills the missing fields of a struct.
pub(crate) fn struct_has_default(attributes: &[Attribute]) -> bool {
    let mut default = false;
    each(attributes, |meta| {
        default |= meta.path.is_ident("default");
        Ok(())
    });
    default
}

/// Returns the case of the field names that serde writes.
pub(crate) fn case_of_fields(attributes: &[Attribute]) -> Option<Case> {
    let mut case = None;
    let mut set = |text: LitStr| {
        case = Case::ALL.into_iter().find(|(name, _)| *name == text.value()).map(|(_, case)| case).or(case);
    };
    each(attributes, |meta| {
        if !meta.path.is_ident("rename_all") {
            return Ok(());
        }
        if !meta.input.peek(syn::token::Paren) {
            set(meta.value()?.parse()?);
            return Ok(());
        }
        meta.parse_nested_meta(|side| {
            let text = side.value()?.parse()?;
            if side.path.is_ident("serialize") {
                set(text);
            }
            Ok(())
        })
    });
    case
}

/// Visits the items of every `#[serde(..)]`, and skips the rest of an unknown item.
fn each(attributes: &[Attribute], mut item: impl FnMut(&ParseNestedMeta<'_>) -> syn::Result<()>) {
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("serde")) {
        // Serde reports items that it does not understand.
        let _ = attribute.parse_nested_meta(|meta| {
            item(&meta)?;
            if meta.input.peek(syn::Token![=]) {
                meta.value()?.parse::<syn::Expr>()?;
            } else if meta.input.peek(syn::token::Paren) {
                let content;
                syn::parenthesized!(content in meta.input);
                content.parse::<proc_macro2::TokenStream>()?;
            }
            Ok(())
        });
    }
}
