//! Operations without a server: keys, filters, codecs.

use std::hint::black_box;
use std::time::{Duration, Instant};

use kvtyped::Key;
use kvtyped::codec::{Bytes, Codec, Json, Text};
use kvtyped::key::{KeyCodec, ModelKey};
use kvtyped::prelude::*;

use crate::measure::{Measured, pairs};
use crate::world::{Session, SessionKey, World};

const ROUND: usize = 2_000;

/// A model for the key codec of paths.
#[derive(Debug, Serialize, Deserialize, KvModel)]
#[kv(key = "{path..}", key_codec = "path")]
struct File {
    path: String,
}

pub(crate) async fn measure(world: &mut World) {
    world.report.group("Keys, filters and codecs");
    let session = Session::new("acme", 1_234_567);
    let key = session.key();

    let ours = || black_box(key.encode()).is_ok();
    let theirs = || !black_box(format!("{}.{}", key.tenant, key.id)).is_empty();
    let measured = compare(world, ours, theirs).await;
    world.report.row("a key as text", "format!").at_most(100e-9).measured(&measured);

    key_codecs(world, &key).await;

    let filter: kvtyped::Filter<Session> = SessionKey::filter().tenant("acme").into();
    let (ours, theirs) = (|| filter.matches(black_box(&key)), || black_box(&key).tenant == "acme");
    let measured = compare(world, ours, theirs).await;
    world.report.row("whether a filter matches a key", "a comparison of the field").measured(&measured);

    let json = serde_json::to_vec(&session).expect("it encodes");
    let ours = || Json::encode(black_box(&session)).is_ok();
    let theirs = || serde_json::to_vec(black_box(&session)).is_ok();
    let measured = compare(world, ours, theirs).await;
    world.report.row(format!("Json, encode {} B", json.len()), "serde_json::to_vec").measured(&measured);
    let ours = || <Json as Codec<Session>>::decode(black_box(&json)).is_ok();
    let theirs = || serde_json::from_slice::<Session>(black_box(&json)).is_ok();
    let measured = compare(world, ours, theirs).await;
    world.report.row("Json, decode", "serde_json::from_slice").measured(&measured);

    // The check of each write before it sends its record.
    for (session, size) in [(Session::new("acme", 1), "200 B"), (Session::new("acme", 2).long(), "2 KB")] {
        let json = serde_json::to_vec(&session).expect("it encodes");
        let check = |json: &[u8]| Json::decode(json).and_then(|read| Json::verify(black_box(&session), &read)).is_ok();
        let (ours, theirs) = (|| check(black_box(&json)), || serde_json::to_vec(black_box(&session)).is_ok());
        let measured = compare(world, ours, theirs).await;
        world.report.row(format!("Json, read back and verify {size}"), "serde_json::to_vec").measured(&measured);
    }

    let packed = rmp_serde::to_vec_named(&session).expect("it encodes");
    let ours = || MsgPack::encode(black_box(&session)).is_ok();
    let theirs = || rmp_serde::to_vec_named(black_box(&session)).is_ok();
    let measured = compare(world, ours, theirs).await;
    world.report.row(format!("MsgPack, encode {} B", packed.len()), "rmp_serde::to_vec_named").measured(&measured);
    let ours = || <MsgPack as Codec<Session>>::decode(black_box(&packed)).is_ok();
    let theirs = || rmp_serde::from_slice::<Session>(black_box(&packed)).is_ok();
    let measured = compare(world, ours, theirs).await;
    world.report.row("MsgPack, decode", "rmp_serde::from_slice").measured(&measured);

    let number = 1_234_567_u64;
    let text = number.to_string();
    let ours = || Text::encode(black_box(&number)).is_ok();
    let measured = compare(world, ours, || !black_box(&number).to_string().is_empty()).await;
    world.report.row("Text of a number, encode", "to_string").measured(&measured);
    let ours = || <Text as Codec<u64>>::decode(black_box(text.as_bytes())).is_ok();
    let theirs = || std::str::from_utf8(black_box(text.as_bytes())).is_ok_and(|text| text.parse::<u64>().is_ok());
    let measured = compare(world, ours, theirs).await;
    world.report.row("Text of a number, decode", "str::parse").measured(&measured);

    let bytes = json.clone();
    let ours = || <Bytes as Codec<Vec<u8>>>::encode(black_box(&bytes)).is_ok();
    let measured = compare(world, ours, || !black_box(&bytes).clone().is_empty()).await;
    world.report.row("Bytes, encode", "a copy").measured(&measured);
    let ours = || <Bytes as Codec<Vec<u8>>>::decode(black_box(&bytes)).is_ok();
    let measured = compare(world, ours, || !black_box(&bytes).clone().is_empty()).await;
    world.report.row("Bytes, decode", "a copy").measured(&measured);
}

/// Compares keys in the formats of other clients with plain keys.
async fn key_codecs(world: &mut World, key: &SessionKey) {
    let file = FileKey::new("/usr/lib/1234567");
    for codec in [KeyCodec::Base64, KeyCodec::Base64NatsJs, KeyCodec::Path] {
        let plain = || if codec == KeyCodec::Path { black_box(&file).encode() } else { black_box(key).encode() };
        let ours = || plain().and_then(|plain| codec.encode(&plain)).is_ok();
        let measured = compare(world, ours, || plain().is_ok()).await;
        world.report.row(format!("a key for {}", codec.name()), "a plain key").goal(1.3).measured(&measured);

        let plain = plain().expect("a key");
        let stored = codec.encode(&plain).expect("a key");
        let read = |key: &Key| match codec {
            KeyCodec::Path => FileKey::decode(key.as_str()).is_ok(),
            _ => SessionKey::decode(key.as_str()).is_ok(),
        };
        let ours = || codec.decode(black_box(&stored)).is_ok_and(|key| read(&key));
        let theirs = || read(black_box(&plain));
        let measured = compare(world, ours, theirs).await;
        world.report.row(format!("a key of {}, read", codec.name()), "a plain key").measured(&measured);
    }
}

/// Compares two operations that take nanoseconds, in rounds of [`ROUND`].
async fn compare(world: &World, ours: impl Fn() -> bool, theirs: impl Fn() -> bool) -> Measured {
    let measured = pairs(world.effort.blocks(7), 25, async || round(&ours), async || round(&theirs));
    measured.await.each(ROUND)
}

fn round(work: impl Fn() -> bool) -> Duration {
    let started = Instant::now();
    for _ in 0..ROUND {
        assert!(black_box(work()));
    }
    started.elapsed()
}
