//! The derive macros of `kvtyped`: [`KvModel`](macro@KvModel), [`KvVersion`](macro@KvVersion) and
//! [`KeySegment`](macro@KeySegment).
//!
//! Use them through `kvtyped`, which exports all three. Its documentation has examples that run.
//!
//! The macros are a small compiler with four phases: `attr` (with `settings` and `template`) -> `model` -> `check` ->
//! `expand`. Each phase reports all its errors at once. An error ends the compilation after its phase.

mod attr;
mod check;
mod ctxt;
mod expand;
mod fallback;
mod generics;
mod index;
mod index_attr;
mod kv_version;
mod model;
mod names;
mod segment;
mod self_type;
mod serde_attr;
mod settings;
mod template;
mod units;
mod version;

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
/// The generated items have the visibility of the struct:
///
/// * `SessionKey { tenant, id }` is the key. Its fields have the visibility that they have in the struct.
///   * `SessionKey::new("acme", 7)` creates a key. A parameter is `impl Into<FieldType>`, or the type of the field if
///     that is an integer, `bool` or `char`.
///   * `Display` writes the encoded key, `acme.7`. `FromStr` parses it.
///   * `Clone`, `Debug`, `Eq`, `Ord` and `Hash` behave as if they were derived.
/// * `SessionFilter` is a filter with one setter per key field. `SessionKey::filter()` matches every key, and
///   `SessionKey::filter().tenant("acme")` matches `acme.*`. A filter, a key and a reference to a key convert into
///   `Filter<Session>`.
/// * `Session` implements `KvModel`. It also implements `SingleRevision` if its history is 1 or unset.
///
/// The key of a generic model has only the type parameters that its fields mention. A model has no lifetime parameters,
/// because it owns its data.
///
/// # Attributes of the struct
///
/// The attributes are written in `#[kv(..)]`, separated by commas. Each attribute may occur once.
///
/// | attribute | type | meaning | default | example |
/// |---|---|---|---|---|
/// | `bucket` | string | Name of the bucket: `[a-zA-Z0-9_-]+`, at most 128 characters. | name of the struct in `snake_case` | `bucket = "sessions"` |
/// | `key` | string | Template of the key, see [below](#template-of-the-key). | the fields marked `#[kv(key)]` | `key = "{tenant}.{id}"` |
/// | `key_name` | string | Name of the key type. | name of the struct followed by `Key` | `key_name = "SessionId"` |
/// | `filter_name` | string | Name of the filter type. | name of the struct followed by `Filter` | `filter_name = "SessionIds"` |
/// | `key_codec` | string | Encoding of the stored keys, see [below](#key-codecs). | `"escaped"` | `key_codec = "base64"` |
/// | `sensitive_key` | flag | Whether the key is a secret, such as a session id. Errors, events and spans then show a hash of it. `Error::key` still returns it. | not set | `sensitive_key` |
/// | `codec` | type | `Codec` of the stored value. | `Json` | `codec = MsgPack` |
/// | `history` | integer | Number of revisions to keep of each key, from 1 to 64. | unset; a new bucket keeps 1 | `history = 5` |
/// | `ttl` | duration | Time after its write when a record expires, at least `100ms`. | unset; a new bucket has no TTL | `ttl = "1h30m"` |
/// | `max_value_size` | size | Largest size of a value, at most 2 GiB - 1. | unset; a new bucket has no limit | `max_value_size = "64KiB"` |
/// | `max_bytes` | size | Largest size of the bucket, at most 8 EiB - 1. | unset; a new bucket has no limit | `max_bytes = "1GiB"` |
/// | `storage` | string | `"file"` or `"memory"`. | unset; a new bucket uses `"file"` | `storage = "memory"` |
/// | `replicas` | integer | Number of servers that store the bucket, from 1 to 5. | unset; a new bucket has 1 | `replicas = 3` |
/// | `compression` | flag | Whether the server compresses stored records. | unset; a new bucket does not compress | `compression` |
/// | `description` | string | Description of the bucket. | unset | `description = "user sessions"` |
/// | `limit_markers` | duration or `"off"` | Time that the delete marker of an expired record stays, at least `1s`. A shorter `ttl` of the bucket removes it earlier. | unset; a new bucket has `5m` if the server supports markers and the limits of the bucket allow it | `limit_markers = "5m"` |
/// | `rollups` | flag | Whether a message may replace stored records. Purges, the TTL of a single record and locks require it, see `BucketConfig::rollups`. `limit_markers` requires it too. | allowed | `rollups = false` |
/// | `write_epochs` | string | `"open"` or `"closed"`: whether writes name a write epoch, see `BucketConfig::write_epochs`. | unset; a new bucket has no write epochs | `write_epochs = "open"` |
/// | `name` | string | Name of the model in the metadata of its bucket: `[a-z0-9_-]+`, at most 64 characters. | name of the struct in `snake_case` | `name = "user"` |
/// | `version` | integer | Schema version of the stored type, from 1, see [below](#schema-versions). | 1 | `version = 2` |
/// | `upgrade_from` | type | Type of the previous version, which implements `KvVersion`. | none; older records are refused | `upgrade_from = UserV1` |
/// | `writes` | integer | Oldest version that the program can write. | `version` | `writes = 1` |
/// | `unversioned` | integer | Version of a record without one. | 1 | `unversioned = 2` |
/// | `validate` | string | The path of a function that checks a record before each write; see [validation](#validation). | no check | `validate = "check_user"` |
/// | `newer` | string | `"keep"` or `"refuse"`: the rule for records of a newer version. | `"refuse"` | `newer = "keep"` |
/// | `index` | list | An index of several fields, see [below](#indexes). May occur several times. | none | `index(by_role = "{team}.{role}")` |
/// | `unique` | list | A unique index of several fields. May occur several times. | none | `unique(by_slug = "{tenant}.{slug}")` |
/// | `crate` | string | Path of `kvtyped`, if it is renamed or re-exported. | `"::kvtyped"` | `crate = "my_crate::kvtyped"` |
///
/// An unset attribute does not change the setting of an existing bucket. An exception is `rollups`: a bucket that
/// denies rollups differs from a model without the attribute.
///
/// The macro parses and checks all values at compile time:
///
/// * A flag is written `compression`, `compression = true` or `compression = false`.
/// * A duration is a string of numbers with the units `ms`, `s`, `m`, `h`, `d` and `w`: `"1h30m"`. Its maximum is 292
///   years.
/// * A size is an integer that counts bytes, or a string of a number and a unit. The units are `B`, `KB`, `MB` and `GB`
///   (powers of 1,000), and `KiB`, `MiB` and `GiB` (powers of 1,024).
///
/// # Attributes of a field
///
/// | attribute | type | meaning | default | example |
/// |---|---|---|---|---|
/// | `key` | none | The field is one segment of the key. Marked fields keep their order. Excludes the attribute `key` of the struct. | not marked | `#[kv(key)]` |
/// | `value` | none | Only this field is stored. At most one field has the mark, and all other fields are key fields. The struct itself requires neither `Serialize` nor `Deserialize`. | the whole struct is stored | `#[kv(value)]` |
/// | `index` | none or list | The field is indexed, see [below](#indexes). | not indexed | `#[kv(index)]` |
/// | `unique` | none or list | At most one record has each value of the field. | not unique | `#[kv(unique(with = lower))]` |
/// | `version` | none | The field, a `u32`, holds the schema version of the record. Excludes `#[kv(value)]`. Requires a codec with named fields. | the version is a header | `#[kv(version)]` |
///
/// # Template of the key
///
/// A template consists of segments, separated by dots. A segment is one of these:
///
/// * A literal of the characters `[-/_=a-zA-Z0-9]`: `users`.
/// * One field, with or without literals around it: `{id}`, `user-{id}`. The type of the field is a `KeySegment`.
/// * As the last segment, a field that takes the rest of the key: `{path..}`. It takes one or more segments. Each dot
///   in its text is a dot of the key. Its filter has a second setter: `FileKey::filter().path_below("usr.lib")` matches
///   every key below `usr.lib`. A field of type `kvtyped::Key` takes the rest verbatim, so it can hold keys of other
///   clients.
///
/// Each field occurs at most once in a template. A template without fields, `key = "app"`, is the key of a single
/// record. Its key type is a unit struct.
///
/// # Key codecs
///
/// The default, `"escaped"`, escapes characters that a NATS key cannot contain. The others are for buckets that other
/// clients use:
///
/// | key codec | compatible with | restriction |
/// |---|---|---|
/// | `"base64"` | orbit | no `=` in the template |
/// | `"base64-nats-js"` | nats.js | no `=` in the template |
/// | `"path"` | orbit | the template is one rest field: `key = "{path..}"` |
///
/// # Indexes
///
/// ```text
/// #[derive(.., KvModel)]
/// #[kv(bucket = "users", key = "{id}", index(by_role = "{team}.{role}"))]
/// struct User {
///     id: u64,
///     #[kv(unique(with = lower))] email: String,
///     #[kv(index)] team: Option<String>,             // a `None` has no entry
///     #[kv(index)] tags: Vec<String>,                // an entry for each tag
///     role: Role,                                    // a `KeySegment`
///     #[kv(index(by = "day"))] joined: SystemTime,
/// }
///
/// fn lower(text: &str) -> String { text.to_lowercase() }
/// ```
///
/// Each index generates a function that creates a lookup: `User::by_email("ada@example.com")`, `User::by_team("core")`,
/// `User::by_role("core").role(Role::Admin)`, `User::by_joined(first..last)`. The function of a field is called `by_`
/// and the name of the index. An index of several fields has the name of its function. A type for the lookups of such
/// an index is generated too: `UserByRole`. The functions of a unique index of several fields, and of a hashed one, take
/// all values.
///
/// The type of a field is a `KeySegment`, or an `Option`, `Vec`, `BTreeSet` or `HashSet` of one. An index of several
/// fields has at most 8 of them, and at most one list.
///
/// | option | type | meaning | default | example |
/// |---|---|---|---|---|
/// | `name` | string | Name of the index of a field. The records of an existing bucket are indexed by this name. | name of the field | `index(name = "mail")` |
/// | `by` | string or integer | The index is searched by range. It stores a `SystemTime` (in UTC) up to the `"year"`, `"month"`, `"day"` or `"hour"`, and an integer without the digits below this power of ten. Only `index`. | searched by equality | `index(by = "day")`, `index(by = 100)` |
/// | `with` | path | A function from a reference to the field to the indexed value. Lookups call it too. Excludes `by`. | the field | `unique(with = lower)` |
/// | `hash` | flag | Entries contain a hash of the value, for long values. Excludes `by`. | not set | `index(hash)` |
/// | `eventual` | flag | A write of a record writes no entries: they are reserved for a follower, which does not exist yet, so lookups find nothing. Only `index`. | not set | `index(eventual)` |
///
/// If `with` names a function that changes, give the index another name, because its entries remain as they are. A
/// model with `#[kv(value)]` has no indexes.
///
/// # Validation
///
/// `validate = "path"` names a function that takes `&Self` and returns `Result<(), E>`, for an `E: Display`. It runs
/// before each write, on the new record. A refused write returns the error `Invalid`, whose source has the message of
/// the function. A [live value](../kvtyped/struct.ReadBucket.html#method.live) rejects an invalid record. Other reads
/// do not call the function, so records from before it remain readable.
///
/// Errors are often logged with their sources: keep values out of the message, or do not log it.
///
/// | crate | attribute |
/// |---|---|
/// | none | `validate = "Self::check"` |
/// | `garde` | `validate = "garde::Validate::validate"` (needs a context type with `Default`, such as `()`) |
/// | `validator` | `validate = "validator::Validate::validate"` |
///
/// # Schema versions
///
/// A record stores the version of its type. A model reads its own version and the versions of the chain of
/// `upgrade_from`:
///
/// ```text
/// #[derive(Clone, Serialize, Deserialize, KvModel)]
/// #[kv(key = "{id}", version = 3, upgrade_from = UserV2, writes = 2)]
/// struct User { id: u64, first: String, last: String, email: Option<String> }
///
/// #[derive(Serialize, Deserialize, KvVersion)]
/// #[kv(version = 2)]
/// struct UserV2 { id: u64, first: String, last: String }
///
/// impl From<UserV2> for User { .. }     // or TryFrom, if some records cannot be upgraded
/// impl From<User> for UserV2 { .. }     // for `writes = 2`
/// ```
///
/// * `version` must be above the version of `upgrade_from`. The macro checks this at compile time. For a type with
///   parameters, only a build checks it, and `cargo check` does not.
/// * In a model with `#[kv(value)]`, the version is that of the value. `upgrade_from` names the previous type of the
///   value.
/// * `writes` requires a conversion back and `Clone`. To write versions before the previous one, each type in between
///   has its own `writes`.
/// * `newer = "keep"` decodes a newer record by the shape of this version. `modify`, `transform`, and `tx.get`
///   with `tx.put` keep the version of the record. A `put` or an `update` writes the version of the program.
///   The model needs a field `#[serde(flatten)] rest: UnknownFields`, and a codec with named fields. An alias of that
///   type is not recognized. Fields inside nested structs need their own `UnknownFields`.
/// * The stored name of the field with `#[kv(version)]` follows `rename` and `rename_all` of serde.
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

