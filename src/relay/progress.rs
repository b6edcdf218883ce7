//! How far an answer has come: what was said, what it cost, and so what a continuation would need.
//!
//! Pure but for the instants that it is told.

use std::time::Duration;

use tokio::time::Instant;

use super::seam::{Joint, Seam};
use crate::event::{Event, Status, Usage};

/// How long an answer is listened to before its pace is judged.
const PACE_WINDOW: Duration = Duration::from_secs(10);
/// Roughly what a token takes, in bytes of UTF-8.
pub const TOKEN_BYTES: u64 = 4;

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

    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether nothing but text was said, all of which is here.
    pub fn only_text(&self) -> bool {
        self.keeps_text && !self.beyond_text
    }

    /// Tokens of the text so far, roughly.
    pub fn text_tokens(&self) -> u64 {
        (self.text.len() as u64).div_ceil(TOKEN_BYTES)
    }

    /// Bytes said by this request.
    pub fn said(&self) -> u64 {
        self.bytes
    }

    /// Another request goes on from here.
    pub fn go_on(&mut self) {
        self.before = self.cost();
        (self.bytes, self.counted, self.pace) = (0, None, None);
        self.times_gone_on += 1;
    }

    /// What comes next is asked for in this way.
    pub fn meet(&mut self, joint: Joint) {
        let goes_on = self.goes_on() && !self.text.is_empty();
        self.seam = goes_on.then(|| Seam::new(&self.text, joint));
    }

    /// What is taken next was said to another process, which has gone on so many times.
    pub fn inherit(&mut self, times_gone_on: u32) {
        self.times_gone_on = times_gone_on;
    }

    pub fn times_gone_on(&self) -> u32 {
        self.times_gone_on
    }

    /// Whether this request goes on with another's answer: its frames are not the first one's any more.
    pub fn goes_on(&self) -> bool {
        self.times_gone_on > 0
    }

    /// Takes a frame's events and returns what of them is news, their counts those of the whole answer.
    pub fn take(&mut self, mut events: Vec<Event>) -> Vec<Event> {
        if self.seam.is_none() {
            events.iter_mut().for_each(|event| self.note(event));
            return events;
        }
        let mut news = Vec::with_capacity(events.len());
        for event in events {
            match event {
                Event::Token(piece) => {
                    self.bytes += piece.len() as u64;
                    let piece = self.seam.as_mut().map_or_else(String::new, |seam| seam.push(piece));
                    self.say(piece, &mut news);
                }
                // What the model thinks about how to go on is not part of the answer.
                Event::Reasoning(text) => self.bytes += text.len() as u64,
                Event::Signature(_) => {}
                mut other => {
                    // Of an answer that broke off, what is held may be half a repeat.
                    if matches!(&other, Event::Done(done) if done.status == Status::Completed) {
                        let rest = self.seam.as_mut().map_or_else(String::new, Seam::finish);
                        self.say(rest, &mut news);
                    }
                    self.note(&mut other);
                    news.push(other);
                }
            }
        }
        news
    }

    fn note(&mut self, event: &mut Event) {
        match event {
            Event::Token(piece) => {
                self.bytes += piece.len() as u64;
                self.keep(piece);
            }
            Event::Reasoning(text) | Event::Refusal(text) => {
                self.bytes += text.len() as u64;
                self.beyond_text = true;
            }
            Event::Tool(tool) => {
                self.bytes += tool.arguments.as_ref().map_or(0, |text| text.len() as u64);
                self.beyond_text = true;
            }
            Event::Signature(_) => self.beyond_text = true,
            Event::Usage(usage) => {
                self.counted = Some(*usage);
                *usage = self.with_earlier(*usage);
            }
            Event::Done(done) => {
                self.counted = done.usage.or(self.counted);
                // What the provider of a whole answer did not say is not made up.
                done.usage = if self.goes_on() { self.cost() } else { self.counted };
            }
            Event::Start(_) | Event::Notice(_) => {}
        }
    }

    fn say(&mut self, piece: String, news: &mut Vec<Event>) {
        if !piece.is_empty() {
            self.keep(&piece);
            news.push(Event::Token(piece));
        }
    }

    fn keep(&mut self, piece: &str) {
        if self.keeps_text {
            self.text.push_str(piece);
        }
    }

    fn with_earlier(&self, usage: Usage) -> Usage {
        self.before.map_or(usage, |before| before + usage)
    }

    /// What the whole answer has cost so far, if anything was said or counted at all: as counted, else roughly.
    pub fn cost(&self) -> Option<Usage> {
        let spent = self.bytes > 0 || self.counted.is_some();
        if spent { Some(self.usage()) } else { self.before }
    }

    /// What the whole answer has cost so far, with the request that is under way: as counted, else roughly.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Done;

    fn token(text: &str) -> Event {
        Event::Token(text.into())
    }

    fn counted(input_tokens: u64, output_tokens: u64) -> Usage {
        Usage { input_tokens, output_tokens, ..Usage::default() }
    }

    fn done(usage: Option<Usage>) -> Event {
        Event::Done(Done { usage, ..Done::ended(Status::Completed) })
    }

    #[test]
    fn what_an_answer_costs_is_counted_by_its_provider_or_roughly_by_us() {
        let mut progress = Progress::new(40, true);
        assert_eq!(progress.cost(), None);
        progress.take(vec![token("eight by")]);
        let roughly = Usage { estimated: true, ..counted(10, 2) };
        assert_eq!(progress.cost(), Some(roughly));
        progress.take(vec![Event::Usage(counted(7, 3))]);
        assert_eq!(progress.cost(), Some(counted(7, 3)));
        // What is said after a count that came with the first word is not free.
        progress.take(vec![token(&"x".repeat(400))]);
        assert_eq!(progress.cost(), Some(Usage { estimated: true, ..counted(7, 102) }));
        assert_eq!(progress.take(vec![done(Some(counted(7, 90)))]), [done(Some(counted(7, 90)))]);
        assert_eq!(Progress::new(4, true).take(vec![token("a"), done(None)]), [token("a"), done(None)]);
    }

    #[test]
    fn counts_of_a_continuation_are_those_of_the_whole_answer() {
        let mut progress = Progress::new(40, true);
        progress.take(vec![token("eight by")]);
        progress.go_on();
        // Asked in vain: nothing came of it.
        progress.go_on();
        progress.meet(Joint::Exact);
        let news = progress.take(vec![token("tes"), Event::Usage(counted(12, 1)), done(None)]);
        let both = Usage { estimated: true, ..counted(22, 3) };
        assert_eq!(news, [token("tes"), Event::Usage(both), done(Some(both))]);
        assert_eq!((progress.text(), progress.times_gone_on()), ("eight bytes", 2));
    }

    #[test]
    fn thoughts_about_going_on_are_left_out_and_calls_are_not() {
        let mut progress = Progress::new(0, true);
        progress.take(vec![token("Hel")]);
        assert!(progress.only_text());
        progress.go_on();
        progress.meet(Joint::InWords);
        let call = Event::Tool(crate::event::Tool::default());
        let news = progress.take(vec![Event::Reasoning("hm".into()), token("lo"), call.clone()]);
        assert_eq!(news, [token("lo"), call]);
        assert!(!progress.only_text());
    }

    #[test]
    fn the_pace_is_told_over_a_while() {
        let (mut progress, begun) = (Progress::new(0, false), Instant::now());
        progress.take(vec![token("first")]);
        assert_eq!(progress.pace(begun), None);
        progress.take(vec![token(&"x".repeat(80))]);
        assert_eq!(progress.pace(begun + PACE_WINDOW / 2), None);
        assert_eq!(progress.pace(begun + PACE_WINDOW), Some(2.0));
        assert_eq!(progress.pace(begun + PACE_WINDOW * 2), Some(0.0));
    }
}
