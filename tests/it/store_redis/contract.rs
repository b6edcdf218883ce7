//! The contract suite on Redis.

use std::sync::Arc;

use relaystream::store::Store;
use relaystream::store::redis::Options;
use tokio::runtime::Handle;
use tokio::task::block_in_place;

use crate::harness::cluster::Cluster;
use crate::harness::redis::{Engine, RedisServer, node, on_each_engine, options};
use crate::store_contract::{contract, full_refuses_but_for_endings as full_refuses};

on_each_engine! {
    keeps_the_contract,
    keeps_the_contract_on_a_cluster,
    full_refuses_but_for_endings,
}

/// The suite makes its stores in passing; each is waited for.
fn well(options: &Options) -> Arc<dyn Store> {
    block_in_place(|| Handle::current().block_on(node(options)))
}

async fn keeps_the_contract(engine: Engine) {
    let server = RedisServer::start(engine).await;
    contract(|| well(&options(&server.url()))).await;
}

async fn keeps_the_contract_on_a_cluster(engine: Engine) {
    let cluster = Cluster::start(engine).await;
    contract(|| well(&options(&cluster.url()))).await;
}

async fn full_refuses_but_for_endings(engine: Engine) {
    let server = RedisServer::start(engine).await;
    let (total, user) = (
        Options { total_bytes: 4_000, ..options(&server.url()) },
        Options { user_bytes: 4_000, ..options(&server.url()) },
    );
    full_refuses(&*node(&total).await, "a/b").await;
    full_refuses(&*node(&user).await, "a/b").await;
}
