//! Recorded provider bytes (`tests/fixtures/<provider>/<case>.{sse,json}`) and the logs they become.

use std::path::PathBuf;
use std::sync::Arc;

use relaystream::event::{Done, Event, Start};
use relaystream::log::{Draft, Framing, LogId, Position, Record};
use relaystream::provider::{DecodeError, Frame, Provider};
use relaystream::surface::Format;

/// The log that all goldens are printed as.
pub(crate) const LOG: LogId = LogId(0x0198_0000_0000_0000_0000_0000_0000_0001);
pub(crate) const FRAME_LIMIT: usize = 64 * 1024;

pub(crate) struct Fixture {
    /// The file's name, which names the snapshot too.
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
}

impl Fixture {
    /// Asked without a stream, the provider answers with one JSON document.
    pub(crate) fn whole(&self) -> bool {
        self.name.ends_with(".json")
    }
}

/// All fixtures of a dialect, by name.
pub(crate) fn all() -> Vec<Fixture> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/openai-chat");
    let files = std::fs::read_dir(&folder).expect("the fixtures are there");
    let mut fixtures: Vec<Fixture> = files
        .map(|file| file.expect("readable").path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "sse" || ext == "json"))
        .map(|path| Fixture {
            name: path.file_name().expect("a file").to_string_lossy().into_owned(),
            bytes: std::fs::read(&path).expect("readable"),
        })
        .collect();
    fixtures.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(fixtures.len() > 30, "only {} fixtures in {}", fixtures.len(), folder.display());
    fixtures
}

/// What a decoder makes of a body that arrives in these pieces.
pub(crate) fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Frame>, Option<DecodeError>) {
    let mut decoder = Provider::OpenAiChat.decoder(FRAME_LIMIT);
    let mut frames = Vec::new();
    for piece in pieces {
        if let Err(error) = decoder.push(piece, &mut frames) {
            return (frames, Some(error));
        }
    }
    let error = decoder.finish(&mut frames).err();
    (frames, error)
}

pub(crate) fn start() -> Event {
    Event::Start(Start {
        stream: LOG.to_string(),
        session: None,
        model: "test-model".into(),
        provider: "test".into(),
        created_at: 1_761_500_000,
    })
}

/// The log of an answer, begun and ended as the relay does it, but without retries.
pub(crate) fn log_of(fixture: &Fixture) -> Vec<Record> {
    let (frames, error) = if fixture.whole() {
        match Provider::OpenAiChat.decoder(FRAME_LIMIT).whole(&fixture.bytes) {
            Ok(frames) => (frames, None),
            Err(error) => (Vec::new(), Some(error)),
        }
    } else {
        decode([fixture.bytes.as_slice()])
    };
    let ended = frames.iter().flat_map(|frame| &frame.events).any(|event| matches!(event, Event::Done(_)));
    let mut drafts = vec![draft(&start())];
    for frame in frames {
        frame.into_drafts(0, &mut drafts);
    }
    match error {
        Some(error) => {
            drafts.push(draft(&Event::Done(Done::failed("upstream_malformed", error.to_string()))))
        }
        None if !ended => drafts.push(draft(&Event::Done(Done::failed("upstream_truncated", "cut")))),
        None => {}
    }
    number(drafts)
}

pub(crate) fn draft(event: &Event) -> Draft {
    Draft { kind: event.kind() as u8, at_ms: 0, payload: event.data().into(), framing: Framing::Own }
}

/// Records of one epoch, from 1.
pub(crate) fn number(drafts: Vec<Draft>) -> Vec<Record> {
    let place = |(at, draft)| Record { position: Position::new(0, at as u64 + 1), draft: Arc::new(draft) };
    drafts.into_iter().enumerate().map(place).collect()
}

/// A whole log in one format, encoded at once.
pub(crate) fn encode(format: Format, records: &[Record]) -> Vec<u8> {
    let mut encoder = format.surface.encoder(format, LOG);
    let mut out = Vec::new();
    for record in records {
        encoder.encode(record, &mut out);
    }
    out
}

/// Every surface with every option that changes its bytes.
pub(crate) fn formats() -> Vec<(&'static str, Format)> {
    use relaystream::surface::Surface;
    let openai = Format::new(Surface::OpenAiChat);
    vec![
        ("native", Format::new(Surface::Native)),
        ("plain", Format::new(Surface::Plain)),
        ("openai-chat", openai),
        ("openai-chat without usage", Format { usage: false, ..openai }),
        ("openai-chat without ids", Format { ids: false, ..openai }),
        ("openai-chat without either", Format { ids: false, usage: false, ..openai }),
    ]
}
