//! Recorded provider bytes → events → each surface's bytes, and that no way of cutting them matters.
//!
//! The snapshots are in `tests/it/snapshots`. `INSTA_UPDATE=always cargo test golden` rewrites them; read the diff.

use proptest::prelude::*;
use relaystream::event::{Event, Kind};
use relaystream::log::{Framing, Record};
use relaystream::provider::Provider;
use relaystream::surface::{Format, Surface};

use crate::fixtures::{self, Fixture, decode, encode, formats, log_of};
use crate::heard::{self, Heard, scan, spoken};

/// Small enough for a decode at every single cut.
const SMALL: usize = 1_000;

/// Bytes as text: line ends stay lines, what an editor would hide or change is spelled out.
fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).replace('\r', "\\r").replace('\u{feff}', "\\u{feff}").replace('\0', "\\0")
}

fn record_line(record: &Record) -> String {
    let kind = Kind::from_u8(record.draft.kind).expect("known");
    let framing = match &record.draft.framing {
        Framing::Own => "own",
        Framing::Part(_) => "part",
        Framing::Raw(raw) if raw.usage_only => "frame, usage only",
        Framing::Raw(_) => "frame",
    };
    let data = String::from_utf8_lossy(&record.draft.payload);
    format!("{} {} ({framing}) {data}", record.position.seq, kind.name())
}

/// Formats that say something of this very fixture: the log itself, and what is forwarded. All others are `matrix`'s.
fn concerns(fixture: &Fixture, format: Format) -> bool {
    let own = format.surface.dialect() == Some(fixture.dialect as u8);
    let plain = format.surface == Surface::Plain && fixture.dialect == Provider::OpenAiChat;
    format.surface == Surface::Native || own || plain
}

#[test]
fn every_fixture_gives_its_events_and_bytes() {
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| {
        for fixture in fixtures::all() {
            let records = log_of(&fixture);
            let mut out: String = records.iter().map(|record| record_line(record) + "\n").collect();
            for (name, format) in formats().into_iter().filter(|(_, format)| concerns(&fixture, *format)) {
                // What changes nothing need not be read twice.
                let whole = Format::new(format.surface);
                let bytes = encode(format, &records);
                let same = format != whole && bytes == encode(whole, &records);
                let text = if same { "as with usage and ids\n".into() } else { shown(&bytes) };
                out.push_str(&format!("\n==== {name}\n{text}"));
            }
            insta::assert_snapshot!(fixture.name.replace('/', "__"), out);
        }
    });
}

/// The provider's bytes as they must come out: no byte order mark, no comments, no `id:` and `retry:` lines, no blocks
/// without data, nothing after the ending; lone CRs, and every line end after the first of them, are LFs. Written line
/// by line, not with our parser.
fn expected_verbatim(bytes: &[u8]) -> String {
    let text = std::str::from_utf8(bytes).expect("fixtures are UTF-8");
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (mut lines, mut rest, mut lone_cr) = (Vec::new(), text, false);
    while let Some(at) = rest.find(['\n', '\r']) {
        let end = if rest[at..].starts_with("\r\n") { at + 2 } else { at + 1 };
        lone_cr |= &rest[at..end] == "\r";
        let ending = if lone_cr { "\n" } else { &rest[at..end] };
        lines.push((&rest[..at], format!("{}{ending}", &rest[..at])));
        rest = &rest[end..];
    }
    let (mut out, mut block, mut data) = (String::new(), String::new(), String::new());
    for (line, with_end) in lines {
        let field = line.split(':').next().unwrap_or_default();
        if line.is_empty() {
            block.push_str(&with_end);
            let (kept, said) = (std::mem::take(&mut block), std::mem::take(&mut data));
            if !said.trim().is_empty() {
                out.push_str(&kept);
            }
            let value: serde_json::Value = serde_json::from_str(&said).unwrap_or_default();
            if said.trim() == "[DONE]" || !value["error"].is_null() {
                break;
            }
        } else if !line.starts_with(':') && field != "id" && field != "retry" {
            block.push_str(&with_end);
            data.push_str(line.strip_prefix("data:").unwrap_or_default());
        }
    }
    // A terminator at the very end counts without its blank line, which we add.
    if data.trim() == "[DONE]" || rest.trim() == "data: [DONE]" {
        out.push_str("data: [DONE]\n\n");
    }
    out
}

fn without_id_lines(text: &str) -> String {
    let ours = |line: &&str| line.starts_with("id: 01");
    text.split_inclusive('\n').filter(|line| !ours(line)).collect()
}

