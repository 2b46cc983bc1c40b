//! Hostile input for `UnknownFields`, which accepts a value of any type.

use std::hint::black_box;

use kvtyped::UnknownFields;
use kvtyped::codec::{Codec, Json, MsgPack};
use serde::{Deserialize, Serialize};

use crate::deep_nesting::{nested, on_two_mebibytes, refused};

#[derive(Serialize, Deserialize)]
struct Open {
    #[serde(flatten)]
    rest: UnknownFields,
}

#[test]
fn deeply_nested_unknown_field_is_an_error() {
    on_two_mebibytes(|| {
        for depth in [128, 1_025, 100_000] {
            refused::<Json, Open>(&nested(b"{\"a\":[", b"", b"]}", depth));
            refused::<Json, Open>(&nested(b"{\"a\":[", b"", b"", depth));
            refused::<MsgPack, Open>(&nested(b"\x81\xa1a\x91", b"\xc0", b"", depth));
            refused::<MsgPack, Open>(&nested(b"\x81\xa1a\xc7\x05", b"\xc0", b"", depth));
        }
    });
}

#[test]
fn deepest_unknown_field_is_read_copied_and_written() {
    on_two_mebibytes(|| {
        let json = nested(b"{\"a\":", b"null", b"}", 126);
        let open: Open = Json::decode(&json).unwrap();
        assert_eq!(open.rest.clone(), open.rest);
        assert_eq!(Json::encode(&open).unwrap(), json);
        let msgpack = nested(b"\x81\xa1a", b"\xc0", b"", 126);
        let open: Open = MsgPack::decode(&msgpack).unwrap();
        assert_eq!(MsgPack::encode(&open).unwrap(), msgpack);
    });
}

/// Returns the peak memory of a decoder for each byte of its input.
fn peak_per_byte<C: Codec<Open>>(bytes: &[u8]) -> u64 {
    let measured = allocation_counter::measure(|| drop(black_box(C::decode(bytes).unwrap())));
    measured.bytes_max / u64::try_from(bytes.len()).unwrap()
}

#[test]
fn memory_of_unknown_fields_is_proportional_to_the_input() {
    // Serde holds all items while they are copied, and a growing list holds its old buffer.
    const MOST: u64 = 200;
    for items in [1_000, 20_000, 100_000] {
        let json = format!("{{\"a\":[{}]}}", vec!["1"; items].join(","));
        let peak = peak_per_byte::<Json>(json.as_bytes());
        assert!(peak <= MOST, "{peak} bytes for each byte of {items} items in JSON");
        let count = u32::try_from(items).unwrap().to_be_bytes();
        let msgpack = [b"\x81\xa1a\xdd", &count[..], &vec![1; items]].concat();
        let peak = peak_per_byte::<MsgPack>(&msgpack);
        assert!(peak <= MOST, "{peak} bytes for each byte of {items} items in MessagePack");
    }
}

#[test]
fn false_length_of_an_unknown_field_costs_little() {
    for claim in [b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff", b"\xc9\xff\xff\xff\xff"] {
        let bytes = [b"\x81\xa1a", &claim[..], b"\x01"].concat();
        refused::<MsgPack, Open>(&bytes);
        let measured = allocation_counter::measure(|| drop(black_box(<MsgPack as Codec<Open>>::decode(&bytes))));
        assert!(measured.bytes_max <= 64 << 10, "{} bytes for {claim:x?}", measured.bytes_max);
    }
}
