//! Viewers of one stream that lose their connection all the time: over SSE on each surface, and by polling.
//!
//! Raw HTTP on a socket that is dropped after some bytes or some time, wherever that falls: inside a header, a chunk
//! size, an event. What was completely received counts, as with a real client; then it comes back with its last id.

use std::net::SocketAddr;
use std::time::Duration;

use relaystream::surface::Surface;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout_at};

use crate::heard::{Heard, blocks};
use crate::seed::Random;

/// As much of an answer as came before the viewer hung up.
#[derive(Debug, Default)]
pub(crate) struct Got {
    /// 0 if not even that arrived.
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
    /// The body came to its end as HTTP says.
    pub(crate) whole: bool,
}

/// One request, given up after `most` bytes or `patience`.
pub(crate) async fn get(
    address: SocketAddr,
    path: &str,
    id: Option<&str>,
    most: usize,
    patience: Duration,
) -> Got {
    // Between a crash and the next start nobody listens.
    let Ok(mut socket) = TcpStream::connect(address).await else { return Got::default() };
    let mut head = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n");
    if let Some(id) = id {
        head.push_str(&format!("last-event-id: {id}\r\n"));
    }
    head.push_str("\r\n");
    if socket.write_all(head.as_bytes()).await.is_err() {
        return Got::default();
    }
    let (mut answer, mut buffer, until) = (Vec::new(), [0; 2048], Instant::now() + patience);
    while answer.len() < most {
        let room = buffer.len().min(most - answer.len());
        match timeout_at(until, socket.read(&mut buffer[..room])).await {
            Ok(Ok(0)) | Err(_) => break,
            Ok(Ok(n)) => answer.extend_from_slice(&buffer[..n]),
            // The server broke it off, as it does after an error frame.
            Ok(Err(_)) => break,
        }
    }
    understand(&answer)
}

fn understand(answer: &[u8]) -> Got {
    let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else { return Got::default() };
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    let status = head[9..12].parse().expect("a status");
    let body = &answer[end + 4..];
    if head.contains("transfer-encoding: chunked") {
        let (body, whole) = unchunk(body);
        return Got { status, body, whole };
    }
    let length =
        head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.trim().parse().ok());
    Got { status, body: body.to_vec(), whole: length.unwrap_or(0) == body.len() }
}

fn unchunk(mut bytes: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    loop {
        let Some(line) = bytes.windows(2).position(|window| window == b"\r\n") else { return (body, false) };
        let size = std::str::from_utf8(&bytes[..line]).expect("a chunk size");
        let size = usize::from_str_radix(size, 16).expect("a chunk size");
        if size == 0 {
            return (body, true);
        }
        let rest = &bytes[line + 2..];
        body.extend_from_slice(&rest[..size.min(rest.len())]);
        if rest.len() < size + 2 {
            return (body, false);
        }
        bytes = &rest[size + 2..];
    }
}

/// An id that must not be accepted, and the reason that must be given.
pub(crate) fn bad_id(random: &mut Random, own: &str, other: &str) -> (String, &'static str) {
    let seq = |seq: u64| format!("{own}-0000-{seq:010}");
    match random.below(6) {
        0 => ("0".into(), "unknown"),
        1 => ("not-an-id".into(), "unknown"),
        2 => (seq(7).to_uppercase(), "unknown"),
        3 => (format!("{other}-0000-0000000003"), "foreign"),
        4 => (seq(9_000_000), "ahead"),
        _ => (format!("{own}-0003-0000000002"), "ahead"),
    }
}

/// How often a viewer hangs up early, and how it names its position.
pub(crate) fn most_bytes(random: &mut Random) -> usize {
    match random.below(4) {
        0 => 200 + random.below(1_500),
        1 | 2 => 1_000 + random.below(20_000),
        _ => usize::MAX,
    }
}

pub(crate) fn most_time(random: &mut Random) -> Duration {
    Duration::from_millis(40 + random.below(500) as u64)
}

/// Between two connections.
pub(crate) async fn rest(random: &mut Random) {
    sleep(Duration::from_millis(20 + random.below(280) as u64)).await;
}

