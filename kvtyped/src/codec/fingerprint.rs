//! Comparison of serde values whose types need not be `PartialEq`.
//!
//! A fingerprint is a hash of the calls that a value makes on its serializer. Unlike a second encoding, it
//! distinguishes `Some(None)` from `None`, and it does not depend on the order of hash maps and sets.

use std::fmt;

use serde::Serialize;
use serde::ser::{
    Error, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple, SerializeTupleStruct,
    SerializeTupleVariant, Serializer,
};

use super::MAX_DEPTH;

/// Returns why `read` differs from `written`, or `None` if the values are equal.
///
/// `human_readable` is the value that the serializer of the format reports.
pub(super) fn difference<V: Serialize>(written: &V, read: &V, human_readable: bool) -> Option<String> {
    let print = |value: &V| value.serialize(Fingerprint { human_readable, levels: MAX_LEVELS, trace: None });
    match (print(written), print(read)) {
        (Ok(written), Ok(read)) if written == read => None,
        (Ok(_), Ok(_)) => Some(match changed_field(written, read, human_readable) {
            Some(field) => format!("`{field}` differs when it is read back"),
            None => "the value differs when it is read back".to_owned(),
        }),
        _ => Some("the value cannot be compared with its encoding, read back".to_owned()),
    }
}

/// Returns the reason to refuse a value that nests deeper than decoders read, or `None`.
///
/// Encoders recurse without a bound, so this check runs before them.
pub(super) fn excessive_depth<V: Serialize>(value: &V, human_readable: bool) -> Option<String> {
    let print = value.serialize(Fingerprint { human_readable, levels: MAX_LEVELS, trace: None });
    matches!(print, Err(Refused::TooDeep)).then(|| format!("it nests deeper than {MAX_DEPTH}"))
}

/// Returns the first struct field whose fingerprint differs. Keys of maps are content, so the search stops at maps.
fn changed_field<V: Serialize>(written: &V, read: &V, human_readable: bool) -> Option<String> {
    let trace = |value: &V| {
        let mut trace = Trace::default();
        let print = value.serialize(Fingerprint { human_readable, levels: MAX_LEVELS, trace: Some(&mut trace) });
        print.map(|_| trace.fields)
    };
    let (written, read) = (trace(written).ok()?, trace(read).ok()?);
    written.into_iter().zip(read).find(|(written, read)| written != read).map(|((path, _), _)| path)
}

/// The recursion limit of the comparison: a container and three options or newtypes for each level that decoders read.
const MAX_LEVELS: usize = 4 * (MAX_DEPTH + 1);

/// The fingerprints of struct fields, inner ones first.
#[derive(Default)]
struct Trace {
    path: Vec<&'static str>,
    fields: Vec<(String, u64)>,
}

impl Trace {
    fn leave(&mut self, print: u64) {
        self.fields.push((self.path.join("."), print));
        self.path.pop();
    }
}

/// The reason why a value has no fingerprint.
#[derive(Debug)]
enum Refused {
    TooDeep,
    ByItsType,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooDeep => "the value nests too deep",
            Self::ByItsType => "the type refuses to serialize the value",
        })
    }
}

impl std::error::Error for Refused {}

impl Error for Refused {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self::ByItsType
    }
}

/// The kinds of calls. Equal content of different kinds has different fingerprints.
#[derive(Clone, Copy)]
enum Kind {
    Bool,
    I8,
    I16,
    I32,
    I64,
    I128,
    U8,
    U16,
    U32,
    U64,
    U128,
    F32,
    F64,
    Char,
    Str,
    Bytes,
    None,
    Some,
    Unit,
    UnitStruct,
    UnitVariant,
    NewtypeVariant,
    Seq,
    Tuple,
    TupleVariant,
    Map,
    Struct,
    StructVariant,
}

fn mix(state: u64, word: u64) -> u64 {
    const FACTOR: u128 = 0x9e37_79b9_7f4a_7c15;
    let product = u128::from(state.rotate_left(23) ^ word) * FACTOR;
    #[allow(clippy::cast_possible_truncation, reason = "both halves are folded into one")]
    let folded = (product as u64) ^ ((product >> 64) as u64);
    folded
}

fn leaf(kind: Kind, word: u64) -> u64 {
    mix(0x243f_6a88_85a3_08d3 ^ kind as u64, word)
}

