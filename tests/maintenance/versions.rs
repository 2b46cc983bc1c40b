//! The count of records by schema version.

use kvtyped::prelude::*;

use super::models::{UserKey, deployed, first, user};
use crate::support::{Session, on_both_backends, seen_as};

/// Bytes under the keys of the users, with no header.
#[derive(Clone, Debug, PartialEq, KvModel)]
#[kv(bucket = "users", key = "u.{id}", codec = kvtyped::codec::Bytes)]
pub(crate) struct RawUser {
    pub(crate) id: String,
    #[kv(value)]
    pub(crate) bytes: Vec<u8>,
}

/// A model whose version is a field.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "notes", key = "n.{id}", version = 2, upgrade_from = NoteV1, writes = 1)]
struct Note {
    id: u64,
    #[kv(version)]
    v: u32,
}

#[derive(Serialize, Deserialize, kvtyped::KvVersion)]
#[kv(version = 1)]
struct NoteV1 {
    id: u64,
    v: u32,
}

impl From<NoteV1> for Note {
    fn from(NoteV1 { id, .. }: NoteV1) -> Self {
        Self { id, v: 2 }
    }
}

impl From<Note> for NoteV1 {
    fn from(Note { id, .. }: Note) -> Self {
        Self { id, v: 1 }
    }
}

on_both_backends! {
    async fn versions_are_counted_from_headers(world: World) {
        let (old, new) = deployed(&world, world.fresh()).await;
        assert_eq!(new.schema_versions().await.unwrap().to_string(), "no records");
        for id in 0..5 {
            old.put(&first(id)).await.unwrap();
        }
        new.switch_version(2).await.unwrap();
        new.put(&user(3)).await.unwrap();
        new.switch_version(3).await.unwrap();
        new.put(&user(4)).await.unwrap();
        new.put(&user(5)).await.unwrap();
        let versions = new.schema_versions().await.unwrap();
        assert_eq!(versions.iter().collect::<Vec<_>>(), [(1, 3), (2, 1), (3, 2)]);
        assert_eq!((versions.total(), versions.invalid()), (6, 0));
        // A removed record and the records of other models do not count.
        new.delete(&UserKey::new(0)).await.unwrap();
        seen_as::<Session>(&world, new.name()).await.put(&Session::new("acme", 1)).await.unwrap();
        assert_eq!(new.schema_versions().await.unwrap().to_string(), "1: 2, 2: 1, 3: 2");
        assert_eq!(new.schema_versions().filter(UserKey::filter().id(5u64)).await.unwrap().to_string(), "3: 1");
    }

    async fn undecodable_record_counts_by_its_header(world: World) {
        let (_, new) = deployed(&world, world.fresh()).await;
        let raw = seen_as::<RawUser>(&world, new.name()).await;
        raw.put(&RawUser { id: "7".into(), bytes: b"garbage".to_vec() }).await.unwrap();
        // This key is not a key of the model.
        raw.put(&RawUser { id: "seven".into(), bytes: b"garbage".to_vec() }).await.unwrap();
        assert_eq!(new.schema_versions().await.unwrap().to_string(), "1: 1");
    }

    async fn version_fields_are_counted_from_values(world: World) {
        let notes: Bucket<Note> = world.bucket().await;
        notes.put(&Note { id: 1, v: 1 }).await.unwrap();
        notes.switch_version(2).await.unwrap();
        notes.put(&Note { id: 2, v: 2 }).await.unwrap();
        let raw = seen_as::<RawNote>(&world, notes.name()).await;
        raw.put(&RawNote { id: 3, bytes: b"garbage".to_vec() }).await.unwrap();
        let versions = notes.schema_versions().await.unwrap();
        assert_eq!(versions.to_string(), "1: 1, 2: 1, invalid: 1");
    }
}

/// Bytes under the keys of [`Note`].
#[derive(Clone, Debug, PartialEq, KvModel)]
#[kv(key = "n.{id}", codec = kvtyped::codec::Bytes)]
struct RawNote {
    id: u64,
    #[kv(value)]
    bytes: Vec<u8>,
}
