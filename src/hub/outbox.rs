//! What one connection is to be told and nobody else: a small queue with a bound in bytes.
//!
//! Only for signals, which are never stored. When it is full the oldest go: who reads too slowly misses them, and holds
//! up nobody.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::task::Context;

use bytes::Bytes;
use futures_util::task::AtomicWaker;

use super::lock;

#[derive(Debug, Default)]
struct Queue {
    messages: VecDeque<Bytes>,
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

    pub fn push(&self, message: Bytes) {
        let mut queue = lock(&self.queue);
        queue.bytes += message.len();
        queue.messages.push_back(message);
        while queue.bytes > self.limit
            && let Some(oldest) = queue.messages.pop_front()
        {
            queue.bytes -= oldest.len();
        }
        drop(queue);
        self.wake();
    }

    /// Everything in it, which leaves it without memory.
    pub fn take(&self) -> VecDeque<Bytes> {
        let mut queue = lock(&self.queue);
        queue.bytes = 0;
        std::mem::take(&mut queue.messages)
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
    fn the_oldest_goes_first() {
        let outbox = Outbox::new(10);
        let push = |text: &'static str| outbox.push(Bytes::from_static(text.as_bytes()));
        ["one", "two", "three"].into_iter().for_each(push);
        assert_eq!(outbox.take(), ["two", "three"]);
        push("four");
        push("larger than all of it");
        assert!(outbox.take().is_empty());
        push("five");
        assert_eq!(outbox.take(), ["five"]);
    }
}
