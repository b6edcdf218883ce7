//! Which target is asked next: again, another one, or one that goes on where the last broke off.
//!
//! Before the first word a failure is retried and then passed on to the next target; after it a plain text is gone on
//! with. All of it happens under the same stream, and every step is a notice in its log.

use std::borrow::Cow;
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use super::halt::Halt;
use super::pump::Job;
use super::route::Target;
use super::seam::Joint;
use super::upstream::Fault;
use super::{Relay, now_ms, random};
use crate::chat::Request;
use crate::event::{Event, Notice};
use crate::log::Draft;
use crate::metrics::Code;

/// A key that was refused is not used for so long.
const KEY_REST: Duration = Duration::from_secs(60);
/// A key that was told to slow down is not used for so long, or longer if the provider says so.
const KEY_PAUSE: Duration = Duration::from_secs(1);

/// Where the search for an answer stands.
#[derive(Debug, Default)]
struct Search {
    /// The target to be asked.
    at: usize,
    /// Requests to that target.
    tried: u32,
    /// How often another key of that target was taken: each one has its turn, and no second one.
    rotated: usize,
    /// Requests in all.
    asked: u32,
    /// The last failure, and whose it was.
    failed: Option<(usize, Fault)>,
    /// The first target whose circuit did not let the request through.
    passed_over: Option<usize>,
    /// There is nobody else to ask: circuits are not heeded any more.
    insists: bool,
}

impl Job {
    /// The first answer that gets through to its end. A provider's own ending seals the log by itself.
    pub(super) async fn attempts(&mut self, relay: &Relay) -> Result<(), Halt> {
        let targets = self.route.targets.clone();
        let mut search = Search::default();
        loop {
            let Some(target) = targets.get(search.at) else {
                match search.insist(self.committed) {
                    true => continue,
                    false => return Err(self.give_up(search)),
                }
            };
            let (breaker, now) = (self.route.policy.breaker, Instant::now());
            self.trial = match search.insists {
                true => Some(relay.health.insist(target, breaker)),
                false => relay.health.admit(target, breaker, now),
            };
            if self.trial.is_none() {
                search.pass_over(target);
                continue;
            }
            if let Some((whose, fault)) = &search.failed {
                self.announce(relay, *whose == search.at, target, fault).await?;
            }
            (search.tried, search.asked) = (search.tried + 1, search.asked + 1);
            let key = relay.health.key(&target.endpoint, Instant::now()).map(str::to_owned);
            let ready = self.ask.take().filter(|_| search.at == 0);
            let fault = match self.attempt(relay, target, key.as_deref(), ready).await {
                Err(Halt::Fault(fault)) => fault,
                Ok(()) => {
                    if let Some(trial) = self.trial.take() {
                        trial.succeeded(Instant::now());
                    }
                    return Ok(());
                }
                // Not the target's doing.
                other => return other,
            };
            relay.metrics.upstream_error(fault.code);
            let rotated = key.is_some_and(|key| rotate(relay, target, &key, &fault))
                && search.rotated + 1 < target.endpoint.keys.len();
            search.rotated += usize::from(rotated);
            if let Some(trial) = self.trial.take().filter(|_| fault.ill) {
                trial.failed(Instant::now());
            }
            let whose = search.at;
            let wait = self.next(&mut search, targets.len(), &fault, rotated);
            let error = fault.to_string();
            search.failed = Some((whose, fault));
            let Some(wait) = wait else { return Err(self.give_up(search)) };
            warn!(parent: &self.span, error, wait_ms = wait.as_millis() as u64, "asking again");
            self.pause(wait).await?;
        }
    }

    /// Decides whom to ask after a fault, and how long to wait before; None: nobody.
    fn next(
        &mut self,
        search: &mut Search,
        targets: usize,
        fault: &Fault,
        rotated: bool,
    ) -> Option<Duration> {
        // Before it speaks, a target that is thought to be down is asked once: it must not drown in retries.
        let once = search.insists && !self.committed;
        // Once one has begun to answer, a refusal is not of the client's request any more but of how the rest was asked for.
        let elsewhere = fault.elsewhere || (self.committed && fault.refusal.is_some());
        let another = elsewhere && search.at + 1 < targets && !once;
        let patience = if rotated { Some(Duration::ZERO) } else { self.backoff(search.tried, fault) };
        let again = rotated || (fault.retryable && search.tried < self.route.policy.retry.attempts && !once);
        let mut same = patience.filter(|_| again);
        if self.committed {
            if !self.may_go_on() {
                return None;
            }
            // Some models refuse to be given the beginning of their answer: then they are told to go on.
            let refused = fault.refusal.as_ref().is_some_and(|refusal| matches!(refusal.status, 400 | 422));
            if refused && self.prefilled {
                self.in_words = true;
                same = Some(Duration::ZERO);
            }
            // How often is not a question of `retry` any more.
            same = same.or(patience.filter(|_| fault.retryable && !another));
        }
        if same.is_none() && !another {
            return None;
        }
        if self.committed {
            self.progress.go_on();
        }
        if same.is_none() {
            search.next_target();
        }
        Some(same.unwrap_or_default())
    }

