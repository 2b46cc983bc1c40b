//! The programs of a fleet: models of two versions, and random verbs.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use kvtyped::prelude::*;
use kvtyped::txn::TransactError;
use kvtyped::{Error, ErrorKind, SingleRevision};

use super::recorder::Shared;

/// The number of keys.
pub(super) const KEYS: u64 = 5;

/// A shape of the model.
pub(super) trait Shape: SingleRevision + Clone {
    fn new(id: u64, name: String, email: Option<String>) -> Self;
    fn rename(&mut self, name: String);
    /// Changes the field of the new program. The old program does not know it.
    fn set_email(&mut self, email: String);
}

/// The old program. It knows version 1.
pub(super) mod old {
    use super::*;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    #[kv(bucket = "profiles", key = "{id}")]
    pub(in super::super) struct Profile {
        id: u64,
        name: String,
    }

    impl Shape for Profile {
        fn new(id: u64, name: String, _: Option<String>) -> Self {
            Self { id, name }
        }

        fn rename(&mut self, name: String) {
            self.name = name;
        }

        fn set_email(&mut self, _: String) {}
    }
}

/// The new program. It knows versions 1 and 2, and writes version 1 until the switch.
pub(super) mod new {
    use kvtyped::KvVersion;

    use super::*;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    #[kv(bucket = "profiles", key = "{id}", version = 2, upgrade_from = ProfileV1, writes = 1)]
    pub(in super::super) struct Profile {
        id: u64,
        name: String,
        email: Option<String>,
    }

    #[derive(Serialize, Deserialize, KvVersion)]
    #[kv(version = 1)]
    pub(in super::super) struct ProfileV1 {
        id: u64,
        name: String,
    }

    impl From<ProfileV1> for Profile {
        fn from(ProfileV1 { id, name }: ProfileV1) -> Self {
            Self { id, name, email: None }
        }
    }

    impl From<Profile> for ProfileV1 {
        fn from(Profile { id, name, .. }: Profile) -> Self {
            Self { id, name }
        }
    }

    impl Shape for Profile {
        fn new(id: u64, name: String, email: Option<String>) -> Self {
            Self { id, name, email }
        }

        fn rename(&mut self, name: String) {
            self.name = name;
        }

        fn set_email(&mut self, email: String) {
            self.email = Some(email);
        }
    }
}

/// The new program with the field and without a new version.
pub(super) mod unversioned {
    use super::*;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    #[kv(bucket = "profiles", key = "{id}")]
    pub(in super::super) struct Profile {
        id: u64,
        name: String,
        email: Option<String>,
    }

    impl Shape for Profile {
        fn new(id: u64, name: String, email: Option<String>) -> Self {
            Self { id, name, email }
        }

        fn rename(&mut self, name: String) {
            self.name = name;
        }

        fn set_email(&mut self, email: String) {
            self.email = Some(email);
        }
    }
}

/// The state that the programs share with the checker.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// The names of records that a program wrote whole, and so with or without the field on purpose.
    pub(super) whole: Mutex<HashSet<String>>,
    pub(super) unexpected: Mutex<Vec<String>>,
    /// The number of successful calls.
    pub(super) done: AtomicU64,
    /// The number of calls that failed because the program is too old.
    pub(super) refused: AtomicU64,
    pub(super) is_over: AtomicBool,
}

/// One running program.
pub(super) struct Program<T: KvModel> {
    pub(super) store: Store,
    pub(super) bucket: Bucket<T>,
    /// A unique name.
    pub(super) name: String,
    pub(super) shared: Arc<Shared>,
    pub(super) notes: Arc<Notes>,
}

impl<T: Shape> Program<T> {
    /// Runs random verbs until the deploy is over.
    pub(super) async fn run(mut self) {
        for number in 0.. {
            if self.notes.is_over.load(Ordering::Relaxed) {
                return;
            }
            let verb = self.shared.chance().between(0, 14);
            let result = self.call(verb, number).await;
            self.observe(verb, result);
            // A refused write of a program that knows the version of the bucket needs no request.
            self.shared.pause().await;
        }
    }