/// Reads the stream over SSE, of any of these nodes, until it has seen the end.
pub(crate) async fn watch(
    nodes: Vec<SocketAddr>,
    stream: String,
    other: String,
    surface: Surface,
    mut random: Random,
) -> Heard {
    let mut heard = Heard::default();
    let name = surface.name();
    loop {
        let wrong = random.chance(6).then(|| bad_id(&mut random, &stream, &other));
        let held = wrong.as_ref().map(|(id, _)| id.clone()).or(heard.id.clone());
        let mut path = format!("/v1/streams/{stream}/events?format={name}");
        let by_query = random.chance(50);
        if let (Some(id), true) = (&held, by_query) {
            path.push_str(&format!("&{}={id}", random.pick(&["after", "lastEventId"])));
        }
        let header = if by_query { None } else { held.as_deref() };
        let node = *random.pick(&nodes);
        let got = get(node, &path, header, most_bytes(&mut random), most_time(&mut random)).await;
        rest(&mut random).await;
        match got.status {
            0 => continue,
            204 => {
                assert!(heard.ended && wrong.is_none(), "{name}: 204 before the end");
                return heard;
            }
            status => assert_eq!(status, 200, "{name}: {}", String::from_utf8_lossy(&got.body)),
        }
        let complete = blocks(&got.body);
        if let (Some((id, reason)), Some(first)) = (&wrong, complete.first()) {
            let anew = Heard { resets: heard.resets.clone(), ..Heard::default() };
            if surface == Surface::AiSdk {
                // Its clients hold no positions: a bad one is none, and the replay begins the message anew.
                assert!(first.data.contains("\"type\":\"start\""), "{name}, id {id}: {first:?}");
                heard = anew;
            } else {
                assert!(first.data.contains(&format!("\"{reason}\"")), "{name}, id {id}: {first:?}");
                if !matches!(surface, Surface::Native | Surface::Plain) {
                    // An SDK raises here; its program starts over.
                    assert!(first.data.contains("\"error\""), "{first:?}");
                    heard = anew;
                    continue;
                }
            }
        }
        heard.take(surface, &got.body);
        if heard.ended && got.whole && random.chance(50) {
            return heard;
        }
    }
}

/// Reads the stream by polling any of these nodes.
pub(crate) async fn poll(nodes: Vec<SocketAddr>, stream: String, other: String, mut random: Random) -> Heard {
    let mut heard = Heard::default();
    loop {
        let wrong = random.chance(6).then(|| bad_id(&mut random, &stream, &other));
        let held = wrong.as_ref().map(|(id, _)| id.clone()).or(heard.id.clone());
        let mut path = format!("/v1/streams/{stream}/poll?wait={}", random.below(2));
        if let Some(id) = &held {
            path.push_str(&format!("&after={id}"));
        }
        let most = if random.chance(30) { random.below(2_000) } else { usize::MAX };
        let got = get(*random.pick(&nodes), &path, None, most, Duration::from_secs(10)).await;
        rest(&mut random).await;
        if got.status == 0 || !got.whole {
            continue;
        }
        let body: Value = serde_json::from_slice(&got.body).expect("JSON");
        assert_eq!(got.status, 200, "{body}");
        let events = body["events"].as_array().expect("a list");
        if let Some((id, reason)) = wrong {
            assert_eq!(events[0]["data"]["reason"], reason, "id {id}: {body}");
        }
        for event in events {
            take(&mut heard, event);
        }
        heard.id = Some(body["position"].as_str().expect("a position").to_owned());
        if heard.ended {
            assert_eq!(body["status"], "completed");
            return heard;
        }
        assert_eq!(body["status"], "running", "{body}");
    }
}

/// One event of a poll, or one message of a session's socket.
pub(crate) fn take(heard: &mut Heard, event: &Value) {
    let text = event["data"]["text"].as_str().unwrap_or_default();
    match event["type"].as_str().expect("a type") {
        "reset" => *heard = Heard { resets: vec!["reset".into()], ..Heard::default() },
        "token" => heard.text.push_str(text),
        "reasoning" => heard.reasoning.push_str(text),
        "done" => heard.ended = true,
        _ => {}
    }
}
