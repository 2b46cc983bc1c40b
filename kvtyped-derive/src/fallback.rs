//! Replacement code for an invalid type, so that its uses elsewhere cause no further errors.
//!
//! The code is the ordinary expansion of a guessed model, with empty function bodies.

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};
use quote::quote;
use syn::{Data, DeriveInput, LitStr, Type, parse_quote};

use crate::ctxt::Ctxt;
use crate::model::{self, Field, Parts};
use crate::template::{Name, Segment, Template};
use crate::{expand, segment};

/// Generates the items of an invalid model. The caller reports its errors.
pub(crate) fn model(input: &DeriveInput) -> TokenStream {
    let input = &with_static_references(input.clone());
    let ctxt = &mut Ctxt::default();
    let mut parts = model::read(input, ctxt);
    parts.template = Some(guess(&parts));
    let mut model = model::resolve(parts, ctxt);
    let (private, codec) = (model.private(), model.codec());
    model.codec = Some(parse_quote!(#private::UncompiledCodec<#codec>));
    model.is_valid = false;
    without_bodies(expand::expand(&model))
}

/// Generates the implementation of an invalid key segment.
pub(crate) fn segment(input: &DeriveInput) -> TokenStream {
    let krate = segment::container(input, &mut Ctxt::default()).krate();
    without_bodies(segment::expand(input, &krate, &segment::Segment::Enum(Vec::new())))
}

/// Sets the lifetimes of references without one, so that rustc reports only the missing lifetime of the field itself.
fn with_static_references(mut input: DeriveInput) -> DeriveInput {
    if let Data::Struct(data) = &mut input.data {
        for field in &mut data.fields {
            if let Type::Reference(reference) = &mut field.ty {
                reference.lifetime.get_or_insert_with(|| parse_quote!('static));
            }
        }
    }
    input
}

/// Guesses the fields of the key: the marked ones, and every name after a brace in the template.
fn guess(parts: &Parts<'_>) -> Template {
    let text = parts.attrs.key.as_ref().map(LitStr::value).unwrap_or_default();
    let named = text.split('{').skip(1).map(|field| {
        let field = field.strip_prefix("r#").unwrap_or(field);
        let end = field.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(field.len());
        let (name, rest) = field.split_at(end);
        (name.to_owned(), rest.starts_with(".."))
    });
    let marked = parts.fields.iter().filter(|field| field.attrs.key.is_some()).map(|field| (Field::name(field), false));
    let mut segments: Vec<Segment> = Vec::new();
    for (text, is_rest) in named.chain(marked) {
        if segments.iter().filter_map(Segment::name).any(|name| name.text == text) {
            continue;
        }
        let name = Name { text, span: proc_macro2::Span::call_site() };
        segments.push(match is_rest {
            true => Segment::Rest(name),
            false => Segment::Field { prefix: String::new(), name, suffix: String::new() },
        });
    }
    Template { text: String::new(), segments }
}

/// Empties the body of each function, because only the bodies require valid types of the fields.
fn without_bodies(tokens: TokenStream) -> TokenStream {
    let mut is_body = false;
    let tokens = tokens.into_iter().map(|token| match token {
        TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => {
            let is_body = std::mem::take(&mut is_body);
            let content = match is_body {
                true => quote!(#![allow(unused_variables)] ::core::unreachable!()),
                false => without_bodies(group.stream()),
            };
            TokenTree::Group(Group::new(Delimiter::Brace, content))
        }
        token => {
            is_body |= matches!(&token, TokenTree::Ident(ident) if ident == "fn");
            token
        }
    });
    tokens.collect()
}
