//! Replacement items for an invalid type, so that its uses elsewhere cause no further errors.
//!
//! These are the items of a valid type, as far as they can be guessed. Their functions do nothing.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{DeriveInput, Generics, Path, WherePredicate, parse_quote};

use crate::ctxt::Ctxt;
use crate::expand::parameter;
use crate::generics;
use crate::model::{self, Field, Parts};

pub(crate) fn model(input: &DeriveInput) -> TokenStream {
    let parts = model::read(input, &mut Ctxt::default());
    let krate = model::krate(&parts.attrs);
    let private = quote!(#krate::__private);
    let (vis, ident) = (&input.vis, &input.ident);
    let (key, filter) = model::key_and_filter(ident, &parts.attrs);
    let fields = guess(&parts);
    let idents: Vec<_> = fields.iter().map(|field| field.ident).collect();
    let types: Vec<_> = fields.iter().map(|field| field.ty).collect();
    let parameters: Vec<_> = fields.iter().map(|field| parameter(field).0).collect();

    let key_generics = generics::of_types(&input.generics, types.iter().copied());
    let (_, of_key, _) = key_generics.split_for_impl();
    let (_, of_model, _) = input.generics.split_for_impl();
    let owned = quote!(::core::marker::Send + ::core::marker::Sync + 'static);
    let key_is_owned = parse_quote!(#key #of_key: #owned);
    let model_is_owned = parse_quote!(#ident #of_model: #owned);
    let key_impl = bounded(&key_generics, vec![key_is_owned]);
    let model_impl = bounded(&input.generics, vec![parse_quote!(#key #of_key: #owned), model_is_owned]);
    let key_traits = key_traits(&private, &quote!(#key #of_key), &key_impl);
    let (key_impl, _, key_where) = key_impl.split_for_impl();
    let (model_impl, _, model_where) = model_impl.split_for_impl();
    let body = if fields.is_empty() { quote!(;) } else { quote!({ #(#vis #idents: #types,)* }) };
    let of_filter = quote!(#private::Filter<#ident #of_model>);
    quote! {
        #[allow(dead_code, missing_docs)]
        #vis struct #key #key_generics #body

        #[allow(dead_code, missing_docs)]
        #[derive(::core::clone::Clone, ::core::fmt::Debug, ::core::default::Default)]
        #vis struct #filter;

        #[allow(dead_code, missing_docs, unused_variables, clippy::too_many_arguments)]
        impl #key_impl #key #of_key #key_where {
            #vis fn new(#(#idents: #parameters),*) -> Self { ::core::unreachable!() }
            #vis fn filter() -> #filter { #filter }
        }

        #[allow(dead_code, missing_docs, unused_variables)]
        impl #filter {
            #(#vis fn #idents<__T>(self, #idents: __T) -> Self { self })*
        }

        #key_traits

        impl #model_impl #private::KvModel for #ident #of_model #model_where {
            type Key = #key #of_key;
            type Value = Self;
            type Codec = #private::UncompiledCodec;

            fn settings() -> #private::BucketConfig { ::core::unreachable!() }
            fn key(&self) -> Self::Key { ::core::unreachable!() }
            fn stored(&self) -> &Self::Value { self }
            fn from_stored(_: Self::Key, stored: Self::Value) -> Self { stored }
        }

        impl #model_impl #private::SingleRevision for #ident #of_model #model_where {}

        impl #model_impl ::core::convert::From<#filter> for #of_filter #model_where {
            fn from(_: #filter) -> Self { ::core::unreachable!() }
        }

        impl #model_impl ::core::convert::From<#key #of_key> for #of_filter #model_where {
            fn from(_: #key #of_key) -> Self { ::core::unreachable!() }
        }

        impl #model_impl ::core::convert::From<&#key #of_key> for #of_filter #model_where {
            fn from(_: &#key #of_key) -> Self { ::core::unreachable!() }
        }
    }
}

/// Generates the traits of a key without bounds on its fields, because the fields may be invalid.
fn key_traits(private: &TokenStream, key: &TokenStream, generics: &Generics) -> TokenStream {
    let (generics, _, bounds) = generics.split_for_impl();
    quote! {
        impl #generics ::core::clone::Clone for #key #bounds {
            fn clone(&self) -> Self { ::core::unreachable!() }
        }

        impl #generics ::core::fmt::Debug for #key #bounds {
            fn fmt(&self, _: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result { ::core::unreachable!() }
        }

        impl #generics ::core::fmt::Display for #key #bounds {
            fn fmt(&self, _: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result { ::core::unreachable!() }
        }

        impl #generics ::core::str::FromStr for #key #bounds {
            type Err = #private::KeyError;
            fn from_str(_: &::core::primitive::str) -> ::core::result::Result<Self, #private::KeyError> {
                ::core::unreachable!()
            }
        }

        impl #generics ::core::cmp::PartialEq for #key #bounds {
            fn eq(&self, _: &Self) -> ::core::primitive::bool { ::core::unreachable!() }
        }

        impl #generics ::core::cmp::Eq for #key #bounds {}

        impl #generics ::core::cmp::PartialOrd for #key #bounds {
            fn partial_cmp(&self, _: &Self) -> ::core::option::Option<::core::cmp::Ordering> { ::core::unreachable!() }
        }

        impl #generics ::core::cmp::Ord for #key #bounds {
            fn cmp(&self, _: &Self) -> ::core::cmp::Ordering { ::core::unreachable!() }
        }

        impl #generics ::core::hash::Hash for #key #bounds {
            fn hash<__H: ::core::hash::Hasher>(&self, _: &mut __H) { ::core::unreachable!() }
        }

        impl #generics #private::ModelKey for #key #bounds {
            const TEMPLATE: &'static ::core::primitive::str = "";
            fn write(&self, _: &mut #private::KeyBuilder) { ::core::unreachable!() }
            fn parse(_: &mut #private::KeyParser<'_>) -> ::core::result::Result<Self, #private::KeyError> {
                ::core::unreachable!()
            }
            fn pattern() -> #private::Pattern { ::core::unreachable!() }
        }
    }
}

/// Adds the predicates if there are parameters. For a type without parameters, rustc would check the predicates at
/// once.
fn bounded(generics: &Generics, predicates: Vec<WherePredicate>) -> Generics {
    if generics.params.is_empty() { generics.clone() } else { generics::with(generics, predicates) }
}

/// Guesses the fields of the key: the marked ones, and every name after a brace in the template.
fn guess<'a, 'b>(parts: &'b Parts<'a>) -> Vec<&'b Field<'a>> {
    let template = parts.attrs.key.as_ref().map(syn::LitStr::value).unwrap_or_default();
    let named = template.split('{').skip(1).map(|rest| {
        let rest = rest.strip_prefix("r#").unwrap_or(rest);
        rest.split(|c: char| c != '_' && !c.is_alphanumeric()).next().unwrap_or_default()
    });
    let named = named.filter_map(|name| parts.fields.iter().find(|field| field.name() == name));
    let marked = parts.fields.iter().filter(|field| field.attrs.key.is_some());
    let mut fields: Vec<&Field<'_>> = Vec::new();
    for field in named.chain(marked) {
        if !fields.iter().any(|other| other.ident == field.ident) {
            fields.push(field);
        }
    }
    fields
}

pub(crate) fn segment(input: &DeriveInput, krate: &Path) -> TokenStream {
    let ident = &input.ident;
    let (impl_generics, ty_generics, where_clause) = input.generics.split_for_impl();
    quote! {
        impl #impl_generics #krate::__private::KeySegment for #ident #ty_generics #where_clause {
            fn write_segment(&self, _: &mut #krate::__private::SegmentWriter<'_>) -> ::core::fmt::Result {
                ::core::unreachable!()
            }

            fn parse_segment(
                _: &::core::primitive::str,
            ) -> ::core::result::Result<Self, #krate::__private::SegmentError> {
                ::core::unreachable!()
            }
        }
    }
}
