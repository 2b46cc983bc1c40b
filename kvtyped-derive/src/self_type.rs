//! Replaces `Self` in the types and bounds of a model by the model, because the derive copies them into the key type.

use proc_macro2::{Group, TokenStream, TokenTree};
use quote::{ToTokens, quote};
use syn::{Data, DeriveInput, GenericParam};

/// Returns the input with its own name in place of `Self`.
pub(crate) fn replace_self(mut input: DeriveInput) -> DeriveInput {
    let ident = &input.ident;
    let (_, generics, _) = input.generics.split_for_impl();
    let model = quote!(#ident #generics);
    if let Data::Struct(data) = &mut input.data {
        for field in &mut data.fields {
            replace(&mut field.ty, &model);
        }
    }
    for param in &mut input.generics.params {
        if let GenericParam::Type(param) = param {
            param.bounds.iter_mut().for_each(|bound| replace(bound, &model));
        }
    }
    if let Some(clause) = &mut input.generics.where_clause {
        clause.predicates.iter_mut().for_each(|predicate| replace(predicate, &model));
    }
    input
}

fn replace<T: ToTokens + syn::parse::Parse>(part: &mut T, model: &TokenStream) {
    let tokens = part.to_token_stream();
    if mentions_self(&tokens)
        && let Ok(replaced) = syn::parse2(replaced(tokens, model))
    {
        *part = replaced;
    }
}

fn mentions_self(tokens: &TokenStream) -> bool {
    tokens.clone().into_iter().any(|token| match token {
        TokenTree::Ident(ident) => ident == "Self",
        TokenTree::Group(group) => mentions_self(&group.stream()),
        TokenTree::Punct(_) | TokenTree::Literal(_) => false,
    })
}

fn replaced(tokens: TokenStream, model: &TokenStream) -> TokenStream {
    let mut out = TokenStream::new();
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Ident(ident) if ident == "Self" => {
                // A path that starts with a generic type, such as `Self::Id`, requires angle brackets.
                let begins_path = matches!(tokens.peek(), Some(TokenTree::Punct(punct)) if punct.as_char() == ':');
                out.extend(if begins_path { quote!(<#model>) } else { model.clone() });
            }
            TokenTree::Group(group) => {
                let mut inner = Group::new(group.delimiter(), replaced(group.stream(), model));
                inner.set_span(group.span());
                out.extend([TokenTree::Group(inner)]);
            }
            other => out.extend([other]),
        }
    }
    out
}
