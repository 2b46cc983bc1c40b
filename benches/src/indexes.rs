//! Indexes: their writes, their lookups and their builds, each against the same operation without an index.

use std::cell::Cell;
use std::time::Duration;

use futures::{TryStreamExt, stream};
use harness::Cluster;
use kvtyped::prelude::*;
use kvtyped::{Drift, Storage};

use crate::measure::{Measured, pairs, time};
use crate::report::Unit;
use crate::world::World;

/// The number of keys that the updates cycle through.
const KEYS: u64 = 1_000;
/// The number of records of a team.
const TEAM: u64 = 1_000;
/// The number of lookups in progress at once.
const AT_ONCE: usize = 64;
/// The number of records that one call writes.
const CHUNK: u64 = 50_000;
const SIZES: [usize; 2] = [100_000, 1_000_000];
const LONG: Duration = Duration::from_secs(300);

/// Defines models of about 200 bytes that differ in their indexes only.
macro_rules! members {
    ($($model:ident { $(#[$email:meta])? email, $(#[$team:meta])? team })*) => {$(
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
        #[kv(name = "member", key = "{id}", history = 1)]
        struct $model {
            id: u64,
            $(#[$email])?
            email: String,
            $(#[$team])?
            team: String,
            visits: u64,
            note: String,
        }

        impl $model {
            fn new(id: u64) -> Self {
                Self::of_team(id, team(id / TEAM))
            }

            fn of_team(id: u64, team: String) -> Self {
                Self { id, email: format!("user-{id:08}@example.com"), team, visits: 1, note: "n".repeat(72) }
            }
        }
    )*};
}

members! {
    Plain { email, team }
    InTeam { email, #[kv(index)] team }
    WithEmail { #[kv(unique)] email, team }
    Member { #[kv(unique)] email, #[kv(index)] team }
}

fn team(number: u64) -> String {
    format!("team-{number:05}")
}

/// Where the buckets of some rows are stored.
struct Place {
    name: &'static str,
    store: Store,
    storage: Storage,
    replicas: u8,
    /// The goal of a write with one entry, and of a write with one claim, as ratios to a put.
    goals: [f64; 2],
}

impl Place {
    async fn bucket<T: KvModel>(&self, name: &str) -> Bucket<T> {
        let open = self.store.bucket().name(name).storage(self.storage).replicas(self.replicas);
        open.on_drift(Drift::Update).await.expect("the bucket is made")
    }
}

pub(crate) async fn measure(world: &mut World) {
    world.report.group("Indexes");
    let cluster = Cluster::start(3).await;
    let replicated = Store::connect(cluster.urls()).timeout(LONG).await.expect("the cluster is there");
    let place =
        |name, store: &Store, storage, replicas, goals| Place { name, store: store.clone(), storage, replicas, goals };
    let places = [
        place("R1 file", &world.store, Storage::File, 1, [2.2, 3.2]),
        place("R1 memory", &world.store, Storage::Memory, 1, [1.6, 1.8]),
        place("R3 file", &replicated, Storage::File, 3, [1.6, 1.8]),
    ];
    for place in &places {
        writes(world, place).await;
        many(world, place).await;
        lookups(world, place).await;
    }
    sizes(world, &places[0]).await;
}

async fn writes(world: &mut World, place: &Place) {
    let Place { name, goals: [one_entry, one_claim], .. } = *place;
    let (blocks, each) = (world.effort.blocks(7), world.effort.of(600));
    let prefix = format!("writes-{}", name.replace(' ', "-"));
    let plain: Bucket<Plain> = place.bucket(&format!("{prefix}-plain")).await;
    let in_team: Bucket<InTeam> = place.bucket(&format!("{prefix}-team")).await;
    let with_email: Bucket<WithEmail> = place.bucket(&format!("{prefix}-email")).await;

    let next = counter();
    let put = async || {
        let record = Plain::new(next());
        time(async { plain.put(&record).await.expect("it is put") }).await
    };
    let create = async || {
        let record = InTeam::new(next());
        time(async { in_team.create(&record).await.expect("it is created") }).await
    };
    let measured = pairs(blocks, each, create, put).await;
    world.report.row(format!("create with an index, {name}"), "put").goal(one_entry).measured(&measured);
    let create = async || {
        let record = WithEmail::new(next());
        time(async { with_email.create(&record).await.expect("it is created") }).await
    };
    let measured = pairs(blocks, each, create, put).await;
    world.report.row(format!("create with a unique value, {name}"), "put").goal(one_claim).measured(&measured);

    let mut revisions = Vec::new();
    for id in 0..KEYS {
        let revision = plain.put(&Plain::new(id)).await.expect("it is put");
        revisions.push((revision, in_team.put(&InTeam::new(id)).await.expect("it is put")));
    }
    let revisions: Vec<_> = revisions.into_iter().map(|(ours, theirs)| (Cell::new(ours), Cell::new(theirs))).collect();
    let next = rounds();
    let ours = async || {
        let id = next();
        let (record, revision) = (InTeam { visits: id, ..InTeam::new(id) }, &revisions[id as usize].1);
        time(async { revision.set(in_team.update(&record, revision.get()).await.expect("it is updated")) }).await
    };
    let next = rounds();
    let theirs = async || {
        let id = next();
        let (record, revision) = (Plain { visits: id, ..Plain::new(id) }, &revisions[id as usize].0);
        time(async { revision.set(plain.update(&record, revision.get()).await.expect("it is updated")) }).await
    };
    let measured = pairs(blocks, each, ours, theirs).await;
    let row = world.report.row(format!("update, indexed value unchanged, {name}"), "update without an index");
    row.goal(1.05).measured(&measured);

    let next = counter();
    let ours = async || {
        let number = next();
        let (id, team) = (number % KEYS, team(number));
        let (record, revision) = (InTeam { team, ..InTeam::new(id) }, &revisions[id as usize].1);
        time(async { revision.set(in_team.update(&record, revision.get()).await.expect("it is updated")) }).await
    };
    let measured = pairs(blocks, each, ours, theirs).await;
    world.report.row(format!("update of an indexed value, {name}"), "update without an index").measured(&measured);

    let next = rounds();
    let ours = async || {
        let key = InTeamKey::new(next());
        time(async { in_team.modify(&key, |record| record.visits += 1).await.expect("it is modified") }).await
    };
    let next = rounds();
    let theirs = async || {
        let key = PlainKey::new(next());
        time(async { plain.modify(&key, |record| record.visits += 1).await.expect("it is modified") }).await
    };
    let measured = pairs(blocks, each, ours, theirs).await;
    let row = world.report.row(format!("modify, indexed value unchanged, {name}"), "modify without an index");
    row.goal(1.05).measured(&measured);

    let ids = rounds();
    let email = || WithEmail::new(ids()).email;
    with_email.put_many((0..KEYS).map(WithEmail::new)).await.expect("they are put");
    let ours = async || {
        let email = email();
        time(async { assert!(with_email.get_by(WithEmail::by_email(email)).await.expect("it is read").is_some()) })
            .await
    };
    let ids = rounds();
    let theirs = async || {
        let key = PlainKey::new(ids());
        time(async { assert!(plain.get(&key).await.expect("it is read").is_some()) }).await
    };
    let measured = pairs(blocks, each, ours, theirs).await;
    world.report.row(format!("get_by, {name}"), "get").goal(2.2).measured(&measured);
}

/// Measures writes of many records, and the build of an index.
async fn many(world: &mut World, place: &Place) {
    let (name, count) = (place.name, world.effort.of(20_000) as u64);
    let prefix = format!("many-{}", name.replace(' ', "-"));
    let [mut first, mut again, mut plain, mut built] = [const { Vec::new() }; 4];
    let [mut verified, mut scanned] = [const { Vec::new() }; 2];
    for block in 0..world.effort.blocks(5) {
        let theirs: Bucket<Plain> = place.bucket(&format!("{prefix}-plain-{block}")).await;
        let records: Vec<_> = (0..count).map(Plain::new).collect();
        plain.push(time(async { theirs.put_many(&records).await.expect("they are put") }).await);
        let ours: Bucket<InTeam> = place.bucket(&format!("{prefix}-team-{block}")).await;
        let records: Vec<_> = (0..count).map(InTeam::new).collect();
        first.push(time(async { ours.put_many(&records).await.expect("they are put") }).await);
        again.push(time(async { ours.put_many(&records).await.expect("they are put") }).await);
        scanned.push(time(async { assert_eq!(listed(&ours, |_| true).await, count) }).await);
        verified.push(time(async { assert!(ours.verify_indexes().await.expect("it ends").is_clean()) }).await);
        // The same records, in a bucket that gets the index now.
        let ours: Bucket<InTeam> = place.bucket(theirs.name()).await;
        let build = async { ours.build_index("team").all_writers_know().timeout(LONG).await.expect("it is built") };
        built.push(time(async { assert_eq!(build.await.records, count) }).await);
    }
    let measured = |ours: &[Duration], theirs: &[Duration]| {
        let blocks = |times: &[Duration]| times.iter().map(|time| vec![time.as_secs_f64()]).collect();
        Measured { ours: blocks(ours), theirs: blocks(theirs) }
    };
    let mut row = |row: &str, beside: &str, goal: Option<f64>, measured: &Measured| {
        world.report.row(format!("{row} of {count}, {name}"), beside).goal(goal).measured(measured);
    };
    row("put_many with an index", "put_many", None, &measured(&first, &plain));
    row("put_many over records with the same values", "put_many", None, &measured(&again, &plain));
    row("build_index", "put_many", Some(2.0), &measured(&built, &plain));
    row("verify_indexes", "list", None, &measured(&verified, &scanned));
}

/// Lists the records and counts some of them.
async fn listed<T: KvModel>(bucket: &Bucket<T>, is_wanted: impl Fn(&T) -> bool) -> u64 {
    let list = bucket.list(..).timeout(LONG).await.expect("it lists");
    let count = list.try_fold(0, async |seen, entry| Ok(seen + u64::from(is_wanted(&entry))));
    count.await.expect("the list continues")
}

/// Measures lookups of 1,000 records among 100,000.
async fn lookups(world: &mut World, place: &Place) {
    let (name, count) = (place.name, world.effort.of(100_000) as u64);
    let bucket: Bucket<InTeam> = place.bucket(&format!("lookups-{}", name.replace(' ', "-"))).await;
    fill(&bucket, InTeam::new, count).await;
    let (wanted, blocks) = (team(1), world.effort.blocks(5));
    let wanted = &*wanted;
    let scan = async || time(async { assert_eq!(listed(&bucket, |member| member.team == wanted).await, TEAM) }).await;
    let list = async || {
        time(async {
            let list = bucket.list_by(InTeam::by_team(wanted)).await.expect("it lists");
            let found = list.try_fold(0, async |seen, _| Ok(seen + 1)).await.expect("the list continues");
            assert_eq!(found, TEAM);
        })
        .await
    };
    let measured = pairs(blocks, 1, list, scan).await;
    let row = world.report.row(format!("list_by of {TEAM} among {count}, {name}"), "list, filtered by hand");
    row.goal(0.1).measured(&measured);
    let counted =
        async || time(async { assert_eq!(bucket.count_by(InTeam::by_team(wanted)).await.expect("ok"), TEAM) });
    let measured = pairs(blocks, 1, async || counted().await.await, scan).await;
    let row = world.report.row(format!("count_by of {TEAM} among {count}, {name}"), "list, filtered by hand");
    row.goal(0.01).measured(&measured);
}

/// Measures lookups in buckets of several sizes.
async fn sizes(world: &mut World, place: &Place) {
    let mut costs = Vec::new();
    let most = world.effort.most;
    for size in SIZES.into_iter().filter(|size| *size <= most) {
        let count = world.effort.of(size) as u64;
        let bucket: Bucket<Member> = place.bucket(&format!("members-{count}")).await;
        let member = |id: u64| Member::of_team(id, format!("team-{:06}", id / 10));
        fill(&bucket, member, count).await;
        // The lookups are spread over the bucket.
        let numbers = counter();
        let member = || member(numbers() * 7_919 % count);
        let get = async || {
            let member = member();
            let found = bucket.get_by(Member::by_email(member.email)).await.expect("it is read");
            assert_eq!(found.map(|found| found.id), Some(member.id));
        };
        let list = async || {
            let list = bucket.list_by(Member::by_team(member().team)).await.expect("it lists");
            assert_eq!(list.try_fold(0, async |seen, _| Ok(seen + 1)).await.expect("the list continues"), 10);
        };
        let get_key = async || {
            let key = MemberKey::new(member().id);
            assert!(bucket.get(&key).await.expect("it is read").is_some());
        };
        let blocks = world.effort.blocks(5);
        let each = world.effort.of(1_000);
        let gets = pairs(blocks, each, async || time(get()).await, async || time(get_key()).await).await;
        world.report.row(format!("get_by among {count}, {}", place.name), "get").goal(2.2).measured(&gets);
        let lists = pairs(blocks, each / 4, async || time(list()).await, async || time(get_key()).await).await;
        world.report.row(format!("list_by of 10 among {count}, {}", place.name), "get").measured(&lists);
        for (name, rate) in [("get_by", at_once(&get, each).await), ("list_by of 10", at_once(&list, each / 4).await)] {
            let single = if name == "get_by" { gets.medians().0 } else { lists.medians().0 };
            eprintln!("{name} among {count}: {:.0} a second, {rate:.0} with {AT_ONCE} at once", 1.0 / single);
        }
        costs.push((count as f64, gets.medians().0, lists.medians().0));
    }
    let [(few, get, list), .., (many, last_get, last_list)] = costs[..] else { return };
    for (name, first, last) in [("get_by", get, last_get), ("list_by of 10", list, last_list)] {
        let exponent = (last / first).ln() / (many / few).ln();
        let row = world.report.row(format!("the time of {name} grows with this power of the bucket"), "linear");
        let row = row.unit(Unit::Exponent).at_most(0.1);
        row.measured(&Measured { ours: vec![vec![exponent]], theirs: vec![vec![1.0]] });
    }
}

/// Returns the number of operations a second with [`AT_ONCE`] in progress.
async fn at_once(operation: &impl AsyncFn(), count: usize) -> f64 {
    use futures::StreamExt;
    let took =
        time(stream::iter(0..count).map(|_| operation()).buffer_unordered(AT_ONCE).for_each(async |()| {})).await;
    count as f64 / took.as_secs_f64()
}

async fn fill<T: KvModel>(bucket: &Bucket<T>, record: impl Fn(u64) -> T, count: u64) {
    for first in (0..count).step_by(CHUNK as usize) {
        let records = (first..count.min(first + CHUNK)).map(&record);
        bucket.put_many(records).timeout(LONG).await.expect("they are put");
    }
}

fn counter() -> impl Fn() -> u64 {
    let at = Cell::new(0);
    move || at.replace(at.get() + 1)
}

/// Returns a source of ids that cycles through [`KEYS`] ids.
fn rounds() -> impl Fn() -> u64 {
    let next = counter();
    move || next() % KEYS
}
