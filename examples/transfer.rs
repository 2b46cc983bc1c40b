//! Concurrent transfers between accounts: the sum of all balances never changes.
//!
//! `cargo run --example transfer` needs no server. With `KVTYPED_URL=nats://127.0.0.1:4222`, the same program runs on a
//! real server (nats-server 2.12 or newer).

use std::fmt;

use kvtyped::Error;
use kvtyped::prelude::*;
use kvtyped::txn::TransactError;

/// An account. Two models share one bucket, each with its own keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "transfer_example", key = "account.{owner}")]
struct Account {
    owner: String,
    balance: u32,
}

/// The record of one transfer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "transfer_example", key = "transfer.{number}")]
struct Transfer {
    number: u32,
    from: String,
    to: String,
    amount: u32,
}

#[derive(Debug)]
enum Refused {
    NoAccount,
    Overdrawn,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAccount => f.write_str("there is no such account"),
            Self::Overdrawn => f.write_str("there is not enough on it"),
        }
    }
}

impl std::error::Error for Refused {}

const OWNERS: [&str; 4] = ["ada", "alan", "grace", "linus"];

/// Changes both accounts and records the transfer, or does nothing, regardless of concurrent writers.
async fn transfer(bank: &Bucket<Account>, transfer: &Transfer) -> Result<(), TransactError> {
    let moved = bank.transact(|tx| async move {
        let mut from = tx.get(&AccountKey::new(&*transfer.from)).await?.ok_or(Refused::NoAccount)?;
        let mut to = tx.get(&AccountKey::new(&*transfer.to)).await?.ok_or(Refused::NoAccount)?;
        from.balance = from.balance.checked_sub(transfer.amount).ok_or(Refused::Overdrawn)?;
        to.balance += transfer.amount;
        tx.put(&from)?;
        tx.put(&to)?;
        tx.create(transfer).await?;
        Ok(())
    });
    moved.timeout(Duration::from_secs(30)).await
}

/// Returns the sum of all balances at one moment.
async fn sum(bank: &Bucket<Account>) -> Result<u32, TransactError> {
    let all = bank.transact(|tx| async move {
        let mut sum = 0;
        for owner in OWNERS {
            sum += tx.get(&AccountKey::new(owner)).await?.ok_or(Refused::NoAccount)?.balance;
        }
        Ok(sum)
    });
    all.await
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let url = std::env::var("KVTYPED_URL").unwrap_or_else(|_| "memory:".into());
    let store = Store::connect(url).await?;
    store.delete_bucket("transfer_example").await?;
    let bank: Bucket<Account> = store.bucket().await?;

    println!("Open four accounts, all or none");
    let accounts = OWNERS.map(|owner| Account { owner: owner.into(), balance: 100 });
    let opening = accounts.iter().fold(bank.transaction(), |all, account| all.create(account));
    println!("  revisions {:?}", opening.commit().await?.revisions());

    println!("Transfer by eight tasks at once");
    let tasks = (0..8).map(|task| {
        let bank = bank.clone();
        tokio::spawn(async move {
            let mut refused = 0;
            for number in task * 10..task * 10 + 10 {
                let [from, to] = [number, number + 1 + number / 3 % 3].map(|n| OWNERS[n as usize % 4].to_owned());
                match transfer(&bank, &Transfer { number, from, to, amount: 10 + number }).await {
                    Ok(()) => {}
                    Err(error) if error.closure::<Refused>().is_some() => refused += 1,
                    Err(error) => return Err(error),
                }
            }
            Ok(refused)
        })
    });
    let mut refused = 0;
    for task in tasks.collect::<Vec<_>>() {
        refused += task.await.expect("no task panics")?;
    }
    println!("  {} were applied, {refused} refused", 80 - refused);
    println!("  together the accounts hold {}", sum(&bank).await?);

    println!("Meet a conflict");
    let key = AccountKey::new("ada");
    let read = bank.get(&key).await?.expect("it was opened");
    bank.put(read.value()).await?; // another writer comes first
    let stale = bank.transaction().update(read.value(), read.revision()).delete(&AccountKey::new("alan"));
    match stale.commit().await {
        Ok(committed) => println!("  written at {:?}", committed.revisions()),
        Err(error) => println!("  {error}"),
    }

    bank.destroy().await?;
    store.close().await
}
