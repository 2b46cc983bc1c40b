//! The messages and round trips of each verb of an indexed model, as a server receives them.

use futures::StreamExt;
use harness::Server;
use kvtyped::Storage;
use kvtyped::prelude::*;

/// How often each verb is measured.
const ROUNDS: u64 = 5;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(name = "member", key = "{id}")]
struct Member {
    id: u64,
    #[kv(index)]
    team: String,
    visits: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(name = "account", key = "{id}")]
struct Account {
    id: u64,
    #[kv(unique)]
    email: String,
    visits: u64,
}

fn member(id: u64, team: &str) -> Member {
    Member { id, team: team.into(), visits: 0 }
}

fn account(id: u64, email: &str) -> Account {
    Account { id, email: format!("{email}{id}"), visits: 0 }
}

/// The messages of one verb.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Cost {
    /// The number of reads and listings.
    reads: u32,
    entries: u32,
    records: u32,
    /// The number of times that a request waits for a reply.
    trips: u32,
    erased: u32,
}

/// A client that receives every message of a server.
struct Wire {
    client: async_nats::Client,
    messages: async_nats::Subscriber,
    rows: Vec<(&'static str, Cost)>,
}

impl Wire {
    async fn new(server: &Server) -> Self {
        let client = async_nats::connect(server.url()).await.expect("a connection");
        let messages = client.subscribe(">").await.expect("a subscription");
        client.flush().await.expect("the server receives the subscription");
        Self { client, messages, rows: Vec::new() }
    }

    /// Returns the messages since the last call, up to the end of the erasures.
    async fn cost(&mut self, erasures: u32) -> Cost {
        self.client.publish("mark", "".into()).await.expect("it is sent");
        let (mut cost, mut is_marked, mut has_reply, mut erasing) = (Cost::default(), false, true, Vec::new());
        while !is_marked || cost.erased < erasures {
            let message = self.messages.next().await.expect("the subscription continues");
            let subject = message.subject.as_str();
            if erasing.contains(&message.subject) {
                continue;
            }
            let count = match subject {
                "mark" => {
                    is_marked = true;
                    continue;
                }
                _ if subject.starts_with("_INBOX.") => {
                    has_reply = true;
                    continue;
                }
                _ if subject.starts_with("$JS.EVENT.") || subject.starts_with("$JS.API.STREAM.CREATE.") => continue,
                _ if subject.starts_with("$JS.API.STREAM.PURGE.") => {
                    cost.erased += 1;
                    erasing.extend(message.reply);
                    continue;
                }
                _ if subject.starts_with("$KV.=i.") => &mut cost.entries,
                _ if subject.starts_with("$KV.") => &mut cost.records,
                _ if subject.starts_with("$JS.API.DIRECT.GET.") => &mut cost.reads,
                _ if subject.starts_with("$JS.API.STREAM.MSG.GET.") => &mut cost.reads,
                _ if subject.starts_with("$JS.API.STREAM.INFO.") => &mut cost.reads,
                other => panic!("an unexpected message: {other}"),
            };
            *count += 1;
            // Requests that are sent at once share a round trip.
            cost.trips += u32::from(std::mem::take(&mut has_reply));
        }
        cost
    }