fn bytes(kind: Kind, bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
    let start = leaf(kind, bytes.len() as u64);
    words.iter().chain([&last]).fold(start, |state, word| mix(state, u64::from_le_bytes(*word)))
}

fn wide(kind: Kind, value: u128) -> u64 {
    bytes(kind, &value.to_le_bytes())
}

fn variant(kind: Kind, index: u32, name: &str) -> u64 {
    mix(leaf(kind, index.into()), bytes(kind, name.as_bytes()))
}

/// The serializer.
struct Fingerprint<'t> {
    human_readable: bool,
    levels: usize,
    trace: Option<&'t mut Trace>,
}

impl<'t> Fingerprint<'t> {
    fn deeper(self) -> Result<Self, Refused> {
        let levels = self.levels.checked_sub(1).ok_or(Refused::TooDeep)?;
        Ok(Self { levels, ..self })
    }

    /// Starts a container whose order is significant.
    fn ordered(self, state: u64) -> Result<Items<'t>, Refused> {
        Ok(Items { inner: self.deeper()?, state, key: 0 })
    }

    /// Starts a container that a hash map or set returns in any order.
    fn unordered(self, state: u64) -> Result<Items<'t>, Refused> {
        let mut items = self.ordered(state)?;
        items.inner.trace = None;
        Ok(items)
    }
}

macro_rules! leaves {
    ($($method:ident($type:ty) $kind:ident |$value:ident| $word:expr;)*) => {$(
        fn $method(self, $value: $type) -> Result<u64, Refused> {
            Ok(leaf(Kind::$kind, $word))
        }
    )*};
}

impl<'t> Serializer for Fingerprint<'t> {
    type Ok = u64;
    type Error = Refused;
    type SerializeSeq = Items<'t>;
    type SerializeTuple = Items<'t>;
    type SerializeTupleStruct = Items<'t>;
    type SerializeTupleVariant = Items<'t>;
    type SerializeMap = Items<'t>;
    type SerializeStruct = Items<'t>;
    type SerializeStructVariant = Items<'t>;

    leaves! {
        serialize_bool(bool) Bool |value| value.into();
        serialize_i8(i8) I8 |value| i64::from(value).cast_unsigned();
        serialize_i16(i16) I16 |value| i64::from(value).cast_unsigned();
        serialize_i32(i32) I32 |value| i64::from(value).cast_unsigned();
        serialize_i64(i64) I64 |value| value.cast_unsigned();
        serialize_u8(u8) U8 |value| value.into();
        serialize_u16(u16) U16 |value| value.into();
        serialize_u32(u32) U32 |value| value.into();
        serialize_u64(u64) U64 |value| value;
        serialize_f32(f32) F32 |value| value.to_bits().into();
        serialize_f64(f64) F64 |value| value.to_bits();
        serialize_char(char) Char |value| u32::from(value).into();
    }

    fn serialize_i128(self, value: i128) -> Result<u64, Refused> {
        Ok(wide(Kind::I128, value.cast_unsigned()))
    }

    fn serialize_u128(self, value: u128) -> Result<u64, Refused> {
        Ok(wide(Kind::U128, value))
    }

