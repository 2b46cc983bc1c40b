//! The model for the later phases: names are resolved, and no attribute syntax is left.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::ext::IdentExt;
use syn::{Data, DeriveInput, ExprPath, Fields, Ident, LitStr, Path, Type, Visibility};

use crate::attr::{self, Container};
use crate::ctxt::Ctxt;
use crate::index::{self, Index};
use crate::names;
use crate::serde_attr::SerdeField;
use crate::settings::Settings;
use crate::template::{self, Template};
use crate::version::{Schema, Version};

/// The parsed attributes, before names are resolved.
pub(crate) struct Parts<'a> {
    pub(crate) input: &'a DeriveInput,
    pub(crate) attrs: Container,
    pub(crate) settings: Settings,
    pub(crate) template: Option<Template>,
    pub(crate) fields: Vec<Field<'a>>,
}

/// A field of the model.
pub(crate) struct Field<'a> {
    pub(crate) ident: &'a Ident,
    pub(crate) ty: &'a Type,
    pub(crate) vis: &'a Visibility,
    pub(crate) attrs: attr::Field,
    pub(crate) serde: SerdeField,
    /// Whether it takes the rest of the key.
    pub(crate) is_rest: bool,
}

impl Field<'_> {
    /// The name, without the `r#` of a raw identifier.
    pub(crate) fn name(&self) -> String {
        self.ident.unraw().to_string()
    }
}

/// The first phase: reads the attributes.
pub(crate) fn read<'a>(input: &'a DeriveInput, ctxt: &mut Ctxt) -> Parts<'a> {
    let attrs = attr::container(&input.attrs, ctxt);
    let settings = Settings::read(&attrs, &input.ident, ctxt);
    let template = attrs.key.as_ref().map(|literal| template::parse(literal, ctxt));
    let fields = match &input.data {
        Data::Struct(data) => match &data.fields {
            Fields::Named(fields) => fields.named.iter().collect::<Vec<_>>(),
            Fields::Unit => Vec::new(),
            Fields::Unnamed(fields) => {
                let message = format!("a model must have named fields; write `struct {} {{ .. }}`", input.ident);
                ctxt.error(fields, message);
                Vec::new()
            }
        },
        Data::Enum(data) => {
            let message = "an enum cannot be a model, because it has no key fields; \
                           use a struct with a field of this type that is marked `#[kv(value)]`";
            ctxt.error(data.enum_token, message);
            Vec::new()
        }
        Data::Union(data) => {
            ctxt.error(data.union_token, "a union cannot be a model; use a struct");
            Vec::new()
        }
    };
    let fields = fields.into_iter().filter_map(|field| {
        let attrs = attr::field(&field.attrs, ctxt);
        let serde = SerdeField::read(&field.attrs);
        Some(Field { ident: field.ident.as_ref()?, ty: &field.ty, vis: &field.vis, attrs, serde, is_rest: false })
    });
    let fields = fields.collect();
    Parts { input, attrs, settings, template, fields }
}

/// A resolved model, as the input of `check` and `expand`.
pub(crate) struct Model<'a> {
    pub(crate) input: &'a DeriveInput,
    pub(crate) krate: Path,
    pub(crate) key: Ident,
    pub(crate) filter: Ident,
    pub(crate) codec: Option<Type>,
    pub(crate) settings: Settings,
    pub(crate) version: Version,
    pub(crate) schema: Schema,
    /// The function that checks a record before it is written.
    pub(crate) validate: Option<ExprPath>,
    /// The variant of `KeyCodec`, and the literal that names it.
    pub(crate) key_codec: Option<(Ident, LitStr)>,
    /// Whether errors hide the key.
    pub(crate) sensitive_key: bool,
    pub(crate) fields: Vec<Field<'a>>,
    pub(crate) indexes: Vec<Index>,
    /// Whether the model has no errors. The code for an invalid model has fewer bounds.
    pub(crate) is_valid: bool,
    /// Whether the key comes from a template.
    pub(crate) has_template: bool,
    /// The text of the template. Generated if the key comes from marked fields.
    pub(crate) template: String,
    pub(crate) segments: Vec<Segment>,
}

/// The part of a key between two dots.
pub(crate) enum Segment {
    Literal(String),
    Field { prefix: String, field: usize, suffix: String },
    Rest(usize),
}

