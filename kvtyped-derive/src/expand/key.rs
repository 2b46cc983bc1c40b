//! The key type.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;

use super::{Names, article, parameter};
use crate::model::{Model, Segment};

pub(super) fn expand(model: &Model<'_>, names: &Names<'_>) -> TokenStream {
    let definition = definition(model, names);
    let inherent = inherent(model, names);
    let comparisons = if names.fields.is_empty() { TokenStream::new() } else { comparisons(names) };
    let text = text(names);
    let model_key = model_key(model, names);
    quote!(#definition #inherent #comparisons #text #model_key)
}

fn definition(model: &Model<'_>, Names { key, fields, generics, .. }: &Names<'_>) -> TokenStream {
    let vis = &model.input.vis;
    let name = model.input.ident.unraw().to_string();
    let doc = format!(" The key of {} [`{name}`]: `{}`.", article(&name), model.template);
    let where_clause = &generics.where_clause;
    if fields.is_empty() {
        return quote! {
            #[doc = #doc]
            #[derive(
                ::core::clone::Clone, ::core::marker::Copy, ::core::fmt::Debug, ::core::default::Default,
                ::core::cmp::PartialEq, ::core::cmp::Eq, ::core::cmp::PartialOrd, ::core::cmp::Ord, ::core::hash::Hash,
            )]
            #vis struct #key;
        };
    }
    let fields = fields.iter().map(|field| {
        let (ident, ty, vis) = (field.ident, field.ty, field.vis);
        let doc = format!(" The `{}` of the record.", field.name());
        quote!(#[doc = #doc] #vis #ident: #ty)
    });
    quote! {
        #[doc = #doc]
        #vis struct #key #generics #where_clause { #(#fields,)* }
    }
}

fn inherent(model: &Model<'_>, Names { key, filter, fields, generics, .. }: &Names<'_>) -> TokenStream {
    let vis = &model.input.vis;
    let (impl_generics, ty_generics, where_clause) = generics.split_for_impl();
    let idents: Vec<_> = fields.iter().map(|field| field.ident).collect();
    let (parameters, values): (Vec<_>, Vec<_>) = fields.iter().map(|field| parameter(field)).unzip();
    let key_doc = if fields.is_empty() { " Creates the only key." } else { " Creates the key of these values." };
    let filter_doc = if fields.is_empty() {
        " Returns a filter that matches the only key."
    } else {
        " Returns a filter that matches every key until a field is set."
    };
    quote! {
        // The type of a private field may also be private.
        #[allow(dead_code, private_interfaces, private_bounds)]
        #[automatically_derived]
        #[allow(clippy::all, clippy::pedantic)]
        impl #impl_generics #key #ty_generics #where_clause {
            #[doc = #key_doc]
            #[must_use]
            #vis fn new(#(#idents: #parameters),*) -> Self {
                Self { #(#idents: #values,)* }
            }

            #[doc = #filter_doc]
            #[must_use]
            #vis fn filter() -> #filter #ty_generics {
                ::core::default::Default::default()
            }
        }
    }
}

/// Generates the traits that could be derived. These implementations report an invalid field once instead of seven
/// times. They also bound only the types of the fields of a generic key, not its parameters.
fn comparisons(names: &Names<'_>) -> TokenStream {
    let Names { key, segment_generics, .. } = names;
    let (impl_generics, ty_generics, where_clause) = segment_generics.split_for_impl();
    let key_name = key.to_string();
    let clones = names.each(|field| {
        let (ident, as_field) = (field.ident, names.field(field));
        quote!(#ident: #as_field::copy(&self.#ident))
    });
    let debugs = names.each(|field| {
        let (ident, name, as_field) = (field.ident, field.name(), names.field(field));
        quote!(.field(#name, #as_field::debug(&self.#ident)))
    });
    let equals = names.each(|field| {
        let (ident, as_field) = (field.ident, names.field(field));
        quote!(#as_field::same(&self.#ident, &other.#ident))
    });
    let orders = names.each(|field| {
        let (ident, as_field) = (field.ident, names.field(field));
        quote!(.then_with(|| #as_field::order(&self.#ident, &other.#ident)))
    });
    let hashes = names.each(|field| {
        let (ident, as_field) = (field.ident, names.field(field));
        quote!(#as_field::digest(&self.#ident, state);)
    });
    quote! {
        #[automatically_derived]
        #[allow(clippy::all, clippy::pedantic)]
        impl #impl_generics ::core::clone::Clone for #key #ty_generics #where_clause {
            fn clone(&self) -> Self {
                Self { #(#clones,)* }
            }
        }

        #[automatically_derived]
        #[allow(clippy::all, clippy::pedantic)]
        impl #impl_generics ::core::fmt::Debug for #key #ty_generics #where_clause {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                f.debug_struct(#key_name) #(#debugs)* .finish()
            }
        }

        #[automatically_derived]
        #[allow(clippy::all, clippy::pedantic)]
        impl #impl_generics ::core::cmp::PartialEq for #key #ty_generics #where_clause {
            fn eq(&self, other: &Self) -> ::core::primitive::bool {
                #(#equals)&&*
            }
        }

        #[automatically_derived]
        #[allow(clippy::all, clippy::pedantic)]
        impl #impl_generics ::core::cmp::Eq for #key #ty_generics #where_clause {}

        #[automatically_derived]
        #[allow(clippy::all, clippy::pedantic)]
        impl #impl_generics ::core::cmp::PartialOrd for #key #ty_generics #where_clause {
            fn partial_cmp(&self, other: &Self) -> ::core::option::Option<::core::cmp::Ordering> {
                ::core::option::Option::Some(::core::cmp::Ord::cmp(self, other))
            }
        }

        #[automatically_derived]
        #[allow(clippy::all, clippy::pedantic)]
        impl #impl_generics ::core::cmp::Ord for #key #ty_generics #where_clause {
            fn cmp(&self, other: &Self) -> ::core::cmp::Ordering {
                ::core::cmp::Ordering::Equal #(#orders)*
            }
        }

        #[automatically_derived]
        #[allow(clippy::all, clippy::pedantic)]
        impl #impl_generics ::core::hash::Hash for #key #ty_generics #where_clause {
            fn hash<__H: ::core::hash::Hasher>(&self, state: &mut __H) {
                #(#hashes)*
            }
        }
    }
}

fn text(Names { private, key, segment_generics, .. }: &Names<'_>) -> TokenStream {
    let (impl_generics, ty_generics, where_clause) = segment_generics.split_for_impl();
    quote! {
        /// The encoded key.
        #[automatically_derived]
        #[allow(clippy::all, clippy::pedantic)]
        impl #impl_generics ::core::fmt::Display for #key #ty_generics #where_clause {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                #private::display(self, f)
            }
        }

        /// The inverse of `Display`.
        #[automatically_derived]
        #[allow(clippy::all, clippy::pedantic)]
        impl #impl_generics ::core::str::FromStr for #key #ty_generics #where_clause {
            type Err = #private::KeyError;

            fn from_str(text: &::core::primitive::str) -> ::core::result::Result<Self, #private::KeyError> {
                #private::ModelKey::decode(text)
            }
        }
    }
}

