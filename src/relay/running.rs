//! A stream whose provider is still at work on this node: who may stop it, who is looking, how it failed early.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::log::LogId;

/// What happens to a stream that nobody looks at any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDisconnect {
    /// It goes on to its end.
    Detach,
    /// It is cancelled once nobody has looked for this long.
    Grace(Duration),
    Cancel,
}

impl OnDisconnect {
    /// `detach`, `grace:<seconds>` or `cancel`.
    pub fn parse(text: &str) -> Option<OnDisconnect> {
        match text {
            "detach" => Some(OnDisconnect::Detach),
            "cancel" => Some(OnDisconnect::Cancel),
            _ => {
                let seconds = text.strip_prefix("grace:")?.parse::<u32>().ok()?;
                Some(OnDisconnect::Grace(Duration::from_secs(seconds.into())))
            }
        }
    }
}

/// A provider's refusal before its first event, as it came: dialect routes pass it on.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// The provider's dialect, in which the body is.
    pub dialect: u8,
    pub status: u16,
    pub body: Bytes,
    pub content_type: Option<String>,
    pub retry_after: Option<String>,
    /// We have retried already, or think that it is down: SDKs must not multiply that.
    pub retried: bool,
}

#[derive(Debug)]
pub struct Running {
    pub id: LogId,
    pub on_disconnect: OnDisconnect,
    /// Set when the provider refused before it said anything.
    pub refusal: OnceLock<Refusal>,
    /// The provider has said something.
    spoke: AtomicBool,
    /// It came to its proper end.
    completed: AtomicBool,
    /// See [`Running::leave`].
    left: AtomicBool,
    /// Set once the log is sealed, or given up.
    pub finished: CancellationToken,
    stop: CancellationToken,
    stopped_by: OnceLock<Stop>,
    /// Token events that came while nobody looked, since somebody last did.
    unread: AtomicU64,
    viewers: watch::Sender<Looking>,
}

/// Who looks at a stream, and how many have ever begun to: one that came and went in a moment was there.
#[derive(Debug, Clone, Copy, Default)]
struct Looking {
    now: usize,
    ever: u64,
}

/// Why a running stream is stopped from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// By a user, `policy` or `backend`.
    Cancelled(String),
    /// The node goes away.
    Interrupted,
    /// The node goes away, and another process goes on with it.
    Left,
}

/// Counts as looking for as long as it lives.
#[derive(Debug)]
pub struct Attendance(Arc<Running>);

impl Running {
    pub fn new(id: LogId, on_disconnect: OnDisconnect) -> Arc<Running> {
        Arc::new(Running {
            id,
            on_disconnect,
            refusal: OnceLock::new(),
            spoke: AtomicBool::new(false),
            completed: AtomicBool::new(false),
            left: AtomicBool::new(false),
            finished: CancellationToken::new(),
            stop: CancellationToken::new(),
            stopped_by: OnceLock::new(),
            unread: AtomicU64::new(0),
            viewers: watch::Sender::new(Looking::default()),
        })
    }

    /// The first one to stop it is the one that is told to viewers.
    pub fn stop(&self, why: Stop) {
        let _already_stopped = self.stopped_by.set(why);
        self.stop.cancel();
    }

    /// Another process goes on with it, or has begun to: what its end brings is not for this one to tell.
    pub fn leave(&self) {
        self.left.store(true, Relaxed);
    }

    pub fn left(&self) -> bool {
        self.left.load(Relaxed)
    }

    pub fn spoke(&self) {
        self.spoke.store(true, Relaxed);
    }

    pub fn complete(&self) {
        self.completed.store(true, Relaxed);
    }

    pub fn completed(&self) -> bool {
        self.completed.load(Relaxed)
    }

    /// Whether the provider has said nothing so far.
    pub fn mute(&self) -> bool {
        !self.spoke.load(Relaxed)
    }

    /// Counts token events of which nobody may ever know.
    pub fn said(&self, tokens: u64) {
        if self.viewers.borrow().now == 0 {
            self.unread.fetch_add(tokens, Relaxed);
        }
    }

    pub fn unread(&self) -> u64 {
        self.unread.load(Relaxed)
    }

    pub fn attend(self: &Arc<Self>) -> Attendance {
        self.unread.store(0, Relaxed);
        self.viewers.send_modify(|viewers| {
            viewers.now += 1;
            viewers.ever += 1;
        });
        Attendance(self.clone())
    }

    /// Resolves when the stream is to stop: somebody said so, or everybody left and the policy says so.
    pub async fn stopped(&self) -> Stop {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = self.abandoned() => return Stop::Cancelled("policy".into()),
        }
        self.stopped_by.get().cloned().unwrap_or(Stop::Interrupted)
    }

    async fn abandoned(&self) {
        let grace = match self.on_disconnect {
            OnDisconnect::Detach => return std::future::pending().await,
            OnDisconnect::Grace(grace) => grace,
            OnDisconnect::Cancel => Duration::ZERO,
        };
        let mut viewers = self.viewers.subscribe();
        // The sender is this very struct: these waits cannot fail. Nobody has looked yet: a stream is abandoned only by
        // those who were there.
        drop(viewers.wait_for(|looking| looking.ever > 0).await);
        loop {
            let left = viewers.wait_for(|looking| looking.now == 0).await.map_or(0, |looking| looking.ever);
            let back = viewers.wait_for(|looking| looking.ever > left);
            if tokio::time::timeout(grace, back).await.is_err() {
                return;
            }
        }
    }
}

impl Drop for Attendance {
    fn drop(&mut self) {
        self.0.viewers.send_modify(|viewers| viewers.now -= 1);
    }
}
