//! `#[derive(KeySegment)]`: newtypes and enums without fields.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{Data, DeriveInput, Error, Field, Fields, Ident, LitStr, Member, Path, Variant, WherePredicate, parse_quote};

use crate::attr;
use crate::ctxt::Ctxt;
use crate::generics;
use crate::names::{self, Case};

/// The source of a segment's text.
pub(crate) enum Segment<'a> {
    /// The text of the one field.
    Newtype { member: Member, field: &'a Field },
    /// The name of the variant.
    Enum(Vec<(&'a Ident, String)>),
}

/// The attributes of the type.
#[derive(Default)]
pub(crate) struct Container {
    rename_all: Option<Case>,
    krate: Option<Path>,
}

impl Container {
    pub(crate) fn krate(&self) -> Path {
        self.krate.clone().unwrap_or_else(|| parse_quote!(::kvtyped))
    }
}

pub(crate) fn derive(input: &DeriveInput) -> Result<TokenStream, Error> {
    let mut ctxt = Ctxt::default();
    let attrs = container(input, &mut ctxt);
    let segment = read(input, &attrs, &mut ctxt);
    ctxt.end_of_phase()?;
    if let Segment::Enum(variants) = &segment {
        check_distinct_texts(variants, &mut ctxt);
    }
    ctxt.end_of_phase()?;
    Ok(expand(input, &attrs.krate(), &segment))
}

pub(crate) fn container(input: &DeriveInput, ctxt: &mut Ctxt) -> Container {
    let mut found = Container::default();
    let is_enum = matches!(input.data, Data::Enum(_));
    attr::each_item(&input.attrs, ctxt, |name, input| match &*name.to_string() {
        "rename_all" if is_enum => attr::set_once(&mut found.rename_all, name, || {
            let text: LitStr = attr::value(input, name, "a case; write `rename_all = \"snake_case\"`")?;
            let case = Case::ALL.into_iter().find(|(name, _)| *name == text.value());
            let cases = Case::ALL.map(|(name, _)| name);
            case.map(|(_, case)| case).ok_or_else(|| {
                let suggestion = names::suggest(&text.value(), cases);
                Error::new_spanned(&text, format!("unknown case `{}`; {suggestion}", text.value()))
            })
        }),
        "rename_all" => Err(Error::new_spanned(name, "`rename_all` is only valid on an enum; remove it")),
        "rename" => Err(Error::new_spanned(
            name,
            "`rename` is only valid on a variant; move it to the variant, or use `rename_all`",
        )),
        "crate" => attr::set_once(&mut found.krate, name, || attr::krate(input, name)),
        other => Err(attr::unknown(name, names::suggest(other, ["rename_all", "crate"]))),
    });
    found
}

fn read<'a>(input: &'a DeriveInput, attrs: &Container, ctxt: &mut Ctxt) -> Segment<'a> {
    match &input.data {
        Data::Enum(data) => {
            if data.variants.is_empty() {
                ctxt.error(&input.ident, "an enum without variants cannot be a key segment; add a variant");
            }
            Segment::Enum(data.variants.iter().filter_map(|variant| variant_text(variant, attrs, ctxt)).collect())
        }
        Data::Struct(data) => {
            for field in &data.fields {
                attr::each_item(&field.attrs, ctxt, |name, _| {
                    Err(attr::unknown(name, "the field of a newtype has no attributes".into()))
                });
            }
            match (data.fields.members().next(), data.fields.iter().next(), data.fields.len()) {
                (Some(member), Some(field), 1) => return Segment::Newtype { member, field },
                (_, _, count) => {
                    let message = format!(
                        "a struct must have exactly one field to be a key segment, and `{}` has {count}; use a newtype, \
                         or make each field a key field of the model",
                        input.ident
                    );
                    ctxt.error(&input.ident, message);
                }
            }
            Segment::Enum(Vec::new())
        }
        Data::Union(data) => {
            ctxt.error(data.union_token, "a union cannot be a key segment; use a newtype or an enum");
            Segment::Enum(Vec::new())
        }
    }
}

