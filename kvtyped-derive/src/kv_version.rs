//! `#[derive(KvVersion)]`: older versions of a stored type, of any shape.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::{Data, DeriveInput, Error, Field, Ident, Path, Type, WherePredicate, parse_quote};

use crate::attr::{self, Versions};
use crate::check::check_no_lifetimes;
use crate::ctxt::Ctxt;
use crate::expand::respanned;
use crate::expand::version::{self as expand_version, Chain};
use crate::generics;
use crate::names;
use crate::serde_attr::SerdeField;
use crate::version::{self, Version};

/// The attributes of the type.
#[derive(Default)]
struct Container {
    versions: Versions,
    codec: Option<Type>,
    krate: Option<Path>,
}

/// The type, as the input of `expand`.
struct Shape {
    version: Version,
    codec: Option<Type>,
    private: TokenStream,
    /// Whether the attributes have no errors. The code for invalid ones passes the checks of the next version.
    is_valid: bool,
}

pub(crate) fn derive(input: &DeriveInput) -> Result<TokenStream, Error> {
    let mut ctxt = Ctxt::default();
    let attrs = container(input, &mut ctxt);
    check_fields(input, &mut ctxt);
    check_no_lifetimes(&input.generics, "a version", &mut ctxt);
    if attrs.versions.version.is_none() {
        let message = format!("`{}` has no version; add `#[kv(version = 1)]`", input.ident);
        ctxt.error(&input.ident, message);
    }
    ctxt.end_of_phase()?;
    let private = private(&attrs);
    let version = Version::resolve(attrs.versions, &mut ctxt);
    ctxt.end_of_phase()?;
    Ok(expand(input, &Shape { version, codec: attrs.codec, private, is_valid: true }))
}

/// Generates the implementation of an invalid version, so that its uses elsewhere cause no further errors.
pub(crate) fn fallback(input: &DeriveInput) -> TokenStream {
    let attrs = container(input, &mut Ctxt::default());
    let private = private(&attrs);
    let codec = parse_quote!(#private::UncompiledCodec<#private::Json>);
    let number = attrs.versions.version.and_then(|literal| literal.base10_parse().ok());
    let version = Version { number: number.unwrap_or(1), upgrade_from: None, writes: None };
    expand(input, &Shape { version, codec: Some(codec), private, is_valid: false })
}

fn private(attrs: &Container) -> TokenStream {
    let krate = attrs.krate.clone().unwrap_or_else(|| parse_quote!(::kvtyped));
    quote!(#krate::__private)
}

fn container(input: &DeriveInput, ctxt: &mut Ctxt) -> Container {
    const NAMES: [&str; 5] = ["version", "upgrade_from", "writes", "codec", "crate"];
    let mut found = Container::default();
    attr::each_item(&input.attrs, ctxt, |name, input| match &*name.to_string() {
        "version" | "upgrade_from" | "writes" => found.versions.read(name, input),
        "codec" => {
            attr::set_once(&mut found.codec, name, || attr::value(input, name, "a type; write `codec = MsgPack`"))
        }
        "crate" => attr::set_once(&mut found.krate, name, || attr::krate(input, name)),
        other if attr::is_of_model(other) => Err(Error::new_spanned(
            name,
            format!("`{other}` is an attribute of a model; remove it, or derive `KvModel` alone"),
        )),
        other => Err(attr::unknown(name, names::suggest(other, NAMES))),
    });
    found
}

/// Checks the attributes of all fields.
fn check_fields(input: &DeriveInput, ctxt: &mut Ctxt) {
    let fields: Vec<&Field> = match &input.data {
        Data::Struct(data) => data.fields.iter().collect(),
        Data::Enum(data) => data.variants.iter().flat_map(|variant| &variant.fields).collect(),
        Data::Union(data) => {
            ctxt.error(data.union_token, "a union cannot be a version of a model; use a struct or an enum");
            Vec::new()
        }
    };
    let mut marks: Vec<(Ident, &Type, SerdeField)> = Vec::new();
    for field in fields {
        let mut mark = None;
        attr::each_item(&field.attrs, ctxt, |name, input| match &*name.to_string() {
            "version" => attr::set_once(&mut mark, name, || attr::flag(input, name)),
            "key" | "value" => Err(Error::new_spanned(
                name,
                format!("`{name}` is an attribute of a model; remove it, or derive `KvModel` alone"),
            )),
            other => Err(attr::unknown(name, names::suggest(other, ["version"]))),
        });
        marks.extend(mark.map(|mark| (mark, &field.ty, SerdeField::read(&field.attrs))));
    }
    // Each variant of an enum may have a version field.
    if matches!(input.data, Data::Struct(_)) {
        version::check_version_fields(marks.iter().map(|(mark, ty, serde)| (mark, *ty, serde)), ctxt);
    }
}

fn expand(input: &DeriveInput, Shape { version, codec, private, is_valid }: &Shape) -> TokenStream {
    let ident = &input.ident;
    let (_, ty_generics, _) = input.generics.split_for_impl();
    let ty_generics = ty_generics.to_token_stream();
    let is_default = codec.is_none();
    // The span of the default codec is the type that it encodes, so that rustc points at that type.
    let codec =
        codec.as_ref().map_or_else(|| respanned(quote!(#private::Json), ident.span()), ToTokens::to_token_stream);
    let value = quote!(#ident #ty_generics);
    let generics = if input.generics.params.is_empty() {
        input.generics.clone()
    } else {
        let mut bounds: Vec<WherePredicate> = vec![parse_quote!(#codec: #private::Codec<#value>)];
        bounds.extend(expand_version::bounds(private, &value, version));
        generics::with_predicates(&input.generics, bounds)
    };
    let (impl_generics, _, where_clause) = generics.split_for_impl();
    let number = version.number;
    let (oldest, decode, schemas) = match version.upgrade_from {
        Some(_) => (quote!(#private::oldest::<Self>(#number)), quote!(decode_next), quote!(schemas_next)),
        None => (quote!(#number), quote!(decode_first), quote!(schemas_first)),
    };
    let writes = version.writes.as_ref().map(|(oldest, _)| {
        quote! {
            const WRITES: ::core::primitive::u32 = #oldest;

            fn encode(
                &self,
                version: ::core::primitive::u32,
            ) -> ::core::result::Result<::std::vec::Vec<::core::primitive::u8>, #private::CodecError> {
                #private::encode_version(self, version)
            }
        }
    });
    let writes = if *is_valid {
        writes
    } else {
        Some(quote!(
            const WRITES: ::core::primitive::u32 = 1;
        ))
    };
    let chain = Chain {
        private,
        ident,
        generics: &generics,
        ty_generics: ty_generics.clone(),
        value,
        version,
        names_codec: "version_names_codec",
    };
    let chain = chain.expand();
    quote! {
        #[allow(deprecated)]
        #[automatically_derived]
        #[allow(clippy::all, clippy::pedantic)]
        impl #impl_generics #private::KvVersion for #ident #ty_generics #where_clause {
            type Codec = #codec;

            const VERSION: ::core::primitive::u32 = #number;
            const OLDEST: ::core::primitive::u32 = #oldest;
            const __DEFAULT_CODEC: ::core::primitive::bool = #is_default;

            fn decode(
                version: ::core::primitive::u32,
                bytes: &[::core::primitive::u8],
            ) -> ::core::result::Result<Self, #private::DecodeError> {
                #private::#decode(version, bytes)
            }

            fn __schemas() -> ::std::vec::Vec<#private::VersionSchema> {
                #private::#schemas::<Self>()
            }

            #writes
        }

        #chain
    }
}
