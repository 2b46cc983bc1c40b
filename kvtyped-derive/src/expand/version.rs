//! The implementations and checks of schema versions, for models and for older versions.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Generics, Ident, Type, WherePredicate, parse_quote};

use super::respanned;
use crate::model::Model;
use crate::version::{Version, stored_name};

/// A type with `upgrade_from`.
pub(crate) struct Chain<'a> {
    pub(crate) private: &'a TokenStream,
    pub(crate) ident: &'a Ident,
    /// The generics with all bounds, and the parameters of the type.
    pub(crate) generics: &'a Generics,
    pub(crate) ty_generics: TokenStream,
    /// The stored type.
    pub(crate) value: TokenStream,
    pub(crate) version: &'a Version,
    /// The function that compares the codec with the codec of the previous version.
    pub(crate) names_codec: &'static str,
}

impl Chain<'_> {
    /// Generates the link to the previous version, and its checks.
    pub(crate) fn expand(&self) -> TokenStream {
        let Self { private, ident, generics, ty_generics, value, version, .. } = self;
        let Some(previous) = &version.upgrade_from else { return TokenStream::new() };
        let (impl_generics, _, where_clause) = generics.split_for_impl();
        // The span of the attribute, so that rustc points at it.
        let value = respanned(value.clone(), previous.span());
        let downgraded = version.writes.as_ref().map(|(_, literal)| {
            let value = respanned(value.clone(), literal.span());
            quote! {
                #[allow(deprecated)]
                #[automatically_derived]
                impl #impl_generics #private::Downgraded for #ident #ty_generics #where_clause {
                    type Written = #value;
                }
            }
        });
        let checks = generics.params.is_empty().then(|| self.checks(previous));
        quote! {
            #[allow(deprecated)]
            #[automatically_derived]
            impl #impl_generics #private::Upgraded for #ident #ty_generics #where_clause {
                type Previous = #previous;
                type Value = #value;
            }

            #downgraded

            #checks
        }
    }

    /// Generates items that do not compile if the previous version does not fit. Rustc evaluates them only for types
    /// without parameters; the schema of a generic type repeats the checks.
    fn checks(&self, previous: &Type) -> TokenStream {
        let Self { private, ident, version, .. } = self;
        let (own, number) = (ident.to_string(), version.number);
        let name = previous.to_token_stream().to_string().replace(' ', "");
        let check = |span: Span, condition: TokenStream, message: String| {
            let span = Span::mixed_site().located_at(span);
            quote_spanned!(span=> const _: () = ::core::assert!(#condition, #message);)
        };
        let older = check(
            previous.span(),
            quote!(#private::is_older::<#ident>(#number)),
            format!("`{name}` is not older than version {number} of `{own}`: number the versions upwards"),
        );
        let names_codec = quote::format_ident!("{}", self.names_codec);
        let codec = check(
            previous.span(),
            quote!(#private::#names_codec::<#ident>()),
            format!("`{name}` has the default codec, and `{own}` has another: add `codec = ..` to `{name}`"),
        );
        let writes = version.writes.as_ref().map(|(oldest, literal)| {
            let exists = check(
                literal.span(),
                quote!(#private::is_version::<#ident>(#oldest)),
                format!(
                    "there is no version {oldest}, because `{name}` is older: set `writes` to the version of `{name}`"
                ),
            );
            let can_write = check(
                literal.span(),
                quote!(#private::can_write::<#ident>(#oldest)),
                format!("`{name}` cannot be written as version {oldest}: add `writes = {oldest}` to `{name}`"),
            );
            quote!(#exists #can_write)
        });
        quote! { #older #codec #writes }
    }
}

/// Returns the bounds of a generic type with `upgrade_from`.
pub(crate) fn bounds(private: &TokenStream, value: &TokenStream, version: &Version) -> Vec<WherePredicate> {
    let Some(previous) = &version.upgrade_from else { return Vec::new() };
    let mut bounds: Vec<WherePredicate> =
        vec![parse_quote!(#previous: #private::KvVersion), parse_quote!(#value: #private::UpgradeFrom<#previous>)];
    if version.writes.is_some() {
        bounds.push(parse_quote!(#value: ::core::clone::Clone + #private::DowngradeTo<#previous>));
    }
    bounds
}

/// Generates the constant with the schema of a model.
pub(super) fn schema(model: &Model<'_>, private: &TokenStream) -> TokenStream {
    let (version, schema) = (&model.version, &model.schema);
    let (name, number) = (&schema.name, version.number);
    let mut value = match version.upgrade_from {
        Some(_) => quote!(#private::schema_next::<Self, #number>(#name)),
        None => quote!(#private::schema_first::<Self, #number>(#name)),
    };
    if let Some((oldest, _)) = &version.writes {
        value = quote!(#private::schema_writes::<Self, #number>(#value, #oldest));
    }
    if let Some(unversioned) = schema.unversioned {
        value.extend(quote!(.unversioned(#unversioned)));
    }
    if schema.keeps_newer.is_some() {
        value.extend(quote!(.keep_newer()));
    }
    if let Some(field) = model.fields.iter().find(|field| field.attrs.version.is_some()) {
        let name = stored_name(field, &model.input.attrs);
        value = quote! {{
            enum __VersionField {}
            impl #private::VersionField for __VersionField {
                const NAME: &'static ::core::primitive::str = #name;
            }
            #value.version_field::<Self::Codec, __VersionField>()
        }};
    }
    quote!(const SCHEMA: #private::ModelSchema<Self::Value> = #value;)
}