#[test]
fn openai_chat_is_verbatim() {
    let all = fixtures::all();
    for fixture in all.iter().filter(|f| !f.whole() && f.dialect == Provider::OpenAiChat) {
        let records = log_of(fixture);
        let bytes = encode(Format::new(Surface::OpenAiChat), &records);
        let sent = without_id_lines(std::str::from_utf8(&bytes).expect("UTF-8"));
        let expected = expected_verbatim(&fixture.bytes);
        let ours = matches!(records.last().map(|record| &record.draft.framing), Some(Framing::Own));
        if !ours {
            assert_eq!(sent, expected, "{}", fixture.name);
            continue;
        }
        // The provider did not end it, so we say that, after what came through.
        let at = sent.rfind("data: {\"error\"").expect("our own error frame is last");
        let (forwarded, error) = sent.split_at(at);
        assert!(expected.starts_with(forwarded), "{}: {forwarded}", fixture.name);
        assert!(error.contains("upstream_"), "{}: {error}", fixture.name);
        let bare = encode(Format { ids: false, ..Format::new(Surface::OpenAiChat) }, &records);
        assert_eq!(sent.as_bytes(), bare, "{}", fixture.name);
    }
}

#[test]
fn gemini_is_verbatim() {
    let all = fixtures::all();
    for fixture in all.iter().filter(|f| !f.whole() && f.dialect == Provider::Gemini) {
        let records = log_of(fixture);
        let bytes = encode(Format { ids: false, ..Format::new(Surface::Gemini) }, &records);
        let sent = std::str::from_utf8(&bytes).expect("UTF-8");
        // A last frame that says the ending counts without its blank line, which we add.
        let added = if fixture.name.contains("without_blank_line") { b"\n\n".as_slice() } else { b"" };
        let expected = expected_verbatim(&[&fixture.bytes, added].concat());
        let last = records.last().expect("an ending");
        let Ok(Event::Done(done)) = Event::parse(Kind::Done, &last.draft.payload) else {
            panic!("{}: no ending", fixture.name)
        };
        // Nothing marks the end, so a proper one adds nothing; what is not one is told in our words.
        if done.error.is_none() || matches!(last.draft.framing, Framing::Raw(_)) {
            assert_eq!(sent, expected, "{}", fixture.name);
            continue;
        }
        let (forwarded, error) = sent.split_at(sent.rfind("data: {\"error\"").expect("our own error frame"));
        assert!(expected.starts_with(forwarded), "{}: {forwarded}", fixture.name);
        assert!(error.contains("upstream_"), "{}: {error}", fixture.name);
    }
}

#[test]
fn openai_responses_is_verbatim() {
    let all = fixtures::all();
    for fixture in all.iter().filter(|f| !f.whole() && f.dialect == Provider::OpenAiResponses) {
        let records = log_of(fixture);
        let bytes = encode(Format::new(Surface::OpenAiResponses), &records);
        let sent = without_id_lines(std::str::from_utf8(&bytes).expect("UTF-8"));
        let mut expected = expected_verbatim(&fixture.bytes);
        if fixture.name.ends_with("completed_without_blank_line.sse") {
            expected = format!("{}\n\n", std::str::from_utf8(&fixture.bytes).expect("UTF-8"));
        }
        // The terminator of another dialect, behind the end.
        let expected = expected.replace("data: [DONE]\n\n", "");
        if !matches!(records.last().map(|record| &record.draft.framing), Some(Framing::Own)) {
            assert_eq!(sent, expected, "{}", fixture.name);
            continue;
        }
        // The provider did not end it, so we do: with its id, and the next of its numbers.
        let at = sent.rfind("event: response.failed").expect("our own ending is last");
        let forwarded = &sent[..at];
        let frames: Vec<serde_json::Value> = heard::blocks(sent.as_bytes())
            .iter()
            .map(|block| serde_json::from_str(&block.data).expect("JSON"))
            .collect();
        let ours = frames.last().expect("an ending");
        if expected.contains("delta") {
            assert!(expected.starts_with(forwarded), "{}: {forwarded}", fixture.name);
            assert_eq!(ours["response"]["id"], frames[0]["response"]["id"], "{}", fixture.name);
        }
        for (at, frame) in frames.iter().enumerate() {
            assert_eq!(frame["sequence_number"], at, "{}", fixture.name);
        }
        assert!(ours["response"]["error"]["code"].as_str().expect("a code").starts_with("upstream_"));
    }
}