    /// Measures a verb after its preparation, with new ids in each round.
    async fn row<S, R>(
        &mut self,
        name: &'static str,
        erasures: u32,
        mut prepare: impl AsyncFnMut(u64) -> S,
        mut verb: impl AsyncFnMut(u64, S) -> R,
    ) {
        let mut costs = Vec::new();
        for round in 0..ROUNDS {
            let id = 1_000 * (1 + self.rows.len() as u64) + 100 * round;
            let prepared = prepare(id).await;
            self.cost(0).await;
            verb(id, prepared).await;
            costs.push(self.cost(erasures).await);
        }
        // A reply to the first of two requests may be quicker than the second request.
        let trips = costs.iter().map(|cost| cost.trips).min().expect("some rounds");
        for cost in &mut costs {
            cost.trips = trips;
            if name.starts_with("unique: ") && cost.erased > 0 {
                // The erasure of a claim begins with a read, which belongs to the background too.
                (cost.reads, cost.trips) = (cost.reads - cost.erased, trips - 1);
            }
        }
        assert!(costs.iter().all(|cost| *cost == costs[0]), "{name}: {costs:?}");
        self.rows.push((name, costs[0]));
    }
}

async fn nothing(_: u64) {}

async fn rows(server: &Server, storage: Storage) -> Vec<(&'static str, Cost)> {
    let store = Store::connect(server.url()).await.expect("the server is there");
    let members: Bucket<Member> = store.bucket().name("members").storage(storage).limit_markers(DAY).await.unwrap();
    let mut wire = Wire::new(server).await;
    let stored = async |id: u64| members.put(&member(id, "a")).await.unwrap();
    let ten = |id: u64, team: &str| (id..id + 10).map(|id| member(id, team)).collect::<Vec<_>>();
    let ten_stored = async |id: u64| members.put_many(ten(id, "a")).await.unwrap();

    wire.row("create", 0, nothing, async |id, ()| members.create(&member(id, "a")).await.unwrap()).await;
    wire.row("put of a new record", 0, nothing, async |id, ()| members.put(&member(id, "a")).await.unwrap()).await;
    wire.row("put, same value", 0, stored, async |id, _| members.put(&member(id, "a")).await.unwrap()).await;
    wire.row("put, other value", 1, stored, async |id, _| members.put(&member(id, "b")).await.unwrap()).await;
    wire.row("update, same value", 0, stored, async |id, revision| {
        members.update(&member(id, "a"), revision).await.unwrap();
    })
    .await;
    wire.row("update, other value", 1, stored, async |id, revision| {
        members.update(&member(id, "b"), revision).await.unwrap();
    })
    .await;
    let other = Store::connect(server.url()).await.expect("the server is there");
    let other: Bucket<Member> = other.bucket().name("members").storage(storage).limit_markers(DAY).await.unwrap();
    wire.row("update of a record that another process wrote", 0, stored, async |id, revision| {
        other.update(&member(id, "a"), revision).await.unwrap();
    })
    .await;
    wire.row("modify, same value", 0, stored, async |id, _| {
        members.modify(&MemberKey::new(id), |member| member.visits += 1).await.unwrap();
    })
    .await;
    wire.row("modify, other value", 1, stored, async |id, _| {
        members.modify(&MemberKey::new(id), |member| member.team = "b".into()).await.unwrap();
    })
    .await;
    wire.row("delete", 1, stored, async |id, _| members.delete(&MemberKey::new(id)).await.unwrap()).await;
    wire.row("purge", 1, stored, async |id, _| members.purge(&MemberKey::new(id)).await.unwrap()).await;
    let expiring = async |id: u64| members.put(&member(id, "a")).ttl(DAY).await.unwrap();
    wire.row("touch", 0, expiring, async |id, _| members.touch(&MemberKey::new(id)).await.unwrap()).await;
    wire.row("put_many of 10 new records", 0, nothing, async |id, ()| {
        members.put_many(ten(id, "a")).await.unwrap();
    })
    .await;
    wire.row("put_many of 10, same values", 0, ten_stored, async |id, _| {
        members.put_many(ten(id, "a")).await.unwrap();
    })
    .await;
    wire.row("put_many of 10, other values", 10, ten_stored, async |id, _| {
        members.put_many(ten(id, "b")).await.unwrap();
    })
    .await;
    wire.row("delete_many of 10", 10, ten_stored, async |id, _| {
        members.delete_many((id..id + 10).map(MemberKey::new)).await.unwrap();
    })
    .await;
    let team = async |id: u64| {
        let team = format!("team{id}");
        members.put_many((id..id + 10).map(|id| member(id, &team))).await.unwrap();
        team
    };
    wire.row("list_by of 10", 0, team, async |_, team| {
        let list = members.list_by(Member::by_team(team)).await.unwrap();
        assert_eq!(list.try_collect::<Vec<_>>().await.unwrap().len(), 10);
    })
    .await;
    wire.row("count_by", 0, team, async |_, team| {
        assert_eq!(members.count_by(Member::by_team(team)).await.unwrap(), 10);
    })
    .await;
    wire.row("transaction: two puts", 0, nothing, async |id, ()| {
        members.transaction().put(&member(id, "a")).put(&member(id + 1, "a")).commit().await.unwrap();
    })
    .await;

    // A write of a unique value reads the card again 30 seconds after the bucket was opened.
    let accounts: Bucket<Account> = store.bucket().name("accounts").storage(storage).await.unwrap();
    wire.cost(0).await;
    let stored = async |id: u64| accounts.put(&account(id, "a")).await.unwrap();
    wire.row("unique: create", 0, nothing, async |id, ()| accounts.create(&account(id, "a")).await.unwrap()).await;
    wire.row("unique: update, same value", 0, stored, async |id, revision| {
        accounts.update(&account(id, "a"), revision).await.unwrap();
    })
    .await;
    wire.row("unique: update, other value", 1, stored, async |id, revision| {
        accounts.update(&account(id, "b"), revision).await.unwrap();
    })
    .await;
    wire.row("unique: create, value taken", 0, stored, async |id, _| {
        let other = Account { id: id + 1, ..account(id, "a") };
        accounts.create(&other).await.unwrap_err();
    })
    .await;
    wire.row("unique: get_by", 0, stored, async |id, _| {
        assert!(accounts.get_by(Account::by_email(format!("a{id}"))).await.unwrap().is_some());
    })
    .await;
    wire.row("unique: get_by, no record", 0, nothing, async |id, ()| {
        assert!(accounts.get_by(Account::by_email(format!("none{id}"))).await.unwrap().is_none());
    })
    .await;
    wire.row("unique: delete", 1, stored, async |id, _| {
        accounts.delete(&AccountKey::new(id)).await.unwrap();
    })
    .await;
    wire.rows
}

const DAY: Duration = Duration::from_secs(86_400);

/// The table of the docs. Its last column is the number of round trips with batches.
const DOCS: &str = include_str!("../kvtyped/docs/finding-records.md");

/// The only verb that has other messages with batches: the first batch expects that the value is free.
const REFUSED: &str = "unique: create, value taken";

#[tokio::test]
async fn each_verb_has_the_messages_of_the_docs() {
    crate::needs::needs!(Transactions);
    let singly = rows(&Server::start().await, Storage::File).await;
    let batched = rows(&Server::start().await, Storage::Memory).await;
    let mut table = Vec::new();
    for ((name, singly), (_, batched)) in singly.iter().zip(&batched) {
        assert!(*name == REFUSED || Cost { trips: singly.trips, ..*batched } == *singly, "{name}: {batched:?}");
        let Cost { reads, entries, records, trips, erased } = singly;
        let in_batch = batched.trips;
        table.push(format!("| {name} | {reads} | {entries} | {records} | {erased} | {trips} | {in_batch} |"));
    }
    let missing: Vec<_> = table.iter().filter(|row| !DOCS.contains(*row)).collect();
    assert!(missing.is_empty(), "the docs lack {missing:#?}");
    let refused = batched.iter().find(|(name, _)| *name == REFUSED).expect("measured");
    assert_eq!(refused.1, Cost { reads: 4, entries: 1, records: 1, trips: 4, erased: 0 });
}
