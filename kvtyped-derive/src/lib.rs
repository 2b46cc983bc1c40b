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
mod self_type;
mod serde_attr;
mod settings;
mod template;
mod units;

use proc_macro::TokenStream;
use syn::{DeriveInput, Error, parse_macro_input};

use crate::ctxt::Ctxt;

/// Makes a struct with named fields a model: its values are the records of a bucket.
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
/// The trait `kvtyped::KvModel` shows the same as an example that runs.
///
/// # What it writes
///
/// With the visibility of the struct:
///
/// * `SessionKey { tenant, id }`: the key's fields, each as visible as in the struct. `SessionKey::new("acme", 7)` takes
///   `impl Into` of each field's type, and integers, `bool` and `char` as they are; `Display` is the encoded key,
///   `acme.7`, and `FromStr` its inverse; `Clone`, `Debug`, `Eq`, `Ord` and `Hash` as they would be derived.
/// * `SessionFilter`, from `SessionKey::filter()`: one setter a field; `SessionKey::filter().tenant("acme")` is
///   `acme.*`. It and the key, owned or borrowed, become a `Filter<Session>`.
/// * `KvModel` for `Session`, and `SingleRevision` if its history is 1 or not said.
///
/// A generic model's key takes only the parameters that the key's fields name. A model owns its data: it has no
/// lifetimes.
///
/// # On the struct
///
/// | `#[kv(..)]` | meaning | if not said |
/// |---|---|---|
/// | `bucket = "sessions"` | the bucket's name: `[a-zA-Z0-9_-]+` | the struct's name in `snake_case` |
/// | `key = "{tenant}.{id}"` | the template of the key, see below | the fields marked `#[kv(key)]` |
/// | `key_name = "SessionId"` | the name of the key's type | the struct's name and `Key` |
/// | `filter_name = "SessionIds"` | the name of the filter's type | the struct's name and `Filter` |
/// | `key_codec = "base64"` | how keys are stored, for buckets of other clients: `"base64"` and `"path"` as orbit does, `"base64-nats-js"` as nats.js does | `"escaped"` |
/// | `codec = MsgPack` | a type that is a `Codec` of what is stored | `Json` |
/// | `history = 5` | revisions kept of each key, 1 to 64 | as the bucket has it; 1 in a new one |
/// | `ttl = "1h30m"` | how long after it was written every value expires, 100ms at least | as the bucket has it; never |
/// | `max_value_size = "64KiB"` | the largest value | as the bucket has it; no limit |
/// | `max_bytes = "1GiB"` | the largest bucket | as the bucket has it; no limit |
/// | `storage = "memory"` | `"file"` or `"memory"` | as the bucket has it; `"file"` |
/// | `replicas = 3` | how many servers store it, 1 to 5 | as the bucket has it; 1 |
/// | `compression` | stored compressed; also `compression = false` | as the bucket has it; not |
/// | `description = ".."` | what the bucket is for | as the bucket has it |
/// | `limit_markers = "5m"` | how long the marker of an expired value stays, 1s at least; or `"off"` | as the bucket has it; 5m in a new one where the server can |
/// | `rollups = false` | no message may replace stored records: no purge, no TTL of a single key and no locks, see `BucketConfig::rollups`; also `rollups` | allowed; a bucket without them differs |
/// | `crate = "path"` | where `kvtyped` is, if it has another name | `::kvtyped` |
///
/// Durations are made of `ms`, `s`, `m`, `h`, `d` and `w`. Sizes are bytes, or have one of the units `B`, `KB`, `MB`,
/// `GB` (thousands), `KiB`, `MiB`, `GiB` (1,024). Both are read while compiling.
///
/// # On a field
///
/// | `#[kv(..)]` | meaning |
/// |---|---|
/// | `key` | one segment of the key; the marked fields in their order. Excludes a template. |
/// | `value` | this field alone is what is stored; all others are in the key, and are filled from it on reading. The struct itself then needs neither `Serialize` nor `Deserialize`. |
///
/// # The template
///
/// Segments stand between dots. A segment is a literal, `[-/_=a-zA-Z0-9]+`, or one `{field}` with or without literals
/// beside it, `user-{id}`: two fields in one segment could not be told apart. A field stands in it once. The type of a
/// field is a `KeySegment`. A template without fields, `key = "app"`, is the key of a single record; then the key is a
/// unit struct.
///
/// The last segment may be `{path..}`: a field that takes the rest of the key, one segment or more. Each dot of its
/// text is a dot of the key. `FileKey::filter().path_below("usr.lib")` matches every key below `usr.lib`. A field of
/// type `kvtyped::Key` takes the rest verbatim, so it reads the keys of all clients.
#[proc_macro_derive(KvModel, attributes(kv))]
pub fn derive_kv_model(input: TokenStream) -> TokenStream {
    let input = self_type::named(parse_macro_input!(input as DeriveInput));
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

/// Makes a newtype, or an enum without fields, one segment of a key.
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
/// A newtype is written as what it holds. A variant is written as its name: `EuWest`, here `eu-west`. The derives above
/// are what every segment needs. The trait `kvtyped::KeySegment` has an example that runs.
///
/// | `#[kv(..)]` | on | meaning |
/// |---|---|---|
/// | `rename_all = "snake_case"` | an enum | the case of its variants, by serde's rules: also `lowercase`, `UPPERCASE`, `PascalCase`, `camelCase`, `SCREAMING_SNAKE_CASE`, `kebab-case`, `SCREAMING-KEBAB-CASE` |
/// | `rename = "us"` | a variant | its text, whatever the case of the others |
/// | `crate = "path"` | the type | where `kvtyped` is, if it has another name |
///
/// Two variants with the same text are refused.
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
