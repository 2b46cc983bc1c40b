//! Many records, with a progress bar: written, listed page by page, read by their keys, removed, compacted.
//!
//! `cargo run --example bulk_import`; with `KVTYPED_URL=nats://127.0.0.1:4222` on a real server. The argument is the
//! number of records: `cargo run --example bulk_import -- 100000`.

use indicatif::{ProgressBar, ProgressStyle};
use kvtyped::Error;
use kvtyped::prelude::*;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
#[kv(bucket = "bulk_import", key = "{country}.{id}", history = 1)]
struct Customer {
    country: String,
    id: u64,
    name: String,
}

fn bar(what: &'static str, length: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg:8} {bar:40} {pos:>7}/{len} {per_sec}");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(length).with_style(style).with_message(what)
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let url = std::env::var("KVTYPED_URL").unwrap_or_else(|_| "memory:".into());
    let count = std::env::args().nth(1).and_then(|count| count.parse().ok()).unwrap_or(10_000);
    let store = Store::connect(url).await?;
    store.delete_bucket("bulk_import").await?;
    let customers: Bucket<Customer> = store.bucket().await?;

    let rows: Vec<Customer> = (0..count)
        .map(|id| Customer { country: ["de", "fr", "it"][id as usize % 3].into(), id, name: format!("customer {id}") })
        .collect();

    // Many writes are in flight at once. Each failed write returns its own error.
    let importing = bar("import", count);
    let results =
        customers.put_many(&rows).on_progress(|written| importing.set_position(written.done as u64)).results();
    let failed =
        results.await?.into_iter().filter_map(Result::err).inspect(|error| importing.println(error.to_string()));
    let failed = failed.count();
    importing.finish();
    println!("{failed} of {count} failed; {} are French", customers.count(CustomerKey::filter().country("fr")).await?);

    // Read page by page. The cursor is a text that continues after the previous page, even in another process.
    let listing = bar("list", count);
    let mut cursor = None;
    loop {
        let list = customers.list(..).limit(4_000);
        let mut page = match cursor {
            Some(cursor) => list.after(cursor).await?,
            None => list.await?,
        };
        let before = listing.position();
        while page.try_next().await?.is_some() {
            listing.inc(1);
        }
        if listing.position() == before {
            break;
        }
        cursor = Some(page.cursor());
    }
    listing.finish();

    // Read records by their keys. The results have the order of the keys.
    let keys: Vec<CustomerKey> = rows.iter().rev().take(3).map(KvModel::key).collect();
    let names = customers.get_many(&keys).await?.into_iter().flatten().map(|customer| customer.name.clone());
    println!("the last three: {:?}", names.collect::<Vec<_>>());

    let keys: Vec<CustomerKey> = customers.keys(CustomerKey::filter().country("it")).await?.try_collect().await?;
    let removing = bar("remove", keys.len() as u64);
    customers.delete_many(&keys).on_progress(|written| removing.set_position(written.done as u64)).await?;
    removing.finish();
    let compacted = customers.compact(Duration::ZERO).await?;
    println!("{} markers removed, {} bytes", compacted.markers, compacted.bytes);

    customers.destroy().await?;
    store.close().await
}
