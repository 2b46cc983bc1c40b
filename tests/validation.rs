//! Records that the validation function of their model refuses.

use harness::wait;
use kvtyped::model::Refusal;
use kvtyped::prelude::*;
use kvtyped::txn::TransactError;
use kvtyped::{Error, ErrorKind, ModifyError};

use crate::support::{SOON, World, on_both_backends, seen_as};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(key = "account.{owner}", history = 1, validate = "Self::check")]
struct Account {
    owner: String,
    balance: i64,
}

impl Account {
    fn check(&self) -> Result<(), String> {
        if self.balance < 0 { Err("the balance is negative".to_owned()) } else { Ok(()) }
    }
}

/// The same records without a check, as a former program wrote them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(key = "account.{owner}", history = 1)]
struct Unchecked {
    owner: String,
    balance: i64,
}

fn account(balance: i64) -> Account {
    Account { owner: "ada".into(), balance }
}

/// Checks that the function refused the record, and that nothing was written.
#[track_caller]
fn is_refused(error: &Error) {
    assert!(matches!(error.kind(), ErrorKind::Invalid { path: "Self::check" }), "{error}");
    assert_eq!(error.outcome(), Outcome::NotApplied);
    assert!(!error.is_retryable() && !error.is_conflict());
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<Refusal>());
    assert_eq!(
        source.map(|refusal| (refusal.path(), refusal.reason())),
        Some(("Self::check", "the balance is negative"))
    );
    assert!(!error.to_string().contains("negative"), "the message has no text of the function: {error}");
}

on_both_backends! {
    async fn every_write_is_validated(world: World) {
        let accounts = world.bucket::<Account>().await;
        let (valid, invalid) = (account(5), account(-1));
        is_refused(&accounts.put(&invalid).await.unwrap_err());
        is_refused(&accounts.create(&invalid).await.unwrap_err());
        let revision = accounts.create(&valid).await.unwrap();
        is_refused(&accounts.update(&invalid, revision).await.unwrap_err());
        let key = valid.key();
        is_refused(&accounts.modify(&key, |account| account.balance -= 6).await.unwrap_err());
        let refused = accounts.try_modify(&key, |account| {
            account.balance = -1;
            Ok::<_, ()>(())
        });
        let Err(ModifyError::Kv(error)) = refused.await else { panic!("it is refused") };
        is_refused(&error);
        is_refused(&accounts.transform(&key, |_| Change::Put(account(-1))).await.unwrap_err());
        is_refused(&accounts.put_many([account(-1)]).await.unwrap_err());
        let entry = accounts.get(&key).await.unwrap().expect("it exists");
        assert_eq!((entry.revision(), entry.balance), (revision, 5));
    }

    async fn older_invalid_records_are_read_and_repaired(world: World) {
        let accounts = world.bucket::<Account>().await;
        let unchecked = seen_as::<Unchecked>(&world, accounts.name()).await;
        unchecked.put(&Unchecked { owner: "ada".into(), balance: -7 }).await.unwrap();
        let key = AccountKey::new("ada");
        assert_eq!(accounts.get(&key).await.unwrap().expect("it exists").balance, -7);
        is_refused(&accounts.modify(&key, |account| account.balance += 1).await.unwrap_err());
        assert_eq!(accounts.modify(&key, |account| account.balance = 0).await.unwrap().balance, 0);
    }

    async fn live_value_rejects_invalid_record(world: World) {
        let accounts = world.bucket::<Account>().await;
        let unchecked = seen_as::<Unchecked>(&world, accounts.name()).await;
        accounts.put(&account(5)).await.unwrap();
        let live = accounts.live(&AccountKey::new("ada")).await.unwrap();
        unchecked.put(&Unchecked { owner: "ada".into(), balance: -7 }).await.unwrap();
        let error = wait::until("the record is rejected", SOON, async || live.last_error()).await;
        assert!(matches!(error.kind(), ErrorKind::Rejected { reason } if reason == "the balance is negative"), "{error}");
        assert_eq!(live.load().balance, 5);
    }
}

#[tokio::test]
async fn transactions_are_validated() {
    let world = World::memory();
    let accounts = world.bucket::<Account>().await;
    let other = Account { owner: "bob".into(), balance: 1 };
    is_refused(&accounts.transaction().create(&other).create(&account(-1)).commit().await.unwrap_err());
    let refused = accounts.transact(|tx| async move {
        tx.put(&account(-1))?;
        Ok(())
    });
    match refused.await.unwrap_err() {
        TransactError::Kv(error) => is_refused(&error),
        other => panic!("{other}"),
    }
    assert_eq!(accounts.status().await.unwrap().values, 0);
}
