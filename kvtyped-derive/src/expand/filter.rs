//! The filter type.

use proc_macro2::TokenStream;
use quote::quote;
use syn::parse_quote;

use super::{Names, parameter};
use crate::generics;
use crate::model::{Model, Segment};

pub(super) fn expand(model: &Model<'_>, names: &Names<'_>) -> TokenStream {
    let definition = definition(model, names);
    let setters = setters(model, names);
    let traits = traits(names);
    let conversions = conversions(model, names);
    quote!(#definition #setters #traits #conversions)
}

fn definition(model: &Model<'_>, names: &Names<'_>) -> TokenStream {
    let Names { key, filter, fields, generics, .. } = names;
    let vis = &model.input.vis;
    let where_clause = &generics.where_clause;
    let doc = format!(" A filter that matches each [`{key}`] with the values of the set fields.");
    if fields.is_empty() {
        let doc = format!(" A filter that matches [`{key}`].");
        return quote! {
            #[doc = #doc]
            #[allow(dead_code)]
            #[derive(::core::clone::Clone, ::core::fmt::Debug, ::core::default::Default)]
            #vis struct #filter;
        };
    }
    let fields = fields.iter().map(|field| {
        let (ident, ty) = (field.ident, field.ty);
        quote!(#ident: ::core::option::Option<#ty>)
    });
    let below = names.has_rest().then(|| quote!(__below: ::core::primitive::bool,));
    quote! {
        #[doc = #doc]
        #[allow(dead_code)]
        #[must_use]
        #vis struct #filter #generics #where_clause { #(#fields,)* #below }
    }
}

fn setters(model: &Model<'_>, Names { filter, fields, generics, .. }: &Names<'_>) -> TokenStream {
    if fields.is_empty() {
        return TokenStream::new();
    }
    let vis = &model.input.vis;
    let (impl_generics, ty_generics, where_clause) = generics.split_for_impl();
    let setters = fields.iter().map(|field| {
        let ident = field.ident;
        let (parameter, value) = parameter(field);
        let doc = format!(" Matches only keys with this `{}`.", field.name());
        let exact = field.is_rest.then(|| quote!(self.__below = false;));
        let below = field.is_rest.then(|| {
            let doc = format!(" Matches only keys whose `{}` starts with these segments and has more.", field.name());
            let setter = quote::format_ident!("{}_below", field.name());
            quote! {
                #[doc = #doc]
                #vis fn #setter(mut self, #ident: #parameter) -> Self {
                    self.#ident = ::core::option::Option::Some(#value);
                    self.__below = true;
                    self
                }
            }
        });
        quote! {
            #[doc = #doc]
            #vis fn #ident(mut self, #ident: #parameter) -> Self {
                self.#ident = ::core::option::Option::Some(#value);
                #exact
                self
            }

            #below
        }
    });
    quote! {
        #[allow(dead_code, private_interfaces, private_bounds)]
        #[automatically_derived]
        #[allow(clippy::all, clippy::pedantic)]
        impl #impl_generics #filter #ty_generics #where_clause {
            #(#setters)*
        }
    }
}

