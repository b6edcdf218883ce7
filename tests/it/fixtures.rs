//! Recorded provider bytes (`tests/fixtures/<provider>/<case>.{sse,json}`) and the logs they become.

use std::path::PathBuf;
use std::sync::Arc;

use relaystream::event::{Done, Event, Start};
use relaystream::log::{Draft, LogId, Position, Record};
use relaystream::provider::{DecodeError, Frame, Provider};
use relaystream::surface::Format;

/// The log that all goldens are printed as.
pub(crate) const LOG: LogId = LogId(0x0198_0000_0000_0000_0000_0000_0000_0001);
pub(crate) const FRAME_LIMIT: usize = 64 * 1024;

pub(crate) struct Fixture {
    pub(crate) dialect: Provider,
    /// The dialect's and the file's name, which name the snapshot too.
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
}

impl Fixture {
    /// Asked without a stream, the provider answers with one JSON document.
    pub(crate) fn whole(&self) -> bool {
        self.name.ends_with(".json")
    }
}

/// All fixtures, by dialect and name.
pub(crate) fn all() -> Vec<Fixture> {
    let mut fixtures = Vec::new();
    for dialect in Provider::ALL.into_iter().filter(|dialect| *dialect != Provider::Demo) {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(dialect.name());
        let files = std::fs::read_dir(&folder).expect("every dialect has fixtures");
        let mut files: Vec<PathBuf> = files.map(|file| file.expect("readable").path()).collect();
        files.sort();
        assert!(files.len() >= 10, "only {} fixtures in {}", files.len(), folder.display());
        fixtures.extend(files.into_iter().map(|path| Fixture {
            dialect,
            name: format!("{}/{}", dialect.name(), path.file_name().expect("a file").to_string_lossy()),
            bytes: std::fs::read(&path).expect("readable"),
        }));
    }
    fixtures
}

/// What a dialect's decoder makes of a body that arrives in these pieces.
pub(crate) fn decode<'a>(
    dialect: Provider,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<Frame>, Option<DecodeError>) {
    let mut decoder = dialect.decoder(FRAME_LIMIT);
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
        by: None,
        model: "test-model".into(),
        provider: "test".into(),
        created_at: 1_761_500_000,
        message: None,
        response: None,
    })
}

/// The log of an answer, begun and ended as the relay does it, but without retries.
pub(crate) fn log_of(fixture: &Fixture) -> Vec<Record> {
    let (frames, error) = if fixture.whole() {
        match fixture.dialect.decoder(FRAME_LIMIT).whole(&fixture.bytes) {
            Ok(frames) => (frames, None),
            Err(error) => (Vec::new(), Some(error)),
        }
    } else {
        decode(fixture.dialect, [fixture.bytes.as_slice()])
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
    Draft::own(event, 0)
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
    use relaystream::surface::{Surface, ai_sdk::Parts};
    let openai = Format::new(Surface::OpenAiChat);
    vec![
        ("native", Format::new(Surface::Native)),
        ("plain", Format::new(Surface::Plain)),
        ("openai-chat", openai),
        ("openai-chat without usage", Format { usage: false, ..openai }),
        ("openai-chat without ids", Format { ids: false, ..openai }),
        ("openai-chat without either", Format { ids: false, usage: false, ..openai }),
        ("openai-responses", Format::new(Surface::OpenAiResponses)),
        ("openai-responses without ids", Format { ids: false, ..Format::new(Surface::OpenAiResponses) }),
        ("anthropic", Format::new(Surface::Anthropic)),
        // Its clients take no ids.
        ("gemini", Format { ids: false, ..Format::new(Surface::Gemini) }),
        ("ai-sdk", Format::new(Surface::AiSdk)),
        ("ai-sdk of v6 without ids", Format { parts: Parts::V6, ids: false, ..Format::new(Surface::AiSdk) }),
    ]
}
