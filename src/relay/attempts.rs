//! Which target is asked next: again, another one, or one that goes on where the last broke off.
//!
//! Before the first word a failure is retried and then passed on to the next target; after it a plain text is gone on
//! with. All of it happens under the same stream, and every step is a notice in its log.

use std::time::{Duration, Instant};

use tracing::warn;

use super::Relay;
use super::halt::Halt;
use super::pump::Job;
use super::route::Target;
use super::upstream::Fault;
use crate::event::{Event, Notice};
use crate::metrics::Code;

/// A key that was refused is not used for so long.
const KEY_REST: Duration = Duration::from_secs(60);
/// A key that was told to slow down is not used for so long, unless the provider says otherwise.
const KEY_PAUSE: Duration = Duration::from_secs(1);

/// Where the search for an answer stands.
#[derive(Debug, Default)]
struct Search {
    /// The target to be asked.
    at: usize,
    /// Requests to that target.
    tried: u32,
    /// Requests in all.
    asked: u32,
}

impl Job {
    /// The first answer that gets through to its end. A provider's own ending seals the log by itself.
    pub(super) async fn attempts(&mut self, relay: &Relay) -> Result<(), Halt> {
        let targets = self.route.targets.clone();
        let (mut search, mut last) = (Search::default(), None);
        loop {
            let Some(target) = targets.get(search.at) else {
                let nobody = || Fault::new("connect_failed", "no target of this model can be asked", true);
                return Err(self.give_up(last.unwrap_or_else(nobody), search.asked));
            };
            let Some(trial) = relay.health.admit(target, self.route.policy.breaker, Instant::now()) else {
                last.get_or_insert_with(|| resting(target));
                search.next_target();
                continue;
            };
            (search.tried, search.asked) = (search.tried + 1, search.asked + 1);
            let key = relay.health.key(&target.endpoint, Instant::now()).map(str::to_owned);
            let fault = match self.attempt(relay, target, key.as_deref()).await {
                Err(Halt::Fault(fault)) => fault,
                Ok(()) => {
                    trial.succeeded();
                    return Ok(());
                }
                // Not the target's doing.
                other => return other,
            };
            relay.metrics.upstream_error(fault.code);
            if fault.retryable {
                trial.failed(Instant::now());
            }
            let rotated = key.is_some_and(|key| rotate(relay, target, &key, &fault));
            let Some(notice) = self.next(&mut search, targets.len(), &fault, rotated) else {
                return Err(self.give_up(fault, search.asked));
            };
            let wait = if rotated || search.tried == 0 {
                Some(Duration::ZERO)
            } else {
                self.backoff(search.tried, &fault)
            };
            let Some(wait) = wait else { return Err(self.give_up(fault, search.asked)) };
            let wait_ms = wait.as_millis() as u64;
            warn!(parent: &self.span, code = fault.code, error = %fault, what = notice, wait_ms, "asking again");
            self.pause(wait).await?;
            self.announce(relay, notice, &targets[search.at], &fault).await?;
            last = Some(fault);
        }
    }

    /// Decides what comes after a fault, and how it is called.
    fn next(
        &mut self,
        search: &mut Search,
        targets: usize,
        fault: &Fault,
        rotated: bool,
    ) -> Option<&'static str> {
        let policy = self.route.policy;
        let again = rotated || (fault.retryable && search.tried < policy.retry.attempts);
        let another = fault.elsewhere && search.at + 1 < targets;
        if self.spoke.is_some() || self.committed {
            if !fault.retryable || !self.may_go_on() {
                return None;
            }
            self.progress.go_on();
            if !again && another {
                search.next_target();
            }
            return Some("continued");
        }
        if again {
            return Some("retried");
        }
        another.then(|| {
            search.next_target();
            "fallback"
        })
    }

    /// Only plain text can be gone on with, and not for ever.
    pub(super) fn may_go_on(&self) -> bool {
        let shaped = self.request.params.get("response_format").is_some_and(|shape| shape["type"] != "text");
        let often = self.progress.times_gone_on() >= self.route.policy.continuing.most;
        !shaped && !often && self.progress.only_text().is_some()
    }

    async fn announce(
        &mut self,
        relay: &Relay,
        code: &str,
        target: &Target,
        fault: &Fault,
    ) -> Result<(), Halt> {
        relay.metrics.seams.get_or_create_owned(&Code { code: code.to_owned() }).inc();
        let notice = Notice {
            code: code.into(),
            message: format!("after: {fault}"),
            provider: Some(target.endpoint.name.clone()),
            model: Some(target.model.clone()),
        };
        let draft = self.draft(&Event::Notice(notice));
        self.append(relay, vec![draft], false).await
    }

    /// How long to wait before the next attempt, full jitter; None if the deadline does not allow it.
    fn backoff(&self, attempt: u32, fault: &Fault) -> Option<Duration> {
        let retry = self.route.policy.retry;
        let ceiling = retry.base.saturating_mul(1 << (attempt - 1).min(16)).min(retry.max);
        // The id's random bits are as good as any for spreading clients.
        let jitter = ceiling.mul_f64((ulid::Ulid::generate().0 as u32) as f64 / f64::from(u32::MAX));
        // A provider that wants us gone for longer than we would wait is told to the client, with its wish.
        let wait = match fault.retry_after {
            Some(wish) if wish > retry.max => return None,
            Some(wish) => wish.max(jitter),
            None => jitter,
        };
        let total = self.route.policy.timeouts.total;
        (total.is_zero() || self.began.elapsed() + wait < total).then_some(wait)
    }

    fn give_up(&self, fault: Fault, asked: u32) -> Halt {
        if self.spoke.is_none()
            && let Some(mut refusal) = fault.refusal.clone()
        {
            refusal.retried = asked > 1;
            let _set_once = self.running.refusal.set(*refusal);
        }
        Halt::Fault(fault)
    }
}

impl Search {
    fn next_target(&mut self) {
        (self.at, self.tried) = (self.at + 1, 0);
    }
}

fn resting(target: &Target) -> Fault {
    let message = format!("provider {} has failed too often and is given a rest", target.endpoint.name);
    Fault::new("upstream_error", message, true)
}

/// Puts a refused key aside; true if there is another.
fn rotate(relay: &Relay, target: &Target, key: &str, fault: &Fault) -> bool {
    let rest = match fault.refusal.as_ref().map(|refusal| refusal.status) {
        Some(401 | 403) => KEY_REST,
        Some(429) => fault.retry_after.unwrap_or(KEY_PAUSE),
        _ => return false,
    };
    let now = Instant::now();
    relay.health.rest(&target.endpoint, key, now + rest);
    relay.health.has_fresh_key(&target.endpoint, now)
}
