#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::effect::{Effect, Record};
use super::log::{CommitResult, Log, Ticket};
use super::machine::StateMachine;
use crate::backend::{Batch, KeySpace, Write, WriteKind};
use crate::config::BucketConfig;
use crate::error::ErrorKind;
use crate::key::Key;
use crate::revision::Revision;
use crate::ttl::Ttl;

/// A machine with a log.
fn machine() -> StateMachine {
    StateMachine::restore("test:", Vec::new(), 0, Duration::ZERO, Log::new(0, Arc::new(Condvar::new())))
}

fn config(random: &mut StdRng) -> BucketConfig {
    let mut config = BucketConfig::new("b");
    config.history = Some(random.random_range(1..4));
    config.atomic = Some(true);
    config.limit_markers = Some(Duration::from_secs(2));
    config.ttl = random.random_bool(0.3).then(|| Duration::from_secs(random.random_range(4..8)));
    config
}

fn write(key: Key, random: &mut StdRng) -> Write {
    let kind = match random.random_range(0..6) {
        0 => WriteKind::Delete,
        1 => WriteKind::Purge,
        _ => WriteKind::Put(vec![b'v'; random.random_range(0..9)].into()),
    };
    let ttl = random.random_bool(0.3).then(|| Ttl::new(Duration::from_secs(random.random_range(1..5))));
    Write::new(key, kind).with_ttl(ttl.flatten())
}

/// Runs a random verb.
fn verb(machine: &mut StateMachine, now: Duration, random: &mut StdRng) {
    let key = |random: &mut StdRng| Key::new(format!("k{}", random.random_range(0..6))).unwrap();
    let changed = match random.random_range(0..12) {
        0 => {
            let key = key(random);
            machine
                .change("b", now, false, None, |bucket, _| {
                    Ok(bucket.erase(KeySpace::Records, &key, bucket.last_revision))
                })
                .map(drop)
        }
        1 | 2 => {
            let keys = (0..3).map(|number| Key::new(format!("k{number}")).unwrap());
            let writes = keys.map(|key| write(key, random)).collect();
            let batch = Batch { writes, preconditions: Vec::new() };
            machine.change("b", now, true, None, |bucket, now| bucket.commit(batch, now)).map(drop)
        }
        3 => machine.update(config(random), now).map(drop),
        4 if random.random_bool(0.2) => machine.delete("b", now).map(drop),
        5 => machine.create(config(random), now).map(drop),
        _ => {
            let write = write(key(random), random);
            machine.change("b", now, true, None, |bucket, now| bucket.write(write, now)).map(drop)
        }
    };
    if let Err(error) = changed {
        assert!(matches!(error.kind(), ErrorKind::BucketNotFound | ErrorKind::BucketExists), "{error}");
    }
}

/// Returns everything that the bucket contains.
fn snapshot(machine: &mut StateMachine) -> Option<String> {
    let bucket = machine.peek("b")?;
    let (id, last, removed, bytes) = (bucket.id, bucket.last_revision, bucket.last_removed, bucket.bytes);
    let (config, keys, entries, due) = (&bucket.config, &bucket.keys, &bucket.entries, &bucket.expirations);
    Some(format!("{id} {last} {removed} {bytes} {config:?} {keys:?} {entries:?} {due:?}"))
}

/// Applies effects to a copy of the entries of each bucket.
fn replay(copy: &mut BTreeMap<u64, BTreeMap<Revision, String>>, group: &[Record]) {
    for record in group {
        match &record.effect {
            Effect::Stored { bucket, revision, entry } => {
                assert_eq!(entry.seq, record.seq, "an entry has the number of its effect");
                let earlier = copy.get_mut(bucket).unwrap().insert(*revision, format!("{entry:?}"));
                assert_eq!(earlier, None, "{revision} is stored once");
            }
            Effect::Removed { bucket, removal } => {
                let removed = copy.get_mut(bucket).unwrap().remove(&removal.revision);
                assert_eq!(removed, Some(format!("{:?}", removal.entry)), "{} was stored", removal.revision);
            }
            Effect::BucketCreated { bucket, .. } => assert!(copy.insert(*bucket, BTreeMap::new()).is_none()),
            Effect::BucketDeleted { bucket } => assert!(copy.remove(&bucket.id).is_some()),
            Effect::BucketConfigured { bucket, .. } => assert!(copy.contains_key(bucket)),
        }
    }
}

