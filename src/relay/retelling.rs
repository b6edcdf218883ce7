//! A kept answer told again at a pace: a stream of its own, with ids of its own, and no provider.
//!
//! Its log is fed from the kept one's records, so whoever reads it, resumes it or cancels it need not know. Events of one
//! provider's frame stay together: their bytes ride on the last one.

use std::time::Duration;

use super::halt::Halt;
use super::progress::{Progress, TOKEN_BYTES};
use super::pump::Job;
use super::{Relay, now_ms};
use crate::event::{Event, Kind};
use crate::log::{Draft, Framing, Record};

/// What to tell, and how fast.
#[derive(Debug)]
pub struct Retelling {
    /// A whole log, from its start to its end.
    pub records: Vec<Record>,
    /// Above zero.
    pub tokens_per_s: f64,
}

impl Job {
    /// Appends what the kept log says after its start, its ending included.
    pub(super) async fn retell(&mut self, relay: &Relay, kept: Retelling) -> Result<(), Halt> {
        let (mut drafts, mut progress, mut told) = (Vec::new(), Progress::new(0, false), 0);
        for record in kept.records.iter().skip(1) {
            drafts.push(Draft { at_ms: now_ms(), ..(*record.draft).clone() });
            let event =
                Kind::from_u8(record.draft.kind).map(|kind| Event::parse(kind, &record.draft.payload));
            progress.take(event.and_then(Result::ok).into_iter().collect());
            if matches!(record.draft.framing, Framing::Part(_)) {
                continue;
            }
            let tokens = (progress.said() - told) as f64 / TOKEN_BYTES as f64;
            told = progress.said();
            let wait = Duration::try_from_secs_f64(tokens / kept.tokens_per_s).unwrap_or(Duration::MAX);
            self.pause(wait).await?;
            let spoken = drafts.iter().filter(|draft| Kind::says(draft.kind)).count() as u64;
            relay.metrics.tokens.inc_by(spoken);
            let seal = record.draft.kind == Kind::Done as u8;
            self.append(relay, std::mem::take(&mut drafts), seal).await?;
        }
        Ok(())
    }
}