/// The second phase: resolves the names of the template.
pub(crate) fn resolve<'a>(parts: Parts<'a>, ctxt: &mut Ctxt) -> Model<'a> {
    let Parts { input, mut attrs, settings, template, mut fields } = parts;
    let has_template = template.is_some();
    let template = template.unwrap_or_else(|| template_of_marked_fields(&fields));
    let mut segments = Vec::new();
    for segment in template.segments {
        let field = segment.name().map(|name| (name, fields.iter().position(|field| field.name() == name.text)));
        if let Some((name, None)) = field {
            let names: Vec<String> = fields.iter().map(Field::name).collect();
            let suggestion = names::suggest(&name.text, names.iter().map(|name| &**name));
            let message = format!("`{}` has no field `{}`; {suggestion}", input.ident, name.text);
            ctxt.push(syn::Error::new(name.span, message));
            continue;
        }
        let field = field.and_then(|(_, field)| field).unwrap_or_default();
        segments.push(match segment {
            template::Segment::Literal(text) => Segment::Literal(text),
            template::Segment::Field { prefix, suffix, .. } => Segment::Field { prefix, field, suffix },
            template::Segment::Rest(_) => {
                fields.iter_mut().skip(field).take(1).for_each(|field| field.is_rest = true);
                Segment::Rest(field)
            }
        });
    }
    let key_codec = attrs.key_codec.as_ref().and_then(|name| ctxt.ok(key_codec(name)));
    let krate = krate(&attrs);
    let (key, filter) = key_and_filter(&input.ident, &attrs);
    let validate = attrs.validate.take();
    let indexes = index::resolve(std::mem::take(&mut attrs.indexes), &mut fields, ctxt);
    let versions = std::mem::take(&mut attrs.versions);
    let version = Version::resolve(versions, ctxt);
    let schema = Schema::resolve(&attrs, &input.ident, version.number, ctxt);
    Model {
        input,
        krate,
        key,
        filter,
        key_codec,
        sensitive_key: attrs.sensitive_key.unwrap_or_default(),
        codec: attrs.codec,
        settings,
        version,
        schema,
        validate,
        fields,
        indexes,
        is_valid: true,
        has_template,
        template: template.text,
        segments,
    }
}

/// Returns the path of the library for generated code.
pub(crate) fn krate(attrs: &Container) -> Path {
    attrs.krate.clone().unwrap_or_else(|| syn::parse_quote!(::kvtyped))
}

fn key_codec(name: &LitStr) -> syn::Result<(Ident, LitStr)> {
    const CODECS: [(&str, &str); 4] =
        [("escaped", "Escaped"), ("base64", "Base64"), ("base64-nats-js", "Base64NatsJs"), ("path", "Path")];
    let text = name.value();
    match CODECS.iter().find(|(codec, _)| *codec == text) {
        Some((_, variant)) => Ok((quote::format_ident!("{variant}"), name.clone())),
        None => {
            let suggestion = names::suggest(&text, CODECS.map(|(codec, _)| codec));
            Err(syn::Error::new_spanned(name, format!("unknown key codec `{text}`; {suggestion}")))
        }
    }
}

/// Returns the names of the generated key and filter types.
pub(crate) fn key_and_filter(model: &Ident, attrs: &Container) -> (Ident, Ident) {
    let name =
        |declared: &Option<Ident>, suffix| declared.clone().unwrap_or_else(|| quote::format_ident!("{model}{suffix}"));
    (name(&attrs.key_name, "Key"), name(&attrs.filter_name, "Filter"))
}

/// Builds a template of the fields that are marked `#[kv(key)]`, one segment each.
fn template_of_marked_fields(fields: &[Field<'_>]) -> Template {
    let marked =
        fields.iter().filter(|field| field.attrs.key.is_some()).map(|field| (field.name(), field.ident.span()));
    let (mut texts, mut segments) = (Vec::new(), Vec::new());
    for (text, span) in marked {
        texts.push(format!("{{{text}}}"));
        let name = template::Name { text, span };
        segments.push(template::Segment::Field { prefix: String::new(), name, suffix: String::new() });
    }
    Template { text: texts.join("."), segments }
}

impl<'a> Model<'a> {
    /// Returns the fields of the key, in the order of the key.
    pub(crate) fn key_fields(&self) -> Vec<&Field<'a>> {
        let field = |segment: &Segment| match segment {
            Segment::Literal(_) => None,
            Segment::Field { field, .. } | Segment::Rest(field) => self.fields.get(*field),
        };
        self.segments.iter().filter_map(field).collect()
    }

    pub(crate) fn is_key_field(&self, ident: &Ident) -> bool {
        self.key_fields().iter().any(|field| field.ident == ident)
    }

    /// Returns the field that is marked as the value, if there is one.
    pub(crate) fn value_field(&self) -> Option<&Field<'a>> {
        self.fields.iter().find(|field| field.attrs.value.is_some())
    }

    /// Returns the path of the items for generated code.
    pub(crate) fn private(&self) -> TokenStream {
        let krate = &self.krate;
        quote!(#krate::__private)
    }

    /// Returns the codec of the model, or the default one.
    pub(crate) fn codec(&self) -> TokenStream {
        let private = self.private();
        self.codec.as_ref().map_or_else(|| quote!(#private::Json), ToTokens::to_token_stream)
    }
}

/// Removes the invisible group that a `macro_rules!` fragment adds to a type.
pub(crate) fn ungrouped(mut ty: &Type) -> &Type {
    while let Type::Group(group) = ty {
        ty = &group.elem;
    }
    ty
}