#[test]
fn every_surface_says_the_same_and_nothing_that_breaks_clients() {
    for fixture in fixtures::all() {
        let records = log_of(&fixture);
        let (text, reasoning) = spoken(&records);
        for (name, format) in formats() {
            let what = format!("{} as {name}", fixture.name);
            let bytes = encode(format, &records);
            scan(&bytes, &what);
            let heard = Heard::of(format.surface, &bytes);
            assert!(heard.ended, "{what}: no ending");
            // A whole answer is given to its asker as one document; as a stream it is encoded.
            assert_eq!(heard.text, text, "{what}");
            if format.surface != Surface::Plain {
                assert_eq!(heard.reasoning, reasoning, "{what}");
            }
            let blocks = heard::blocks(&bytes);
            if format.ids {
                assert!(blocks.iter().any(|block| block.id.is_some()), "{what}: no ids");
            } else {
                assert!(!bytes.windows(3).any(|w| w == b"id:"), "{what}: ids that were not wanted");
            }
            let asked = format.usage || format.surface != Surface::OpenAiChat;
            let usage_frame = |data: &str| data.contains("\"usage\":{") && data.contains("\"choices\":[]");
            assert!(asked || !blocks.iter().any(|block| usage_frame(&block.data)), "{what}: usage frame");
        }
    }
}

#[test]
fn a_frame_is_never_without_events() {
    for fixture in fixtures::all().iter().filter(|fixture| !fixture.whole()) {
        let (frames, _) = decode(fixture.dialect, [fixture.bytes.as_slice()]);
        assert!(frames.iter().all(|frame| !frame.events.is_empty()), "{}", fixture.name);
        let endings = frames.iter().flat_map(|f| &f.events).filter(|e| matches!(e, Event::Done(_))).count();
        assert!(endings <= 1, "{}", fixture.name);
    }
}

fn assert_cut_invariant<'a>(fixture: &Fixture, pieces: impl Iterator<Item = &'a [u8]>, how: &str) {
    let whole = decode(fixture.dialect, [fixture.bytes.as_slice()]);
    let cut = decode(fixture.dialect, pieces);
    // After an error the frames before it are the same, and so is the error.
    assert_eq!(cut, whole, "{} cut {how}", fixture.name);
}

#[test]
fn no_single_cut_matters() {
    for fixture in fixtures::all().iter().filter(|f| !f.whole() && f.bytes.len() <= SMALL) {
        for at in 0..=fixture.bytes.len() {
            let (a, b) = fixture.bytes.split_at(at);
            assert_cut_invariant(fixture, [a, b].into_iter(), &format!("at {at}"));
        }
    }
}

#[test]
fn small_pieces_do_not_matter() {
    for fixture in fixtures::all().iter().filter(|fixture| !fixture.whole()) {
        for size in [1, 2, 3, 7, 64, 200] {
            assert_cut_invariant(fixture, fixture.bytes.chunks(size), &format!("every {size}"));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_set_of_cuts_matters(cuts in proptest::collection::vec(any::<prop::sample::Index>(), 1..12)) {
        for fixture in fixtures::all().iter().filter(|fixture| !fixture.whole()) {
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(fixture.bytes.len() + 1)).collect();
            at.extend([0, fixture.bytes.len()]);
            at.sort_unstable();
            let pieces = at.windows(2).map(|pair| &fixture.bytes[pair[0]..pair[1]]);
            assert_cut_invariant(fixture, pieces, &format!("at {at:?}"));
        }
    }
}

/// Blocks as they came, but for pings, up to the ending.
fn expected_anthropic(bytes: &[u8]) -> String {
    let text = std::str::from_utf8(bytes).expect("fixtures are UTF-8");
    let end = if text.contains("\r\n") { "\r\n\r\n" } else { "\n\n" };
    let mut out = String::new();
    for block in text.split_inclusive(end).filter(|block| !block.starts_with("event: ping")) {
        let last = block.starts_with("event: message_stop");
        if block.ends_with(end) || last {
            out.push_str(block.trim_end());
            out.push_str(if block.ends_with(end) { end } else { "\n\n" });
        }
        if last || block.starts_with("event: error") {
            break;
        }
    }
    out
}

#[test]
fn anthropic_is_verbatim() {
    let all = fixtures::all();
    for fixture in all.iter().filter(|f| !f.whole() && f.dialect == Provider::Anthropic) {
        let records = log_of(fixture);
        let bytes = encode(Format::new(Surface::Anthropic), &records);
        let sent = without_id_lines(std::str::from_utf8(&bytes).expect("UTF-8"));
        let expected = expected_anthropic(&fixture.bytes);
        if matches!(records.last().map(|record| &record.draft.framing), Some(Framing::Raw(_))) {
            assert_eq!(sent, expected, "{}", fixture.name);
        } else {
            // The provider did not end it, so we say that, after what came through.
            let at = sent.rfind("event: error").expect("our own error is last");
            let (forwarded, error) = sent.split_at(at);
            assert!(expected.starts_with(forwarded), "{}: {forwarded}", fixture.name);
            assert!(error.contains("upstream_"), "{}: {error}", fixture.name);
        }
        let bare = encode(Format { ids: false, ..Format::new(Surface::Anthropic) }, &records);
        assert_eq!(sent.as_bytes(), bare, "{}", fixture.name);
    }
}
