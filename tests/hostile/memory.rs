//! Memory and time that hostile input costs: a claimed length that is not backed by data costs nothing, and real items
//! cost no more than their type needs.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hint::black_box;
use std::time::Instant;

use kvtyped::codec::{Bytes, Codec, Json, MsgPack, Text};
use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::Value;

use crate::deep_nesting::refused;
use crate::shapes::{Chain, List, Map, Record, Shape, Tree, Untagged};

/// The number of items that a decoder reserves room for on the basis of a claimed length.
const EARNED: usize = 64;

const MEBIBYTE: usize = 1 << 20;

/// The size of each list: smaller in builds without optimisation.
const SIZE: usize = if cfg!(debug_assertions) { MEBIBYTE / 4 } else { MEBIBYTE };

/// Returns the peak memory of a decoder, including the decoded value.
fn peak<C: Codec<V>, V>(bytes: &[u8]) -> usize {
    let measured = allocation_counter::measure(|| drop(black_box(C::decode(bytes))));
    usize::try_from(measured.bytes_max).expect("so much memory is not there")
}

/// Asserts that a claim is refused, and costs at most the reserved items at every level plus an error text.
fn claims_little<V: Serialize + de::DeserializeOwned>(levels: usize, claim: &[u8]) {
    refused::<MsgPack, V>(claim);
    let (peak, item) = (peak::<MsgPack, V>(claim), size_of::<Record>().max(size_of::<[u64; 33]>()));
    assert!(peak <= 2 * levels * EARNED * item + 4_096, "{peak} bytes for {} in {levels} levels", claim.len());
}

#[test]
fn false_length_claim_fails_with_little_memory() {
    let claims =
        [b"\xdd\xff\xff\xff\xff\x01", b"\xdb\xff\xff\xff\xffa", b"\xdf\xff\xff\xff\xff\x01", b"\xc6\xff\xff\xff\xff\0"];
    for claim in claims {
        claims_little::<Vec<u64>>(1, claim);
        claims_little::<Vec<[u64; 32]>>(1, claim);
        claims_little::<Vec<()>>(1, claim);
        claims_little::<Vec<Option<bool>>>(1, claim);
        claims_little::<String>(1, claim);
        claims_little::<HashMap<String, u64>>(1, claim);
        claims_little::<HashMap<u8, [u64; 32]>>(1, claim);
        claims_little::<BTreeMap<u8, u8>>(1, claim);
        claims_little::<Record>(1, claim);
        claims_little::<List>(1, claim);
        claims_little::<Shape>(1, claim);
        claims_little::<Untagged>(1, claim);
        // The same claim at every level, up to the depth limit.
        claims_little::<List>(127, &claim[..5].repeat(126));
        claims_little::<Tree>(127, &claim[..5].repeat(126));
        claims_little::<Map>(127, &claim[..5].repeat(126));
        claims_little::<Chain>(127, &claim[..5].repeat(126));
        claims_little::<Untagged>(127, &claim[..5].repeat(126));
    }
}

/// Builds a list of repeated items between a beginning and an end.
fn json(begin: &str, item: &str, end: &str) -> (usize, Vec<u8>) {
    let items = SIZE / (item.len() + 1);
    (items, format!("{begin}{}{end}", vec![item; items].join(",")).into_bytes())
}

fn msgpack(item: &[u8]) -> (usize, Vec<u8>) {
    let items = SIZE / item.len();
    let head = [&[0xdd][..], &u32::try_from(items).expect("a million").to_be_bytes()].concat();
    (items, [head, item.repeat(items)].concat())
}

/// Decodes a list of `items` items that each own `other_store` bytes on the heap, and checks the peak memory.
///
/// A growing list keeps its old buffer while it moves to one of twice the size, so it needs three times the size of its
/// items.
fn takes<C: Codec<Vec<V>>, V>((items, bytes): (usize, Vec<u8>), other_store: usize) {
    let started = Instant::now();
    let read = C::decode(&bytes);
    let time = started.elapsed();
    assert_eq!(read.expect("it is a list").len(), items);
    let peak = peak::<C, Vec<V>>(&bytes);
    println!(
        "{:8} {:56} {:5.1} MiB of {:.1} MiB ({:.1} of each byte), {} ms",
        C::NAME,
        std::any::type_name::<V>(),
        peak as f64 / MEBIBYTE as f64,
        bytes.len() as f64 / MEBIBYTE as f64,
        peak as f64 / bytes.len() as f64,
        time.as_millis(),
    );
    let most = items * (3 * size_of::<V>() + other_store) + 4_096;
    assert!(peak <= most, "{peak} bytes for {items} items of {}, {most} are enough", std::any::type_name::<V>());
}

/// The smallest heap allocation of a list of small items: room for four.
const fn small_list<V>() -> usize {
    4 * size_of::<V>()
}

/// The size of the node of a tree with one entry.
const NODE: usize = 1_024;

