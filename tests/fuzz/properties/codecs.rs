//! Properties of a codec and a type for arbitrary bytes. `json`, `msgpack` and `text` apply them to the codecs.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use kvtyped::codec::Codec;
use serde::{Deserialize, Serialize};

/// A marker in the input that no error may show.
const CONTENT: &str = "QXZ";

/// Decodes the bytes as a value, and checks that a decoded value round-trips. `more` is a suffix that makes each value
/// of the format invalid. `cut` says that each proper prefix of a value is invalid.
///
/// # Panics
///
/// Panics if a property does not hold.
pub fn reads<C: Codec<V>, V>(bytes: &[u8], more: &[u8], cut: bool) {
    let mut read = None;
    let peak = allocation_counter::measure(|| read = Some(C::decode(bytes))).bytes_max;
    // The memory for claimed lengths at every level, plus a growing list of the largest items that one byte can encode.
    let item = size_of::<V>().max(LARGEST) as u64;
    let most = 127 * 64 * item + 4 * item * bytes.len() as u64;
    assert!(peak <= most, "{peak} bytes of memory for {} of {}", bytes.len(), std::any::type_name::<V>());
    match read.expect("it was measured") {
        Ok(value) => stays::<C, V>(&value, bytes, more, cut),
        Err(error) => {
            assert_eq!(error.codec(), C::NAME);
            let shown = format!("{error} {error:?}");
            assert!(!shown.contains(CONTENT), "{shown}");
        }
    }
}

/// The size in bytes of the largest list item below.
const LARGEST: usize = size_of::<Record>();

fn stays<C: Codec<V>, V>(value: &V, bytes: &[u8], more: &[u8], cut: bool) {
    let written = C::encode(value).expect("a decoded value can be encoded");
    let again = C::decode(&written).expect("an encoded value can be decoded");
    assert_eq!(C::encode(&again).expect("as before"), written);
    if !more.is_empty() {
        assert!(C::decode(&[bytes, more].concat()).is_err(), "bytes behind the value are not noticed");
        assert!(C::decode(&[&written, more].concat()).is_err(), "bytes behind the value are not noticed");
    }
    if cut && bytes.len() <= 64 {
        for end in 0..bytes.len() {
            assert!(C::decode(&bytes[..end]).is_err(), "a value truncated at byte {end} is decoded");
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Shape {
    Point,
    Circle(f64),
    Segment(i32, i32),
    Named { name: String, tags: Vec<String> },
    Within(Box<Shape>),
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record {
    id: u64,
    delta: i64,
    ratio: f64,
    name: String,
    letter: char,
    flag: bool,
    note: Option<String>,
    parts: Vec<u16>,
    labels: BTreeMap<String, i32>,
    shape: Shape,
    pair: (u8, String),
    #[serde(default)]
    added: Option<Box<Record>>,
}

/// A type that needs much memory for one byte of input.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Roomy {
    numbers: [u64; 16],
    text: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Tree {
    below: Vec<Tree>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Map(BTreeMap<String, Map>);

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Chain {
    next: Option<Box<Chain>>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "t")]
pub(super) enum Tagged {
    End,
    More { next: Box<Tagged> },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "t", content = "c")]
pub(super) enum Adjacent {
    One(u32),
    Many(Vec<Adjacent>),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Untagged {
    Number(u64),
    Text(String),
    Many(Vec<Untagged>),
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Flat {
    id: u8,
    #[serde(flatten)]
    rest: BTreeMap<String, Untagged>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Strict {
    user: u32,
}

/// Types that could borrow and must not: a value outlives its input.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Lent {
    text: Cow<'static, str>,
    bytes: Cow<'static, [u8]>,
}

pub(super) type Numbers = HashMap<u8, [u64; 16]>;

/// Checks all types that both serde formats support.
macro_rules! each_type {
    ($codec:ty, $bytes:expr, $more:expr, $cut:expr) => {
        $crate::properties::codecs::each_type!(@ $codec, $bytes, $more, $cut =>
            (), bool, u8, i8, u64, i128, u128, f32, f64, char, String, Option<u64>, Vec<()>, Vec<u64>, Vec<String>,
            [u8; 3], (u32, String), std::time::Duration, std::net::IpAddr, std::collections::BTreeMap<String, u8>,
            crate::properties::codecs::Numbers, crate::properties::codecs::Record,
            Vec<crate::properties::codecs::Roomy>, crate::properties::codecs::Shape,
            Vec<crate::properties::codecs::Shape>, crate::properties::codecs::Tree, crate::properties::codecs::Map,
            crate::properties::codecs::Chain, crate::properties::codecs::Tagged,
            crate::properties::codecs::Adjacent, crate::properties::codecs::Untagged,
            crate::properties::codecs::Flat, crate::properties::codecs::Strict, crate::properties::codecs::Lent)
    };
    (@ $codec:ty, $bytes:expr, $more:expr, $cut:expr => $($type:ty),*) => {
        $($crate::properties::codecs::reads::<$codec, $type>($bytes, $more, $cut);)*
    };
}
pub(super) use each_type;
