//! A viewer's place in a mirror: an index into its window, which moves on with what is taken from there.

use std::sync::Arc;
use std::task::Context;

use super::mirror::{Find, Mirror, Snapshot};
use crate::relay::watch::Watch;
use crate::room::Vector;
use crate::store::Error;

pub struct Cursor {
    mirror: Arc<Mirror>,
    watch: Watch,
    /// The index of the next entry.
    next: u64,
}

impl Cursor {
    /// From now on; what lies before the moment is the viewer's to catch up with.
    pub fn join(mirror: Arc<Mirror>) -> (Cursor, Snapshot) {
        let watch = mirror.watchers.join();
        let moment = mirror.snapshot();
        (Cursor { mirror, watch, next: moment.next }, moment)
    }

    /// The same from a moment that is not before what the viewer has seen, see [`Mirror::snapshot_from`].
    pub async fn join_from(mirror: Arc<Mirror>, held: &Vector) -> Result<(Cursor, Snapshot), Error> {
        let watch = mirror.watchers.join();
        let moment = mirror.snapshot_from(held).await?;
        Ok((Cursor { mirror, watch, next: moment.next }, moment))
    }

    /// Takes what is new; registers for what comes after it.
    pub fn poll(&mut self, cx: &Context<'_>) -> Find {
        self.watch.register(cx);
        self.take()
    }

    /// Takes what is new.
    pub fn take(&mut self) -> Find {
        let found = self.mirror.find(self.next);
        if let Find::Entries(entries) = &found {
            self.next += entries.len() as u64;
        }
        found
    }

    /// How often the mirror was silent for as long as a keep-alive takes.
    pub fn beats(&self) -> u64 {
        self.mirror.beats()
    }
}
