//! A bank: tellers move money by transactions, and auditors sum up all accounts.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use harness::history::transfers;
use kvtyped::bucket::OpenBucket;
use kvtyped::prelude::*;
use kvtyped::txn::TransactError;
use kvtyped::{Error, Read};

use crate::model::{Account, AccountKey, Transfer, TransferKey};
use crate::worker_context::{PATIENT, WorkerContext};

const ACCOUNTS: u64 = 6;
const BALANCE: i64 = 1_000;
/// The sum of all balances.
const SUM: i64 = 6 * BALANCE;

#[derive(Debug)]
struct NoAccount;

impl fmt::Display for NoAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an account is missing")
    }
}

impl std::error::Error for NoAccount {}

/// The results of tellers and auditors.
#[derive(Debug, Clone, Default)]
pub(crate) struct Moved(Arc<Mutex<Books>>);

#[derive(Debug, Default)]
struct Books {
    /// Whether each transfer was made; `None` for an unknown outcome.
    transfers: BTreeMap<u64, Option<bool>>,
    sums: Vec<i64>,
    violations: Vec<String>,
}

impl Moved {
    fn with<R>(&self, act: impl FnOnce(&mut Books) -> R) -> R {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn failed(&self, context: &WorkerContext, error: &TransactError) -> Option<bool> {
        match error {
            TransactError::Kv(error) => {
                context.gauge.failed(error);
                (error.outcome() == Outcome::NotApplied).then_some(false)
            }
            TransactError::Closure(error) => {
                self.with(|books| books.violations.push(format!("the closure of a transaction failed: {error}")));
                Some(false)
            }
        }
    }

    /// Returns the numbers of completed transfers, of transfers of unknown outcome, and of audits.
    pub(crate) fn counts(&self) -> (usize, usize, usize) {
        self.with(|books| {
            let count = |write_fate| books.transfers.values().filter(|made| **made == write_fate).count();
            (count(Some(true)), count(None), books.sums.len())
        })
    }

    /// Compares the results with the final state of the bank.
    pub(crate) async fn check(&self, bank: &Bucket<Account>, records: &Bucket<Transfer>) -> Result<Vec<String>, Error> {
        let (reported, sums, mut violations) =
            self.with(|books| (books.transfers.clone(), books.sums.clone(), std::mem::take(&mut books.violations)));
        violations.extend(transfers::sums(SUM, &sums).iter().map(ToString::to_string));
        let keys: Vec<TransferKey> = reported.keys().copied().map(TransferKey::new).collect();
        let found = records.get_many(&keys).read(Read::Leader).timeout(PATIENT).await?;
        let mut expected: BTreeMap<u64, i64> = (0..ACCOUNTS).map(|id| (id, BALANCE)).collect();
        for ((id, made), found) in reported.iter().zip(found) {
            if let Some(entry) = &found {
                *expected.entry(entry.from).or_default() -= entry.amount;
                *expected.entry(entry.to).or_default() += entry.amount;
            }
            match made {
                Some(true) if found.is_none() => violations.push(format!("transfer {id} is lost")),
                Some(false) if found.is_some() => {
                    violations.push(format!("transfer {id} was made, and told to be not"))
                }
                _ => {}
            }
        }
        for (id, balance) in expected {
            let found = bank.get(&AccountKey::new(id)).read(Read::Leader).timeout(PATIENT).await?;
            if found.as_ref().map(|account| account.balance) != Some(balance) {
                violations.push(format!("account {id} has {found:?}, and the transfers make it {balance}"));
            }
        }
        Ok(violations)
    }
}

/// Creates the accounts.
pub(crate) async fn open_bank(open: OpenBucket<Account>) -> Bucket<Account> {
    let bank = open.await.expect("nothing fails yet");
    let mut accounts = bank.transaction();
    for id in 0..ACCOUNTS {
        accounts = accounts.create(&Account { id, balance: BALANCE });
    }
    accounts.commit().await.expect("nothing fails yet");
    bank
}

/// Moves money between accounts, repeatedly, and stores a record of each transfer.
pub(crate) async fn teller(context: WorkerContext, moved: Moved) {
    let bank: Bucket<Account> = context.bucket().await;
    for round in 0.. {
        if context.is_over() {
            return;
        }
        let dice = context.dice(round) as u64;
        let id = (context.number * 1_000_000 + round) as u64;
        let (from, to) = (dice % ACCOUNTS, (dice + 1 + dice / ACCOUNTS % (ACCOUNTS - 1)) % ACCOUNTS);
        let made = transfer(&bank, id, from, to).await;
        let made = match &made {
            Ok(()) => {
                context.gauge.done();
                Some(true)
            }
            Err(error) => moved.failed(&context, error),
        };
        moved.with(|books| books.transfers.insert(id, made));
        context.pause().await;
    }
}

async fn transfer(bank: &Bucket<Account>, id: u64, from: u64, to: u64) -> Result<(), TransactError> {
    let (from_key, to_key) = (&AccountKey::new(from), &AccountKey::new(to));
    let transfer = bank.transact(|tx| async move {
        let mut giver = tx.get(from_key).await?.ok_or(NoAccount)?;
        let mut taker = tx.get(to_key).await?.ok_or(NoAccount)?;
        let amount = 1 + giver.balance.max(0) / 10;
        giver.balance -= amount;
        taker.balance += amount;
        tx.put(&giver)?;
        tx.put(&taker)?;
        tx.create(&Transfer { id, from, to, amount }).await?;
        Ok(())
    });
    transfer.timeout(PATIENT).max_attempts(10_000).await
}

/// Sums up all accounts in a read-only transaction, repeatedly.
pub(crate) async fn auditor(context: WorkerContext, moved: Moved) {
    let bank: Bucket<Account> = context.bucket().await;
    while !context.is_over() {
        let audit = bank.transact(|tx| async move {
            let mut sum = 0;
            for id in 0..ACCOUNTS {
                sum += tx.get(&AccountKey::new(id)).await?.ok_or(NoAccount)?.balance;
            }
            Ok(sum)
        });
        match audit.timeout(PATIENT).max_attempts(10_000).await {
            Ok(sum) => {
                context.gauge.done();
                moved.with(|books| books.sums.push(sum));
            }
            Err(error) => drop(moved.failed(&context, &error)),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
