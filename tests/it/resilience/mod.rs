//! Answers that outlive their provider's failures: other targets, circuits, keys, continuation, pace, budgets.

mod budgets;
mod cache;
mod continuation;
mod cuts;
mod fallback;
mod faults;
mod health;
mod http2;
mod many;
mod pool;
mod seams;
mod tls;
mod toxic;

use serde_json::{Value, json};

use crate::harness::provider::{FakeProvider, Request};
use crate::harness::{Event, Server};

/// A model `m` of these targets in order, each a provider of its name whose model is `fake-1`.
pub fn model(targets: &[(&str, &FakeProvider)], settings: &str) -> String {
    let named: Vec<_> =
        targets.iter().map(|(name, _)| format!("{{ provider = \"{name}\", model = \"fake-1\" }}")).collect();
    let sections: String = targets.iter().map(|(name, provider)| provider.named(name)).collect();
    format!("[models.m]\ntargets = [{}]\n{settings}\n{sections}", named.join(", "))
}

/// No waits, no circuits: one failure is like the other.
pub const PLAIN: &str = "retry = { attempts = 1, base_ms = 1, max_ms = 5 }\nbreaker = { failures = 0 }";

/// Asked anew and gone on with however often it takes, by prefill.
pub const TIRELESS: &str = "retry = { attempts = 50, base_ms = 1, max_ms = 5 }\nbreaker = { failures = 0 }\n\
                            prefill = true\nmax_continuations = 50";

pub fn ask() -> Value {
    json!({"model": "m", "input": "Hi"})
}

/// Starts a stream of the model `m` and reads it to its end.
pub async fn replay(server: &Server, body: &Value) -> Vec<Event> {
    let id = server.start(body).await;
    server.replay(&id).await
}

pub fn done(events: &[Event]) -> Value {
    events.last().expect("events").json()
}

/// The codes of the notices, and whose turn it was then.
pub fn notices(events: &[Event]) -> Vec<(String, String)> {
    let said = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let notices = events.iter().filter(|event| event.event == "notice").map(Event::json);
    notices.map(|notice| (said(&notice["code"]), said(&notice["provider"]))).collect()
}

/// Ids count from 1 without a gap, through every seam.
pub fn assert_gapless(events: &[Event], what: &str) {
    for (n, event) in events.iter().enumerate() {
        assert!(event.id().ends_with(&format!("-0000-{:010}", n + 1)), "{what}: {event:?}");
    }
}

/// What the request says was said before, and whether a model is told to go on in words.
pub fn before(request: &Request) -> Option<(String, bool)> {
    let body = request.body();
    let messages = body["messages"].as_array().expect("messages").clone();
    let last = messages.last().expect("a message");
    let (begun, in_words) = match last["role"] == "assistant" {
        true => (last, false),
        false => (messages.iter().rev().nth(1)?, true),
    };
    assert_eq!(begun["role"], "assistant");
    Some((begun["content"].as_str().expect("text").to_owned(), in_words))
}