    fn observe(&self, verb: u64, result: Result<(), Error>) {
        let Err(error) = result else {
            self.notes.done.fetch_add(1, Ordering::Relaxed);
            return;
        };
        match error.kind() {
            ErrorKind::Newer { found: 2, knows: 1 } | ErrorKind::SchemaMoved { writes: 2, knows: 1 } => {
                assert_eq!(error.outcome(), Outcome::NotApplied, "{error}");
                self.notes.refused.fetch_add(1, Ordering::Relaxed);
            }
            ErrorKind::Conflict { .. } | ErrorKind::AlreadyExists | ErrorKind::NotFound => {}
            // A verb of several records does not encode them again.
            ErrorKind::SchemaMoved { knows: 2, .. } if verb >= 12 && error.is_retryable() => {}
            _ => {
                let text = format!("{} gets from verb {verb}: {error}", self.name);
                self.notes.unexpected.lock().expect("no holder panics").push(text);
            }
        }
    }

    /// Returns a record that states all its fields.
    fn whole(&self, id: u64, name: String) -> T {
        self.notes.whole.lock().expect("no holder panics").insert(name.clone());
        let email = self.shared.chance().happens(700).then(|| format!("{name}@example.com"));
        T::new(id, name, email)
    }

    async fn call(&mut self, verb: u64, number: u64) -> Result<(), Error> {
        let id = self.shared.chance().between(1, KEYS);
        let name = format!("{}-{number}", self.name);
        // A change sets the field or keeps it. It never removes the field.
        let email = self.shared.chance().happens(300).then(|| format!("{name}@example.com"));
        let changed = |record: &mut T| {
            record.rename(name.clone());
            if let Some(email) = &email {
                record.set_email(email.clone());
            }
        };
        let bucket = &self.bucket;
        let key = T::new(id, String::new(), None).key();
        match verb {
            0 => bucket.put(&self.whole(id, name)).await.map(drop),
            1 => bucket.create(&self.whole(id, name)).await.map(drop),
            2 => match bucket.get(&key).await? {
                Some(found) => bucket.update(&self.whole(id, name), found.revision()).await.map(drop),
                None => Ok(()),
            },
            3 | 4 => bucket.modify(&key, changed).await.map(drop),
            5 => {
                let insert = || T::new(id, name.clone(), email.clone());
                bucket.modify(&key, changed).or_insert_with(insert).await.map(drop)
            }
            6 => {
                let change = |found: Option<T>| match found {
                    Some(mut record) => {
                        changed(&mut record);
                        Change::Put(record)
                    }
                    None => Change::Put(T::new(id, name.clone(), email.clone())),
                };
                bucket.transform(&key, change).await.map(drop)
            }
            7 => bucket.touch(&key).await.map(drop),
            8 => bucket.delete(&key).await.map(drop),
            9 => bucket.get(&key).await.map(drop),
            10 => {
                let mut records = bucket.list(..).await?;
                while let Some(record) = records.next().await {
                    self.observe(verb, record.map(drop));
                }
                Ok(())
            }
            11 => {
                // A restart. An old program cannot start after the switch, and continues to run.
                self.bucket = self.store.bucket().name(self.bucket.name().to_owned()).await?;
                Ok(())
            }
            12 => {
                let ids = [id, id % KEYS + 1, id];
                let records: Vec<T> =
                    (0..).zip(ids).map(|(part, id)| self.whole(id, format!("{name}.{part}"))).collect();
                for result in bucket.put_many(&records).window(2).results().await? {
                    self.observe(verb, result.map(drop));
                }
                Ok(())
            }
            13 => {
                let (key, changed, first) = (&key, &changed, &T::new(id, name.clone(), email.clone()));
                let transact = bucket.transact(|tx| async move {
                    let mut record = tx.get(key).await?.unwrap_or_else(|| first.clone());
                    changed(&mut record);
                    tx.put(&record)?;
                    Ok(())
                });
                transact.await.map_err(of_bucket)
            }
            _ => {
                let [first, second] =
                    [(id, "a"), (id % KEYS + 1, "b")].map(|(id, part)| self.whole(id, format!("{name}.{part}")));
                bucket.transaction().put(&first).put(&second).commit().await.map(drop)
            }
        }
    }
}

fn of_bucket(error: TransactError) -> Error {
    match error {
        TransactError::Kv(error) => error,
        TransactError::Closure(error) => panic!("{error}"),
    }
}
