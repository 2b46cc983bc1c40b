//! The syntax of `#[kv(..)]`, with every token kept.

use proc_macro2::TokenStream;
use quote::ToTokens;
use syn::ext::IdentExt;
use syn::parse::{Parse, ParseStream, Parser};
use syn::{Attribute, Error, ExprPath, Ident, Lit, LitBool, LitInt, LitStr, Path, Result, Token, Type};

use crate::ctxt::Ctxt;
use crate::index_attr::Attribute as IndexAttribute;
use crate::names;

const CONTAINER: [&str; 28] = [
    "bucket",
    "key",
    "key_name",
    "filter_name",
    "key_codec",
    "sensitive_key",
    "codec",
    "history",
    "ttl",
    "max_value_size",
    "max_bytes",
    "storage",
    "replicas",
    "compression",
    "description",
    "limit_markers",
    "rollups",
    "write_epochs",
    "name",
    "version",
    "upgrade_from",
    "writes",
    "unversioned",
    "newer",
    "validate",
    "index",
    "unique",
    "crate",
];
const FIELD: [&str; 5] = ["key", "value", "version", "index", "unique"];

/// The attributes of a model.
#[derive(Default)]
pub(crate) struct Container {
    pub(crate) bucket: Option<LitStr>,
    pub(crate) key: Option<LitStr>,
    pub(crate) key_name: Option<Ident>,
    pub(crate) filter_name: Option<Ident>,
    pub(crate) key_codec: Option<LitStr>,
    pub(crate) sensitive_key: Option<bool>,
    pub(crate) codec: Option<Type>,
    pub(crate) history: Option<LitInt>,
    pub(crate) ttl: Option<LitStr>,
    pub(crate) max_value_size: Option<Lit>,
    pub(crate) max_bytes: Option<Lit>,
    pub(crate) storage: Option<LitStr>,
    pub(crate) replicas: Option<LitInt>,
    pub(crate) compression: Option<bool>,
    pub(crate) description: Option<LitStr>,
    pub(crate) limit_markers: Option<LitStr>,
    pub(crate) rollups: Option<LitBool>,
    pub(crate) write_epochs: Option<LitStr>,
    pub(crate) name: Option<LitStr>,
    pub(crate) versions: Versions,
    pub(crate) unversioned: Option<LitInt>,
    pub(crate) newer: Option<LitStr>,
    pub(crate) validate: Option<ExprPath>,
    pub(crate) indexes: Vec<IndexAttribute>,
    pub(crate) krate: Option<Path>,
}

/// The attributes that a model and an older version share.
#[derive(Default)]
pub(crate) struct Versions {
    pub(crate) version: Option<LitInt>,
    pub(crate) upgrade_from: Option<Type>,
    pub(crate) writes: Option<LitInt>,
}

impl Versions {
    /// Reads one of the attributes.
    pub(crate) fn read(&mut self, name: &Ident, input: ParseStream) -> Result<()> {
        const NUMBER: &str = "a number from 1; write";
        if name == "version" {
            set_once(&mut self.version, name, || value(input, name, &format!("{NUMBER} `version = 2`")))
        } else if name == "writes" {
            set_once(&mut self.writes, name, || value(input, name, &format!("{NUMBER} `writes = 1`")))
        } else {
            let expected = "the type of the previous version; write `upgrade_from = UserV1`";
            set_once(&mut self.upgrade_from, name, || value(input, name, expected))
        }
    }
}

/// The attributes of a model's field: only their identifiers, except for indexes.
#[derive(Default)]
pub(crate) struct Field {
    pub(crate) key: Option<Ident>,
    pub(crate) value: Option<Ident>,
    pub(crate) version: Option<Ident>,
    pub(crate) indexes: Vec<IndexAttribute>,
}

