//! The native API and the compatible routes, as a client sees them.

use serde_json::json;

use crate::harness::sse::{text_of, types};
use crate::harness::{FakeProvider, Script, Server};

#[tokio::test]
async fn a_stream_can_be_read_to_its_end() {
    let provider = FakeProvider::new([Script::answer(&["Hello", " world"])]).await;
    let server = Server::before(&provider, "").await;
    let id = server.start(&json!({"model": "fake-1", "input": "Hi"})).await;
    let events = server.replay(&id).await;
    assert_eq!(types(&events), ["start", "token", "token", "usage", "done"]);
    assert_eq!(text_of(&events), "Hello world");
    assert_eq!(provider.request(0).await.body()["messages"][0]["content"], "Hi");
    server.finish().await;
}
