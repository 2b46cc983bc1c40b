//! Deeply nested input is refused without a stack overflow, on the stack of a test or a tokio task, in debug and
//! release builds.

use std::fmt::Debug;

use kvtyped::codec::{Codec, Json, MsgPack};
use serde::{Deserialize, Serialize};

use crate::shapes::{Chain, List, Map, Peel, Tagged, Tree, Untagged};

fn round_trip<C: Codec<V>, V: PartialEq + Debug>(value: &V) {
    assert_eq!(&C::decode(&C::encode(value).unwrap()).unwrap(), value);
}

/// Runs a test with a stack of 2 MiB, the size for tests and tokio tasks, regardless of `RUST_MIN_STACK`.
pub(super) fn on_two_mebibytes(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(test).unwrap();
    thread.join().unwrap();
}

pub(super) fn nested(open: &[u8], core: &[u8], close: &[u8], depth: usize) -> Vec<u8> {
    [open.repeat(depth), core.to_vec(), close.repeat(depth)].concat()
}

pub(super) fn refused<C: Codec<V>, V>(bytes: &[u8]) {
    let error = C::decode(bytes).err().expect("these bytes are no value");
    assert_eq!(error.codec(), C::NAME);
}

const DEPTHS: [usize; 4] = [128, 1_025, 10_000, 100_000];

#[test]
fn deeply_nested_json_is_an_error() {
    on_two_mebibytes(|| {
        for depth in DEPTHS {
            // With and without closing delimiters.
            for closes in [true, false] {
                let bomb = |open: &str, core: &str, close: &str| {
                    nested(open.as_bytes(), core.as_bytes(), if closes { close.as_bytes() } else { b"" }, depth)
                };
                refused::<Json, List>(&bomb("[", "", "]"));
                refused::<Json, Tree>(&bomb("{\"below\":[", "", "]}"));
                refused::<Json, Chain>(&bomb("{\"next\":", "null", "}"));
                refused::<Json, Map>(&bomb("{\"k\":", "{}", "}"));
                refused::<Json, Peel>(&bomb("{\"Skin\":", "\"Core\"", "}"));
                refused::<Json, Peel>(&bomb("{\"Field\":{\"inner\":", "\"Core\"", "}}"));
                refused::<Json, Tagged>(&bomb("{\"t\":\"More\",\"next\":", "{\"t\":\"End\"}", "}"));
                refused::<Json, Tagged>(&bomb("{\"next\":", "{\"t\":\"End\"}", ",\"t\":\"More\"}"));
                refused::<Json, Untagged>(&bomb("[", "1", "]"));
            }
        }
    });
}

#[test]
fn deeply_nested_msgpack_is_an_error() {
    on_two_mebibytes(|| {
        for depth in DEPTHS {
            let bomb = |open: &[u8], core: &[u8]| nested(open, core, b"", depth);
            refused::<MsgPack, List>(&bomb(b"\x91", b"\x90"));
            refused::<MsgPack, List>(&bomb(b"\xdd\0\0\0\x01", b"\x90"));
            refused::<MsgPack, Tree>(&bomb(b"\x81\xa5below\x91", b"\x81\xa5below\x90"));
            refused::<MsgPack, Tree>(&bomb(b"\x91\x91", b"\x91\x90"));
            refused::<MsgPack, Chain>(&bomb(b"\x81\xa4next", b"\xc0"));
            refused::<MsgPack, Chain>(&bomb(b"\x91", b"\xc0"));
            refused::<MsgPack, Map>(&bomb(b"\x81\xa1k", b"\x80"));
            refused::<MsgPack, Peel>(&bomb(b"\x81\xa4Skin", b"\xa4Core"));
            refused::<MsgPack, Peel>(&bomb(b"\x81\x01", b"\0"));
            refused::<MsgPack, Peel>(&bomb(b"\x81\xa4Pair\x92", b"\xa4Core"));
            refused::<MsgPack, Peel>(&bomb(b"\x81\xa5Field\x81\xa5inner", b"\xa4Core"));
            refused::<MsgPack, Tagged>(&bomb(b"\x82\xa1t\xa4More\xa4next", b"\x81\xa1t\xa3End"));
            refused::<MsgPack, Untagged>(&bomb(b"\x91", b"\x01"));
        }
    });
}

#[test]
fn msgpack_variants_in_arrays_count_as_nesting() {
    // Like a map of one entry, an array of one item starts a variant, but its content is then read from behind the
    // array. According to its markers, this input is flat.
    on_two_mebibytes(|| {
        for depth in [128_u32, 10_000, 100_000] {
            let mut bytes = vec![0xdd];
            bytes.extend(depth.to_be_bytes());
            bytes.extend(b"\x91\xa4Skin".repeat(depth as usize));
            refused::<MsgPack, Vec<Peel>>(&bytes);
            refused::<MsgPack, Peel>(&bytes[5..]);
        }
    });
}

#[test]
fn ignored_msgpack_values_are_limited_in_depth() {
    #[derive(Serialize, Deserialize)]
    struct Empty {}
    on_two_mebibytes(|| {
        for depth in DEPTHS {
            refused::<MsgPack, Empty>(&[b"\x81\xa1x".to_vec(), nested(b"\x91", b"\x90", b"", depth)].concat());
            // JSON skips ignored values without recursion. The test only checks that decoding ends.
            let _ = <Json as Codec<Empty>>::decode(&nested(b"[", b"", b"]", depth));
            let _ = <Json as Codec<Empty>>::decode(&[&b"{\"x\":"[..], &nested(b"[", b"", b"]", depth), b"}"].concat());
        }
    });
}

#[test]
fn nesting_up_to_127_levels_is_read() {
    fn list(depth: usize) -> List {
        (1..depth).fold(List(Vec::new()), |below, _| List(vec![below]))
    }
    fn peel(depth: usize) -> Peel {
        (0..depth).fold(Peel::Core, |core, _| Peel::Skin(Box::new(core)))
    }
    on_two_mebibytes(|| {
        round_trip::<Json, _>(&list(127));
        round_trip::<MsgPack, _>(&list(127));
        refused::<Json, List>(&Json::encode(&list(128)).unwrap());
        refused::<MsgPack, List>(&MsgPack::encode(&list(128)).unwrap());
        // MessagePack counts a variant without content as a level. JSON does not.
        round_trip::<Json, _>(&peel(126));
        round_trip::<MsgPack, _>(&peel(126));
        refused::<Json, Peel>(&Json::encode(&peel(128)).unwrap());
        refused::<MsgPack, Peel>(&MsgPack::encode(&peel(128)).unwrap());
    });
}
