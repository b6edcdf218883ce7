//! One reader of one log in one format: an offset, and nothing more.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::running::Attendance;
use super::tail::{End, Find, Tail};
use super::watch::Watch;
use crate::metrics::{Metrics, Sampler};
use crate::surface::Format;

/// What comes next for a viewer.
#[derive(Debug)]
pub enum Step {
    Bytes(Bytes),
    /// Nothing was said for a while.
    Silence,
    End(End),
}

pub struct Viewer {
    pub tail: Arc<Tail>,
    format: Format,
    watch: Watch,
    offset: u64,
    first: Option<Bytes>,
    beats: u64,
    metrics: Arc<Metrics>,
    sampler: Arc<Sampler>,
    /// Keeps the stream from counting as abandoned.
    _attendance: Option<Attendance>,
}

impl Viewer {
    /// `place`: an offset into the rendition, which must be there, and bytes to be read before it.
    pub fn new(
        tail: Arc<Tail>,
        format: Format,
        place: (u64, Option<Bytes>),
        attendance: Option<Attendance>,
        metrics: Arc<Metrics>,
        sampler: Arc<Sampler>,
    ) -> Viewer {
        let (offset, first) = place;
        let (watch, beats) = (tail.watchers.join(), tail.beats());
        Viewer { tail, format, watch, offset, first, beats, metrics, sampler, _attendance: attendance }
    }

    pub fn format(&self) -> Format {
        self.format
    }

    /// Whether there is nothing left to read, now or later.
    pub fn at_end(&self) -> bool {
        self.first.is_none() && matches!(self.tail.find(self.format, self.offset), Find::End(End::Ended(_)))
    }

    pub fn poll(&mut self, cx: &Context<'_>) -> Poll<Step> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Step::Bytes(first));
        }
        self.watch.register(cx);
        match self.tail.find(self.format, self.offset) {
            Find::Bytes(bytes, grown_at) => {
                self.offset += bytes.len() as u64;
                self.beats = self.tail.beats();
                if self.sampler.pick() {
                    self.metrics.delivery_lag.observe(grown_at.elapsed().as_secs_f64());
                }
                Poll::Ready(Step::Bytes(bytes))
            }
            Find::End(end) => Poll::Ready(Step::End(end)),
            Find::Nothing => {
                let beats = self.tail.beats();
                if beats == self.beats {
                    return Poll::Pending;
                }
                self.beats = beats;
                Poll::Ready(Step::Silence)
            }
        }
    }

    pub async fn next(&mut self) -> Step {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    /// Waits until the log holds something after its start that `ready` accepts, or has ended.
    pub async fn until(&mut self, ready: impl Fn(&[crate::log::Record]) -> bool) {
        std::future::poll_fn(|cx| {
            self.watch.register(cx);
            let there = self.tail.end().is_some() || self.tail.with_records(&ready);
            if there { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}
