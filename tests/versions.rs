//! Servers of other versions than that of all tests: what they lack is told, and a handle outlives their upgrade.

use harness::Server;

use crate::needs::Feature;
use crate::support::{OLD, World};

/// A server that has single records expire, and takes no batches.
const ELEVEN: &str = "2.11.11";

async fn lacks_what_it_lacks(version: &str, numbers: [u64; 3]) {
    let server = Server::builder().version(version).start().await;
    let world = World::at(&server.url()).await;
    for feature in Feature::ALL.into_iter().filter(|feature| feature.is_missing(numbers)) {
        println!("{feature:?}: {}", feature.is_told(&world, numbers).await);
    }
}

#[tokio::test]
async fn the_oldest_server_lacks_much_and_all_of_it_is_told() {
    lacks_what_it_lacks(OLD, [2, 10, 26]).await;
}

#[tokio::test]
async fn a_server_without_batches_lacks_transactions_and_that_is_told() {
    lacks_what_it_lacks(ELEVEN, [2, 11, 11]).await;
}
