//! What stops a stream before its provider ends it, and how its log ends then.

use std::sync::atomic::Ordering::Relaxed;

use tokio::time::sleep;
use tracing::warn;

use super::follow::PAGE_BYTES;
use super::pump::Job;
use super::running::Stop;
use super::upstream::Fault;
use super::{Relay, STORE_REST, now_ms};
use crate::event::{Done, Event, Status};
use crate::log::{Draft, Refused};
use crate::provider::DecodeError;
use crate::store;

/// What ends an attempt other than a proper end.
pub enum Halt {
    Stop(Stop),
    Fault(Fault),
    Store(store::Error),
    TooLarge,
    /// The user has spent its tokens.
    Budget,
}

impl From<Fault> for Halt {
    fn from(fault: Fault) -> Halt {
        Halt::Fault(fault)
    }
}

impl From<store::Error> for Halt {
    fn from(error: store::Error) -> Halt {
        Halt::Store(error)
    }
}

impl From<DecodeError> for Halt {
    fn from(error: DecodeError) -> Halt {
        match error {
            DecodeError::TooLarge(_) => Halt::TooLarge,
            DecodeError::Malformed(_) => {
                Halt::Fault(Fault::new("upstream_malformed", error.to_string(), true))
            }
        }
    }
}

/// How the log ends after a halt; None if it is not ours to end any more.
pub fn ending(halt: Halt) -> Option<Done> {
    Some(match halt {
        Halt::Stop(Stop::Cancelled(by)) => Done::cancelled(by),
        Halt::Stop(Stop::Interrupted) => {
            Done { status: Status::Interrupted, ..Done::failed("interrupted", "the server is going away") }
        }
        Halt::Stop(Stop::Left) => return None,
        Halt::Fault(fault) => Done::failed(fault.code, fault.message),
        Halt::TooLarge => Done::failed("too_large", "the answer is larger than this server keeps"),
        Halt::Budget => Done::failed("budget_exceeded", "the budget of tokens is spent"),
        Halt::Store(store::Error::Full) => Done::failed("store_full", "the server has no room for more"),
        Halt::Store(store::Error::Unavailable(_)) => {
            Done::failed("store_unavailable", "the server cannot keep the answer at the moment")
        }
        Halt::Store(_) => return None,
    })
}

impl Job {
    /// Writes the ending, as often as it takes: a log of a live process that never ends is taken over by nobody, and
    /// its viewers would wait for ever. True if it is left to another process, since this one goes away before.
    pub(super) async fn conclude(&mut self, relay: &Relay, done: Done) -> bool {
        loop {
            let draft = Draft::own(&Event::Done(done.clone()), now_ms());
            let Err(Halt::Store(error)) = self.append(relay, vec![draft], true).await else { return false };
            match error {
                // The append before this one was done, and only its answer was lost.
                store::Error::Refused(Refused::Stale { head })
                    if head.epoch == self.epoch && head > self.head =>
                {
                    self.head = head;
                }
                store::Error::Unavailable(_) | store::Error::Full => {
                    warn!(parent: &self.span, %error, "the ending could not be stored yet");
                    if relay.leaving.load(Relaxed) {
                        self.running.leave();
                        return true;
                    }
                    sleep(STORE_REST).await;
                }
                store::Error::Refused(Refused::Closed) => {
                    self.was_closed(relay).await;
                    return false;
                }
                // Somebody else's by now.
                store::Error::Refused(_) => {
                    self.running.leave();
                    return false;
                }
                store::Error::NotFound => return false,
                store::Error::Exists | store::Error::Damaged => {
                    warn!(parent: &self.span, %error, "the ending could not be stored");
                    return false;
                }
            }
        }
    }

    /// Finds the log closed: by an append of ours whose answer was lost, or by who has taken it over.
    async fn was_closed(&mut self, relay: &Relay) {
        let rest = relay.insist(|| relay.store.read(self.running.id, self.head, PAGE_BYTES)).await;
        match rest {
            Ok(page) if page.head.epoch == self.epoch => {
                self.head = page.head;
                if let Some(last) = page.records.last() {
                    self.report(relay, &last.draft.payload);
                }
            }
            Ok(_) => self.running.leave(),
            Err(error) => warn!(parent: &self.span, %error, "the ending could not be read"),
        }
    }
}

pub fn timeout_message(code: &str) -> &'static str {
    match code {
        "first_token_timeout" => "the provider did not say anything in time",
        "between_tokens_timeout" => "the provider fell silent",
        _ => "the answer took longer than allowed",
    }
}
