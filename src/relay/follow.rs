//! Everything after my position, else wait: the one way a log is read.
//!
//! Live and late are the same loop. There is no hand-over between replay and tail, no queue and so no overflow: a
//! reader is a position.

use std::sync::Arc;

use async_stream::try_stream;
use futures_util::Stream;

use crate::log::{LogId, Page, Position};
use crate::store::{Error, Store};

/// The most that is read at once, in bytes of log.
pub const PAGE_BYTES: usize = 1024 * 1024;

/// Pages of records after `after`, ending once the log is closed and read.
pub fn follow(
    store: Arc<dyn Store>,
    log: LogId,
    after: Position,
) -> impl Stream<Item = Result<Page, Error>> + Send {
    try_stream! {
        let mut at = after;
        loop {
            // First the notification, then the read: an append in between is seen by the next round.
            store.changed(log, at).await?;
            let page = store.read(log, at, PAGE_BYTES).await?;
            at = page.records.last().map_or(at, |record| record.position);
            let ended = page.closed && at == page.head;
            yield page;
            if ended {
                break;
            }
        }
    }
}
