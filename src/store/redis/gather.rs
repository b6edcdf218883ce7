//! Appends of all of a node's streams leave for Redis together.
//!
//! A command of its own costs Redis, and this node, more in system calls than in work. When it is quiet an append leaves
//! at once; for a few milliseconds after one, others wait and then leave together, in one write of the connection.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::store::lock;

pub struct Gather {
    span: Duration,
    /// The next append leaves then, or at once if that is over.
    next: Mutex<Instant>,
}

impl Gather {
    /// Zero: every append leaves at once.
    pub fn new(span: Duration) -> Gather {
        Gather { span, next: Mutex::new(Instant::now()) }
    }

    /// Waits until the others leave.
    pub async fn together(&self) {
        if let Some(departure) = self.departure(Instant::now()) {
            sleep_until(departure).await;
        }
    }

    /// None: at once.
    fn departure(&self, now: Instant) -> Option<Instant> {
        let mut next = lock(&self.next);
        if *next > now {
            return Some(*next);
        }
        *next = now + self.span;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_leaves_at_once_and_the_others_together() {
        let (span, start) = (Duration::from_millis(5), Instant::now() + Duration::from_secs(1));
        let gather = Gather::new(span);
        let at = |ms| gather.departure(start + Duration::from_millis(ms));
        assert_eq!(at(0), None);
        assert_eq!((at(0), at(4)), (Some(start + span), Some(start + span)));
        assert_eq!(at(5), None);
        assert_eq!(at(9), Some(start + 2 * span));
        assert_eq!(at(60), None);
        let none = Gather::new(Duration::ZERO);
        assert_eq!((none.departure(start), none.departure(start)), (None, None));
    }
}
