//! Who waits for more: wakers, one for each viewer, woken together.
//!
//! No payload passes through here. A viewer registers its waker before it looks for news, so that news which come
//! in between wake it again.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::Context;

use futures_util::task::AtomicWaker;

#[derive(Debug, Default)]
pub struct Watchers {
    wakers: Mutex<Vec<Arc<AtomicWaker>>>,
}

/// One viewer's place among the watchers, given up on drop.
#[derive(Debug)]
pub struct Watch {
    watchers: Arc<Watchers>,
    waker: Arc<AtomicWaker>,
}

impl Watchers {
    pub fn join(self: &Arc<Self>) -> Watch {
        let waker = Arc::new(AtomicWaker::new());
        self.list().push(waker.clone());
        Watch { watchers: self.clone(), waker }
    }

    pub fn count(&self) -> usize {
        self.list().len()
    }

    pub fn wake_all(&self) {
        for waker in self.list().iter() {
            waker.wake();
        }
    }

    fn list(&self) -> std::sync::MutexGuard<'_, Vec<Arc<AtomicWaker>>> {
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch {
    /// Call this before looking for news.
    pub fn register(&self, cx: &Context<'_>) {
        self.waker.register(cx.waker());
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut list = self.watchers.list();
        if let Some(at) = list.iter().position(|waker| Arc::ptr_eq(waker, &self.waker)) {
            list.swap_remove(at);
        }
        if list.is_empty() || list.len() * 4 < list.capacity() {
            list.shrink_to_fit();
        }
    }
}
