//! The generated code. This phase reports no errors.

mod filter;
mod index;
mod key;
mod model;
pub(crate) mod version;

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Generics, Ident, Type, WherePredicate, parse_quote};

use crate::generics;
use crate::model::{Field, Model, ungrouped};

/// The names that several of the generated items share.
struct Names<'a> {
    private: TokenStream,
    key: Ident,
    filter: Ident,
    fields: Vec<&'a Field<'a>>,
    /// The generics of the key and of its filter.
    generics: Generics,
    /// The same generics, with the bounds that the types of the fields are segments.
    segment_generics: Generics,
}

/// The last phase: generates the key, the filter and the implementation.
pub(crate) fn expand(model: &Model<'_>) -> TokenStream {
    let private = model.private();
    let fields = model.key_fields();
    let generics = generics::restricted_to(&model.input.generics, fields.iter().map(|field| field.ty));
    let segment_generics = generics::with_predicates(&generics, bounds(model, &generics));
    let (key, filter) = (model.key.clone(), model.filter.clone());
    let names = Names { private, key, filter, fields, generics, segment_generics };
    let key = key::expand(model, &names);
    let filter = filter::expand(model, &names);
    let model = model::expand(model, &names);
    quote!(#key #filter #model)
}

/// Returns the bounds on the generic types of a key's fields.
fn bounds(model: &Model<'_>, generics: &Generics) -> Vec<WherePredicate> {
    let private = model.private();
    let fields = model.key_fields();
    let generic = fields.iter().filter(|field| generics::mentions_parameter(field.ty, generics));
    let bound = generic.map(|field| -> WherePredicate {
        let ty = field.ty;
        match (model.is_valid, field.is_rest) {
            (false, _) => parse_quote!(#ty: ::core::marker::Send + ::core::marker::Sync + 'static),
            (true, true) => parse_quote!(#ty: #private::RestField),
            (true, false) => parse_quote!(#ty: #private::KeySegment),
        }
    });
    bound.collect()
}

impl Names<'_> {
    /// Returns `<Type as DerivedField>` or `RestField`, with the span of the type: rustc points at the type if it is not a
    /// segment.
    ///
    /// All generated code uses the fields of a key through one trait, so an invalid type always causes the same error.
    fn field(&self, field: &Field<'_>) -> TokenStream {
        let (private, ty) = (&self.private, field.ty);
        let role = if field.is_rest { quote!(RestField) } else { quote!(DerivedField) };
        quote_spanned!(ty.span()=> <#ty as #private::#role>)
    }

    /// Whether a field takes the rest of the key.
    fn has_rest(&self) -> bool {
        self.fields.iter().any(|field| field.is_rest)
    }

    fn each(&self, write: impl FnMut(&&Field<'_>) -> TokenStream) -> Vec<TokenStream> {
        self.fields.iter().map(write).collect()
    }
}

/// Returns the type of a parameter for this field, and the conversion of the parameter into the field. Primitive types
/// are not converted, so that rustc can infer the type of a literal.
fn parameter(field: &Field<'_>) -> (TokenStream, TokenStream) {
    let (ident, ty) = (field.ident, field.ty);
    match is_primitive(ty) {
        true => (quote!(#ty), quote!(#ident)),
        false => (quote!(impl ::core::convert::Into<#ty>), quote!(::core::convert::Into::into(#ident))),
    }
}

/// Whether rustc could not infer the type of a literal that is converted into this type.
fn is_primitive(ty: &Type) -> bool {
    const PRIMITIVE: [&str; 16] = [
        "bool", "char", "u8", "u16", "u32", "u64", "u128", "usize", "i8", "i16", "i32", "i64", "i128", "isize", "f32",
        "f64",
    ];
    matches!(ungrouped(ty), Type::Path(path) if PRIMITIVE.iter().any(|name| path.path.is_ident(name)))
}

/// Returns the article of a name.
fn article(name: &str) -> &'static str {
    if name.starts_with(['A', 'E', 'I', 'O']) || name.starts_with("Un") { "an" } else { "a" }
}

/// Gives tokens the location of `span`, and keeps the hygiene of their names.
pub(crate) fn respanned(tokens: TokenStream, span: proc_macro2::Span) -> TokenStream {
    let moved = tokens.into_iter().map(|mut token| {
        token.set_span(token.span().located_at(span));
        token
    });
    moved.collect()
}
