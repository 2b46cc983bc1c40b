//! The generic parameters that the key of a model requires.

use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens;
use syn::punctuated::Punctuated;
use syn::{GenericParam, Generics, Ident, Type};

/// Returns the parameters that these types mention, with their bounds. Keeps the predicates that mention no other
/// parameter.
pub(crate) fn restricted_to<'a>(generics: &Generics, types: impl Iterator<Item = &'a Type>) -> Generics {
    let tokens: TokenStream = types.map(ToTokens::to_token_stream).collect();
    let (used, unused): (Vec<_>, Vec<_>) = generics.params.iter().partition(|param| mentions(&tokens, name(param)));
    let only_used = |tokens: &TokenStream| !unused.iter().any(|param| mentions(tokens, name(param)));

    let keep_defaults = used.iter().all(|param| only_used(&param.to_token_stream()));
    let params = used.into_iter().cloned().map(|mut param| {
        if let GenericParam::Type(param) = &mut param {
            let bounds = param.bounds.iter().filter(|bound| only_used(&bound.to_token_stream()));
            param.bounds = bounds.cloned().collect();
        }
        if keep_defaults { param } else { without_default(param) }
    });
    let mut kept = Generics { params: params.collect(), ..Generics::default() };
    if let Some(clause) = &generics.where_clause {
        let any_kept = |tokens: &TokenStream| kept.params.iter().any(|param| mentions(tokens, name(param)));
        let predicates = clause.predicates.iter().filter(|predicate| {
            let tokens = predicate.to_token_stream();
            any_kept(&tokens) && only_used(&tokens)
        });
        let predicates: Punctuated<_, _> = predicates.cloned().collect();
        if !predicates.is_empty() {
            kept.make_where_clause().predicates = predicates;
        }
    }
    kept
}

/// Whether the type mentions one of the parameters.
pub(crate) fn mentions_parameter(ty: &Type, generics: &Generics) -> bool {
    generics.params.iter().any(|param| mentions(&ty.to_token_stream(), name(param)))
}

/// Adds predicates.
pub(crate) fn with_predicates(
    generics: &Generics,
    predicates: impl IntoIterator<Item = syn::WherePredicate>,
) -> Generics {
    let mut generics = generics.clone();
    let mut predicates = predicates.into_iter().peekable();
    if predicates.peek().is_some() {
        generics.make_where_clause().predicates.extend(predicates);
    }
    generics
}

fn name(param: &GenericParam) -> &Ident {
    match param {
        GenericParam::Lifetime(param) => &param.lifetime.ident,
        GenericParam::Type(param) => &param.ident,
        GenericParam::Const(param) => &param.ident,
    }
}

fn without_default(mut param: GenericParam) -> GenericParam {
    match &mut param {
        GenericParam::Lifetime(_) => {}
        GenericParam::Type(param) => param.default = None,
        GenericParam::Const(param) => param.default = None,
    }
    param
}

fn mentions(tokens: &TokenStream, name: &Ident) -> bool {
    tokens.clone().into_iter().any(|token| match token {
        TokenTree::Ident(ident) => ident == *name,
        TokenTree::Group(group) => mentions(&group.stream(), name),
        TokenTree::Punct(_) | TokenTree::Literal(_) => false,
    })
}
