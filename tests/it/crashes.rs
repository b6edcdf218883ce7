//! `kill -9` of the real binary at random moments while it streams, over the disk, Redis and Valkey: every viewer that comes
//! back has the whole text, every stream ends, and a start that was not answered can be asked for again.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::fleet::{Fleet, provider, spawn_viewers, start, words};
use crate::harness::redis::{Engine, RedisServer};
use crate::harness::{Answer, client};
use crate::seed::Seed;

const STREAMS: usize = 8;
const LIMIT: Duration = Duration::from_secs(240);

/// Streams run while nodes crash, until so many have.
async fn survives(mut fleet: Fleet, crashes: usize) {
    let seed = Seed::of_this_run();
    let mut random = seed.random();
    let nodes = fleet.nodes.clone();
    let (mut viewers, mut ids) = (JoinSet::new(), BTreeMap::new());
    for crash in 0..crashes {
        if ids.len() * crashes <= crash * STREAMS {
            let tag = format!("s{}", ids.len());
            // The answer may be lost in a crash: the key finds the stream again.
            let mut own = random.fork();
            let (id, ()) = tokio::join!(start(&nodes, &tag, None, &mut own), async {
                let n = random.below(nodes.len());
                fleet.restart(n, "KILL").await;
            });
            spawn_viewers(&mut viewers, &nodes, (&tag, &id), &mut random);
            ids.insert(tag, id);
        }
        sleep(Duration::from_millis(random.below(400) as u64)).await;
        let n = random.below(nodes.len());
        fleet.restart(n, if random.chance(80) { "KILL" } else { "TERM" }).await;
    }
    let all = async {
        while let Some(report) = viewers.join_next().await {
            let (who, tag, heard) = report.expect("a viewer");
            assert_eq!(heard.text, words(&tag).concat(), "{who} of {tag}");
        }
    };
    assert!(timeout(LIMIT, all).await.is_ok(), "some viewers never came to the end");
    for (tag, id) in &ids {
        let url = format!("http://{}/v1/streams/{id}", random.pick(&nodes));
        let log = Answer::of(client().get(url).send().await.unwrap()).await.json();
        assert_eq!((&log["status"], &log["text"]), (&json!("completed"), &json!(words(tag).concat())));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_the_disk_nothing_is_lost() {
    let provider = provider().await;
    let fleet = Fleet::new(&provider, "[server]\ndrain_s = 0\n", 1).await;
    survives(fleet, 30).await;
}

async fn over_nodes(engine: Engine, crashes: usize) {
    let (provider, server) = (provider().await, RedisServer::start(engine).await);
    let store =
        format!("[store]\nengine = \"redis\"\nurl = \"{}\"\n[store.redis]\nlease_ms = 1000\n", server.url());
    let fleet = Fleet::new(&provider, &format!("[server]\ndrain_s = 0\n{store}"), 2).await;
    survives(fleet, crashes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_redis_nothing_is_lost() {
    over_nodes(Engine::Redis, 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_valkey_nothing_is_lost() {
    over_nodes(Engine::Valkey, 6).await;
}
