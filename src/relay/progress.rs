//! How far an answer has come: what was said, what it cost, and so what a continuation would need.
//!
//! Pure but for the instants that it is told.

use std::time::{Duration, Instant};

use super::seam::Seam;
use crate::event::{Event, Usage};

/// How long an answer is listened to before its pace is judged.
const PACE_WINDOW: Duration = Duration::from_secs(10);
/// Roughly what a token takes, in bytes of UTF-8.
const TOKEN_BYTES: u64 = 4;

#[derive(Debug)]
pub struct Progress {
    /// All text so far, if anybody may want to go on with it.
    text: String,
    keeps_text: bool,
    /// Something other than text was said, which cannot be gone on with.
    beyond_text: bool,
    /// Bytes said by this request, of any kind.
    bytes: u64,
    /// What this request costs, as its provider counted last.
    counted: Option<Usage>,
    /// What earlier requests of this answer cost.
    before: Option<Usage>,
    /// What asking costs, roughly.
    input_tokens: u64,
    /// Where this request goes on from another's text.
    seam: Option<Seam>,
    times_gone_on: u32,
    pace: Option<Pace>,
}

#[derive(Debug, Clone, Copy)]
struct Pace {
    since: Instant,
    bytes: u64,
}

impl Progress {
    /// `asked_bytes`: the size of the request's messages.
    pub fn new(asked_bytes: usize, keeps_text: bool) -> Progress {
        Progress {
            text: String::new(),
            keeps_text,
            beyond_text: false,
            bytes: 0,
            counted: None,
            before: None,
            input_tokens: (asked_bytes as u64).div_ceil(TOKEN_BYTES),
            seam: None,
            times_gone_on: 0,
            pace: None,
        }
    }

    /// The text so far, if that is all that was said.
    pub fn only_text(&self) -> Option<&str> {
        (!self.beyond_text && !self.text.is_empty()).then_some(&self.text)
    }

    /// Tokens of the text so far, roughly.
    pub fn text_tokens(&self) -> u64 {
        (self.text.len() as u64).div_ceil(TOKEN_BYTES)
    }

    /// Another request goes on from here.
    pub fn go_on(&mut self) {
        self.before = Some(self.usage());
        (self.bytes, self.counted, self.pace) = (0, None, None);
        self.seam = Some(Seam::new(self.text.clone()));
        self.times_gone_on += 1;
    }

    pub fn times_gone_on(&self) -> u32 {
        self.times_gone_on
    }

    /// What was spent, if anything was said or counted at all.
    pub fn cost(&self) -> Option<Usage> {
        let spent = self.bytes > 0 || self.counted.is_some() || self.before.is_some();
        spent.then(|| self.usage())
    }

    /// Whether this request goes on with another's answer: its frames are not the first one's any more.
    pub fn goes_on(&self) -> bool {
        self.seam.is_some()
    }

    /// Takes an event and returns what of it is news, its counts those of the whole answer.
    pub fn take(&mut self, event: Event, news: &mut Vec<Event>) {
        let event = match event {
            Event::Token(piece) => {
                self.bytes += piece.len() as u64;
                let piece = match &mut self.seam {
                    Some(seam) => seam.push(&piece),
                    None => piece,
                };
                return self.say(piece, news);
            }
            Event::Reasoning(_) | Event::Signature(_) if self.goes_on() => return,
            Event::Reasoning(text) => {
                self.bytes += text.len() as u64;
                self.beyond_text = true;
                Event::Reasoning(text)
            }
            Event::Tool(tool) => {
                self.bytes += tool.arguments.as_ref().map_or(0, |text| text.len() as u64);
                self.beyond_text = true;
                Event::Tool(tool)
            }
            Event::Refusal(text) => {
                self.bytes += text.len() as u64;
                self.beyond_text = true;
                Event::Refusal(text)
            }
            Event::Usage(usage) => {
                self.counted = Some(usage);
                Event::Usage(self.with_earlier(usage))
            }
            Event::Done(mut done) => {
                let rest = self.seam.as_mut().map_or_else(String::new, Seam::finish);
                self.say(rest, news);
                self.counted = done.usage.or(self.counted);
                done.usage = self.counted.map(|counted| self.with_earlier(counted)).or(self.before);
                Event::Done(done)
            }
            other => other,
        };
        news.push(event);
    }

    fn say(&mut self, piece: String, news: &mut Vec<Event>) {
        if !piece.is_empty() {
            if self.keeps_text {
                self.text.push_str(&piece);
            }
            news.push(Event::Token(piece));
        }
    }

    fn with_earlier(&self, usage: Usage) -> Usage {
        self.before.map_or(usage, |before| before + usage)
    }

    /// What the whole answer has cost so far: as counted, else roughly.
    pub fn usage(&self) -> Usage {
        let said = self.bytes.div_ceil(TOKEN_BYTES);
        let here = match self.counted {
            // Counts that come with the first word know nothing of the rest.
            Some(counted) if counted.output_tokens >= said / 4 || said < 16 => counted,
            Some(counted) => Usage { output_tokens: said, estimated: true, ..counted },
            None => Usage {
                input_tokens: self.input_tokens,
                output_tokens: said,
                estimated: true,
                ..Usage::default()
            },
        };
        self.with_earlier(here)
    }

    /// Tokens a second, once there was time enough to tell.
    pub fn pace(&mut self, now: Instant) -> Option<f64> {
        let pace = *self.pace.get_or_insert(Pace { since: now, bytes: self.bytes });
        let passed = now.saturating_duration_since(pace.since);
        if passed < PACE_WINDOW {
            return None;
        }
        self.pace = Some(Pace { since: now, bytes: self.bytes });
        Some((self.bytes - pace.bytes) as f64 / TOKEN_BYTES as f64 / passed.as_secs_f64())
    }
}
