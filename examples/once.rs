//! A charge that is made only once, however many workers request it.
//!
//! ```sh
//! cargo run --example once                                               # four workers in this process
//! KVTYPED_URL=nats://127.0.0.1:4222 cargo run --example once -- order-7  # in two terminals at once
//! ```

use kvtyped::Error;
use kvtyped::prelude::*;
use kvtyped::recipes::OnceError;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Receipt {
    order: String,
    cents: u32,
    charged_by: String,
}

#[derive(Debug)]
struct Declined;

/// The payment service. The key is part of the charge: a worker may die after the charge and before it stores the
/// receipt. Another worker then repeats the call, and only the service can detect that the order is charged already.
async fn charge(idempotency_key: &str, worker: &str, declined: bool) -> Result<Receipt, Declined> {
    println!("{worker}: charges {idempotency_key}");
    tokio::time::sleep(Duration::from_millis(300)).await;
    if declined {
        return Err(Declined);
    }
    Ok(Receipt { order: idempotency_key.to_owned(), cents: 4_200, charged_by: worker.to_owned() })
}

async fn settle(store: Store, order: String, worker: String, declined: bool) -> Result<(), Error> {
    let charges = store.once::<Receipt>("charges").retention(Duration::from_secs(24 * 60 * 60));
    match charges.run(&order, || charge(&order, &worker, declined)).await {
        Ok(receipt) => println!("{worker}: {} was charged by {}", receipt.order, receipt.charged_by),
        Err(OnceError::Closure(Declined)) => println!("{worker}: {order} was declined"),
        Err(OnceError::Kv(error)) => return Err(error),
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let url = std::env::var("KVTYPED_URL").unwrap_or_else(|_| "memory:".into());
    let store = Store::connect(url).await?;
    if let Some(order) = std::env::args().nth(1) {
        return settle(store, order, format!("process {}", std::process::id()), false).await;
    }

    // The first worker is declined. Of the waiting workers, one takes over, and the others get its receipt.
    let order = format!("order-{}", std::process::id());
    let mut workers = Vec::new();
    for number in 1..=4 {
        let declined = number == 1;
        workers.push(tokio::spawn(settle(store.clone(), order.clone(), format!("worker {number}"), declined)));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for worker in workers {
        worker.await.expect("a worker does not panic")?;
    }

    // A client that retries later gets the same receipt.
    settle(store.clone(), order, "worker 5".to_owned(), false).await?;
    store.close().await
}
