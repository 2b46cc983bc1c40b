//! Counts by schema version, and migrations.

use std::time::Duration;

use futures::TryStreamExt;
use kvtyped::KvVersion;
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
    counts(world).await;
    migrations(world).await;
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