pub(crate) fn container(attrs: &[Attribute], ctxt: &mut Ctxt) -> Container {
    let mut found = Container::default();
    each_item(attrs, ctxt, |name, input| match &*name.to_string() {
        "bucket" => set_once(&mut found.bucket, name, || value(input, name, "a name; write `bucket = \"sessions\"`")),
        "key" => set_once(&mut found.key, name, || value(input, name, "a template; write `key = \"{tenant}.{id}\"`")),
        "key_name" => set_once(&mut found.key_name, name, || type_name(input, name, "AccountId")),
        "filter_name" => set_once(&mut found.filter_name, name, || type_name(input, name, "AccountIds")),
        "key_codec" => {
            set_once(&mut found.key_codec, name, || value(input, name, "a key codec; write `key_codec = \"base64\"`"))
        }
        "sensitive_key" => set_once(&mut found.sensitive_key, name, || switch(input, name).map(|switch| switch.value)),
        "codec" => set_once(&mut found.codec, name, || value(input, name, "a type; write `codec = Json`")),
        "history" => {
            set_once(&mut found.history, name, || value(input, name, "a number from 1 to 64; write `history = 5`"))
        }
        "ttl" => set_once(&mut found.ttl, name, || value(input, name, "a duration with a unit; write `ttl = \"30m\"`")),
        "max_value_size" => set_once(&mut found.max_value_size, name, || {
            value(input, name, "a size; write `max_value_size = \"64KiB\"`")
        }),
        "max_bytes" => {
            set_once(&mut found.max_bytes, name, || value(input, name, "a size; write `max_bytes = \"1GiB\"`"))
        }
        "storage" => set_once(&mut found.storage, name, || value(input, name, "`\"file\"` or `\"memory\"`")),
        "replicas" => {
            set_once(&mut found.replicas, name, || value(input, name, "a number from 1 to 5; write `replicas = 3`"))
        }
        "compression" => set_once(&mut found.compression, name, || switch(input, name).map(|switch| switch.value)),
        "description" => {
            set_once(&mut found.description, name, || value(input, name, "a string; write `description = \"..\"`"))
        }
        "limit_markers" => set_once(&mut found.limit_markers, name, || {
            value(input, name, "a duration with a unit, or `\"off\"`; write `limit_markers = \"5m\"`")
        }),
        "rollups" => set_once(&mut found.rollups, name, || switch(input, name)),
        "write_epochs" => set_once(&mut found.write_epochs, name, || value(input, name, "`\"open\"` or `\"closed\"`")),
        "name" => set_once(&mut found.name, name, || value(input, name, "a name; write `name = \"user\"`")),
        "version" | "upgrade_from" | "writes" => found.versions.read(name, input),
        "unversioned" => set_once(&mut found.unversioned, name, || {
            value(input, name, "a number from 1 to the version; write `unversioned = 1`")
        }),
        "newer" => set_once(&mut found.newer, name, || value(input, name, "`\"keep\"` or `\"refuse\"`")),
        "validate" => set_once(&mut found.validate, name, || function(input, name)),
        "index" | "unique" => IndexAttribute::read(name, input, false).map(|index| found.indexes.push(index)),
        "crate" => set_once(&mut found.krate, name, || krate(input, name)),
        "value" => Err(Error::new_spanned(
            name,
            "`value` is a field attribute; write `#[kv(value)]` on the field that holds the value",
        )),
        other => Err(unknown(name, names::suggest(other, CONTAINER))),
    });
    found
}

/// Whether a model has an attribute of this name.
pub(crate) fn is_of_model(name: &str) -> bool {
    CONTAINER.contains(&name)
}

pub(crate) fn field(attrs: &[Attribute], ctxt: &mut Ctxt) -> Field {
    let mut found = Field::default();
    each_item(attrs, ctxt, |name, input| match &*name.to_string() {
        "key" => set_once(&mut found.key, name, || flag(input, name)),
        "value" => set_once(&mut found.value, name, || flag(input, name)),
        "version" => set_once(&mut found.version, name, || flag(input, name)),
        "index" | "unique" => IndexAttribute::read(name, input, true).map(|index| found.indexes.push(index)),
        other if CONTAINER.contains(&other) => {
            Err(Error::new_spanned(name, format!("`{other}` is a struct attribute; move it to the struct")))
        }
        other => Err(unknown(name, names::suggest(other, FIELD))),
    });
    found
}

