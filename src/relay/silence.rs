//! Waits for a silence of some length, without arming a timer for every word.
//!
//! The timer is left alone while there is noise; when it fires it looks back, and goes on sleeping if it must.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

pub struct Silence {
    span: Duration,
    heard: Instant,
    alarm: Pin<Box<Sleep>>,
}

impl Silence {
    /// A `span` of zero never passes.
    pub fn new(span: Duration) -> Silence {
        Silence { span, heard: Instant::now(), alarm: Box::pin(sleep(span)) }
    }

    pub fn heard(&mut self, at: Instant) {
        self.heard = at;
    }

    /// Resolves when nothing was heard for the span, and again after each further one.
    pub fn poll_passed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.span.is_zero() {
            return Poll::Pending;
        }
        loop {
            ready!(self.alarm.as_mut().poll(cx));
            let (now, due) = (Instant::now(), self.heard + self.span);
            if due <= now {
                self.heard = now;
                self.alarm.as_mut().reset(now + self.span);
                return Poll::Ready(());
            }
            self.alarm.as_mut().reset(due);
        }
    }

    /// The same as a future. Safe to drop and call again.
    pub async fn passed(&mut self) {
        poll_fn(|cx| self.poll_passed(cx)).await;
    }
}
