//! The shape of a stored value, as plain data.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// The nesting limit of shapes. The canonical JSON of a shape nests three times as deep, and `serde_json` reads 127
/// levels.
pub(super) const MAX_DEPTH: usize = 40;

/// The shape of a value. Names of types are no part of it, because a rename does not change a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// No promise: any value.
    Open,
    Bool,
    Int(Int),
    /// The number of bits.
    Float(u8),
    Char,
    Text,
    /// A text that the type parses: it refuses some texts.
    ParsedText,
    Bytes,
    Unit,
    Option(Box<Self>),
    Seq(Box<Self>),
    Tuple(Vec<Self>),
    Map(Box<Self>, Box<Self>),
    Struct(Struct),
    Enum(Enum),
    /// A recursive shape: the enclosing shape at this distance. The distance of the next enclosing shape is 1.
    Again(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Int {
    pub(super) signed: bool,
    pub(super) bits: u8,
}

/// Named fields, in the order of their names: the codecs with named fields read them in any order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Struct {
    pub(super) fields: BTreeMap<String, Field>,
    pub(super) deny_unknown: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) shape: Shape,
    pub(super) presence: Presence,
    /// Other names that the reader accepts.
    pub(super) aliases: BTreeSet<String>,
}

/// Whether a record without the field can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    Required,
    Optional,
    Unknown,
}

/// Variants: `"Unit"`, `{"Newtype": ..}`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Enum {
    pub(super) variants: BTreeMap<String, Variant>,
    /// Whether unknown unit variants are read, with `#[serde(other)]`.
    pub(super) other: bool,
    /// The field that contains the name of the variant. The content of each variant then is a struct of the other
    /// fields.
    pub(super) tag: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Variant {
    /// `None` for a unit variant.
    pub(super) content: Option<Shape>,
    /// Other names of the variant. Serde does not report the name that it writes.
    pub(super) aliases: BTreeSet<String>,
}

impl Shape {
    /// Returns the enclosed shapes.
    pub(super) fn children(&self) -> Vec<&Self> {
        match self {
            Self::Option(inner) | Self::Seq(inner) => vec![inner],
            Self::Map(key, value) => vec![key, value],
            Self::Tuple(items) => items.iter().collect(),
            Self::Struct(Struct { fields, .. }) => fields.values().map(|field| &field.shape).collect(),
            Self::Enum(Enum { variants, .. }) => variants.values().filter_map(|it| it.content.as_ref()).collect(),
            _ => Vec::new(),
        }
    }

    /// Returns whether every recursion names an enclosing shape and no shape nests too deep.
    pub(super) fn is_closed(&self, depth: usize) -> bool {
        match self {
            Self::Again(distance) => (1..=depth).contains(distance),
            _ => depth <= MAX_DEPTH && self.children().into_iter().all(|child| child.is_closed(depth + 1)),
        }
    }
}

impl Int {
    /// Returns whether each value of `other` is a value of this type.
    pub(super) fn holds(self, other: Self) -> bool {
        match (self.signed, other.signed) {
            (true, false) => self.bits > other.bits,
            (false, true) => false,
            _ => self.bits >= other.bits,
        }
    }
}

impl fmt::Display for Int {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.signed { 'i' } else { 'u' }, self.bits)
    }
}

/// A short name for reports, without nested details.
impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open => f.write_str("open"),
            Self::Bool => f.write_str("bool"),
            Self::Int(int) => int.fmt(f),
            Self::Float(bits) => write!(f, "f{bits}"),
            Self::Char => f.write_str("char"),
            Self::Text => f.write_str("text"),
            Self::ParsedText => f.write_str("parsed text"),
            Self::Bytes => f.write_str("bytes"),
            Self::Unit => f.write_str("unit"),
            Self::Option(inner) => write!(f, "option of {inner}"),
            Self::Seq(item) => write!(f, "sequence of {item}"),
            Self::Tuple(items) => write!(f, "tuple of {}", items.len()),
            Self::Map(key, value) => write!(f, "map of {key} to {value}"),
            Self::Struct(it) => write!(f, "struct of {}", it.fields.len()),
            Self::Enum(it) => write!(f, "enum of {}", it.variants.len()),
            Self::Again(_) => f.write_str("recursion"),
        }
    }
}