    /// Only plain text can be gone on with, and not for ever.
    pub(super) fn may_go_on(&self) -> bool {
        let shaped = self.request.params.get("response_format").is_some_and(|shape| shape["type"] != "text");
        let sayable = self.request.untranslatable.is_none();
        let often = self.progress.times_gone_on() >= self.route.policy.continuing.most;
        sayable && !shaped && !often && self.progress.only_text()
    }

    /// What is asked of the target: the request, or the rest of its answer.
    pub(super) fn asking(&mut self, target: &Target) -> Cow<'_, Request> {
        let dialect = target.endpoint.dialect;
        let prefill = self.route.policy.continuing.prefill.unwrap_or(dialect.prefills()) && !self.in_words;
        self.progress.meet(match prefill {
            true if dialect.trims() => Joint::Trimmed,
            true => Joint::Exact,
            false => Joint::InWords,
        });
        let text = self.progress.text();
        let rest = self.progress.goes_on() && !text.trim().is_empty();
        self.prefilled = rest && prefill;
        if !rest {
            return Cow::Borrowed(&self.request);
        }
        Cow::Owned(self.request.gone_on(text, self.progress.text_tokens(), prefill))
    }

    async fn announce(
        &mut self,
        relay: &Relay,
        same: bool,
        target: &Target,
        after: &Fault,
    ) -> Result<(), Halt> {
        let code = match same {
            _ if self.spoke.is_some() => "continued",
            true => "retried",
            false => "fallback",
        };
        relay.metrics.seams.get_or_create_owned(&Code { code: code.to_owned() }).inc();
        let notice = Notice {
            code: code.into(),
            message: format!("after: {after}"),
            provider: Some(target.endpoint.name.clone()),
            model: Some(target.model.clone()),
        };
        self.append(relay, vec![Draft::own(&Event::Notice(notice), now_ms())], false).await
    }

    /// How long to wait before the next attempt, full jitter; None if the deadline does not allow it.
    fn backoff(&self, attempt: u32, fault: &Fault) -> Option<Duration> {
        let retry = self.route.policy.retry;
        let ceiling = retry.base.saturating_mul(1 << (attempt - 1).min(16)).min(retry.max);
        let jitter = ceiling.mul_f64(random());
        // A provider that wants us gone for longer than we would wait is told to the client, with its wish.
        let wait = match fault.retry_after {
            Some(wish) if wish > retry.max => return None,
            Some(wish) => wish.max(jitter),
            None => jitter,
        };
        let total = self.route.policy.timeouts.total;
        (total.is_zero() || self.began.elapsed() + wait < total).then_some(wait)
    }

    fn give_up(&self, search: Search) -> Halt {
        let nobody = || Fault::new("connect_failed", "the model has no target", false);
        let fault = search.failed.map_or_else(nobody, |(_, fault)| fault);
        if !self.committed
            && let Some(mut refusal) = fault.refusal.clone()
        {
            refusal.retried = search.asked > 1 || search.insists;
            let _set_once = self.running.refusal.set(*refusal);
        }
        Halt::Fault(fault)
    }
}

impl Search {
    fn next_target(&mut self) {
        (self.at, self.tried, self.rotated) = (self.at + 1, 0, 0);
    }

    fn pass_over(&mut self, target: &Target) {
        self.passed_over.get_or_insert(self.at);
        self.failed.get_or_insert_with(|| (self.at, resting(target)));
        self.next_target();
    }

    /// With nobody left to ask, goes back to the first target that was passed over; false if that would be one request
    /// too many. A client whose only provider is down shall see that provider's own answer, and its recovery at once; what
    /// was begun shall be gone on with.
    fn insist(&mut self, committed: bool) -> bool {
        let Some(at) = self.passed_over.filter(|_| !self.insists && (committed || self.asked == 0)) else {
            return false;
        };
        if self.asked == 0 {
            self.failed = None;
        }
        (self.at, self.tried, self.rotated, self.insists) = (at, 0, 0, true);
        true
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
        Some(429) => fault.retry_after.unwrap_or_default().max(KEY_PAUSE),
        _ => return false,
    };
    let now = Instant::now();
    relay.health.rest(&target.endpoint, key, now + rest);
    relay.health.has_fresh_key(&target.endpoint, now)
}
