//! Tells those who look at a log that the store has more: at once, or when a rest is over.
//!
//! It is the waker that the store is given. No payload passes through here, and nothing is read here either: whoever
//! is told goes and looks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::Wake;

use super::watch::Watchers;

#[derive(Debug)]
pub struct Bell {
    watchers: Arc<Watchers>,
    /// It rang, and nobody has answered since.
    rang: AtomicBool,
    /// The watchers were told a moment ago and are not to be told again before the rest is over.
    resting: AtomicBool,
}

impl Bell {
    /// One that is to be answered at once: nobody has asked the store yet.
    pub fn new(watchers: Arc<Watchers>) -> Arc<Bell> {
        Arc::new(Bell { watchers, rang: AtomicBool::new(true), resting: AtomicBool::new(false) })
    }

    /// Whether the store is to be asked. True for the first who comes after it rang.
    pub fn answer(&self) -> bool {
        !self.resting.load(SeqCst) && self.rang.swap(false, SeqCst)
    }

    /// Begins a rest; false if there is one already.
    pub fn rest(&self) -> bool {
        !self.resting.swap(true, SeqCst)
    }

    /// Ends the rest. What rang meanwhile is told now.
    pub fn rested(&self) {
        self.resting.store(false, SeqCst);
        if self.rang.load(SeqCst) {
            self.watchers.wake_all();
        }
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.rang.swap(true, SeqCst) && !self.resting.load(SeqCst) {
            self.watchers.wake_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::{Context, Waker};

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    #[test]
    fn what_rings_during_a_rest_is_told_after_it() {
        let (watchers, woken) = (Arc::<Watchers>::default(), Arc::<Woken>::default());
        let (bell, watch) = (Bell::new(watchers.clone()), watchers.join());
        let waker = Waker::from(woken.clone());
        let told = || {
            watch.register(&Context::from_waker(&waker));
            woken.0.swap(0, SeqCst)
        };
        assert!(bell.answer() && !bell.answer(), "a new bell is answered once");
        told();
        bell.wake_by_ref();
        assert!(told() == 1 && bell.answer());
        assert!(bell.rest() && !bell.rest(), "one rest at a time");
        bell.wake_by_ref();
        assert!(told() == 0 && !bell.answer());
        bell.rested();
        assert!(told() == 1 && bell.answer());
        assert!(bell.rest());
        bell.rested();
        assert!(told() == 0 && !bell.answer(), "a rest without news tells nobody");
    }
}