    fn serialize_str(self, value: &str) -> Result<u64, Refused> {
        Ok(bytes(Kind::Str, value.as_bytes()))
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<u64, Refused> {
        Ok(bytes(Kind::Bytes, value))
    }

    fn serialize_none(self) -> Result<u64, Refused> {
        Ok(leaf(Kind::None, 0))
    }

    fn serialize_some<T: ?Sized + Serialize>(self, value: &T) -> Result<u64, Refused> {
        value.serialize(self.deeper()?).map(|print| leaf(Kind::Some, print))
    }

    fn serialize_unit(self) -> Result<u64, Refused> {
        Ok(leaf(Kind::Unit, 0))
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<u64, Refused> {
        Ok(leaf(Kind::UnitStruct, 0))
    }

    fn serialize_unit_variant(self, _: &'static str, index: u32, name: &'static str) -> Result<u64, Refused> {
        Ok(variant(Kind::UnitVariant, index, name))
    }

    fn serialize_newtype_struct<T: ?Sized + Serialize>(self, _: &'static str, value: &T) -> Result<u64, Refused> {
        value.serialize(self.deeper()?)
    }

    fn serialize_newtype_variant<T: ?Sized + Serialize>(
        self,
        _: &'static str,
        index: u32,
        name: &'static str,
        value: &T,
    ) -> Result<u64, Refused> {
        value.serialize(self.deeper()?).map(|print| mix(variant(Kind::NewtypeVariant, index, name), print))
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Items<'t>, Refused> {
        self.unordered(leaf(Kind::Seq, 0))
    }

    fn serialize_tuple(self, _: usize) -> Result<Items<'t>, Refused> {
        self.ordered(leaf(Kind::Tuple, 0))
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Items<'t>, Refused> {
        self.ordered(leaf(Kind::Tuple, 0))
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        index: u32,
        name: &'static str,
        _: usize,
    ) -> Result<Items<'t>, Refused> {
        self.ordered(variant(Kind::TupleVariant, index, name))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Items<'t>, Refused> {
        self.unordered(leaf(Kind::Map, 0))
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Items<'t>, Refused> {
        self.ordered(leaf(Kind::Struct, 0))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        index: u32,
        name: &'static str,
        _: usize,
    ) -> Result<Items<'t>, Refused> {
        self.ordered(variant(Kind::StructVariant, index, name))
    }

    fn is_human_readable(&self) -> bool {
        self.human_readable
    }
}

/// The items of a container.
struct Items<'t> {
    inner: Fingerprint<'t>,
    state: u64,
    /// The key of the current map entry.
    key: u64,
}

impl Items<'_> {
    fn print<T: ?Sized + Serialize>(&mut self, value: &T) -> Result<u64, Refused> {
        let Fingerprint { human_readable, levels, trace } = &mut self.inner;
        value.serialize(Fingerprint { human_readable: *human_readable, levels: *levels, trace: trace.as_deref_mut() })
    }

    fn ordered<T: ?Sized + Serialize>(&mut self, value: &T) -> Result<(), Refused> {
        let print = self.print(value)?;
        self.state = mix(self.state, print);
        Ok(())
    }

    fn field<T: ?Sized + Serialize>(&mut self, name: &'static str, value: &T) -> Result<(), Refused> {
        if let Some(trace) = &mut self.inner.trace {
            trace.path.push(name);
        }
        let print = self.print(value)?;
        if let Some(trace) = &mut self.inner.trace {
            trace.leave(print);
        }
        self.state = mix(mix(self.state, bytes(Kind::Str, name.as_bytes())), print);
        Ok(())
    }
}

impl SerializeSeq for Items<'_> {
    type Ok = u64;
    type Error = Refused;

    fn serialize_element<T: ?Sized + Serialize>(&mut self, value: &T) -> Result<(), Refused> {
        let print = self.print(value)?;
        self.state = self.state.wrapping_add(leaf(Kind::Seq, print));
        Ok(())
    }

    fn end(self) -> Result<u64, Refused> {
        Ok(self.state)
    }
}

impl SerializeMap for Items<'_> {
    type Ok = u64;
    type Error = Refused;

    fn serialize_key<T: ?Sized + Serialize>(&mut self, key: &T) -> Result<(), Refused> {
        self.key = self.print(key)?;
        Ok(())
    }

    fn serialize_value<T: ?Sized + Serialize>(&mut self, value: &T) -> Result<(), Refused> {
        let print = self.print(value)?;
        self.state = self.state.wrapping_add(mix(leaf(Kind::Map, self.key), print));
        Ok(())
    }

    fn end(self) -> Result<u64, Refused> {
        Ok(self.state)
    }
}

macro_rules! containers {
    ($($trait:ident $method:ident($($name:ident: $type:ty)?) $add:ident;)*) => {$(
        impl $trait for Items<'_> {
            type Ok = u64;
            type Error = Refused;

            fn $method<T: ?Sized + Serialize>(&mut self, $($name: $type,)? value: &T) -> Result<(), Refused> {
                self.$add($($name,)? value)
            }

            fn end(self) -> Result<u64, Refused> {
                Ok(self.state)
            }
        }
    )*};
}

containers! {
    SerializeTuple serialize_element() ordered;
    SerializeTupleStruct serialize_field() ordered;
    SerializeTupleVariant serialize_field() ordered;
    SerializeStruct serialize_field(name: &'static str) field;
    SerializeStructVariant serialize_field(name: &'static str) field;
}
