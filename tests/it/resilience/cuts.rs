//! In every provider's dialect, cut after any frame and inside any character: the text is that of an answer never cut.
//!
//! The provider that goes on says exactly what was not said, in the same dialect, asked by prefill and in words.

use serde_json::{Value, json};

use super::{PLAIN, ask, assert_gapless, done, replay};
use crate::harness::provider::{Request, closing, frame};
use crate::harness::sse::text_of;
use crate::harness::{FakeProvider, Script, Server};

/// As tokenizers cut it: characters of two to four bytes, white space of every kind, and at the end.
const TOKENS: [&str; 16] = [
    "Grüße", " aus", " 東", "京", "!", "\n\n", "- one", " 🌍", "\n", "- two", " 🌍", "\n", "\n", "The",
    " en", "d.\n",
];

#[derive(Debug, Clone, Copy, PartialEq)]
enum Dialect {
    OpenAiChat,
    OpenAiResponses,
    Anthropic,
    Gemini,
    Ollama,
}

use Dialect::{Anthropic, Gemini, Ollama, OpenAiChat, OpenAiResponses};

const DIALECTS: [(Dialect, &str); 5] = [
    (OpenAiChat, "openai-chat"),
    (OpenAiResponses, "openai-responses"),
    (Anthropic, "anthropic"),
    (Gemini, "gemini"),
    (Ollama, "ollama"),
];

impl Dialect {
    /// A whole answer of these tokens, a frame each.
    fn answer(self, tokens: &[&str]) -> String {
        match self {
            OpenAiChat => tokens.iter().map(|text| frame(text)).collect::<String>() + &closing(),
            OpenAiResponses => responses(tokens),
            Anthropic => anthropic(tokens),
            Gemini => gemini(tokens),
            Ollama => ollama(tokens),
        }
    }

    /// Where frames end, and the places inside characters.
    fn cuts(self, answer: &str) -> Vec<usize> {
        let end = if self == Ollama { "\n" } else { "\n\n" };
        let whole_frame = |at: &usize| answer.as_bytes()[..*at].ends_with(end.as_bytes());
        (1..answer.len()).filter(|at| whole_frame(at) || !answer.is_char_boundary(*at)).collect()
    }

    fn script(self, body: &[u8]) -> Script {
        let kind = if self == Ollama { "application/x-ndjson" } else { "text/event-stream" };
        let head = [("content-type", kind), ("transfer-encoding", "chunked")];
        Script::default().head(200, &head).send(body)
    }

    /// What the request says was said before; empty if it asks for the whole answer.
    fn said(self, request: &Request) -> String {
        let body = request.body();
        let turns = match self {
            OpenAiChat | Anthropic | Ollama => &body["messages"],
            OpenAiResponses => &body["input"],
            Gemini => &body["contents"],
        };
        let ours = |turn: &&Value| turn["role"] == "assistant" || turn["role"] == "model";
        let Some(turn) = turns.as_array().into_iter().flatten().find(ours) else { return String::new() };
        let content = if self == Gemini { &turn["parts"] } else { &turn["content"] };
        let text = content.as_str().or(content[0]["text"].as_str());
        text.expect("what was said").to_owned()
    }
}

fn event(data: &Value) -> String {
    format!("event: {}\ndata: {data}\n\n", data["type"].as_str().unwrap())
}

fn responses(tokens: &[&str]) -> String {
    let (text, place) = (tokens.concat(), ("output_index", "content_index"));
    let part = |text: &str| json!({"type": "output_text", "annotations": [], "text": text});
    let item = |status: &str, content: Vec<Value>| json!({"id": "msg_1", "type": "message", "status": status, "role": "assistant", "content": content});
    let response = |status: &str, output: Vec<Value>, usage: Value| json!({"id": "resp_1", "object": "response", "created_at": 1, "status": status, "model": "fake-1", "output": output, "usage": usage});
    let mut events = vec![
        json!({"type": "response.created", "response": response("in_progress", vec![], Value::Null)}),
        json!({"type": "response.output_item.added", "output_index": 0, "item": item("in_progress", vec![])}),
        json!({"type": "response.content_part.added", "item_id": "msg_1", place.0: 0, place.1: 0, "part": part("")}),
    ];
    events.extend(tokens.iter().map(|text| {
        json!({"type": "response.output_text.delta", "item_id": "msg_1", place.0: 0, place.1: 0, "delta": text})
    }));
    let whole = item("completed", vec![part(&text)]);
    let usage = json!({"input_tokens": 3, "output_tokens": 5, "total_tokens": 8});
    events.extend([
        json!({"type": "response.output_text.done", "item_id": "msg_1", place.0: 0, place.1: 0, "text": text}),
        json!({"type": "response.content_part.done", "item_id": "msg_1", place.0: 0, place.1: 0, "part": part(&text)}),
        json!({"type": "response.output_item.done", "output_index": 0, "item": whole}),
        json!({"type": "response.completed", "response": response("completed", vec![whole], usage)}),
    ]);
    let numbered = events.into_iter().enumerate().map(|(n, mut data)| {
        data["sequence_number"] = n.into();
        event(&data)
    });
    numbered.collect()
}