#[test]
fn decoding_memory_is_bounded_by_item_size() {
    takes::<Json, u8>(json("[", "7", "]"), 0);
    takes::<Json, u64>(json("[", "7", "]"), 0);
    takes::<Json, ()>(json("[", "null", "]"), 0);
    takes::<Json, String>(json("[", "\"\"", "]"), 0);
    takes::<Json, String>(json("[", "\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"", "]"), 64);
    takes::<Json, Vec<u64>>(json("[", "[]", "]"), 0);
    takes::<Json, Vec<u64>>(json("[", "[1]", "]"), small_list::<u64>());
    takes::<Json, Untagged>(json("[", "[]", "]"), 2 * small_list::<Value>());
    takes::<Json, BTreeMap<String, u8>>(json("[", "{\"\":0}", "]"), NODE);
    takes::<Json, Value>(json("[", "[]", "]"), 0);
    takes::<Json, Value>(json("[", "{\"\":0}", "]"), NODE);

    takes::<MsgPack, u8>(msgpack(b"\x07"), 0);
    takes::<MsgPack, u64>(msgpack(b"\x07"), 0);
    takes::<MsgPack, ()>(msgpack(b"\xc0"), 0);
    takes::<MsgPack, [u64; 4]>(msgpack(b"\x94\0\0\0\0"), 0);
    takes::<MsgPack, String>(msgpack(b"\xa0"), 0);
    takes::<MsgPack, Vec<u64>>(msgpack(b"\x90"), 0);
    takes::<MsgPack, Vec<u64>>(msgpack(b"\x91\x07"), small_list::<u64>());
    takes::<MsgPack, Option<Shape>>(msgpack(b"\xc0"), 0);
    takes::<MsgPack, BTreeMap<String, u8>>(msgpack(b"\x81\xa0\0"), NODE);
}

#[test]
fn text_and_bytes_decoding_memory_is_bounded() {
    let bytes = vec![b'a'; MEBIBYTE];
    assert!(peak::<Text, String>(&bytes) <= MEBIBYTE);
    assert!(peak::<Bytes, Vec<u8>>(&bytes) <= MEBIBYTE);
    assert!(peak::<Text, u64>(&bytes) <= 4_096);
    let quoted = [b"\"", &bytes[..], b"\""].concat();
    assert!(peak::<Json, String>(&quoted) <= 3 * MEBIBYTE);
    let sized = [b"\xdb", &u32::try_from(MEBIBYTE).expect("a million").to_be_bytes()[..], &bytes].concat();
    assert!(peak::<MsgPack, String>(&sized) <= 3 * MEBIBYTE);
}

#[test]
fn ignored_fields_take_little_memory() {
    #[derive(Serialize, Deserialize)]
    struct Empty {}
    for (_, list) in [json("[", "{\"\":0}", "]"), json("[", "\"\"", "]")] {
        let ignored = [b"{\"x\":", &list[..], b"}"].concat();
        assert!(<Json as Codec<Empty>>::decode(&ignored).is_ok());
        assert!(peak::<Json, Empty>(&ignored) <= 4_096);
    }
    let ignored = [b"\x81\xa1x", &msgpack(b"\x81\xa0\0").1[..]].concat();
    assert!(<MsgPack as Codec<Empty>>::decode(&ignored).is_ok());
    assert!(peak::<MsgPack, Empty>(&ignored) <= 4_096);
}

#[test]
fn size_hint_is_capped_at_64_items() {
    /// The size hint that the decoder reported.
    #[derive(Debug)]
    struct Claim(usize);
    impl<'de> Deserialize<'de> for Claim {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Visitor;
            impl<'de> de::Visitor<'de> for Visitor {
                type Value = Claim;
                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("a sequence or a map")
                }
                fn visit_seq<A: de::SeqAccess<'de>>(self, mut items: A) -> Result<Claim, A::Error> {
                    let claim = items.size_hint().unwrap_or_default();
                    while items.next_element::<u8>()?.is_some() {}
                    Ok(Claim(claim))
                }
                fn visit_map<A: de::MapAccess<'de>>(self, mut entries: A) -> Result<Claim, A::Error> {
                    let claim = entries.size_hint().unwrap_or_default();
                    while entries.next_entry::<u8, u8>()?.is_some() {}
                    Ok(Claim(claim))
                }
            }
            deserializer.deserialize_any(Visitor)
        }
    }
    impl Serialize for Claim {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_unit()
        }
    }
    for items in [3_u16, 50_000] {
        let array = [&[0xdc], &*items.to_be_bytes().to_vec(), &vec![7; items.into()]].concat();
        let map = [&[0xde], &*items.to_be_bytes().to_vec(), &vec![7; 2 * usize::from(items)]].concat();
        for bytes in [array, map] {
            let Claim(claim) = MsgPack::decode(&bytes).unwrap();
            assert_eq!(claim, usize::from(items).min(64), "of {items}");
        }
    }
}
