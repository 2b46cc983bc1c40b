//! A `POST` that a client may repeat: the order is placed once for each `Idempotency-Key`.

use kvtyped::Error;
use kvtyped::prelude::*;
use kvtyped::recipes::{Ids, Once};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Order {
    pub number: u64,
    pub items: u32,
}

/// The orders of the service.
#[derive(Clone, Debug)]
pub struct Orders {
    placed: Once<Order>,
    numbers: Ids,
}

impl Orders {
    pub fn new(store: &Store) -> Self {
        let placed = store.once("web_orders").retention(Duration::from_secs(24 * 60 * 60));
        Self { placed, numbers: store.ids("web_order_numbers") }
    }

    /// Places an order, or returns the order that an earlier request with this key has placed. The key belongs to one
    /// user, so that no other user receives the order.
    pub async fn place(&self, user: u64, key: &str, items: u32) -> Result<Order, Error> {
        let placed = self.placed.run(format!("{user}/{key}"), || async {
            // The effect. If this process dies before the result is stored, it happens again: pass the key on to the
            // payment provider.
            let number = self.numbers.next().await?;
            Ok::<_, Error>(Order { number, items })
        });
        Ok(placed.await?)
    }
}
