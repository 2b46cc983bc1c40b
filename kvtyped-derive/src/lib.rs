//! The derive macros of `kvtyped`: [`KvModel`](macro@KvModel) and [`KeySegment`](macro@KeySegment).
//!
//! Use them through `kvtyped`, which exports both. Its documentation has examples that run.
//!
//! The macros are a small compiler with four phases: `attr` (with `settings` and `template`) -> `model` -> `check` ->
//! `expand`. Each phase reports all its errors at once. An error ends the compilation after its phase.

mod attr;
mod check;
mod ctxt;
mod expand;
mod fallback;
mod generics;
mod model;
mod names;
mod segment;
mod self_type;
mod serde_attr;
mod settings;
mod template;
mod units;

use proc_macro::TokenStream;
use syn::{DeriveInput, Error, parse_macro_input};

use crate::ctxt::Ctxt;

/// Turns a struct with named fields into a model: its values are the records of a bucket.
///
/// ```text
/// #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
/// #[kv(bucket = "sessions", key = "{tenant}.{id}", codec = MsgPack, history = 1, ttl = "30m")]
/// pub struct Session {
///     pub tenant: String,
///     pub id: u64,
///     pub user: String,
/// }
/// ```
///
/// The trait `kvtyped::KvModel` has an example that runs.
///
/// # Generated items
///
/// They have the visibility of the struct:
///
/// * `SessionKey { tenant, id }`: the key's fields, each as visible as in the struct. `SessionKey::new("acme", 7)`
///   takes `impl Into` of each field's type, and integers, `bool` and `char` unconverted. `Display` writes the encoded
///   key, `acme.7`, and `FromStr` is its inverse. `Clone`, `Debug`, `Eq`, `Ord` and `Hash` work as if they were
///   derived.
/// * `SessionFilter`, from `SessionKey::filter()`: one setter per field. `SessionKey::filter().tenant("acme")` is
///   `acme.*`. The filter and the key, owned or borrowed, convert into a `Filter<Session>`.
/// * `KvModel` for `Session`, and `SingleRevision` if its history is 1 or unset.
///
/// The key of a generic model has only the parameters that the key's fields name. A model owns its data, so it has no
/// lifetimes.
///
/// # On the struct
///
/// In the column *default*, *unchanged* means that an existing bucket keeps its setting.
///
/// | `#[kv(..)]` | meaning | default |
/// |---|---|---|
/// | `bucket = "sessions"` | the bucket's name: `[a-zA-Z0-9_-]+` | the struct's name in `snake_case` |
/// | `key = "{tenant}.{id}"` | the template of the key, see below | the fields marked `#[kv(key)]` |
/// | `key_name = "SessionId"` | the name of the key type | the struct's name followed by `Key` |
/// | `filter_name = "SessionIds"` | the name of the filter type | the struct's name followed by `Filter` |
/// | `key_codec = "base64"` | the encoding of stored keys, for buckets of other clients: `"base64"` and `"path"` as in orbit, `"base64-nats-js"` as in nats.js | `"escaped"` |
/// | `codec = MsgPack` | the `Codec` of the stored value | `Json` |
/// | `history = 5` | revisions to keep of each key, 1 to 64 | unchanged; 1 in a new bucket |
/// | `ttl = "1h30m"` | the TTL of every value, counted from its write, at least 100ms | unchanged; none in a new bucket |
/// | `max_value_size = "64KiB"` | the largest value | unchanged; no limit in a new bucket |
/// | `max_bytes = "1GiB"` | the largest size of the bucket | unchanged; no limit in a new bucket |
/// | `storage = "memory"` | `"file"` or `"memory"` | unchanged; `"file"` in a new bucket |
/// | `replicas = 3` | the number of servers that store the bucket, 1 to 5 | unchanged; 1 in a new bucket |
/// | `compression` | compressed storage; also `compression = false` | unchanged; off in a new bucket |
/// | `description = ".."` | a description of the bucket | unchanged |
/// | `limit_markers = "5m"` | the time that the marker of an expired value stays, at least 1s, or `"off"` | unchanged; 5m in a new bucket if the server supports it and the limits of the bucket allow it |
/// | `rollups = false` | messages cannot replace stored records: no purge, no TTL of a single key and no locks, see `BucketConfig::rollups`; also `rollups` | allowed; a bucket without them differs |
/// | `crate = "path"` | the path of `kvtyped`, if it is renamed | `::kvtyped` |
///
/// Durations are numbers with the units `ms`, `s`, `m`, `h`, `d` and `w`. Sizes are numbers of bytes, or numbers with
/// one of the units `B`, `KB`, `MB`, `GB` (powers of 1,000), `KiB`, `MiB`, `GiB` (powers of 1,024). The macro parses
/// both at compile time.
///
/// # On a field
///
/// | `#[kv(..)]` | meaning |
/// |---|---|
/// | `key` | The field is one segment of the key. The marked fields keep their order. Excludes a template. |
/// | `value` | Only this field is stored. All other fields are in the key, and are filled from it on reading. The struct itself then needs neither `Serialize` nor `Deserialize`. |
///
/// # The template
///
/// Dots separate the segments. A segment is a literal, `[-/_=a-zA-Z0-9]+`, or one `{field}` with or without literals
/// around it, such as `user-{id}`. Two fields in one segment would be ambiguous. A template names each field once. The
/// type of a field is a `KeySegment`. A template without fields, `key = "app"`, is the key of a single record, and the
/// key type is then a unit struct.
///
/// The last segment may be `{path..}`: a field that takes the rest of the key, one segment or more. Each dot of its
/// text is a dot of the key. `FileKey::filter().path_below("usr.lib")` matches every key below `usr.lib`. A field of
/// type `kvtyped::Key` takes the rest verbatim, so it can hold the keys of any client.
#[proc_macro_derive(KvModel, attributes(kv))]
pub fn derive_kv_model(input: TokenStream) -> TokenStream {
    let input = self_type::replace_self(parse_macro_input!(input as DeriveInput));
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

/// Turns a newtype, or an enum without fields, into a type of key segments.
///
/// ```text
/// #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, KeySegment)]
/// struct Tenant(String);
///
/// #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, KeySegment)]
/// #[kv(rename_all = "kebab-case")]
/// enum Region {
///     EuWest,
///     #[kv(rename = "us")]
///     America,
/// }
/// ```
///
/// A newtype has the text of its field. A variant has the text of its name: `EuWest`, or here `eu-west`. Every segment
/// type needs the derives above. The trait `kvtyped::KeySegment` has an example that runs.
///
/// | `#[kv(..)]` | on | meaning |
/// |---|---|---|
/// | `rename_all = "snake_case"` | an enum | the case of its variants, by serde's rules: also `lowercase`, `UPPERCASE`, `PascalCase`, `camelCase`, `SCREAMING_SNAKE_CASE`, `kebab-case`, `SCREAMING-KEBAB-CASE` |
/// | `rename = "us"` | a variant | its text, regardless of `rename_all` |
/// | `rollups = false` | messages cannot replace stored records: no purge, no TTL of a single key and no locks, see `BucketConfig::rollups`; also `rollups` | allowed; a bucket without them differs |
/// | `crate = "path"` | the type | the path of `kvtyped`, if it is renamed |
///
/// Two variants with the same text are refused.
#[proc_macro_derive(KeySegment, attributes(kv))]
pub fn derive_key_segment(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    let tokens = segment::derive(&input).unwrap_or_else(|error| {
        let mut tokens = error.into_compile_error();
        tokens.extend(fallback::segment(&input));
        tokens
    });
    tokens.into()
}
