//! The derive macros of `kvtyped`: [`KvModel`](macro@KvModel) and [`KeySegment`](macro@KeySegment).
//!
//! Use them through `kvtyped`, which exports both and whose documentation has examples that run.
//!
//! A small compiler in four phases, `attr` (with `settings` and `template`) -> `model` -> `check` -> `expand`. Each
//! phase reports all its mistakes at once, and none begins before the one before it is content.

mod attr;
mod check;
mod ctxt;
mod expand;
mod fallback;
mod generics;
mod model;
mod names;
mod segment;
mod settings;
mod template;
mod units;

use proc_macro::TokenStream;
use syn::{DeriveInput, Error, parse_macro_input};

use crate::ctxt::Ctxt;

/// Makes a struct a model.
#[proc_macro_derive(KvModel, attributes(kv))]
pub fn derive_kv_model(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    let tokens = model_of(&input).unwrap_or_else(|error| {
        let mut tokens = error.into_compile_error();
        tokens.extend(fallback::model(&input));
        tokens
    });
    tokens.into()
}

fn model_of(input: &DeriveInput) -> Result<proc_macro2::TokenStream, Error> {
    let mut ctxt = Ctxt::default();
    let parts = model::read(input, &mut ctxt);
    ctxt.end_of_phase()?;
    let model = model::resolve(parts, &mut ctxt);
    ctxt.end_of_phase()?;
    check::check(&model, &mut ctxt);
    ctxt.end_of_phase()?;
    Ok(expand::expand(&model))
}

/// Makes a type one segment of a key.
#[proc_macro_derive(KeySegment, attributes(kv))]
pub fn derive_key_segment(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    let tokens = segment::derive(&input).unwrap_or_else(|error| {
        let krate = segment::container(&input, &mut Ctxt::default()).krate();
        let mut tokens = error.into_compile_error();
        tokens.extend(fallback::segment(&input, &krate));
        tokens
    });
    tokens.into()
}
