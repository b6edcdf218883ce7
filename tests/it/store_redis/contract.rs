//! The contract suite on Redis.

use std::sync::Arc;

use relaystream::store::Store;
use relaystream::store::redis::Options;
use tokio::runtime::Handle;
use tokio::task::block_in_place;

use crate::harness::redis::{Cluster, RedisServer, node, options};
use crate::store_contract::{contract, full_refuses_but_for_endings as full_refuses};

/// The suite makes its stores in passing; each is waited for.
fn well(options: &Options) -> Arc<dyn Store> {
    block_in_place(|| Handle::current().block_on(node(options)))
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_contract() {
    let server = RedisServer::start().await;
    contract(|| well(&options(&server.url()))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_contract_on_a_cluster() {
    let cluster = Cluster::start().await;
    contract(|| well(&options(&cluster.url()))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn full_refuses_but_for_endings() {
    let server = RedisServer::start().await;
    let (total, user) = (
        Options { total_bytes: 4_000, ..options(&server.url()) },
        Options { user_bytes: 4_000, ..options(&server.url()) },
    );
    full_refuses(&*node(&total).await, "a/b").await;
    full_refuses(&*node(&user).await, "a/b").await;
}
