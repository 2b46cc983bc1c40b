//! The implementation of `KvModel`.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{ExprPath, Generics, WherePredicate, parse_quote};

use super::version::{self, Chain};
use super::{Names, index, respanned};
use crate::generics;
use crate::model::Model;
use crate::settings::{Settings, Storage, WriteEpochs};

pub(super) fn expand(model: &Model<'_>, names: &Names<'_>) -> TokenStream {
    let Names { private, key, generics: key_generics, .. } = names;
    let ident = &model.input.ident;
    let generics = bounded(model, names);
    let (impl_generics, _, where_clause) = generics.split_for_impl();
    let (_, ty_generics, _) = model.input.generics.split_for_impl();
    let (_, key_generics, _) = key_generics.split_for_impl();
    let codec = codec(model);
    let settings = settings(&model.settings, private);
    let (key_expression, has_key) = (key_expression(names), has_key(names));
    let key_codec = model
        .key_codec
        .as_ref()
        .map(|(variant, _)| quote!(const KEY_CODEC: #private::KeyCodec = #private::KeyCodec::#variant;));
    let sensitive_key = model.sensitive_key.then(|| {
        quote!(
            const SENSITIVE_KEY: bool = true;
        )
    });
    let (value, stored, from_stored) = stored(model);
    let schema = model.is_valid.then(|| version::schema(model, private));
    let validate = model.validate.as_ref().map(|function| validate(function, private));
    let chain = Chain {
        private,
        ident,
        generics: &generics,
        ty_generics: ty_generics.to_token_stream(),
        value: stored_type(model),
        version: &model.version,
        names_codec: "model_names_codec",
    };
    let chain = model.is_valid.then(|| chain.expand());
    let (index_items, lookups) = (index::model_items(model), index::expand(model, &generics));
    let single = model.settings.is_single_revision().then(|| {
        quote! {
            #[allow(deprecated)]
            #[automatically_derived]
        #[allow(clippy::all, clippy::pedantic)]
            impl #impl_generics #private::SingleRevision for #ident #ty_generics #where_clause {}
        }
    });
    quote! {
        #[allow(deprecated)]
        #[automatically_derived]
        #[allow(clippy::all, clippy::pedantic)]
        impl #impl_generics #private::KvModel for #ident #ty_generics #where_clause {
            type Key = #key #key_generics;
            type Value = #value;
            type Codec = #codec;

            #key_codec
            #sensitive_key
            #schema

            fn settings() -> #private::BucketConfig {
                #settings
            }

            fn key(&self) -> Self::Key {
                #key_expression
            }

            fn stored(&self) -> &Self::Value {
                #stored
            }

            #from_stored

            #has_key

            #validate

            #index_items
        }

        #single

        #lookups

        #chain
    }
}