/// Turns a newtype, or an enum without fields, into a key segment.
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
/// The text of a newtype is the text of its field. The text of a variant is its name: `EuWest`, or `eu-west` in this
/// example. A segment type requires the other derives of this example. The trait `kvtyped::KeySegment` has an example
/// that runs.
///
/// # Attributes
///
/// | attribute | on | type | meaning | default | example |
/// |---|---|---|---|---|---|
/// | `rename_all` | enum | string | Case of the variant names, with the rules of serde. | names as written | `rename_all = "kebab-case"` |
/// | `rename` | variant | string | Text of the variant. Takes precedence over `rename_all`. | name of the variant | `rename = "us"` |
/// | `crate` | type | string | Path of `kvtyped`, if it is renamed or re-exported. | `"::kvtyped"` | `crate = "my_crate::kvtyped"` |
///
/// The cases are `lowercase`, `UPPERCASE`, `PascalCase`, `camelCase`, `snake_case`, `SCREAMING_SNAKE_CASE`,
/// `kebab-case` and `SCREAMING-KEBAB-CASE`.
///
/// Two variants with the same text are a compile error.
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

/// Turns a struct or an enum into an older version of a stored type.
///
/// ```text
/// #[derive(Serialize, Deserialize, KvVersion)]
/// #[kv(version = 2, upgrade_from = UserV1)]
/// struct UserV2 { id: u64, first: String, last: String }
/// ```
///
/// An older version has a shape only: no key, no bucket, no settings. The model names it in `upgrade_from`. A model
/// itself implements `KvVersion` by its own derive. The trait `kvtyped::KvVersion` has an example that runs.
///
/// # Attributes
///
/// | attribute | on | type | meaning | default | example |
/// |---|---|---|---|---|---|
/// | `version` | type | integer | Number of the version, from 1. Required. | none | `version = 2` |
/// | `upgrade_from` | type | type | Type of the previous version. Requires `From` or `TryFrom`. | none; older records are refused | `upgrade_from = UserV1` |
/// | `writes` | type | integer | Oldest version that a record can be converted back to. Requires `Clone` and a conversion into the type of `upgrade_from`. | `version` | `writes = 1` |
/// | `codec` | type | type | `Codec` of this version. Required if the newer version has another codec than `Json`. | `Json` | `codec = MsgPack` |
/// | `crate` | type | string | Path of `kvtyped`, if it is renamed or re-exported. | `"::kvtyped"` | `crate = "my_crate::kvtyped"` |
/// | `version` | field | none | The field, a `u32`, holds the version. | the version is a header | `#[kv(version)]` |
#[proc_macro_derive(KvVersion, attributes(kv))]
pub fn derive_kv_version(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    let tokens = kv_version::derive(&input).unwrap_or_else(|error| {
        let mut tokens = error.into_compile_error();
        tokens.extend(kv_version::fallback(&input));
        tokens
    });
    tokens.into()
}
