//! Every fault under every policy, as one table, which is `docs/faults.md`.
//!
//! Each row says by which rule its fault goes; what each policy makes of it is worked out from that, played over sockets,
//! and compared. `INSTA_UPDATE=always cargo test faults` writes the document anew; a stale one fails.

use std::any::Any;
use std::fmt::Write;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::{before, done};
use crate::harness::provider::{chunk, full, nobody};
use crate::harness::sse::{BodyEnd, text_of};
use crate::harness::{FakeProvider, Script, Server, TlsFront, chat};

const WHOLE: &str = "Grüße aus 東京: one two three four five six seven eight nine ten eleven twelve";
/// What is said of it before a fault strikes within the text.
const BEGUN: [&str; 3] = ["Grüße", " aus", " 東京"];

/// What may help against a fault.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Rule {
    /// Asking again, or somebody else.
    Again,
    /// Somebody else.
    Elsewhere,
    /// Nothing but another request; once something was said, somebody else.
    Told,
    /// The same, but a model may only have refused to be given the beginning of its answer.
    Reworded,
    /// Nothing.
    Ends,
}

/// How a fault is brought about before anything of an answer is out.
#[derive(Debug, Clone)]
enum Early {
    /// Nobody listens.
    Nobody,
    /// Nobody accepts.
    Full,
    /// The host's name means nothing.
    NoName,
    /// The certificate is nobody's.
    Untrusted,
    Script(Script),
}

#[derive(Debug, Clone)]
struct Fault {
    name: &'static str,
    rule: Rule,
    code: &'static str,
    /// What an SDK's request is answered with, if nothing was said.
    status: u16,
    /// Of the model.
    settings: &'static str,
    early: Option<Early>,
    /// The same after some of an answer.
    late: Option<fn(Script) -> Script>,
}

fn fault(name: &'static str, rule: Rule, code: &'static str, status: u16, early: Early) -> Fault {
    Fault { name, rule, code, status, settings: "", early: Some(early), late: None }
}

impl Fault {
    fn with(self, settings: &'static str) -> Fault {
        Fault { settings, ..self }
    }

    fn or_late(self, late: fn(Script) -> Script) -> Fault {
        Fault { late: Some(late), ..self }
    }

    fn only_late(self) -> Fault {
        Fault { early: None, ..self }
    }
}

fn refusal(name: &'static str, rule: Rule, status: u16, headers: &[(&str, &str)]) -> Fault {
    let body = json!({"error": {"message": "no"}}).to_string();
    fault(name, rule, "upstream_status", status, Early::Script(Script::status(status, headers, &body)))
}

fn refusals() -> Vec<Fault> {
    use Rule::{Again, Elsewhere, Reworded, Told};
    vec![
        refusal("400", Reworded, 400, &[]),
        refusal("401", Elsewhere, 401, &[]),
        refusal("403", Elsewhere, 403, &[]),
        refusal("404", Elsewhere, 404, &[]),
        refusal("408", Again, 408, &[]),
        refusal("409", Again, 409, &[]),
        refusal("413", Told, 413, &[]),
        refusal("422", Reworded, 422, &[]),
        refusal("429", Again, 429, &[]),
        refusal("429, `retry-after` within `max_ms`", Again, 429, &[("retry-after", "1")]),
        refusal("429, `retry-after` beyond `max_ms`", Elsewhere, 429, &[("retry-after", "3600")]),
        refusal("500", Again, 500, &[]),
        refusal("503", Again, 503, &[]),
        refusal("529", Again, 529, &[]),
    ]
}

fn connections() -> Vec<Fault> {
    use Rule::Again;
    vec![
        fault("connection refused", Again, "connect_failed", 502, Early::Nobody),
        fault("connection not accepted in time", Again, "connect_timeout", 504, Early::Full).with(CONNECT),
        fault("no such host", Again, "connect_failed", 502, Early::NoName),
        fault("TLS: a certificate that is not trusted", Again, "connect_failed", 502, Early::Untrusted),
    ]
}