/// Returns the stored type, without `Self`.
fn stored_type(model: &Model<'_>) -> TokenStream {
    let ident = &model.input.ident;
    let (_, ty_generics, _) = model.input.generics.split_for_impl();
    model.value_field().map_or_else(|| quote!(#ident #ty_generics), |field| field.ty.to_token_stream())
}

/// Returns the generics with the bounds of a model. A type without parameters gets none, so that rustc reports a
/// missing trait at its use.
fn bounded(model: &Model<'_>, Names { private, generics: key_generics, .. }: &Names<'_>) -> Generics {
    let all = &model.input.generics;
    if all.params.is_empty() {
        return all.clone();
    }
    let ident = &model.input.ident;
    let (_, ty_generics, _) = all.split_for_impl();
    let codec = model.codec();
    let value = stored_type(model);
    let mut bounds: Vec<WherePredicate> = vec![
        parse_quote!(#ident #ty_generics: ::core::marker::Send + ::core::marker::Sync + 'static),
        parse_quote!(#codec: #private::Codec<#value>),
    ];
    bounds.extend(super::bounds(model, key_generics));
    if model.is_valid {
        bounds.extend(version::bounds(private, &value, &model.version));
        bounds.extend(index::bounds(model));
    }
    generics::with_predicates(all, bounds)
}

/// Returns the codec. The default codec has the span of the type that it encodes, so that rustc points at that type.
fn codec(model: &Model<'_>) -> TokenStream {
    let codec = model.codec();
    match (&model.codec, model.value_field()) {
        (Some(codec), _) => codec.to_token_stream(),
        (None, Some(value)) => respanned(codec, value.ty.span()),
        (None, None) => respanned(codec, model.input.ident.span()),
    }
}

fn settings(settings: &Settings, private: &TokenStream) -> TokenStream {
    // Destructured, so that a new setting cannot be forgotten.
    let Settings {
        bucket,
        history,
        ttl,
        max_value_size,
        max_bytes,
        storage,
        replicas,
        compression,
        description,
        limit_markers,
        rollups,
        write_epochs,
    } = settings;
    let duration = |duration: &std::time::Duration| {
        let (seconds, nanos) = (duration.as_secs(), duration.subsec_nanos());
        quote!(::core::time::Duration::new(#seconds, #nanos))
    };
    let mut assignments = Vec::new();
    let mut assign = |name: &str, value: Option<TokenStream>| {
        let name = quote::format_ident!("{name}");
        assignments.extend(value.map(|value| quote!(settings.#name = ::core::option::Option::Some(#value);)));
    };
    assign("history", history.map(ToTokens::into_token_stream));
    assign("ttl", ttl.as_ref().map(duration));
    assign("max_value_size", max_value_size.map(ToTokens::into_token_stream));
    assign("max_bytes", max_bytes.map(ToTokens::into_token_stream));
    assign(
        "storage",
        storage.map(|storage| match storage {
            Storage::File => quote!(#private::Storage::File),
            Storage::Memory => quote!(#private::Storage::Memory),
        }),
    );
    assign("replicas", replicas.map(ToTokens::into_token_stream));
    assign("compression", compression.map(ToTokens::into_token_stream));
    assign("description", description.as_ref().map(|text| quote!(::core::convert::Into::into(#text))));
    assign("limit_markers", limit_markers.as_ref().map(duration));
    assign("rollups", rollups.map(ToTokens::into_token_stream));
    assign(
        "write_epochs",
        write_epochs.map(|epochs| match epochs {
            WriteEpochs::Open => quote!(#private::WriteEpochs::Open),
            WriteEpochs::Closed => quote!(#private::WriteEpochs::Closed),
        }),
    );
    let new = quote!(#private::BucketConfig::new(#bucket));
    if assignments.is_empty() { new } else { quote!(let mut settings = #new; #(#assignments)* settings) }
}

fn key_expression(names: &Names<'_>) -> TokenStream {
    let key = &names.key;
    let fields = names.each(|field| {
        let (ident, as_field) = (field.ident, names.field(field));
        quote!(#ident: #as_field::copy(&self.#ident))
    });
    quote!(#key { #(#fields,)* })
}

/// Compares the key fields of the record with a key.
fn has_key(names: &Names<'_>) -> TokenStream {
    let same = names.each(|field| {
        let (ident, as_field) = (field.ident, names.field(field));
        quote!(&& #as_field::same(&self.#ident, &key.#ident))
    });
    let key = if same.is_empty() { quote!(_) } else { quote!(key) };
    quote! {
        fn __has_key(&self, #key: &Self::Key) -> ::core::primitive::bool {
            true #(#same)*
        }
    }
}

/// Calls the function of the attribute `validate`. A wrong type is reported at the path in the attribute.
fn validate(function: &ExprPath, private: &TokenStream) -> TokenStream {
    let path = function.to_token_stream().to_string().replace(' ', "");
    let call = quote_spanned!(function.span()=> #function(self));
    quote! {
        fn __validate(&self) -> ::core::result::Result<(), #private::Refusal> {
            #private::Refusal::of(#path, #call)
        }
    }
}

/// Returns the type of the stored value, the expression that borrows it, and the function that rebuilds the record.
fn stored(model: &Model<'_>) -> (TokenStream, TokenStream, TokenStream) {
    let Some(value) = model.value_field() else {
        // The key has the fields that serde skipped.
        let skipped: Vec<_> =
            model.key_fields().iter().filter(|field| field.serde.is_skipped()).map(|field| field.ident).collect();
        let from_stored = match skipped.is_empty() {
            true => quote! {
                fn from_stored(_: Self::Key, stored: Self::Value) -> Self {
                    stored
                }

                fn __from_stored(_: &Self::Key, stored: Self::Value) -> Self {
                    stored
                }
            },
            false => quote! {
                fn from_stored(key: Self::Key, stored: Self::Value) -> Self {
                    let mut record = stored;
                    #(record.#skipped = key.#skipped;)*
                    record
                }
            },
        };
        return (quote!(Self), quote!(self), from_stored);
    };
    let (ident, ty) = (value.ident, value.ty);
    let keys: Vec<_> = model.key_fields().iter().map(|field| field.ident).collect();
    let key = if keys.is_empty() { quote!(_) } else { quote!(key) };
    let from_stored = quote! {
        fn from_stored(#key: Self::Key, stored: Self::Value) -> Self {
            Self { #(#keys: key.#keys,)* #ident: stored }
        }
    };
    (quote_spanned!(ty.span()=> #ty), quote!(&self.#ident), from_stored)
}