#[test]
fn effects_rebuild_the_state_and_can_be_reverted() {
    let (mut refusals, mut writes) = (0, 0);
    for seed in 0..20 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut machine = machine();
        let (mut copy, mut now, mut seq) = (BTreeMap::new(), Duration::ZERO, 0);
        machine.create(config(&mut random), now).unwrap();
        for step in 0..300 {
            let group = machine.log().unwrap().take_group(usize::MAX);
            for record in &group {
                seq += 1;
                assert_eq!(record.seq, seq, "seed {seed}: numbers have no gaps");
            }
            replay(&mut copy, &group);
            let durable = machine.log().unwrap().last();
            assert!(machine.log().unwrap().committed(durable).is_empty());
            drop(group);

            if let Some(bucket) = machine.peek("b") {
                let stored = &copy[&bucket.id];
                assert!(stored.keys().eq(bucket.entries.keys()), "seed {seed}, step {step}");
                let last = bucket.last_revision.get();
                for revision in 0..=last + 1 {
                    let mut later = revision + 1..=last;
                    let keeps = revision <= last && later.all(|later| stored.contains_key(&Revision::new(later)));
                    assert_eq!(bucket.keeps_all_after(Revision::new(revision)), keeps, "seed {seed}: after {revision}");
                }
            }

            now += Duration::from_millis(random.random_range(0..1_500));
            // The storage refuses some operations. The writer has taken the first ones.
            if random.random_bool(0.3) {
                let before = snapshot(&mut machine);
                let mut taken = Vec::new();
                for _ in 0..random.random_range(1..4) {
                    verb(&mut machine, now, &mut random);
                    if taken.is_empty() {
                        taken = machine.log().unwrap().take_group(1);
                    }
                }
                assert!(machine.refuse(taken, "full").is_empty());
                assert_eq!(snapshot(&mut machine), before, "seed {seed}, step {step}: everything is reverted");
                assert_eq!(machine.log().unwrap().last(), seq);
                refusals += 1;
                now += Duration::from_secs(2);
            }
            verb(&mut machine, now, &mut random);
        }
        writes += seq;
    }
    assert!(refusals > 1_000 && writes > 4_000, "{refusals} refusals, {writes} effects");
}

#[test]
fn whole_operations_form_a_group() {
    let mut machine = machine();
    let mut config = BucketConfig::new("b");
    config.atomic = Some(true);
    machine.create(config, Duration::ZERO).unwrap();
    for _ in 0..3 {
        let keys = (0..5).map(|number| Key::new(format!("k{number}")).unwrap());
        let writes = keys.map(|key| Write::new(key, WriteKind::Put("v".into()))).collect();
        let batch = Batch { writes, preconditions: Vec::new() };
        machine.change("b", Duration::ZERO, true, None, |bucket, now| bucket.commit(batch, now)).unwrap();
    }
    let sizes: Vec<_> =
        std::iter::repeat_with(|| machine.log().unwrap().take_group(200).len()).take_while(|size| *size > 0).collect();
    // The bucket and the first batch; the second and the third replace entries.
    assert_eq!(sizes, [6, 10, 10]);
}

#[test]
fn ticket_waits_for_its_effect() {
    let mut machine = machine();
    assert!(matches!(machine.full_ticket(), Ticket::Durable));
    machine.create(BucketConfig::new("b"), Duration::ZERO).unwrap();
    let (Ticket::Pending(mut first), Ticket::Pending(mut second)) = (machine.full_ticket(), machine.full_ticket())
    else {
        panic!("the effect is not durable");
    };
    assert!(first.try_recv().is_err());
    assert_eq!(machine.log().unwrap().take_group(usize::MAX).len(), 1);
    for (waiter, result) in machine.log().unwrap().committed(1) {
        waiter.send(result).unwrap();
    }
    assert!(matches!(first.try_recv(), Ok(CommitResult::Durable)));
    assert!(matches!(second.try_recv(), Ok(CommitResult::Durable)));
    assert!(matches!(machine.ticket(1), Ticket::Durable));

    machine.delete("b", Duration::ZERO).unwrap();
    let Ticket::Pending(mut refused) = machine.full_ticket() else { panic!("the effect is not durable") };
    for (waiter, result) in machine.refuse(Vec::new(), "full") {
        waiter.send(result).unwrap();
    }
    assert!(matches!(refused.try_recv(), Ok(CommitResult::Refused(_))));
    assert!(machine.peek("b").is_some(), "the deletion is reverted");

    machine.delete("b", Duration::ZERO).unwrap();
    let Ticket::Pending(mut failed) = machine.full_ticket() else { panic!("the effect is not durable") };
    for (waiter, result) in machine.fail("broken") {
        waiter.send(result).unwrap();
    }
    assert!(matches!(failed.try_recv(), Ok(CommitResult::Failed(_))));
    assert!(machine.check().unwrap_err().to_string().contains("broken"));
    let Ticket::Pending(mut later) = machine.full_ticket() else { panic!("the effect is not durable") };
    assert!(matches!(later.try_recv(), Ok(CommitResult::Failed(_))), "a later ticket ends at once");
}