// Nearly what a pace is judged after, which the table waits for anyway.
const CONNECT: &str = "timeouts = { connect_ms = 4000 }\n";
const FIRST: &str = "timeouts = { first_token_ms = 8000 }\n";
const BETWEEN: &str = "timeouts = { between_tokens_ms = 8000 }\n";
const TOTAL: &str = "timeouts = { total_ms = 8000 }\n";
const FLOOR: &str = "min_tokens_per_s = 20.0\n";
const MALFORMED: &str = "data: {oops}\n\n";
const OVERLOADED: &str = "data: {\"error\":{\"message\":\"overloaded\"}}\n\n";

fn silences() -> Vec<Fault> {
    use Rule::{Again, Ends};
    let silence = |script| Early::Script(script);
    let comments = Script::stream().send(": still here\n\n").stall();
    vec![
        fault("no head in time", Again, "first_token_timeout", 504, silence(Script::silence())).with(FIRST),
        fault("a head, no first token in time", Again, "first_token_timeout", 504, silence(comments))
            .with(FIRST),
        fault("falls silent", Again, "between_tokens_timeout", 504, silence(Script::silence()))
            .with(BETWEEN)
            .or_late(Script::stall)
            .only_late(),
        fault("slower than `min_tokens_per_s`", Again, "too_slow", 502, silence(Script::silence()))
            .with(FLOOR)
            .or_late(trickle)
            .only_late(),
        fault("`total_ms` is up", Ends, "total_timeout", 504, silence(Script::silence()))
            .with(TOTAL)
            .or_late(Script::stall),
    ]
}

fn breaks() -> Vec<Fault> {
    use Rule::Again;
    let early = |code, late: fn(Script) -> Script| {
        fault("", Again, code, 502, Early::Script(late(Script::stream()))).or_late(late)
    };
    vec![
        Fault { name: "RST", ..early("upstream_truncated", Script::reset) },
        Fault { name: "FIN within the body", ..early("upstream_truncated", Script::cut) },
        Fault {
            name: "the body ends without the dialect's terminator",
            ..early("upstream_truncated", Script::end)
        },
        Fault {
            name: "a frame that is not JSON",
            ..early("upstream_malformed", |script| script.send(MALFORMED).stall())
        },
        Fault {
            name: "an error in band",
            ..early("upstream_error", |script| script.send(OVERLOADED).stall())
        },
    ]
}

/// The rest of the answer, a character at a time.
fn trickle(script: Script) -> Script {
    let rest = WHOLE.strip_prefix(&BEGUN.concat()).unwrap();
    let rest = rest.chars().fold(script, |script, character| {
        script.sleep(Duration::from_millis(300)).token(&character.to_string())
    });
    rest.stall()
}

/// A column.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Policy {
    /// One target, asked once, before anything is out.
    Once,
    /// One target, asked twice.
    Retry,
    /// Two targets, each asked once.
    Fallback,
    /// Within plain text, more targets behind.
    Continue,
    /// The same where continuation is switched off.
    Off,
    /// Within a tool call, with continuation.
    Call,
}

use Policy::{Call, Continue, Fallback, Off, Once, Retry};

const POLICIES: [(Policy, &str); 6] = [
    (Once, "one target, one attempt"),
    (Retry, "two attempts"),
    (Fallback, "two targets"),
    (Continue, "within text"),
    (Off, "within text, `continue = false`"),
    (Call, "within a tool call"),
];

/// What a client has of an answer in the end.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Heard {
    Nothing,
    Part,
    Whole,
}

