//! How much a member may say in a second: a generic cell rate for each room and user, over all its connections on a node.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use crate::log::LogId;

pub struct Pace {
    limiter: Option<DefaultKeyedRateLimiter<(LogId, String)>>,
}

impl Pace {
    /// Zero is no limit. Twice as much may come at once.
    pub fn new(messages_per_s: u32) -> Pace {
        let quota = |n: NonZeroU32| {
            Quota::per_second(n).allow_burst(n.saturating_mul(NonZeroU32::MIN.saturating_add(1)))
        };
        Pace { limiter: NonZeroU32::new(messages_per_s).map(|n| RateLimiter::keyed(quota(n))) }
    }

    /// Counts a message; or says how long to wait before the next.
    pub fn take(&self, room: LogId, allowance: &str) -> Result<(), Duration> {
        let Some(limiter) = &self.limiter else { return Ok(()) };
        let checked = limiter.check_key(&(room, allowance.to_owned()));
        checked.map_err(|not_until| not_until.wait_time_from(DefaultClock::default().now()))
    }

    /// Forgets who has been silent.
    pub fn sweep(&self) {
        if let Some(limiter) = &self.limiter {
            limiter.retain_recent();
            limiter.shrink_to_fit();
        }
    }
}