fn anthropic(tokens: &[&str]) -> String {
    let message = json!({"id": "msg_1", "type": "message", "role": "assistant", "model": "fake-1", "content": [],
                         "stop_reason": null, "usage": {"input_tokens": 3, "output_tokens": 1}});
    let mut events = vec![
        json!({"type": "message_start", "message": message}),
        json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
    ];
    events.extend(tokens.iter().map(|text| {
        json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}})
    }));
    events.extend([
        json!({"type": "content_block_stop", "index": 0}),
        json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 5}}),
        json!({"type": "message_stop"}),
    ]);
    events.iter().map(event).collect()
}

fn gemini(tokens: &[&str]) -> String {
    let chunk = |text: &str, finish: Option<&str>| {
        let mut candidate = json!({"index": 0, "content": {"role": "model", "parts": [{"text": text}]}});
        if let Some(finish) = finish {
            candidate["finishReason"] = finish.into();
        }
        let usage = json!({"promptTokenCount": 3, "candidatesTokenCount": 5, "totalTokenCount": 8});
        let data = json!({"candidates": [candidate], "usageMetadata": usage, "modelVersion": "fake-1", "responseId": "r1"});
        format!("data: {data}\n\n")
    };
    tokens.iter().map(|text| chunk(text, None)).collect::<String>() + &chunk("", Some("STOP"))
}

fn ollama(tokens: &[&str]) -> String {
    let line = |text: &str, more: Value| {
        let mut line = json!({"model": "fake-1", "created_at": "2026-11-20T09:12:33Z", "message": {"role": "assistant", "content": text}});
        line.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        format!("{line}\n")
    };
    let end = json!({"done": true, "done_reason": "stop", "prompt_eval_count": 3, "eval_count": 5});
    tokens.iter().map(|text| line(text, json!({"done": false}))).collect::<String>() + &line("", end)
}

/// Cuts an answer of this dialect everywhere, one stream after the other.
async fn cut_everywhere(dialect: Dialect, name: &str, prefill: bool) {
    let whole = dialect.answer(&TOKENS);
    let cuts = dialect.cuts(&whole);
    assert!(cuts.len() > TOKENS.len() + 10, "{name}: {} cuts", cuts.len());
    let (body, places) = (whole.clone(), cuts.clone());
    let dies = FakeProvider::by(move |n, _| dialect.script(&body.as_bytes()[..places[n]]).cut()).await;
    let helps = FakeProvider::by(move |_, request| {
        let (said, text) = (dialect.said(request), TOKENS.concat());
        let rest = text.strip_prefix(&said).unwrap_or_else(|| panic!("not what was said: {said:?}"));
        dialect.script(dialect.answer(&rest.split_inclusive(' ').collect::<Vec<_>>()).as_bytes()).end()
    })
    .await;
    let config = format!(
        "[models.m]\ntargets = [{{ provider = \"a\", model = \"x\" }}, {{ provider = \"b\", model = \"y\" }}]\n\
         {PLAIN}\nprefill = {prefill}\n{}{}",
        dies.speaking("a", name),
        helps.speaking("b", name),
    );
    let server = Server::new(&config).await;
    for (n, at) in cuts.iter().enumerate() {
        let what =
            format!("{name}, prefill {prefill}, cut at {at}: {:?}", &whole[..whole.floor_char_boundary(*at)]);
        let events = replay(&server, &ask()).await;
        assert_eq!(
            (text_of(&events), &done(&events)["status"]),
            (TOKENS.concat(), &json!("completed")),
            "{what}"
        );
        assert_gapless(&events, &what);
        assert_eq!((dies.calls(), helps.calls()), (n + 1, n + 1), "{what}");
    }
    server.finish().await;
}

#[tokio::test]
async fn in_every_dialect_an_answer_that_is_gone_on_with_after_any_cut_is_whole() {
    for (dialect, name) in DIALECTS {
        for prefill in [true, false] {
            cut_everywhere(dialect, name, prefill).await;
        }
    }
}
