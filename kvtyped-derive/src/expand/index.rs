//! The indexes of a model: their definitions, the values of a record, and the functions that create lookups.

use proc_macro2::{Span, TokenStream, TokenTree};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Generics, Ident, WherePredicate, parse_quote};

use super::is_primitive;
use crate::generics;
use crate::index::{Index, single_of};
use crate::index_attr::By;
use crate::model::{Field, Model};
use crate::names::Case;

/// Returns the fields of an index.
fn fields<'m, 'a>(model: &'m Model<'a>, index: &Index) -> Vec<&'m Field<'a>> {
    index.fields.iter().filter_map(|field| model.fields.get(*field)).collect()
}

/// Returns the bounds on the generic types of indexed fields.
pub(super) fn bounds(model: &Model<'_>) -> Vec<WherePredicate> {
    let private = model.private();
    let mut bounds = Vec::new();
    for index in model.indexes.iter().filter(|index| index.with.is_none()) {
        let role = role(index);
        for field in fields(model, index) {
            let ty = field.ty;
            if generics::mentions_parameter(ty, &model.input.generics) {
                bounds.push(parse_quote!(#ty: #private::#role));
            }
        }
    }
    bounds
}

/// Returns the trait for every question about a field of the index.
fn role(index: &Index) -> Ident {
    if index.by.is_some() { format_ident!("RangeField") } else { format_ident!("Indexable") }
}

/// Returns `<Type as Indexable>::item` or `RangeField`. An unsuitable type is reported at the type, and once: each use of
/// this path has the same error.
fn of_field(private: &TokenStream, index: &Index, field: &Field<'_>, item: &str) -> TokenStream {
    let (ty, role) = (field.ty, role(index));
    let span = Span::call_site().located_at(ty.span());
    let (role, item) = (located(&quote!(#private::#role), span), Ident::new(item, span));
    quote_spanned!(span=> <#ty as #role>::#item)
}

/// Returns the tokens with this span.
fn located(tokens: &TokenStream, span: Span) -> TokenStream {
    let with_span = |mut token: TokenTree| {
        token.set_span(span);
        token
    };
    tokens.clone().into_iter().map(with_span).collect()
}

/// Returns the levels of the values of a field that is searched by range.
fn scale_of(private: &TokenStream, index: &Index, field: &Field<'_>) -> TokenStream {
    let value = of_field(private, index, field, "Value");
    let span = Span::call_site().located_at(field.ty.span());
    let role = located(&quote!(#private::RangeValue), span);
    quote_spanned!(span=> <#value as #role>::SCALE)
}

/// Returns the name of the private function that calls the function of an index.
fn converter(at: usize) -> Ident {
    format_ident!("__index_{at}")
}

fn by(private: &TokenStream, by: By) -> TokenStream {
    match by {
        By::Year => quote!(#private::By::Year),
        By::Month => quote!(#private::By::Month),
        By::Day => quote!(#private::By::Day),
        By::Hour => quote!(#private::By::Hour),
        By::PowerOfTen(power) => quote!(#private::By::PowerOfTen(#power)),
    }
}

/// Generates the items of the implementation of `KvModel`.
pub(super) fn model_items(model: &Model<'_>) -> TokenStream {
    if model.indexes.is_empty() || !model.is_valid {
        return TokenStream::new();
    }
    let private = model.private();
    let infos = model.indexes.iter().map(|index| info(model, index, &private));
    let values = model.indexes.iter().enumerate().map(|(at, index)| values(model, index, at, &private));
    quote! {
        const __INDEXES: &'static [#private::IndexInfo] = &[#(#infos,)*];

        fn __index_values(&self, out: &mut #private::IndexValues) {
            #(#values)*
        }
    }
}

fn info(model: &Model<'_>, index: &Index, private: &TokenStream) -> TokenStream {
    let Index { name, is_unique, definition, .. } = index;
    let kind = if *is_unique { quote!(Unique) } else { quote!(Many) };
    let mut info = quote!(#private::IndexInfo::new(#name, #private::IndexKind::#kind, #definition));
    let count = index.fields.len();
    if count > 1 {
        info.extend(quote!(.segments(#count)));
    }
    if let (Some((level, _)), Some(field)) = (&index.by, fields(model, index).first()) {
        let (scale, level) = (scale_of(private, index, field), by(private, *level));
        info.extend(quote!(.segments(#scale.depth(#level))));
    }
    if index.eventual.is_some() {
        info.extend(quote!(.eventual()));
    }
    if index.hash.is_some() {
        info.extend(quote!(.hashed()));
    }
    info
}

/// Generates the statement that appends the values of one index.
fn values(model: &Model<'_>, index: &Index, at: usize, private: &TokenStream) -> TokenStream {
    let fields = fields(model, index);
    if let ([field], Some(_)) = (&*fields, &index.with) {
        let (ident, converter) = (field.ident, converter(at));
        return quote! {
            #private::Indexable::each_segment(&Self::#converter(&self.#ident), &mut |__segment| {
                out.push(#at, |__text| __text.escaped(__segment))
            });
        };
    }
    if let ([field], Some((level, _))) = (&*fields, &index.by) {
        let (ident, level) = (field.ident, by(private, *level));
        let each_text = of_field(private, index, field, "each_text");
        return quote! {
            #each_text(&self.#ident, #level, &mut |__levels| out.push(#at, |__text| __text.escaped(__levels)));
        };
    }
    let locals: Vec<Ident> = (0..fields.len()).map(|at| format_ident!("__value_{at}")).collect();
    let push = quote!(out.push(#at, |__text| { #(__text.escaped(#locals);)* }));
    let nested = fields.iter().zip(&locals).rev().fold(push, |inner, (field, local)| {
        let (ident, each_segment) = (field.ident, of_field(private, index, field, "each_segment"));
        quote!(#each_segment(&self.#ident, &mut |#local| #inner))
    });
    quote!(#nested;)
}

/// Generates the functions that create lookups, and the types of compound lookups.
pub(super) fn expand(model: &Model<'_>, bounded: &Generics) -> TokenStream {
    if model.indexes.is_empty() {
        return TokenStream::new();
    }
    let private = model.private();
    let ident = &model.input.ident;
    let (_, ty_generics, _) = model.input.generics.split_for_impl();
    let (impl_generics, _, where_clause) = bounded.split_for_impl();
    // A clash of two names is reported by the check.
    let is_first =
        |(at, index): &(usize, &Index)| !model.indexes.iter().take(*at).any(|other| other.method == index.method);
    let indexes = || model.indexes.iter().enumerate().filter(is_first);
    let functions = indexes().map(|(at, index)| function(model, index, at, &private));
    let converters = indexes().filter_map(|(at, index)| convert(model, index, at, &private));
    let builders = indexes().map(|(_, index)| index).filter(|index| index.has_setters());
    let builders = builders.map(|index| builder(model, index, bounded));
    let checks = model.is_valid.then(|| checks(model, &private));
    quote! {
        #[allow(dead_code, private_interfaces, private_bounds)]
        #[automatically_derived]
        #[allow(clippy::all, clippy::pedantic)]
        impl #impl_generics #ident #ty_generics #where_clause {
            #(#functions)*
            #(#converters)*
        }

        #[allow(deprecated)]
        #[automatically_derived]
        #[allow(clippy::all, clippy::pedantic)]
        impl #impl_generics #private::Indexed for #ident #ty_generics #where_clause {}

        #(#builders)*

        #checks
    }
}

/// Generates the function that calls the function of an index. A function of another type is reported here, and once.
fn convert(model: &Model<'_>, index: &Index, at: usize, private: &TokenStream) -> Option<TokenStream> {
    let (function, [field]) = (index.with.as_ref()?, &*fields(model, index)) else { return None };
    let (ty, converter) = (field.ty, converter(at));
    // The variables keep the hygiene of the derive.
    let span = Span::call_site().located_at(function.span());
    let output = quote_spanned!(span=> impl #private::Indexable);
    let call = quote_spanned!(span=> #function(__field));
    model.is_valid.then(|| quote!(fn #converter(__field: &#ty) -> #output { #call }))
}

/// Generates items that do not compile if `by` does not fit the type of its field. Rustc evaluates them only for types
/// without parameters.
fn checks(model: &Model<'_>, private: &TokenStream) -> TokenStream {
    let checks = model.indexes.iter().filter_map(|index| {
        let (level, literal) = index.by.as_ref()?;
        let field = *fields(model, index).first()?;
        let (scale, level) = (scale_of(private, index, field), by(private, *level));
        if generics::mentions_parameter(field.ty, &model.input.generics) {
            return None;
        }
        let span = Span::mixed_site().located_at(literal.span());
        let message = format!(
            "`by = {}` does not fit the type of `{}`: a `SystemTime` has \"year\", \"month\", \"day\" and \"hour\", and an \
             integer has powers of ten below its largest value",
            literal.to_token_stream(),
            field.name(),
        );
        Some(quote_spanned!(span=> const _: () = ::core::assert!(#scale.has(#level), #message);))
    });
    checks.collect()
}

/// Returns the parameter for the value of a field.
fn parameter(model: &Model<'_>, field: &Field<'_>) -> TokenStream {
    let (private, ident, ty) = (model.private(), field.ident, field.ty);
    match single_of(ty) {
        single if is_primitive(single) => quote!(#ident: #single),
        _ => quote!(#ident: impl #private::IndexArgument<#ty>),
    }
}

/// Returns the expression that calls a method of `IndexArgument`.
fn argument(model: &Model<'_>, field: &Field<'_>, call: &TokenStream) -> TokenStream {
    let (private, ident, ty) = (model.private(), field.ident, field.ty);
    quote!(#private::IndexArgument::<#ty>::#call(#ident))
}

fn function(model: &Model<'_>, index: &Index, at: usize, private: &TokenStream) -> TokenStream {
    let (vis, method) = (&model.input.vis, &index.method);
    let arity = if index.is_unique { quote!(One) } else { quote!(Many) };
    let lookup = quote!(#private::Lookup<Self, #private::#arity>);
    let fields = fields(model, index);
    let names = fields.iter().map(|field| format!("`{}`", field.name())).collect::<Vec<_>>().join(", ");
    let doc = match (index.is_unique, &index.by) {
        (true, _) => format!(" Looks up the record with this {names}."),
        (false, Some(_)) => format!(" Looks up the records whose {names} is in this range."),
        (false, None) => format!(" Looks up the records with this {names}."),
    };
    if !model.is_valid {
        let parameters = fields.iter().map(|field| field.ident);
        let generics: Vec<_> = (0..fields.len()).map(|at| format_ident!("__A{at}")).collect();
        let output = if index.has_setters() { builder_type(model, index).to_token_stream() } else { lookup };
        let (parameters, generics) = match index.has_setters() {
            true => (parameters.take(1).collect::<Vec<_>>(), generics.into_iter().take(1).collect::<Vec<_>>()),
            false => (parameters.collect(), generics),
        };
        return quote! {
            #[doc = #doc]
            #vis fn #method<#(#generics),*>(#(#parameters: #generics),*) -> #output { ::core::unreachable!() }
        };
    }
    if let ([field], Some(_)) = (&*fields, &index.with) {
        let (ident, ty, converter) = (field.ident, field.ty, converter(at));
        let (parameter, value) = match is_primitive(ty) {
            true => (quote!(#ident: #ty), quote!(#ident)),
            false => {
                (quote!(#ident: impl ::core::convert::Into<#ty>), quote!(::core::convert::Into::<#ty>::into(#ident)))
            }
        };
        let doc = format!("{} The function of the index converts the argument.", doc);
        return quote! {
            #[doc = #doc]
            #vis fn #method(#parameter) -> #lookup {
                #private::Lookup::values(#at, &Self::#converter(&#value))
            }
        };
    }
    if let ([field], Some((level, _))) = (&*fields, &index.by) {
        let (ident, ty, level) = (field.ident, field.ty, by(private, *level));
        return quote! {
            #[doc = #doc]
            #vis fn #method(#ident: impl #private::IndexRange<#ty>) -> #lookup {
                #private::IndexRange::<#ty>::lookup(#ident, #at, #level, |__record| &__record.#ident)
            }
        };
    }
    if index.has_setters() {
        return first_setter(model, index, at);
    }
    let parameters = fields.iter().map(|field| parameter(model, field));
    let segments = fields.iter().map(|field| argument(model, field, &quote!(segment)));
    quote! {
        #[doc = #doc]
        #vis fn #method(#(#parameters),*) -> #lookup {
            #private::Lookup::value(#at, |__text| { #(__text.escaped(&#segments);)* })
        }
    }
}

/// Returns the name of the type of a compound lookup.
fn builder_name(model: &Model<'_>, index: &Index) -> Ident {
    let name = Case::Pascal.apply_to_field(&index.name);
    format_ident!("{}{name}", model.input.ident, span = index.method.span())
}

fn builder_type(model: &Model<'_>, index: &Index) -> TokenStream {
    let name = builder_name(model, index);
    let (_, ty_generics, _) = model.input.generics.split_for_impl();
    quote!(#name #ty_generics)
}

fn first_setter(model: &Model<'_>, index: &Index, at: usize) -> TokenStream {
    let (private, vis, method) = (model.private(), &model.input.vis, &index.method);
    let Some(field) = fields(model, index).first().copied() else { return TokenStream::new() };
    let (parameter, segment) = (parameter(model, field), argument(model, field, &quote!(segment)));
    let output = builder_type(model, index);
    let name = builder_name(model, index);
    let doc = format!(" Looks up the records with this `{}`. Further segments can be set.", field.name());
    quote! {
        #[doc = #doc]
        #vis fn #method(#parameter) -> #output {
            let lookup = #private::Lookup::segment(#private::Lookup::all(#at), 0, #segment);
            #name { lookup }
        }
    }
}

/// Generates the type of a compound lookup, with a setter for each segment after the first.
fn builder(model: &Model<'_>, index: &Index, bounded: &Generics) -> TokenStream {
    let (private, vis, ident) = (model.private(), &model.input.vis, &model.input.ident);
    let name = builder_name(model, index);
    let (_, ty_generics, _) = model.input.generics.split_for_impl();
    let (impl_generics, _, where_clause) = bounded.split_for_impl();
    let lookup = quote!(#private::Lookup<#ident #ty_generics, #private::Many>);
    let own = &model.input.generics;
    let own_where = &own.where_clause;
    let doc = format!(
        " A lookup of the index `{}` of [`{ident}`]. It matches any value of a segment that is not set.",
        index.name
    );
    let fields = fields(model, index);
    let setters = fields.iter().enumerate().skip(1).map(|(segment, field)| {
        let setter = field.ident;
        let doc = format!(" Matches only records with this `{}`.", field.name());
        if !model.is_valid {
            return quote! {
                #[doc = #doc]
                #vis fn #setter<__A>(self, #setter: __A) -> Self { ::core::unreachable!() }
            };
        }
        let (parameter, text) = (parameter(model, field), argument(model, field, &quote!(segment)));
        quote! {
            #[doc = #doc]
            #vis fn #setter(self, #parameter) -> Self {
                Self { lookup: #private::Lookup::segment(self.lookup, #segment, #text) }
            }
        }
    });
    let name_text = name.to_string();
    quote! {
        #[doc = #doc]
        #[allow(dead_code)]
        #[must_use]
        #vis struct #name #own #own_where { lookup: #lookup }

        #[allow(dead_code, private_interfaces, private_bounds)]
        #[automatically_derived]
        #[allow(clippy::all, clippy::pedantic)]
        impl #impl_generics #name #ty_generics #where_clause {
            #(#setters)*
        }

        #[automatically_derived]
        #[allow(clippy::all, clippy::pedantic)]
        impl #impl_generics ::core::convert::From<#name #ty_generics> for #lookup #where_clause {
            fn from(builder: #name #ty_generics) -> Self {
                builder.lookup
            }
        }

        #[automatically_derived]
        #[allow(clippy::all, clippy::pedantic)]
        impl #impl_generics ::core::clone::Clone for #name #ty_generics #where_clause {
            fn clone(&self) -> Self {
                Self { lookup: ::core::clone::Clone::clone(&self.lookup) }
            }
        }

        /// Shows no values.
        #[automatically_derived]
        #[allow(clippy::all, clippy::pedantic)]
        impl #impl_generics ::core::fmt::Debug for #name #ty_generics #where_clause {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                f.debug_struct(#name_text).finish_non_exhaustive()
            }
        }
    }
}
