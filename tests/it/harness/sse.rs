//! Reads an event stream as a client would, and keeps every byte of it.
//!
//! A parser of its own, of few lines, so that the server's writer is not checked by the server's parser.

use serde_json::Value;

use super::soon;

/// One event. `id` and `retry_ms` are those of its own block, not carried over.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Event {
    pub id: Option<String>,
    pub event: String,
    pub retry_ms: Option<u64>,
    pub data: String,
}

impl Event {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|error| panic!("{error}: {}", self.data))
    }

    /// The id, which must be there.
    pub fn id(&self) -> &str {
        self.id.as_deref().unwrap_or_else(|| panic!("no id: {self:?}"))
    }
}

/// How a body ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyEnd {
    Clean,
    Broken,
}

pub struct Sse {
    response: reqwest::Response,
    /// Everything received.
    pub raw: Vec<u8>,
    at: usize,
    pub end: Option<BodyEnd>,
}

impl Sse {
    pub fn new(response: reqwest::Response) -> Sse {
        Sse { response, raw: Vec::new(), at: 0, end: None }
    }

    pub fn headers(&self) -> &reqwest::header::HeaderMap {
        self.response.headers()
    }

    /// The value of a header, empty if it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers().get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Reads more bytes; false at the end.
    pub async fn more(&mut self) -> bool {
        if self.end.is_some() {
            return false;
        }
        match soon("more of an event stream", self.response.chunk()).await {
            Ok(Some(bytes)) => self.raw.extend_from_slice(&bytes),
            Ok(None) => self.end = Some(BodyEnd::Clean),
            Err(_) => self.end = Some(BodyEnd::Broken),
        }
        self.end.is_none()
    }

    /// The next event, None at the end of the body. Comments are passed over.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(length) = self.raw[self.at..].windows(2).position(|two| two == b"\n\n") {
                let block = String::from_utf8(self.raw[self.at..self.at + length].to_vec()).unwrap();
                self.at += length + 2;
                if let Some(event) = parse(&block) {
                    return Some(event);
                }
            } else if !self.more().await {
                return None;
            }
        }
    }

    /// The next event, which must be of this type.
    pub async fn expect(&mut self, event: &str) -> Event {
        match self.next().await {
            Some(next) if next.event == event => next,
            other => panic!("expected {event}, got {other:?}"),
        }
    }

    /// Everything up to and with the first event of this type.
    pub async fn until(&mut self, event: &str) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(next) = self.next().await {
            let last = next.event == event;
            events.push(next);
            if last {
                return events;
            }
        }
        panic!("no {event} came: {events:?}");
    }

    /// Everything to the end of the body, however it ends.
    pub async fn rest(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.raw).into_owned()
    }
}

fn parse(block: &str) -> Option<Event> {
    let (mut event, mut data) = (Event::default(), Vec::new());
    for line in block.split('\n').filter(|line| !line.starts_with(':')) {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "event" => event.event = value.to_owned(),
            "data" => data.push(value),
            "id" => event.id = Some(value.to_owned()),
            "retry" => event.retry_ms = Some(value.parse().unwrap()),
            other => panic!("an unknown field: {other}"),
        }
    }
    // A block without data is no event; the server never sends one with an id alone.
    assert!(!data.is_empty() || event == Event::default(), "an event without data: {block:?}");
    event.data = data.join("\n");
    (!data.is_empty()).then_some(event)
}

/// The text that the tokens of these events spell.
pub fn text_of(events: &[Event]) -> String {
    let tokens = events.iter().filter(|event| event.event == "token");
    tokens.map(|event| event.json()["text"].as_str().unwrap().to_owned()).collect()
}

/// The types of these events, in order.
pub fn types(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.event.as_str()).collect()
}