fn traits(names: &Names<'_>) -> TokenStream {
    let Names { filter, fields, generics, segment_generics, .. } = names;
    if fields.is_empty() {
        return TokenStream::new();
    }
    let name = filter.to_string();
    let idents: Vec<_> = fields.iter().map(|field| field.ident).collect();
    let maps = |method: TokenStream| {
        names.each(|field| {
            let (ident, as_field) = (field.ident, names.field(field));
            quote!(::core::option::Option::map(::core::option::Option::as_ref(&self.#ident), |field| #as_field::#method(field)))
        })
    };
    let (clones, debugs) = (maps(quote!(copy)), maps(quote!(debug)));
    let field_names = fields.iter().map(|field| field.name());
    let (impl_generics, ty_generics, where_clause) = generics.split_for_impl();
    let below_default = names.has_rest().then(|| quote!(__below: false,));
    let below_clone = names.has_rest().then(|| quote!(__below: self.__below,));
    let below_debug = names.has_rest().then(|| quote!(.field("below", &self.__below)));
    let default = quote! {
        #[automatically_derived]
        #[allow(clippy::all, clippy::pedantic)]
        impl #impl_generics ::core::default::Default for #filter #ty_generics #where_clause {
            fn default() -> Self {
                Self { #(#idents: ::core::option::Option::None,)* #below_default }
            }
        }
    };
    let (impl_generics, ty_generics, where_clause) = segment_generics.split_for_impl();
    quote! {
        #default

        #[automatically_derived]
        #[allow(clippy::all, clippy::pedantic)]
        impl #impl_generics ::core::clone::Clone for #filter #ty_generics #where_clause {
            fn clone(&self) -> Self {
                Self { #(#idents: #clones,)* #below_clone }
            }
        }

        #[automatically_derived]
        #[allow(clippy::all, clippy::pedantic)]
        impl #impl_generics ::core::fmt::Debug for #filter #ty_generics #where_clause {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                f.debug_struct(#name) #(.field(#field_names, &#debugs))* #below_debug .finish()
            }
        }
    }
}

/// Generates the conversions of the filter and of the key into a `Filter` of the model, and of the key into a `Ref`.
fn conversions(model: &Model<'_>, names: &Names<'_>) -> TokenStream {
    let Names { private, key, filter, generics: key_generics, .. } = names;
    let ident = &model.input.ident;
    let (_, model_generics, _) = model.input.generics.split_for_impl();
    let (_, key_generics_of_type, _) = key_generics.split_for_impl();
    let key = quote!(#key #key_generics_of_type);
    let filter = quote!(#filter #key_generics_of_type);
    let mut bounds: Vec<syn::WherePredicate> = Vec::new();
    if !model.input.generics.params.is_empty() {
        bounds.push(parse_quote!(#ident #model_generics: #private::KvModel<Key = #key>));
        bounds.extend(super::bounds(model, key_generics));
    }
    let all = generics::with_predicates(&model.input.generics, bounds);
    let (impl_generics, _, where_clause) = all.split_for_impl();
    let of_model = quote!(#private::Filter<#ident #model_generics>);
    let reference = quote!(#private::Ref<#ident #model_generics>);
    let patterns = model.segments.iter().map(|segment| match segment {
        Segment::Literal(text) => quote!(let pattern = pattern.literal(#text);),
        Segment::Field { prefix, field, suffix } => {
            let Some(field) = model.fields.get(*field) else { return TokenStream::new() };
            let (ident, as_field) = (field.ident, names.field(field));
            let value = quote!(::core::option::Option::as_ref(&filter.#ident));
            quote!(let pattern = #as_field::pattern(pattern, #value, #prefix, #suffix);)
        }
        Segment::Rest(field) => {
            let Some(field) = model.fields.get(*field) else { return TokenStream::new() };
            let (ident, as_field) = (field.ident, names.field(field));
            let value = quote!(::core::option::Option::as_ref(&filter.#ident));
            quote!(let pattern = #as_field::pattern(pattern, #value, filter.__below);)
        }
    });
    let parameter = if names.fields.is_empty() { quote!(_) } else { quote!(filter) };
    quote! {
        #[allow(deprecated)]
        #[automatically_derived]
        #[allow(clippy::all, clippy::pedantic)]
        impl #impl_generics ::core::convert::From<#filter> for #of_model #where_clause {
            fn from(#parameter: #filter) -> Self {
                let pattern = #private::Pattern::new();
                #(#patterns)*
                Self::pattern(pattern)
            }
        }

        #[allow(deprecated)]
        #[automatically_derived]
        #[allow(clippy::all, clippy::pedantic)]
        impl #impl_generics ::core::convert::From<#key> for #of_model #where_clause {
            fn from(key: #key) -> Self {
                Self::key(&key)
            }
        }

        #[allow(deprecated)]
        #[automatically_derived]
        #[allow(clippy::all, clippy::pedantic)]
        impl #impl_generics ::core::convert::From<&#key> for #of_model #where_clause {
            fn from(key: &#key) -> Self {
                Self::key(key)
            }
        }

        #[allow(deprecated)]
        #[automatically_derived]
        #[allow(clippy::all, clippy::pedantic)]
        impl #impl_generics ::core::convert::From<#key> for #reference #where_clause {
            fn from(key: #key) -> Self {
                Self::new(key)
            }
        }

        #[allow(deprecated)]
        #[automatically_derived]
        #[allow(clippy::all, clippy::pedantic)]
        impl #impl_generics ::core::convert::From<&#key> for #reference #where_clause {
            fn from(key: &#key) -> Self {
                Self::new(::core::clone::Clone::clone(key))
            }
        }
    }
}
