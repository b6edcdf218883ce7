//! The contract suite on Redis.

use std::sync::Arc;

use relaystream::store::Store;
use relaystream::store::redis::Options;
use tokio::runtime::Handle;
use tokio::task::block_in_place;

use crate::harness::redis::{RedisServer, node, options};
use crate::store_contract::contract;

/// The suite makes its stores in passing; each is waited for.
fn well(options: &Options) -> Arc<dyn Store> {
    block_in_place(|| Handle::current().block_on(node(options)))
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_contract() {
    let server = RedisServer::start().await;
    contract(|| well(&options(&server.url()))).await;
}
