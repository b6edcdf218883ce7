//! What one connection is to be told and nobody else: a small queue with a bound in bytes.
//!
//! Only for what is never stored. When it is full the oldest of the same kind goes first, then the oldest of all: who
//! reads too slowly misses messages, and holds up nobody.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::task::Context;

use bytes::Bytes;
use futures_util::task::AtomicWaker;

use super::lock;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Signal,
    Notification,
}

#[derive(Debug, Default)]
struct Queue {
    messages: VecDeque<(Kind, Bytes)>,
    bytes: usize,
    kicked: bool,
}

#[derive(Debug)]
pub struct Outbox {
    limit: usize,
    queue: Mutex<Queue>,
    waker: AtomicWaker,
}

impl Outbox {
    pub fn new(limit: usize) -> Outbox {
        Outbox { limit, queue: Mutex::default(), waker: AtomicWaker::new() }
    }

    pub fn push(&self, kind: Kind, message: Bytes) {
        let mut queue = lock(&self.queue);
        queue.bytes += message.len();
        queue.messages.push_back((kind, message));
        while queue.bytes > self.limit {
            let earlier = queue.messages.len() - 1;
            let same = queue.messages.iter().take(earlier).position(|(other, _)| *other == kind).unwrap_or(0);
            let Some((_, dropped)) = queue.messages.remove(same) else { break };
            queue.bytes -= dropped.len();
        }
        drop(queue);
        self.wake();
    }

    /// Everything in it, which leaves it without memory.
    pub fn take(&self) -> Vec<Bytes> {
        let mut queue = lock(&self.queue);
        queue.bytes = 0;
        std::mem::take(&mut queue.messages).into_iter().map(|(_, message)| message).collect()
    }

    /// Its connection is to be closed.
    pub fn kick(&self) {
        lock(&self.queue).kicked = true;
        self.wake();
    }

    pub fn is_kicked(&self) -> bool {
        lock(&self.queue).kicked
    }

    pub fn wake(&self) {
        self.waker.wake();
    }

    /// Call this before looking.
    pub fn register(&self, cx: &Context<'_>) {
        self.waker.register(cx.waker());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_of_its_kind_goes_first() {
        let outbox = Outbox::new(10);
        let push = |kind, text: &'static str| outbox.push(kind, Bytes::from_static(text.as_bytes()));
        push(Kind::Notification, "note");
        push(Kind::Signal, "one");
        push(Kind::Signal, "two");
        push(Kind::Signal, "three");
        assert_eq!(outbox.take(), ["note", "three"]);
        push(Kind::Notification, "12345678");
        push(Kind::Signal, "more");
        push(Kind::Signal, "last");
        assert_eq!(outbox.take(), ["more", "last"]);
        push(Kind::Signal, "larger than all of it");
        assert!(outbox.take().is_empty());
    }
}
