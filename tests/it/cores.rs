//! Several runtimes, as `serve` has them: a stream lives where its connection does, its viewers anywhere.

use serde_json::json;
use tokio::runtime::{Builder, Handle};

use crate::harness::sse::text_of;
use crate::harness::{FakeProvider, Gate, Script, Server, hi};

/// A runtime on a thread of its own, for as long as the test runs.
fn core() -> Handle {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let handle = runtime.handle().clone();
    std::thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
    handle
}

/// Few viewers are told of each token at once, many in ticks.
#[tokio::test]
async fn viewers_on_every_core_see_the_whole_stream() {
    for viewers in [3, 12] {
        let gate = Gate::default();
        let script = Script::stream().token("Hel").wait(&gate).token("lo").token(", you").finish();
        let provider = FakeProvider::new([script]).await;
        let cores = vec![Handle::current(), core(), core()];
        let server = Server::across(cores, &provider.config(), &[]).await;
        let id = server.start(&hi()).await;
        let mut connected = Vec::new();
        for _ in 0..viewers {
            let mut viewer = server.sse(&format!("/v1/streams/{id}/events")).await;
            assert_eq!(text_of(&viewer.until("token").await), "Hel");
            connected.push(viewer);
        }
        gate.open();
        for viewer in &mut connected {
            assert_eq!(text_of(&viewer.until("done").await), "lo, you");
        }
        drop(connected);
        assert_eq!(server.ended(&id).await["status"], json!("completed"));
        server.finish().await;
    }
}
