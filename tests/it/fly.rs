//! Two machines on Fly, each with a store of its own: whichever is asked, the proxy gets to the one that has the stream.

use std::collections::BTreeMap;
use std::io::Write;

use relaystream::app::settings;
use relaystream::config::Config;
use reqwest::RequestBuilder;

use crate::harness::sse::text_of;
use crate::harness::{Answer, FakeProvider, Script, Server, Sse, chat, hi};

const MACHINES: [&str; 2] = ["148ed726c12358", "3d8d9dc9a05d48"];
const LISTED: &str = "[server]\nfly_machines = [\"148ed726c12358\", \"3d8d9dc9a05d48\"]\n";

async fn machine(provider: &FakeProvider, n: usize) -> Server {
    let config = format!("{LISTED}{}", provider.config());
    Server::with(&config, &[("FLY_MACHINE_ID", MACHINES[n])]).await
}

/// The machine that an answer wants to be asked instead.
fn wished(answer: &reqwest::Response) -> Option<String> {
    let wish = answer.headers().get("fly-replay")?.to_str().unwrap();
    wish.strip_prefix("instance=")?.split(';').next().map(str::to_owned)
}

/// Asks as Fly's proxy does: the second machine first, then whichever that names.
async fn through_the_proxy(
    [one, two]: [&Server; 2],
    ask: impl Fn(&Server) -> RequestBuilder,
) -> reqwest::Response {
    let answer = two.send(ask(two)).await;
    let Some(machine) = wished(&answer) else { return answer };
    assert_eq!((answer.status().as_u16(), machine.as_str()), (421, MACHINES[0]));
    one.send(ask(one).header("fly-replay-src", format!("instance={}", MACHINES[1]))).await
}

#[tokio::test]
async fn a_stream_of_another_machine_is_asked_for_there() {
    let provider = FakeProvider::new([Script::answer(&["Hel", "lo"])]).await;
    let (one, two) = (machine(&provider, 0).await, machine(&provider, 1).await);
    let id = one.start(&hi()).await;
    one.ended(&id).await;
    let both = [&one, &two];
    let events = format!("/v1/streams/{id}/events");
    let mut viewer = Sse::new(through_the_proxy(both, |server| server.get(&events)).await);
    let seen = viewer.rest().await;
    assert_eq!(text_of(&seen), "Hello");
    let resume = |server: &Server| {
        server.get("/v1/chat/stream?prompt=Hi&model=fake-1").header("last-event-id", seen[1].id())
    };
    let mut resumed = Sse::new(through_the_proxy(both, resume).await);
    assert_eq!(text_of(&resumed.rest().await), "lo");
    let response = format!("/v1/responses/resp_{id}");
    for path in [format!("/v1/streams/{id}"), format!("/v1/streams/{id}/poll"), response] {
        let answer = through_the_proxy(both, |server| server.get(&path)).await;
        assert_eq!(answer.status(), 200, "{path}");
    }
    let gone = through_the_proxy(both, |server| server.delete(&format!("/v1/streams/{id}"))).await;
    assert_eq!(gone.status(), 204);
    // The machine that must have it does not: nobody else is asked.
    let answer = through_the_proxy(both, |server| server.get(&events)).await;
    assert_eq!((answer.status().as_u16(), wished(&answer)), (404, None));
    one.finish().await;
    two.finish().await;
}

#[tokio::test]
async fn a_machine_that_is_away_is_waited_for() {
    let provider = FakeProvider::new([Script::answer(&["Hello"])]).await;
    let (one, two) = (machine(&provider, 0).await, machine(&provider, 1).await);
    let id = one.start(&hi()).await;
    let position = one.replay(&id).await[0].id().to_owned();
    let back = |path: &str| two.get(path).header("fly-replay-failed", "timeout");
    let events = format!("/v1/streams/{id}/events");
    let refused = Answer::of(two.send(back(&events)).await).await;
    assert_eq!((refused.status, refused.code().as_str()), (503, "store_unavailable"));
    let mut reconnect = two.sse_of(back(&events).header("last-event-id", position)).await;
    let notice = reconnect.expect("notice").await;
    assert_eq!(notice.json()["code"], "store_unavailable");
    assert!(notice.retry_ms.is_some());
    one.finish().await;
    two.finish().await;
}

#[test]
fn a_list_that_cannot_be_meant_is_refused() {
    let named = BTreeMap::from([("FLY_MACHINE_ID".to_owned(), MACHINES[0].to_owned())]);
    let redis = "[store]\nengine = \"redis\"\nurl = \"redis://127.0.0.1\"\n";
    for (text, environment, said) in [
        (LISTED.to_owned(), BTreeMap::new(), "FLY_MACHINE_ID"),
        ("[server]\nfly_machines = [\"1\"]\n".to_owned(), named.clone(), MACHINES[0]),
        (format!("{LISTED}{redis}"), named, "Redis"),
    ] {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let config = Config::load(Some(file.path()), &environment).unwrap();
        let error = format!("{:#}", settings(&config, false, &environment).err().unwrap());
        assert!(error.starts_with("server.fly_machines: ") && error.contains(said), "{error}");
    }
}

#[tokio::test]
async fn what_says_nothing_of_a_machine_stays() {
    let provider = FakeProvider::new([Script::answer(&["Hello"])]).await;
    let two = machine(&provider, 1).await;
    let unlisted = Server::before(&provider, "").await;
    let id = unlisted.start(&hi()).await;
    unlisted.ended(&id).await;
    for path in ["/v1/streams/nonsense/events", "/v1/responses/resp_1", "/v1/sessions/room-1", "/healthz"] {
        assert_eq!(wished(&two.send(two.get(path)).await), None, "{path}");
    }
    let own = two.start(&hi()).await;
    two.ended(&own).await;
    assert_eq!(text_of(&two.replay(&own).await), "Hello");
    // Without a list nobody is sent anywhere.
    let foreign = unlisted.send(unlisted.get(&format!("/v1/streams/{own}"))).await;
    assert_eq!((foreign.status().as_u16(), wished(&foreign)), (404, None));
    let answer = Answer::of(two.send(two.post("/v1/chat/completions", &chat())).await).await;
    let tag = |id: &str| id[10..14].to_owned();
    assert_eq!(tag(answer.header("x-stream-id")), tag(&own));
    two.finish().await;
    unlisted.finish().await;
}
