//! docs/socket.md against the code: message types both ways, and close codes.

use std::collections::BTreeSet;
use std::path::Path;

use relaystream::event::Kind;
use relaystream::room::message::{self, Inbound};

fn read(file: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}

/// The first cells of the table below a heading, as they stand.
fn cells(heading: &str) -> BTreeSet<String> {
    let text = read("docs/socket.md");
    let section =
        text.split(&format!("## {heading}\n")).nth(1).unwrap().split("\n## ").next().unwrap().to_owned();
    let rows = section.lines().filter(|line| line.starts_with('|')).skip(2);
    rows.map(|row| row.split('|').nth(1).unwrap().trim().trim_matches('`').to_owned()).collect()
}

/// What stands between `before` and the next quotation mark, everywhere in a text.
fn quoted(text: &str, before: &str) -> BTreeSet<String> {
    text.split(before).skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()).collect()
}

#[test]
fn every_message_of_a_client_is_documented_and_understood() {
    let documented = cells("From the client");
    for kind in &documented {
        let parsed = message::parse(&format!(r#"{{"type":"{kind}"}}"#));
        let unknown = parsed.is_ok_and(|envelope| matches!(envelope.message, Inbound::Unknown { .. }));
        assert!(!unknown, "{kind} is documented and unknown");
    }
    let code = read("src/room/message.rs");
    let parse = code.split("match wire.r#type.as_str() {").nth(1).unwrap().split("other =>").next().unwrap();
    let arms = parse.lines().filter_map(|line| line.strip_prefix("        \"")?.split_once("\" =>"));
    assert_eq!(arms.map(|(kind, _)| kind.to_owned()).collect::<BTreeSet<_>>(), documented);
}

#[test]
fn every_message_of_the_server_is_documented() {
    let code = read("src/room/message.rs");
    let mut sent: BTreeSet<String> =
        quoted(code.split("#[cfg(test)]").next().unwrap(), r#"json!({"type": ""#);
    sent.extend(quoted(&code, "told(\""));
    sent.extend((0..=u8::MAX).filter_map(Kind::from_u8).map(|kind| kind.name().to_owned()));
    sent.extend((0..=u8::MAX).filter_map(relaystream::room::Kind::of_talk).map(str::to_owned));
    assert_eq!(sent, cells("From the server"));
}

#[test]
fn every_close_code_is_documented() {
    let code = read("src/http/socket/close.rs");
    let codes = code.lines().filter(|line| line.starts_with("pub const"));
    let codes = codes.map(|line| line.split(" = ").nth(1).unwrap().trim_end_matches(';').to_owned());
    assert_eq!(codes.collect::<BTreeSet<_>>(), cells("Close codes"));
}
