//! A seam as each surface's client sees it: the first answer's name, running numbers, one text.

use relaystream::surface::Surface;
use serde_json::{Value, json};

use super::{PLAIN, assert_gapless};
use crate::harness::provider::frame;
use crate::harness::sse::{BodyEnd, text_of};
use crate::harness::{FakeProvider, Script, Server};
use crate::heard::{Heard, blocks, scan};

/// The whole answer of a dialect's fixture, and what of it a cut lets through: all up to the n-th piece of text.
fn fixture(dialect: &str) -> (String, String) {
    let name = match dialect {
        "openai-chat" | "openai-responses" => "openai_text",
        _ => "text",
    };
    let file = match dialect {
        "ollama" => "ollama/text.ndjson".to_owned(),
        _ => format!("{dialect}/{name}.sse"),
    };
    let path = format!("{}/tests/fixtures/{file}", env!("CARGO_MANIFEST_DIR"));
    let whole = std::fs::read_to_string(path).expect("a fixture");
    let separator = match dialect {
        "ollama" => "\n",
        "gemini" => "\r\n\r\n",
        _ => "\n\n",
    };
    let mut begun = String::new();
    let mut pieces = 0;
    for event in whole.split_inclusive(separator) {
        begun.push_str(event);
        let says = match dialect {
            "openai-chat" | "ollama" => {
                event.contains("\"content\":\"") && !event.contains("\"content\":\"\"")
            }
            "openai-responses" => event.contains("response.output_text.delta"),
            "anthropic" => event.contains("text_delta"),
            _ => event.contains("\"text\""),
        };
        pieces += usize::from(says);
        if pieces == 2 {
            return (whole, begun);
        }
    }
    panic!("{dialect}: too short an answer");
}

/// The first answer of this dialect is cut; one of openai-chat goes on with it.
async fn cut(dialect: &str) -> (FakeProvider, FakeProvider, Server) {
    let (_, begun) = fixture(dialect);
    let kind = if dialect == "ollama" { "application/x-ndjson" } else { "text/event-stream" };
    let head = [("content-type", kind), ("transfer-encoding", "chunked")];
    let dies = FakeProvider::new([Script::default().head(200, &head).send(begun).cut()]).await;
    let helps = FakeProvider::new([Script::answer(&[" and", " so on."])]).await;
    let config = format!(
        "[models.m]\ntargets = [{{ provider = \"a\", model = \"x\" }}, {{ provider = \"b\", model = \"y\" }}]\n{PLAIN}\n{}{}",
        dies.speaking("a", dialect),
        helps.named("b"),
    );
    let server = Server::new(&config).await;
    (dies, helps, server)
}

const DIALECTS: [&str; 5] = ["openai-chat", "openai-responses", "anthropic", "gemini", "ollama"];

#[tokio::test]
async fn every_surface_goes_on_over_every_dialects_seam() {
    for dialect in DIALECTS {
        let (_dies, _helps, server) = cut(dialect).await;
        let id = server.start(&json!({"model": "m", "input": "Hi"})).await;
        let events = server.replay(&id).await;
        assert_gapless(&events, dialect);
        let text = text_of(&events);
        assert!(text.ends_with(" and so on.") && text.len() > 11, "{dialect}: {text}");
        for surface in Surface::ALL {
            let what = format!("{} over {dialect}", surface.name());
            let mut viewer = server.sse(&format!("/v1/streams/{id}/events?format={}", surface.name())).await;
            while viewer.more().await {}
            let raw = std::mem::take(&mut viewer.raw);
            scan(&raw, &what);
            let heard = Heard::of(surface, &raw);
            assert_eq!(
                (heard.text.as_str(), heard.ended, viewer.end),
                (text.as_str(), true, Some(BodyEnd::Clean)),
                "{what}"
            );
            well_formed(surface, &raw, &what);
        }
        server.finish().await;
    }
}

