//! A rolling deploy: a program of version 1 and a program of version 2 change the same records, and no field is lost.
//!
//! ```sh
//! cargo run --example rolling_deploy                                               # both in this process
//! KVTYPED_URL=nats://127.0.0.1:4222 cargo run --example rolling_deploy -- old      # in one terminal
//! KVTYPED_URL=nats://127.0.0.1:4222 cargo run --example rolling_deploy -- new      # in another
//! KVTYPED_URL=nats://127.0.0.1:4222 cargo run --example rolling_deploy -- switch   # then in a third
//! KVTYPED_URL=nats://127.0.0.1:4222 cargo run --example rolling_deploy -- migrate
//! ```

use kvtyped::config::WriteEpochs;
use kvtyped::prelude::*;
use kvtyped::{Error, ErrorKind};

/// The program of yesterday.
mod old {
    use super::*;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    #[kv(bucket = "customers", key = "{id}", name = "customer", write_epochs = "open")]
    pub struct Customer {
        pub id: u64,
        pub name: String,
        pub orders: u64,
    }

    /// Counts orders until the deploy is over. Returns the number of counted orders.
    pub async fn run(store: Store) -> Result<u64, Error> {
        let customers: Bucket<Customer> = store.bucket().await?;
        let key = CustomerKey::new(7);
        let mut counted = 0;
        loop {
            let counting = customers.modify(&key, |customer| customer.orders += 1).or_insert_with(|| Customer {
                id: 7,
                name: "Ada Lovelace".into(),
                orders: 1,
            });
            match counting.await {
                Ok(entry) => {
                    counted += 1;
                    println!("old: order {} of version {}", entry.orders, entry.schema_version());
                }
                // A newer program has the records now.
                Err(error) if matches!(error.kind(), ErrorKind::Newer { .. } | ErrorKind::SchemaMoved { .. }) => {
                    println!("old: stops: {error}");
                    return Ok(counted);
                }
                Err(error) => return Err(error),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// The program of today. The name is split, and there is an e-mail address.
mod new {
    use super::*;
    use kvtyped::KvVersion;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KvModel)]
    #[kv(bucket = "customers", key = "{id}", version = 2, upgrade_from = CustomerV1, writes = 1, write_epochs = "open")]
    pub struct Customer {
        pub id: u64,
        pub first: String,
        pub last: String,
        pub email: Option<String>,
        pub orders: u64,
    }

    #[derive(Serialize, Deserialize, KvVersion)]
    #[kv(version = 1)]
    pub struct CustomerV1 {
        id: u64,
        name: String,
        orders: u64,
    }

    impl From<CustomerV1> for Customer {
        fn from(CustomerV1 { id, name, orders }: CustomerV1) -> Self {
            let (first, last) = name.split_once(' ').unwrap_or((&name, ""));
            Self { id, first: first.into(), last: last.into(), email: None, orders }
        }
    }

    /// Back to version 1, which this program writes until the switch.
    impl From<Customer> for CustomerV1 {
        fn from(Customer { id, first, last, orders, .. }: Customer) -> Self {
            Self { id, name: format!("{first} {last}"), orders }
        }
    }

    /// Counts orders, and stores the e-mail address. Stops `after` orders of version 2. Returns the number of counted
    /// orders.
    pub async fn run(store: Store, after: u64) -> Result<u64, Error> {
        let customers: Bucket<Customer> = store.bucket().await?;
        let key = CustomerKey::new(7);
        let (mut counted, mut of_this_version) = (0, 0);
        while of_this_version < after {
            let counting = customers.modify(&key, |customer| {
                customer.orders += 1;
                customer.email = Some("ada@example.com".into());
            });
            match counting.await {
                Ok(entry) => {
                    counted += 1;
                    of_this_version += u64::from(entry.schema_version() == 2);
                    println!("new: order {} of version {}", entry.orders, entry.schema_version());
                }
                // The old program has not written the record yet.
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(counted)
    }

    pub async fn switch(store: &Store) -> Result<(), Error> {
        let customers: Bucket<Customer> = store.bucket().await?;
        println!("switch: {}", customers.switch_version(2).await?);
        Ok(())
    }

    pub async fn migrate(store: &Store) -> Result<(), Error> {
        let customers: Bucket<Customer> = store.bucket().await?;
        println!("versions before: {}", customers.schema_versions().await?);
        customers.migrate().pace(2_000).await?;
        println!("versions after: {}", customers.schema_versions().await?);
        Ok(())
    }

    pub async fn customer(store: &Store) -> Result<Option<Customer>, Error> {
        let customers: Bucket<Customer> = store.bucket().await?;
        Ok(customers.get(&CustomerKey::new(7)).await?.map(|entry| entry.into_value()))
    }
}

/// Runs both programs in this process.
async fn deploy(store: Store) -> Result<(), Error> {
    // The program that creates the bucket decides on write epochs.
    let _customers: Bucket<old::Customer> = store.bucket().write_epochs(WriteEpochs::Open).await?;
    let old = tokio::spawn(old::run(store.clone()));
    let new = tokio::spawn(new::run(store.clone(), 10));
    tokio::time::sleep(Duration::from_millis(200)).await;
    new::switch(&store).await?;
    let counted = old.await.expect("it does not panic")? + new.await.expect("it does not panic")?;
    new::migrate(&store).await?;
    let customer = new::customer(&store).await?.expect("both programs wrote it");
    println!("{} {} <{}>", customer.first, customer.last, customer.email.as_deref().unwrap_or("no address"));
    assert_eq!((customer.orders, customer.email.as_deref()), (counted, Some("ada@example.com")));
    println!("{counted} orders, and no field is lost");
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let url = std::env::var("KVTYPED_URL").unwrap_or_else(|_| "memory:".into());
    let store = Store::connect(url).await?;
    match std::env::args().nth(1).as_deref() {
        Some("old") => println!("old: {} orders", old::run(store).await?),
        Some("new") => println!("new: {} orders", new::run(store, 1_000).await?),
        Some("switch") => new::switch(&store).await?,
        Some("migrate") => new::migrate(&store).await?,
        _ => deploy(store).await?,
    }
    Ok(())
}