/// Returns a variant with its text.
fn variant_text<'a>(variant: &'a Variant, attrs: &Container, ctxt: &mut Ctxt) -> Option<(&'a Ident, String)> {
    if !variant.fields.is_empty() {
        let name = &variant.ident;
        let message = format!("a key stores only the name of a variant; remove the fields of `{name}`");
        ctxt.error(fields(&variant.fields), message);
    }
    let mut rename = None;
    attr::each_item(&variant.attrs, ctxt, |name, input| match &*name.to_string() {
        "rename" => attr::set_once(&mut rename, name, || {
            attr::value::<LitStr>(input, name, "a string; write `rename = \"eu\"`")
        }),
        other => Err(attr::unknown(name, names::suggest(other, ["rename"]))),
    });
    let name = variant.ident.unraw().to_string();
    let text = match (rename, attrs.rename_all) {
        (Some(text), _) => text.value(),
        (None, Some(case)) => case.apply(&name),
        (None, None) => name,
    };
    Some((&variant.ident, text))
}

fn fields(fields: &Fields) -> TokenStream {
    match fields {
        Fields::Named(fields) => quote!(#fields),
        Fields::Unnamed(fields) => quote!(#fields),
        Fields::Unit => TokenStream::new(),
    }
}

fn check_distinct_texts(variants: &[(&Ident, String)], ctxt: &mut Ctxt) {
    for (index, (variant, text)) in variants.iter().enumerate() {
        if let Some((other, _)) = variants.iter().take(index).find(|(_, other)| other == text) {
            ctxt.error(variant, format!("`{variant}` and `{other}` have the same text {text:?}; rename one of them"));
        }
    }
}

pub(crate) fn expand(input: &DeriveInput, krate: &Path, segment: &Segment<'_>) -> TokenStream {
    let private = quote!(#krate::__private);
    let ident = &input.ident;
    let mut bounds: Vec<WherePredicate> = Vec::new();
    let (write, parse) = match segment {
        Segment::Newtype { member, field } => {
            let ty = &field.ty;
            if generics::mentions_parameter(ty, &input.generics) {
                bounds.push(parse_quote!(#ty: #private::KeySegment));
            }
            let inner = quote_spanned!(ty.span()=> <#ty as #private::DerivedField>);
            let parse = quote!(::core::result::Result::Ok(Self { #member: #inner::parse_text(text)? }));
            (quote!(#inner::write_text(&self.#member, out)), parse)
        }
        Segment::Enum(variants) => {
            let idents: Vec<&Ident> = variants.iter().map(|(ident, _)| *ident).collect();
            let texts: Vec<&str> = variants.iter().map(|(_, text)| &**text).collect();
            let expected = names::list(texts.iter().copied());
            let expected = if texts.len() == 1 { expected } else { format!("one of {expected}") };
            let write = quote! {
                out.push(match self { #(Self::#idents {} => #texts,)* });
                ::core::result::Result::Ok(())
            };
            let parse = quote! {
                match text {
                    #(#texts => ::core::result::Result::Ok(Self::#idents {}),)*
                    _ => ::core::result::Result::Err(#private::SegmentError::Value { expected: #expected }),
                }
            };
            (write, parse)
        }
    };
    let generics = generics::with_predicates(&input.generics, bounds);
    let (impl_generics, ty_generics, where_clause) = generics.split_for_impl();
    quote! {
        #[automatically_derived]
        #[allow(clippy::all, clippy::pedantic)]
        impl #impl_generics #private::KeySegment for #ident #ty_generics #where_clause {
            fn write_segment(&self, out: &mut #private::SegmentWriter<'_>) -> ::core::fmt::Result {
                #write
            }

            fn parse_segment(
                text: &::core::primitive::str,
            ) -> ::core::result::Result<Self, #private::SegmentError> {
                #parse
            }
        }
    }
}