fn model_key(model: &Model<'_>, names: &Names<'_>) -> TokenStream {
    let Names { private, key, segment_generics, .. } = names;
    let (impl_generics, ty_generics, where_clause) = segment_generics.split_for_impl();
    let (template, bucket) = (&model.template, &model.settings.bucket);
    let mut writes = Vec::new();
    let mut literal = String::new();
    let (mut parse_literals, mut parse_fields) = (Vec::new(), Vec::new());
    let mut patterns = Vec::new();
    for (index, segment) in model.segments.iter().enumerate() {
        if index > 0 {
            literal.push('.');
        }
        match segment {
            Segment::Literal(text) => {
                literal.push_str(text);
                parse_literals.push(quote!(parser.literal(#text)?;));
                patterns.push(quote!(let pattern = pattern.literal(#text);));
            }
            Segment::Field { prefix, field, suffix } => {
                let Some(field) = model.fields.get(*field) else { continue };
                let (ident, name, as_field) = (field.ident, field.name(), names.field(field));
                literal.push_str(prefix);
                if !literal.is_empty() {
                    writes.push(quote!(let _ = out.literal(#literal);));
                }
                literal.clone_from(suffix);
                writes.push(quote!(#as_field::write(&self.#ident, out);));
                let local = quote::format_ident!("__{}", name);
                parse_literals.push(quote_spanned! { field.ty.span()=>
                    let #local = #as_field::parse(parser, #name, #prefix, #suffix)?;
                });
                parse_fields.push(quote!(#ident: #local));
                patterns.push(quote!(
                    let pattern = #as_field::pattern(pattern, ::core::option::Option::None, #prefix, #suffix);
                ));
            }
            Segment::Rest(field) => {
                let Some(field) = model.fields.get(*field) else { continue };
                let (ident, name, as_field) = (field.ident, field.name(), names.field(field));
                if !literal.is_empty() {
                    writes.push(quote!(let _ = out.literal(#literal);));
                    literal.clear();
                }
                writes.push(quote!(#as_field::write(&self.#ident, out);));
                let local = quote::format_ident!("__{}", name);
                parse_literals.push(quote_spanned! { field.ty.span()=>
                    let #local = #as_field::parse(parser, #name)?;
                });
                parse_fields.push(quote!(#ident: #local));
                patterns.push(quote!(
                    let pattern = #as_field::pattern(pattern, ::core::option::Option::None, false);
                ));
            }
        }
    }
    if !literal.is_empty() {
        writes.push(quote!(let _ = out.literal(#literal);));
    }
    quote! {
        #[automatically_derived]
        #[allow(clippy::all, clippy::pedantic)]
        impl #impl_generics #private::ModelKey for #key #ty_generics #where_clause {
            const TEMPLATE: &'static ::core::primitive::str = #template;
            const BUCKET: ::core::option::Option<&'static ::core::primitive::str> = ::core::option::Option::Some(#bucket);

            fn write(&self, out: &mut #private::KeyBuilder) {
                #(#writes)*
            }

            fn parse(parser: &mut #private::KeyParser<'_>) -> ::core::result::Result<Self, #private::KeyError> {
                #(#parse_literals)*
                ::core::result::Result::Ok(Self { #(#parse_fields,)* })
            }

            fn pattern() -> #private::Pattern {
                let pattern = #private::Pattern::new();
                #(#patterns)*
                pattern
            }
        }
    }
}
