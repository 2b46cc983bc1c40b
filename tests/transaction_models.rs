//! Which models may take part in a transaction of a bucket.

use kvtyped::codec::Json;
use kvtyped::config::BucketConfig;
use kvtyped::prelude::*;
use kvtyped::txn::TransactError;
use kvtyped::{Error, ErrorKind};

use crate::support::{on_both_backends, unique};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "accounts", key = "{id}")]
struct Account {
    id: u64,
    balance: i64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "invoices", key = "{id}")]
struct Invoice {
    id: u64,
    balance: i64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "accounts", key = "transfer.{id}")]
struct Transfer {
    id: u64,
}

/// A model that no derive wrote, which declares the bucket of `Account`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Note {
    id: u64,
}

impl KvModel for Note {
    type Key = TransferKey;
    type Value = Self;
    type Codec = Json;

    fn settings() -> BucketConfig {
        BucketConfig::new("accounts")
    }

    fn key(&self) -> TransferKey {
        TransferKey::new(self.id)
    }

    fn stored(&self) -> &Self {
        self
    }

    fn from_stored(_: TransferKey, stored: Self) -> Self {
        stored
    }
}

const INVOICE: Invoice = Invoice { id: 7, balance: 3 };

/// Checks that a refusal of [`Invoice`] names both models and both buckets.
fn is_refused(error: &Error) {
    assert!(matches!(error.kind(), ErrorKind::InvalidBatch { .. }), "{error}");
    assert_eq!(error.outcome(), Outcome::NotApplied);
    let text = error.to_string();
    for part in ["transaction_models::Invoice`", "transaction_models::Account`", "`invoices`", "`accounts`"] {
        assert!(text.contains(part), "`{part}` is missing: {text}");
    }
}

/// Checks a refusal of the key of [`Invoice`].
fn is_refused_key(error: &Error) {
    assert!(matches!(error.kind(), ErrorKind::InvalidBatch { .. }), "{error}");
    let text = error.to_string();
    for part in ["transaction_models::InvoiceKey`", "transaction_models::Account`", "`invoices`", "`accounts`"] {
        assert!(text.contains(part), "`{part}` is missing: {text}");
    }
}

fn kv_of(result: Result<(), TransactError>) -> Error {
    result.expect_err("it is refused").into()
}

on_both_backends! {
    async fn transaction_rejects_model_of_other_bucket(world: World) {
        let accounts = world.bucket::<Account>().await;
        let account = accounts.put(&Account { id: 7, balance: 1 }).await.unwrap();
        for transaction in [
            accounts.transaction().put(&INVOICE),
            accounts.transaction().create(&INVOICE),
            accounts.transaction().update(&INVOICE, account),
            accounts.transaction().create(&Account { id: 8, balance: 0 }).put(&INVOICE).ttl(Duration::from_secs(5)),
        ] {
            is_refused(&transaction.commit().await.unwrap_err());
        }
        assert_eq!(accounts.status().await.unwrap().last_revision, account, "nothing was written");
    }

    async fn transact_rejects_model_of_other_bucket(world: World) {
        let accounts = world.bucket::<Account>().await;
        let account = accounts.put(&Account { id: 7, balance: 1 }).await.unwrap();
        let minute = Duration::from_secs(60);
        let key = &InvoiceKey::new(7_u64);
        is_refused(&kv_of(accounts.transact(|tx| async move { Ok(tx.put(&INVOICE)?) }).await));
        is_refused(&kv_of(accounts.transact(|tx| async move { Ok(tx.put_for(&INVOICE, minute)?) }).await));
        is_refused(&kv_of(accounts.transact(|tx| async move { Ok(tx.create(&INVOICE).await?) }).await));
        let through_of = accounts.transact(|tx| async move {
            let invoices = tx.model::<Invoice>();
            is_refused(&invoices.get(key).await.expect_err("a read"));
            is_refused(&invoices.put(&INVOICE).expect_err("a put"));
            is_refused(&invoices.put_for(&INVOICE, minute).expect_err("a put with a TTL"));
            is_refused(&invoices.create(&INVOICE).await.expect_err("a creation"));
            is_refused(&invoices.delete(key).expect_err("a removal"));
            is_refused(&invoices.purge(key).expect_err("a purge"));
            // The model of the bucket itself can still be used.
            Ok(invoices.model::<Account>().get(&AccountKey::new(7_u64)).await?.map(|account| account.balance))
        });
        assert_eq!(through_of.await.unwrap(), Some(1));
        assert_eq!(accounts.status().await.unwrap().last_revision, account, "nothing was written");
    }

    async fn transactions_reject_key_of_other_bucket(world: World) {
        let accounts = world.bucket::<Account>().await;
        let account = accounts.put(&Account { id: 7, balance: 1 }).await.unwrap();
        let key = &InvoiceKey::new(7_u64);
        for transaction in [
            accounts.transaction().delete(key),
            accounts.transaction().purge(key),
            accounts.transaction().put(&Account { id: 8, balance: 0 }).check(key, account),
        ] {
            is_refused_key(&transaction.commit().await.unwrap_err());
        }
        is_refused_key(&kv_of(accounts.transact(|tx| async move { Ok(tx.delete(key)?) }).await));
        is_refused_key(&kv_of(accounts.transact(|tx| async move { Ok(tx.purge(key)?) }).await));
        assert_eq!(accounts.status().await.unwrap().last_revision, account, "nothing was written");
        // Keys of a model that declares the same bucket are accepted.
        accounts.transaction().put(&Transfer { id: 1 }).delete(&AccountKey::new(7_u64)).commit().await.unwrap();
        accounts.transaction().delete(&TransferKey::new(1_u64)).commit().await.unwrap();
        let removal = accounts.transact(|tx| async move { Ok(tx.model::<Note>().purge(&TransferKey::new(1_u64))?) });
        removal.await.unwrap();
    }

    async fn models_of_same_bucket_share_transaction(world: World) {
        // The bucket has another name than the models declare.
        let accounts = world.bucket::<Account>().await;
        let note = Note { id: 2 };
        let all = accounts.transaction().create(&Account { id: 7, balance: 1 }).create(&Transfer { id: 1 }).create(&note);
        assert_eq!(all.commit().await.unwrap().revisions().len(), 3);
        let read = accounts.transact(|tx| async move {
            tx.model::<Transfer>().put(&Transfer { id: 1 })?;
            tx.put(&Note { id: 3 })?;
            Ok(tx.model::<Note>().get(&TransferKey::new(2_u64)).await?)
        });
        assert_eq!(read.await.unwrap(), Some(note));
    }

    async fn renamed_bucket_accepts_models_of_that_name(world: World) {
        let accounts = world.fresh::<Account>().await.unwrap();
        is_refused(&accounts.transaction().put(&INVOICE).commit().await.unwrap_err());
        let shared = world.another().await.bucket::<Account>().name("invoices").await.unwrap();
        shared.transaction().put(&INVOICE).put(&Transfer { id: 1 }).commit().await.unwrap();
        shared.destroy().await.unwrap();
        // The error also names a bucket name that no model declares.
        let name = unique("elsewhere");
        let other_store = world.store.bucket::<Account>().name(name.as_str()).await.unwrap();
        let error = other_store.transaction().put(&INVOICE).commit().await.unwrap_err();
        is_refused(&error);
        assert!(error.to_string().contains(&format!("opened as `{name}`")), "{error}");
    }
}
