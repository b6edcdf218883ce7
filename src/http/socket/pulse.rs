//! When a silent socket is pinged, taken for dead, or has been open for long enough: one timer that looks back when it
//! fires, so that nothing is rearmed with every message.

use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use crate::app::Edge;
use crate::http::envelope::jitter_ms;

/// With nothing to wait for.
const FAR: Duration = Duration::from_secs(365 * 24 * 3600);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beat {
    Ping,
    /// No pong came.
    Dead,
    /// Its lifetime is over.
    Over,
}

pub struct Pulse {
    ping: Duration,
    pong: Duration,
    heard: Instant,
    asked: Option<Instant>,
    ends: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Pulse {
    pub fn new(edge: &Edge) -> Pulse {
        let now = Instant::now();
        let life = if edge.lifetime.is_zero() { FAR } else { about(edge.lifetime) };
        let (ping, ends) = (if edge.ping.is_zero() { FAR } else { edge.ping }, now + life);
        let timer = Box::pin(sleep_until(ends.min(now + ping)));
        Pulse { ping, pong: edge.pong, heard: now, asked: None, ends, timer }
    }

    /// Something came from the other side.
    pub fn heard(&mut self) {
        self.heard = Instant::now();
    }

    /// What is to be done next. May be dropped while it waits.
    pub async fn beat(&mut self) -> Beat {
        loop {
            self.timer.as_mut().await;
            let now = Instant::now();
            if self.ends <= now {
                return Beat::Over;
            }
            let answered = self.asked.is_none_or(|asked| asked < self.heard);
            if self.heard + self.ping > now {
                self.timer.as_mut().reset(self.ends.min(self.heard + self.ping));
            } else if self.pong.is_zero() || answered {
                self.asked = Some(now);
                let wait = if self.pong.is_zero() { self.ping } else { self.pong };
                self.timer.as_mut().reset(self.ends.min(now + wait));
                return Beat::Ping;
            } else {
                return Beat::Dead;
            }
        }
    }
}

/// Give or take a tenth: sockets that were opened together do not come back together.
fn about(lifetime: Duration) -> Duration {
    let tenth = lifetime / 10;
    lifetime - tenth + Duration::from_millis(jitter_ms(2 * tenth.as_millis() as u64))
}