/// Calls `item` for each item of every `#[kv(..)]`. Reports and skips an invalid item.
pub(crate) fn each_item(attrs: &[Attribute], ctxt: &mut Ctxt, mut item: impl FnMut(&Ident, ParseStream) -> Result<()>) {
    for attr in attrs.iter().filter(|attr| attr.path().is_ident("kv")) {
        let list = match attr.meta.require_list() {
            Ok(list) => list,
            Err(_) => {
                ctxt.error(attr, "expected attributes in parentheses; write `#[kv(..)]`");
                continue;
            }
        };
        let parsed = (|input: ParseStream| {
            while !input.is_empty() {
                let result = input.call(Ident::parse_any).and_then(|name| {
                    item(&name, input)?;
                    if input.is_empty() || input.peek(Token![,]) {
                        return Ok(());
                    }
                    Err(input.error("expected `,` between attributes"))
                });
                if let Err(error) = result {
                    ctxt.push(error);
                    while !input.is_empty() && !input.peek(Token![,]) {
                        input.parse::<proc_macro2::TokenTree>()?;
                    }
                }
                input.parse::<Option<Token![,]>>()?;
            }
            Ok(())
        })
        .parse2(list.tokens.clone());
        ctxt.ok(parsed);
    }
}

/// Stores the value of an item. Returns an error if the item is repeated.
pub(crate) fn set_once<T>(slot: &mut Option<T>, name: &Ident, parse: impl FnOnce() -> Result<T>) -> Result<()> {
    let parsed = parse()?;
    if slot.replace(parsed).is_some() {
        return Err(Error::new_spanned(name, format!("duplicate attribute `{name}`; remove one")));
    }
    Ok(())
}

/// Reads `= value`.
pub(crate) fn value<T: Parse>(input: ParseStream, name: &Ident, expected: &str) -> Result<T> {
    if !input.peek(Token![=]) {
        return Err(Error::new_spanned(name, format!("`{name}` expects {expected}")));
    }
    input.parse::<Token![=]>()?;
    if input.is_empty() || input.peek(Token![,]) {
        return Err(Error::new_spanned(name, format!("`{name}` expects {expected}")));
    }
    let begin = input.fork();
    input.parse().map_err(|_| {
        let found =
            begin.parse::<proc_macro2::TokenTree>().map_or_else(|_| TokenStream::new(), ToTokens::into_token_stream);
        Error::new_spanned(found, format!("`{name}` expects {expected}"))
    })
}

/// Reads `= "path"`.
pub(crate) fn krate(input: ParseStream, name: &Ident) -> Result<Path> {
    let expected = "the path of `kvtyped` as a string; write `crate = \"renamed\"`";
    let text: LitStr = value(input, name, expected)?;
    let path = text.parse_with(Path::parse_mod_style);
    path.map_err(|_| Error::new_spanned(&text, format!("`crate` expects {expected}")))
}

/// Reads `= "path::of::a_function"`.
fn function(input: ParseStream, name: &Ident) -> Result<ExprPath> {
    let expected = "the path of a function as a string; write `validate = \"check_user\"`";
    let text: LitStr = value(input, name, expected)?;
    text.parse().map_err(|_| Error::new_spanned(&text, format!("`{name}` expects {expected}")))
}

/// Reads `= "TypeName"`.
fn type_name(input: ParseStream, name: &Ident, example: &str) -> Result<Ident> {
    let expected = format!("a type name as a string; write `{name} = \"{example}\"`");
    let text: LitStr = value(input, name, &expected)?;
    text.parse().map_err(|_| Error::new_spanned(&text, format!("`{name}` expects {expected}")))
}

/// `name`, `name = true` or `name = false`.
fn switch(input: ParseStream, name: &Ident) -> Result<LitBool> {
    if input.peek(Token![=]) { value(input, name, "`true` or `false`") } else { Ok(LitBool::new(true, name.span())) }
}

pub(crate) fn flag(input: ParseStream, name: &Ident) -> Result<Ident> {
    if input.is_empty() || input.peek(Token![,]) {
        return Ok(name.clone());
    }
    Err(Error::new_spanned(name, format!("`{name}` on a field takes no value; write `#[kv({name})]`")))
}

pub(crate) fn unknown(name: &Ident, suggestion: String) -> Error {
    Error::new_spanned(name, format!("unknown attribute `{name}`; {suggestion}"))
}
