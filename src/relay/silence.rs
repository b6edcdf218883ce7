//! Waits for a silence of some length, without arming a timer for every word.
//!
//! The timer is left alone while there is noise; when it fires it looks back, and goes on sleeping if it must.

use std::pin::Pin;
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

    pub fn heard(&mut self) {
        self.heard = Instant::now();
    }

    /// Resolves when nothing was heard for the span, and again after each further one. Safe to drop and call again.
    pub async fn passed(&mut self) {
        if self.span.is_zero() {
            return std::future::pending().await;
        }
        loop {
            self.alarm.as_mut().await;
            let (now, due) = (Instant::now(), self.heard + self.span);
            if due <= now {
                self.heard = now;
                self.alarm.as_mut().reset(now + self.span);
                return;
            }
            self.alarm.as_mut().reset(due);
        }
    }
}
