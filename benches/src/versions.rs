//! Counts by schema version, and migrations.

use std::hint::black_box;
use std::time::Duration;

use futures::TryStreamExt;
use kvtyped::KvVersion;
use kvtyped::codec::{Codec, Json};
use kvtyped::prelude::*;

use crate::measure::{pairs, time};
use crate::world::World;

/// A record whose body has about 2,000 bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "versions", key = "{id}", name = "account", version = 2, upgrade_from = AccountV1, writes = 1)]
struct Account {
    id: u64,
    note: String,
    #[serde(default)]
    email: Option<String>,
}

#[derive(Clone, Serialize, Deserialize, KvVersion)]
#[kv(version = 1)]
struct AccountV1 {
    id: u64,
    note: String,
}

impl From<AccountV1> for Account {
    fn from(AccountV1 { id, note }: AccountV1) -> Self {
        Self { id, note, email: None }
    }
}

impl From<Account> for AccountV1 {
    fn from(Account { id, note, email: _ }: Account) -> Self {
        Self { id, note }
    }
}

fn accounts(many: usize, bytes: usize) -> Vec<Account> {
    (0..many as u64).map(|id| Account { id, note: "n".repeat(bytes), email: None }).collect()
}

/// The time limit of an operation on all records.
const LONG: Duration = Duration::from_secs(120);

pub(crate) async fn measure(world: &mut World) {
    world.report.group("Schema versions");
    headers(world).await;
    upgrades(world).await;
    counts(world).await;
    migrations(world).await;
}

/// The same record as version 1, without a header, and as version 2, with one.
async fn headers(world: &mut World) {
    let plain: Bucket<Plain> = world.store.bucket().name("versions-plain").await.expect("the bucket is made");
    let versioned: Bucket<Account> = world.store.bucket().name("versions-header").await.expect("the bucket is made");
    versioned.switch_version(2).await.expect("it is switched");
    let note = "n".repeat(160);
    let account = Account { id: 7, note: note.clone(), email: None };
    let record = Plain { id: 7, note, email: None };
    let (blocks, each) = (world.effort.blocks(7), world.effort.of(1_500));
    let ours = async || time(async { versioned.put(&account).await.expect("it is put") }).await;
    let theirs = async || time(async { plain.put(&record).await.expect("it is put") }).await;
    let measured = pairs(blocks, each, ours, theirs).await;
    world.report.row("put with a version header", "put without").goal(1.02).measured(&measured);
    let ours = async || time(async { versioned.get(&account.key()).await.expect("it is read") }).await;
    let theirs = async || time(async { plain.get(&record.key()).await.expect("it is read") }).await;
    let measured = pairs(blocks, each, ours, theirs).await;
    world.report.row("get with a version header", "get without").goal(1.02).measured(&measured);
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "versions", key = "{id}")]
struct Plain {
    id: u64,
    note: String,
    email: Option<String>,
}

/// The decoding of an old record, beside the same decoding and conversion by hand.
async fn upgrades(world: &mut World) {
    const ROUND: u32 = 2_000;
    let bytes = Json::encode(&AccountV1 { id: 7, note: "n".repeat(160) }).expect("it encodes");
    let rounds = |decode: &dyn Fn(&[u8]) -> bool| {
        let started = std::time::Instant::now();
        (0..ROUND).for_each(|_| assert!(decode(black_box(&bytes))));
        started.elapsed() / ROUND
    };
    let ours = async || rounds(&|bytes| Account::decode(1, bytes).is_ok());
    let theirs = async || rounds(&|bytes| <Json as Codec<AccountV1>>::decode(bytes).map(Account::from).is_ok());
    let measured = pairs(world.effort.blocks(7), world.effort.of(50), ours, theirs).await;
    world.report.row("decode a record of the previous version", "decode and convert by hand").measured(&measured);
}

async fn counts(world: &mut World) {
    let many = world.effort.of(100_000);
    let accounts_2k = accounts(many, 1_970);
    let bucket: Bucket<Account> = world.store.bucket().name("versions-counts").await.expect("the bucket is made");
    bucket.put_many(&accounts_2k).timeout(LONG).await.expect("they are written");
    drop(accounts_2k);
    let headers = async || {
        time(async {
            let versions = bucket.schema_versions().timeout(LONG).await.expect("they are counted");
            assert_eq!(versions.total(), many as u64);
        })
        .await
    };
    let read = async || {
        time(async {
            let list = bucket.list(..).timeout(LONG).await.expect("it lists");
            let seen = list.try_fold(0, async |seen, _| Ok(seen + 1)).await.expect("the list continues");
            assert_eq!(seen, many);
        })
        .await
    };
    let measured = pairs(world.effort.blocks(3), 1, headers, read).await;
    world.report.row(format!("schema_versions of {many}, 2 KB each"), "list").goal(0.2).measured(&measured);
}

async fn migrations(world: &mut World) {
    let many = world.effort.of(50_000);
    let records = accounts(many, 160);
    let bucket: Bucket<Account> = world.store.bucket().name("versions-migrations").await.expect("the bucket is made");
    bucket.put_many(&records).timeout(LONG).await.expect("they are written");
    let beside: Bucket<Account> = world.store.bucket().name("versions-beside").await.expect("the bucket is made");
    beside.put_many(&records).timeout(LONG).await.expect("they are written");

    // Every record has another version than the one of the migration.
    let mut version = 1;
    let migrate = async || {
        version = 3 - version;
        time(async {
            let migrated = bucket.migrate().to(version).timeout(LONG).await.expect("they are migrated");
            assert_eq!(migrated.rewritten, many as u64);
        })
        .await
    };
    let put = async || time(async { beside.put_many(&records).timeout(LONG).await.expect("they are written") }).await;
    let measured = pairs(world.effort.blocks(3), 1, migrate, put).await;
    world.report.row(format!("migrate {many}, all of them old"), "put_many").goal(2.0).measured(&measured);

    let idle = async || {
        time(async {
            let migrated = bucket.migrate().to(version).timeout(LONG).await.expect("nothing is left");
            assert_eq!(migrated.rewritten, 0);
        })
        .await
    };
    let scan = async || {
        time(async { assert_eq!(bucket.count(..).timeout(LONG).await.expect("they are counted"), many as u64) }).await
    };
    let measured = pairs(world.effort.blocks(5), 1, idle, scan).await;
    world.report.row(format!("migrate {many}, none of them old"), "count").goal(1.2).measured(&measured);
}