#[derive(Debug, PartialEq)]
struct Outcome {
    /// Of an SDK's request.
    status: u16,
    /// The notices, and whose turn it is then.
    notices: Vec<(String, &'static str)>,
    heard: Heard,
    /// None: the answer is complete.
    code: Option<String>,
}

/// What must come of it; None: it cannot happen.
fn expected(fault: &Fault, policy: Policy) -> Option<Outcome> {
    let notices = |list: &[(&str, &'static str)]| {
        list.iter().map(|(code, whose)| ((*code).to_owned(), *whose)).collect::<Vec<_>>()
    };
    let refused = |list| Outcome {
        status: fault.status,
        notices: notices(list),
        heard: Heard::Nothing,
        code: Some(fault.code.into()),
    };
    let broken =
        || Outcome { status: 200, notices: Vec::new(), heard: Heard::Part, code: Some(fault.code.into()) };
    let whole = |list| Outcome { status: 200, notices: notices(list), heard: Heard::Whole, code: None };
    let happens = match policy {
        Once | Retry | Fallback => fault.early.is_some(),
        Continue => true,
        Off | Call => fault.late.is_some(),
    };
    let recovers = matches!(fault.early, Some(Early::Script(_)));
    happens.then(|| match (policy, fault.rule) {
        (Once, _) | (Retry | Fallback, Rule::Ends | Rule::Told | Rule::Reworded) => refused(&[]),
        (Retry, Rule::Elsewhere) => refused(&[]),
        (Retry, Rule::Again) if recovers => whole(&[("retried", "faulty")]),
        (Retry, Rule::Again) => refused(&[("retried", "faulty")]),
        (Fallback, _) => whole(&[("fallback", "helps")]),
        (Off | Call, _) | (Continue, Rule::Ends) => broken(),
        (Continue, _) if fault.late.is_some() => whole(&[("continued", "helps")]),
        (Continue, Rule::Reworded) => {
            whole(&[("continued", "faulty"), ("continued", "faulty"), ("continued", "helps")])
        }
        (Continue, _) => whole(&[("continued", "faulty"), ("continued", "helps")]),
    })
}

/// A fault under a policy: its providers, and the model that they serve.
struct Cell {
    model: String,
    config: String,
    /// Whoever is asked, for as long as somebody may ask.
    kept: Vec<Box<dyn Any>>,
}

/// Says what is left to say, to whoever asks.
fn help(request: &crate::harness::provider::Request) -> Script {
    let said = before(request).map_or(String::new(), |(said, _)| said);
    let rest = WHOLE.strip_prefix(&said).expect("byte for byte what was said");
    Script::answer(&rest.split_inclusive(' ').collect::<Vec<_>>())
}

fn begun(policy: Policy) -> Script {
    let call =
        json!({"tool_calls": [{"index": 0, "id": "c1", "function": {"name": "f", "arguments": "{\"x\""}}]});
    let script = Script::stream().tokens(&BEGUN);
    if policy == Call { script.send(chunk(&call, &Value::Null)) } else { script }
}

impl Cell {
    async fn new(model: String, fault: &Fault, policy: Policy) -> Cell {
        let mut cell = Cell { model, config: String::new(), kept: Vec::new() };
        let mut targets = Vec::new();
        let late = matches!(policy, Continue | Off | Call).then_some(fault.late).flatten();
        match (late, &fault.early) {
            (Some(late), _) => {
                targets.push("faulty");
                cell.provider("faulty", FakeProvider::new([late(begun(policy))]).await);
            }
            (None, Some(early)) => {
                if policy == Continue {
                    targets.push("begins");
                    cell.provider("begins", FakeProvider::new([begun(policy).cut()]).await);
                }
                targets.push("faulty");
                cell.faulty(early, policy).await;
            }
            (None, None) => unreachable!("a fault strikes early or late"),
        }
        if !matches!(policy, Once | Retry) {
            targets.push("helps");
            cell.provider("helps", FakeProvider::by(|_, request| help(request)).await);
        }
        let model = &cell.model;
        let targets: Vec<_> = targets
            .iter()
            .map(|role| format!("{{ provider = \"{model}-{role}\", model = \"x\" }}"))
            .collect();
        let section = format!(
            "[models.{model}]\ntargets = [{}]\nretry = {{ attempts = {}, base_ms = 1, max_ms = 2000 }}\n\
             breaker = {{ failures = 0 }}\nprefill = true\ncontinue = {}\n{}",
            targets.join(", "),
            if policy == Retry { 2 } else { 1 },
            policy != Off,
            fault.settings
        );
        cell.config.insert_str(0, &section);
        cell
    }

    fn provider(&mut self, role: &str, provider: FakeProvider) {
        self.config.push_str(&provider.named(&format!("{}-{role}", self.model)));
        self.kept.push(Box::new(provider));
    }

    async fn faulty(&mut self, early: &Early, policy: Policy) {
        let name = format!("{}-faulty", self.model);
        let at = |host: String| {
            format!("[providers.{name}]\ndialect = \"openai-chat\"\nbase_url = \"http://{host}/v1\"\n")
        };
        let config = match early {
            Early::Nobody => {
                let nobody = nobody();
                let config = at(nobody.address.to_string());
                self.kept.push(Box::new(nobody));
                config
            }
            Early::Full => {
                let (address, sockets) = full();
                self.kept.push(Box::new(sockets));
                at(address.to_string())
            }
            // Longer than a name's part may be: no resolver needs the network to say so.
            Early::NoName => at(format!("{}.invalid", "x".repeat(64))),
            Early::Untrusted => {
                let front = TlsFront::new(([127, 0, 0, 1], 1).into(), "http/1.1").await;
                let config = front.distrusted(&name);
                self.kept.push(Box::new(front));
                config
            }
            Early::Script(script) => {
                let script = script.clone();
                let answer = move |n, request: &_| match policy {
                    Retry if n > 0 => help(request),
                    _ => script.clone(),
                };
                return self.provider("faulty", FakeProvider::by(answer).await);
            }
        };
        self.config.push_str(&config);
    }

    /// Asks as an SDK does, and reads the stream's log.
    async fn outcome(&self, server: &Server) -> Outcome {
        let mut body = chat();
        body["model"] = self.model.as_str().into();
        let answer = server.send(server.post("/v1/chat/completions", &body)).await;
        let status = answer.status().as_u16();
        let id = answer.headers()["x-stream-id"].to_str().unwrap().to_owned();
        let mut viewer = crate::harness::Sse::new(answer);
        while viewer.more().await {}
        let events = server.replay(&id).await;
        let done = done(&events);
        let code = done["error"]["code"].as_str().map(str::to_owned);
        assert_eq!(done["status"], if code.is_some() { "failed" } else { "completed" }, "{}", self.model);
        if status == 200 {
            let end = if code.is_some() { BodyEnd::Broken } else { BodyEnd::Clean };
            assert_eq!(viewer.end, Some(end), "{}: no failure looks like an end", self.model);
        }
        let text = text_of(&events);
        let heard = match text.as_str() {
            "" => Heard::Nothing,
            WHOLE => Heard::Whole,
            part if WHOLE.starts_with(part) => Heard::Part,
            other => panic!("{}: {other}", self.model),
        };
        let role = |name: &str| {
            ["begins", "faulty", "helps"].into_iter().find(|role| name.ends_with(role)).expect("a provider")
        };
        let notices = super::notices(&events).into_iter().map(|(code, name)| (code, role(&name))).collect();
        Outcome { status, notices, heard, code }
    }
}

/// As the document says it.
fn shown(outcome: Option<&Outcome>) -> String {
    let Some(outcome) = outcome else { return "–".into() };
    let mut notices: Vec<String> = outcome.notices.iter().map(|(code, _)| format!("`{code}`")).collect();
    notices.dedup();
    let steps = match outcome.notices.len() {
        0 => String::new(),
        n if n > notices.len() => format!("{} ×{n}, ", notices[0]),
        _ => format!("{}, ", notices.join(", ")),
    };
    let end = match (&outcome.code, outcome.heard) {
        (None, _) => "complete".to_owned(),
        (Some(code), Heard::Nothing) => format!("{} `{code}`", outcome.status),
        (Some(code), _) => format!("breaks off: `{code}`"),
    };
    steps + &end
}

const INTRO: &str = "# What becomes of a provider's failure

Generated from `tests/it/resilience/faults.rs`, which plays every fault under every policy over real sockets and reads what an
OpenAI SDK's request is answered with, and the stream's own log. The rules behind it are in
[ARCHITECTURE.md](../ARCHITECTURE.md#when-a-provider-fails), the settings in [config.example.toml](../config.example.toml).

- The first three columns: the fault comes before anything of the answer is out. \"Two attempts\": one target with
  `retry.attempts = 2`, the second of which answers (but for the connection's faults, which last). \"Two targets\": the second
  one answers.
- \"Within text\", \"within a tool call\": some of the answer is out, there are other targets, and the model takes its own beginning
  (`prefill = true`). A fault that can only come before an answer is then one of the target that was asked to go on. Reasoning, refusals
  and structured output go like tool calls.
- `retried`, `fallback`, `continued`: the notices in the stream. \"Complete\": the text is that of an answer without a fault, byte for
  byte, and each body ends as it should. A number: the status of the SDK's request, and the error's code. \"Breaks off\": `done` with status
  `failed` and this code after what was said; an SDK gets an error frame and then a broken body, never a clean end.
- \"–\": cannot happen there.
";

fn document(rows: &[(&Fault, Vec<Option<Outcome>>)]) -> String {
    let names: Vec<_> = POLICIES.iter().map(|(_, name)| *name).collect();
    let mut text =
        format!("{INTRO}\n| fault | {} |\n|---{}|\n", names.join(" | "), "|---".repeat(names.len()));
    for (fault, outcomes) in rows {
        let cells: Vec<_> = outcomes.iter().map(|outcome| shown(outcome.as_ref())).collect();
        writeln!(text, "| {} | {} |", fault.name, cells.join(" | ")).unwrap();
    }
    text
}

#[tokio::test]
async fn every_fault_under_every_policy_has_its_documented_outcome() {
    let faults: Vec<Fault> = [connections(), refusals(), silences(), breaks()].concat();
    let mut cells = Vec::new();
    for (row, fault) in faults.iter().enumerate() {
        for (column, (policy, _)) in POLICIES.into_iter().enumerate() {
            let possible = expected(fault, policy).is_some();
            let model = format!("m{row}-{column}");
            cells.push(if possible { Some(Cell::new(model, fault, policy).await) } else { None });
        }
    }
    let config: String = cells.iter().flatten().map(|cell| cell.config.as_str()).collect();
    let server = Server::new(&config).await;
    let outcomes = cells.iter().map(async |cell| match cell {
        Some(cell) => Some(cell.outcome(&server).await),
        None => None,
    });
    let mut outcomes = join_all(outcomes).await.into_iter();
    server.finish().await;
    let rows: Vec<_> = faults
        .iter()
        .map(|fault| (fault, outcomes.by_ref().take(POLICIES.len()).collect::<Vec<_>>()))
        .collect();
    let mut wrong = String::new();
    for (fault, outcomes) in &rows {
        for ((policy, _), outcome) in POLICIES.into_iter().zip(outcomes) {
            let expected = expected(fault, policy);
            if *outcome != expected {
                writeln!(wrong, "{}, {policy:?}: {outcome:?}, not {expected:?}", fault.name).unwrap();
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    let file = format!("{}/docs/faults.md", env!("CARGO_MANIFEST_DIR"));
    let text = document(&rows);
    if std::env::var("INSTA_UPDATE").is_ok_and(|update| update == "always") {
        std::fs::write(&file, &text).unwrap();
    }
    let written = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(written == text, "docs/faults.md is stale: INSTA_UPDATE=always cargo test faults writes it anew");
}