/// One answer from its first frame to its last: one name, one beginning, one end, numbers without a gap.
fn well_formed(surface: Surface, raw: &[u8], what: &str) {
    let blocks = blocks(raw);
    let frames: Vec<Value> =
        blocks.iter().filter_map(|block| serde_json::from_str(&block.data).ok()).collect();
    let one = |field: &dyn Fn(&Value) -> Value| {
        let mut said: Vec<Value> = frames.iter().map(field).filter(|value| !value.is_null()).collect();
        said.dedup();
        assert_eq!(said.len(), 1, "{what}: {said:?}");
    };
    let count = |kind: &str| frames.iter().filter(|frame| frame["type"] == kind).count();
    match surface {
        Surface::OpenAiChat => {
            one(&|frame| frame["id"].clone());
            one(&|frame| frame["created"].clone());
            one(&|frame| frame["model"].clone());
            assert_eq!(blocks.last().expect("blocks").data, "[DONE]");
            let roles =
                frames.iter().filter(|frame| frame["choices"][0]["delta"]["role"] == "assistant").count();
            assert_eq!(roles, 1, "{what}");
        }
        Surface::OpenAiResponses => {
            one(&|frame| frame["response"]["id"].clone());
            for (n, frame) in frames.iter().enumerate() {
                assert_eq!(frame["sequence_number"], n, "{what}");
            }
            assert_eq!((count("response.created"), count("response.completed")), (1, 1), "{what}");
            assert_eq!(
                (count("response.output_item.added"), count("response.output_item.done")),
                (1, 1),
                "{what}"
            );
        }
        Surface::Anthropic => {
            assert_eq!((count("message_start"), count("message_stop")), (1, 1), "{what}");
            assert_eq!((count("content_block_start"), count("content_block_stop")), (1, 1), "{what}");
            assert_eq!(count("message_delta"), 1, "{what}");
        }
        Surface::Gemini => {
            one(&|frame| frame["responseId"].clone());
            one(&|frame| frame["modelVersion"].clone());
        }
        Surface::AiSdk => {
            for kind in ["start", "text-start", "text-end", "finish"] {
                assert_eq!(count(kind), 1, "{what}: {kind}");
            }
        }
        Surface::Native | Surface::Plain => {}
    }
}

/// What was forwarded before the seam stays as its provider sent it.
#[tokio::test]
async fn up_to_the_seam_frames_are_the_providers_own() {
    for dialect in ["openai-chat", "openai-responses", "anthropic", "gemini"] {
        let (_, begun) = fixture(dialect);
        // Pings are not passed on: we have our own.
        let begun: String =
            begun.split_inclusive("\n\n").filter(|event| !event.contains("\"ping\"")).collect();
        let (_dies, _helps, server) = cut(dialect).await;
        let id = server.start(&json!({"model": "m", "input": "Hi"})).await;
        server.ended(&id).await;
        let mut viewer = server.sse(&format!("/v1/streams/{id}/events?format={dialect}&ids=0")).await;
        while viewer.more().await {}
        let lines: String =
            viewer.text().split_inclusive('\n').filter(|line| !line.starts_with("id: ")).collect();
        assert!(lines.starts_with(&begun), "{dialect}: {lines}");
        server.finish().await;
    }
}

/// Anthropic's models do not take white space at the end of what they are to go on with.
#[tokio::test]
async fn white_space_that_anthropic_is_not_sent_is_there_once() {
    for (said, again) in [
        ("one two ", "three"),
        ("one two ", " three"),
        ("one two\n\n", "three"),
        ("one two\n\n", "\n\nthree"),
    ] {
        let dies = FakeProvider::new([Script::stream().token(said).cut()]).await;
        let (whole, _) = fixture("anthropic");
        let body = rewritten(&whole, again);
        let helps = FakeProvider::new([Script::stream().send(body).end()]).await;
        let config = format!(
            "[models.m]\ntargets = [{{ provider = \"a\", model = \"x\" }}, {{ provider = \"b\", model = \"y\" }}]\n{PLAIN}\n{}{}",
            dies.named("a"),
            helps.speaking("b", "anthropic"),
        );
        let server = Server::new(&config).await;
        let id = server.start(&json!({"model": "m", "input": "Hi"})).await;
        assert_eq!(server.ended(&id).await["text"], format!("{said}three"), "{said:?} + {again:?}");
        let sent = helps.request(0).await.body();
        let last = sent["messages"].as_array().expect("messages").last().expect("one").clone();
        assert_eq!(last, json!({"role": "assistant", "content": [{"type": "text", "text": "one two"}]}));
        server.finish().await;
    }
}

/// The answer with one piece of text instead of its own.
fn rewritten(whole: &str, text: &str) -> String {
    let mut said = false;
    let mut events = Vec::new();
    for event in whole.split_inclusive("\n\n") {
        if !event.contains("text_delta") {
            events.push(event.to_owned());
        } else if !std::mem::replace(&mut said, true) {
            let delta = json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}});
            events.push(format!("event: content_block_delta\ndata: {delta}\n\n"));
        }
    }
    events.concat()
}

/// The built-in provider goes on with what it had said.
#[tokio::test]
async fn the_demo_goes_on_too() {
    let dies = FakeProvider::new([Script::stream().send(frame("### You asked: “Hi”\n")).cut()]).await;
    let config = format!(
        "{}[models.m]\ntargets = [{{ provider = \"a\", model = \"x\" }}, {{ provider = \"demo\", model = \"demo-fast\" }}]\n{PLAIN}\n",
        dies.named("a")
    );
    let server = Server::new(&config).await;
    let ours = server.start(&json!({"model": "demo/demo-fast", "input": "Hi"})).await;
    let whole = server.ended(&ours).await["text"].clone();
    let id = server.start(&json!({"model": "m", "input": "Hi"})).await;
    assert_eq!(server.ended(&id).await["text"], whole);
    server.finish().await;
}
