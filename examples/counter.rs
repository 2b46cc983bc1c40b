//! Tasks, and with a URL also processes, count together: visits per page, unique numbers of orders, and mails within a
//! shared limit.
//!
//! `cargo run --example counter` needs no server. With `KVTYPED_URL=nats://127.0.0.1:4222`, start it in two terminals
//! at once: the totals include both processes.

use kvtyped::Error;
use kvtyped::prelude::*;
use kvtyped::recipes::Quota;

const TASKS: usize = 8;
const VISITS: usize = 50;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let url = std::env::var("KVTYPED_URL").unwrap_or_else(|_| "memory:".into());
    let store = Store::connect(url).await?;
    let visits = store.counters("example_visits").await?;
    let orders = store.ids("example_orders").block(20).await?;
    let mails = store.rate_limiter("example_mails", Quota::per_second(10).burst(5)).await?;
    println!("The server adds up itself: {}", visits.is_server_side().await?);

    let tasks = (0..TASKS).map(|task| {
        let (visits, orders, mails) = (visits.clone(), orders.clone(), mails.clone());
        tokio::spawn(async move {
            let page = ["home", "about", "blog"][task % 3];
            for _ in 0..VISITS {
                visits.add(page, 1).await?;
            }
            let order = orders.next().await?;
            let sent = mails.check("smtp").await?;
            Ok::<_, Error>((task, order, sent))
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        let (task, order, sent) = task.await.expect("the task ends")?;
        match sent.retry_after() {
            None => println!("  task {task} has order {order}, and may mail"),
            Some(wait) => println!("  task {task} has order {order}, and may mail in {wait:?}"),
        }
    }

    println!("{} visits by this process; by all of them:", TASKS * VISITS);
    for (page, total) in visits.all().await? {
        println!("  {page}: {total}");
    }
    Ok(())
}
