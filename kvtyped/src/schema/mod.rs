//! The shape of stored records, and the effects of a change of the shape.
//!
//! A [`Schema`] describes the shape of the values of a type. [`compare`] reports whether a program reads the records of
//! another schema, and whether the programs of that schema read its records. The functions of [`golden`] keep schemas
//! and examples in files, so that a test finds an incompatible change before a deploy.
//!
//! ```
//! use kvtyped::schema::{Schema, Verdict, compare};
//! use serde::Deserialize;
//!
//! #[derive(Deserialize)]
//! struct Old { id: u64, email: Option<String> }
//!
//! #[derive(Deserialize)]
//! struct New { id: u64, email: String }
//!
//! let report = compare(&Schema::probe::<Old>(), &Schema::probe::<New>());
//! assert_eq!(report.backward(), Verdict::No); // old records may lack `email`
//! assert_eq!(report.forward(), Verdict::Yes);
//! ```

mod error;
mod shape;
mod json;
mod probe;
#[cfg(feature = "schemars")]
mod json_schema;
mod report;
mod compare;
pub mod golden;

pub use self::compare::compare;
pub use self::error::SchemaError;
pub use self::report::{Compatibility, Finding, Verdict};

use std::fmt;

use serde::de::DeserializeOwned;

use self::shape::Shape;

/// The shape of a stored value: kinds, names of fields and variants, required fields.
///
/// Two types have the same schema if records of one are records of the other. Names of types, the order of named fields
/// and the order of variants are not part of a schema, because records do not contain them.
///
/// A schema describes the records that a type reads. It does not contain a name that only
/// `#[serde(rename(serialize = ".."))]` sets.
///
/// Parts without a fixed shape are *open*: tagged and untagged enums, flattened structs, values of any kind. An open
/// part makes no promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schema {
    shape: Shape,
}

impl Schema {
    /// Returns the schema of values of any shape.
    pub fn open() -> Self {
        Self { shape: Shape::Open }
    }

    /// Returns the schema of one text.
    pub fn text() -> Self {
        Self { shape: Shape::Text }
    }

    /// Returns the schema of a byte string.
    pub fn bytes() -> Self {
        Self { shape: Shape::Bytes }
    }

    /// Discovers the schema of a type, as text formats such as JSON read it.
    ///
    /// Runs the `Deserialize` of the type on invented values, some tens of times. Do not call it for a type whose
    /// `Deserialize` has side effects. It takes microseconds: store the result if a program needs it often.
    ///
    /// | found | not found |
    /// |---|---|
    /// | fields with their names and aliases, required fields, `deny_unknown_fields` | internally tagged, adjacently tagged and untagged enums, `flatten`: open |
    /// | `transparent` newtypes as their content, variants, `other`, recursion | types that parse text: text |
    /// | integers with their width, options, sequences, tuples, maps | nesting beyond 40 levels: open |
    ///
    /// A type that panics on an invented value is open. The panic is caught, but the panic hook runs; with
    /// `panic = "abort"` the process ends.
    ///
    /// ```
    /// use kvtyped::schema::Schema;
    /// use serde::Deserialize;
    ///
    /// #[derive(Deserialize)]
    /// struct User { id: u64, email: Option<String> }
    ///
    /// assert_eq!(
    ///     Schema::probe::<User>().to_json(),
    ///     concat!(
    ///         r#"{"kvtyped_schema":1,"shape":{"struct":{"#,
    ///         r#""email":{"presence":"optional","type":{"option":"text"}},"id":{"type":"u64"}}}}"#,
    ///     )
    /// );
    /// ```
    pub fn probe<V: DeserializeOwned>() -> Self {
        Self { shape: probe::probe::<V>(true) }
    }

    /// Discovers the schema of a type, as binary formats such as MessagePack read it.
    ///
    /// Some types have another shape there: an IP address is an enum of bytes, a UUID is a byte string. See
    /// [`probe`](Self::probe).
    pub fn probe_binary<V: DeserializeOwned>() -> Self {
        Self { shape: probe::probe::<V>(false) }
    }

    /// Returns the schema of a type with `JsonSchema`.
    ///
    /// Unlike [`probe`](Self::probe), it describes internally and adjacently tagged enums and flattened structs. It
    /// does not describe aliases and `#[serde(other)]`, which JSON Schema lacks. Untagged enums are open.
    ///
    /// ```
    /// use kvtyped::schema::Schema;
    ///
    /// #[derive(schemars::JsonSchema)]
    /// #[serde(tag = "kind")]
    /// # #[allow(dead_code)]
    /// enum Shape { Circle { radius: u32 }, Point }
    ///
    /// assert_eq!(
    ///     Schema::of_json_schema::<Shape>().to_json(),
    ///     concat!(
    ///         r#"{"kvtyped_schema":1,"shape":{"enum":{"Circle":{"content":{"struct":{"radius":{"type":"u32"}}}},"#,
    ///         r#""Point":{"content":{"struct":{}}}},"tag":"kind"}}"#,
    ///     )
    /// );
    /// ```
    #[cfg(feature = "schemars")]
    pub fn of_json_schema<V: schemars::JsonSchema>() -> Self {
        Self::from_json_schema(schemars::SchemaGenerator::default().into_root_schema_for::<V>().as_value())
    }

    /// Converts a JSON Schema that `schemars` has written. Parts with another structure are open.
    ///
    /// ```
    /// use kvtyped::schema::Schema;
    ///
    /// let schema = serde_json::json!({ "type": "array", "items": { "type": "string" } });
    /// assert!(Schema::from_json_schema(&schema).to_json().contains(r#"{"seq":"text"}"#));
    /// ```
    #[cfg(feature = "schemars")]
    pub fn from_json_schema(schema: &serde_json::Value) -> Self {
        Self { shape: json_schema::convert(schema) }
    }

    /// Returns whether the schema makes no promise at all.
    pub fn is_open(&self) -> bool {
        self.shape == Shape::Open
    }

    /// Returns the canonical JSON of the schema. Equal schemas have equal texts.
    ///
    /// The text is one line without white space. Fields and variants are in the order of their names.
    pub fn to_json(&self) -> String {
        json::write(&self.shape)
    }

    /// Reads the output of [`to_json`](Self::to_json). White space and another order of names are accepted.
    ///
    /// # Errors
    ///
    /// Returns [`SchemaError`] if the text is not a schema, if a newer version wrote it, or if it exceeds 1 MiB.
    pub fn from_json(text: &str) -> Result<Self, SchemaError> {
        json::read(text).map(|shape| Self { shape })
    }

    /// Returns the 64-bit FNV-1a hash of the canonical JSON, as 16 hexadecimal digits.
    ///
    /// The fingerprint detects a change, not an attack.
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.to_json())
    }
}

/// Returns the 64-bit FNV-1a hash of a text, as 16 hexadecimal digits.
pub(crate) fn fingerprint(text: &str) -> String {
    format!("{:016x}", json::fnv1a(text.as_bytes()))
}

impl fmt::Display for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shape.fmt(f)
    }
}
