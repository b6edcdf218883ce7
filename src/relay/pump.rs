//! From the provider's socket into the log: bytes, decoder, append; retries before the first token; deadlines.
//!
//! The pump is the only writer of its log. It stops for its provider's end, for a cancel, for a deadline or for a
//! full store, and whatever stops it is said in the log. Only a log that was taken away ends without a word.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};
use tracing::{Span, info, info_span, warn};

use super::route::{Route, Target};
use super::running::{Running, Stop};
use super::upstream::{Answer, Body, Fault};
use super::{Relay, Spec, now_ms};
use crate::chat::Request;
use crate::event::{Done, Event, Kind, Notice, Status};
use crate::log::{Batch, Draft, Framing, Position};
use crate::metrics::{Ended, TokenType};
use crate::provider::{Ask, DecodeError, Decoder, Frame};
use crate::store;
use crate::surface::openai_responses;

pub struct Job {
    running: Arc<Running>,
    request: Request,
    /// See `Spec`; none once the first attempt has taken it.
    ask: Option<Ask>,
    route: Route,
    /// See `Spec`; none once the id is noted.
    known_as: Option<String>,
    head: Position,
    weight: u64,
    began: Instant,
    /// When the reader last heard something.
    spoke: Option<Instant>,
    guard: Guard,
    /// The parent of what is logged here. Never entered: that would cost something at every poll.
    span: Span,
}

/// How long an answer in one piece may take at least, however short the patience with streams is.
const WHOLE_PATIENCE: Duration = Duration::from_secs(600);

/// A provider's id of a running response is kept this long.
const ID_TTL: Duration = Duration::from_secs(24 * 3600);

/// Later than any deadline.
const FAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// What ends an attempt other than a proper end.
enum Halt {
    Stop(Stop),
    Fault(Fault),
    Store(store::Error),
    TooLarge,
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

impl Job {
    pub fn new(running: Arc<Running>, spec: Spec, head: Position) -> Job {
        let guard = Guard::new(&running);
        Job {
            running,
            request: spec.request,
            ask: spec.ask,
            route: spec.route,
            known_as: spec.known_as,
            head,
            weight: 0,
            began: Instant::now(),
            spoke: None,
            guard,
            span: Span::none(),
        }
    }

    /// Runs the stream to its end.
    pub async fn run(mut self, relay: &Relay) {
        let target = self.route.targets.first().cloned();
        let (provider, model) =
            target.as_ref().map_or(("", ""), |target| (&target.endpoint.name, &target.model));
        self.span = info_span!("stream", stream.id = %self.running.id, provider, model);
        let halt = match &target {
            Some(target) => self.attempts(relay, target).await.err(),
            None => Some(Fault::new("connect_failed", "the model has no target", false).into()),
        };
        let Some(done) = halt.map_or(Some(None), |halt| ending(halt).map(Some)) else {
            info!(parent: &self.span, "the log was taken away");
            return;
        };
        if let Some(done) = done
            && let Err(Halt::Store(error)) =
                self.append(relay, vec![self.draft(&Event::Done(done))], true).await
            && error != store::Error::NotFound
        {
            warn!(parent: &self.span, %error, "the ending could not be stored");
        }
    }

    /// The first answer that gets through. A provider's own ending seals the log by itself.
    async fn attempts(&mut self, relay: &Relay, target: &Target) -> Result<(), Halt> {
        let mut attempt = 1;
        loop {
            let fault = match self.attempt(relay, target).await {
                Err(Halt::Fault(fault)) => fault,
                other => return other,
            };
            relay.metrics.upstream_error(fault.code);
            let last = attempt >= self.route.retry.attempts || self.spoke.is_some() || !fault.retryable;
            let wait = if last { None } else { self.backoff(attempt, &fault) };
            let Some(wait) = wait else { return Err(self.give_up(fault, attempt)) };
            let wait_ms = wait.as_millis() as u64;
            warn!(parent: &self.span, code = fault.code, error = %fault, attempt, wait_ms, "asking again");
            self.pause(wait).await?;
            attempt += 1;
            let notice = Notice {
                code: "retried".into(),
                message: format!("attempt {attempt} after: {fault}"),
                provider: Some(target.endpoint.name.clone()),
                model: Some(target.model.clone()),
            };
            let draft = self.draft(&Event::Notice(notice));
            self.append(relay, vec![draft], false).await?;
        }
    }

    /// How long to wait before the next attempt, full jitter; None if the deadline does not allow it.
    fn backoff(&self, attempt: u32, fault: &Fault) -> Option<Duration> {
        let retry = self.route.retry;
        let ceiling = retry.base.saturating_mul(1 << (attempt - 1).min(16)).min(retry.max);
        // The id's random bits are as good as any for spreading clients.
        let jitter = ceiling.mul_f64((ulid::Ulid::generate().0 as u32) as f64 / f64::from(u32::MAX));
        // A provider that wants us gone for longer than we would wait is told to the client, with its wish.
        let wait = match fault.retry_after {
            Some(wish) if wish > retry.max => return None,
            Some(wish) => wish.max(jitter),
            None => jitter,
        };
        let total = self.route.timeouts.total;
        (total.is_zero() || self.began.elapsed() + wait < total).then_some(wait)
    }

    fn give_up(&self, fault: Fault, attempts: u32) -> Halt {
        if self.spoke.is_none()
            && let Some(mut refusal) = fault.refusal.clone()
        {
            refusal.retried = attempts > 1;
            let _set_once = self.running.refusal.set(*refusal);
        }
        Halt::Fault(fault)
    }

    async fn attempt(&mut self, relay: &Relay, target: &Target) -> Result<(), Halt> {
        let ask = match self.ask.take() {
            Some(ask) => Ok(ask),
            None => target.endpoint.dialect.ask(&self.request, &target.model),
        };
        let ask = ask.map_err(|invalid| Fault::new("invalid", invalid.to_string(), false))?;
        let connect = self.route.timeouts.connect;
        let asked = Instant::now();
        let _open = Open::new(relay);
        let answer = {
            let deadline = self.deadline(asked);
            let call = relay.upstreams.ask(target, ask, connect, now_ms() / 1000);
            self.guard.wait(deadline, call).await?
        };
        let mut decoder = target.endpoint.dialect.decoder(relay.options.event_bytes);
        match answer {
            Answer::Whole(body) => self.whole(relay, body, &mut decoder, asked).await,
            Answer::Stream(body) => self.stream(relay, body, &mut decoder, asked).await,
        }
    }

    async fn stream(
        &mut self,
        relay: &Relay,
        mut body: Body,
        decoder: &mut Decoder,
        asked: Instant,
    ) -> Result<(), Halt> {
        let mut frames = Vec::new();
        loop {
            let deadline = self.deadline(asked);
            let chunk = self.guard.wait(deadline, body.chunk()).await?;
            let decoded = match &chunk {
                Some(bytes) => decoder.push(bytes, &mut frames),
                None => decoder.finish(&mut frames),
            };
            if self.take(relay, &mut frames).await? {
                return Ok(());
            }
            decoded?;
            if chunk.is_none() {
                let message = "the provider's answer ended before it was complete";
                return Err(Fault::new("upstream_truncated", message, true).into());
            }
        }
    }

    async fn whole(
        &mut self,
        relay: &Relay,
        mut body: Body,
        decoder: &mut Decoder,
        asked: Instant,
    ) -> Result<(), Halt> {
        let deadline = self.deadline(asked);
        let bytes = self.guard.wait(deadline, body.whole(relay.options.event_bytes)).await?;
        let mut frames = decoder.whole(&bytes)?;
        self.take(relay, &mut frames).await?;
        Ok(())
    }

    /// Appends frames; true once one held the ending. An early in-band error is a fault, so that it can be retried.
    async fn take(&mut self, relay: &Relay, frames: &mut Vec<Frame>) -> Result<bool, Halt> {
        if frames.is_empty() {
            return Ok(false);
        }
        let done = frames.iter().flat_map(|frame| &frame.events).find_map(|event| match event {
            Event::Done(done) => Some(done.clone()),
            _ => None,
        });
        let mut drafts = Vec::with_capacity(frames.len() + 1);
        let at_ms = now_ms();
        for frame in frames.drain(..) {
            frame.into_drafts(at_ms, &mut drafts);
        }
        let spoken =
            drafts.iter().filter(|draft| Kind::SPOKEN.iter().any(|kind| *kind as u8 == draft.kind)).count()
                as u64;
        if let Some(Done { status: Status::Failed, error: Some(error), .. }) = &done
            && self.spoke.is_none()
            && spoken == 0
        {
            return Err(Fault::new("upstream_error", error.message.clone(), true).into());
        }
        self.note_id(relay, &drafts).await?;
        self.append(relay, drafts, done.is_some()).await?;
        self.running.spoke();
        if let Some(error) = done.as_ref().and_then(|done| done.error.as_ref()) {
            relay.metrics.upstream_error(&error.code);
        }
        if spoken > 0 {
            self.count_spoken(relay, spoken);
        }
        Ok(done.is_some())
    }

    /// Notes under which id the provider told of its response, before anybody can see and use that.
    async fn note_id(&mut self, relay: &Relay, drafts: &[Draft]) -> Result<(), Halt> {
        let Some(known_as) = &self.known_as else { return Ok(()) };
        if let Some(name) = openai_responses::provider_id(drafts) {
            let (key, id) = (format!("{known_as}{name}"), self.running.id.to_string());
            relay.store.claim(&key, &id, ID_TTL).await?;
            self.known_as = None;
        }
        Ok(())
    }

    fn count_spoken(&mut self, relay: &Relay, spoken: u64) {
        let now = Instant::now();
        relay.metrics.tokens.inc_by(spoken);
        match self.spoke.replace(now) {
            None => {
                let waited = (now - self.began).as_secs_f64();
                relay.metrics.time_to_first_token.observe(waited);
                relay.metrics.time_to_first_chunk.observe(waited);
            }
            Some(before) => relay.metrics.time_between_tokens.observe((now - before).as_secs_f64()),
        }
    }

    async fn append(&mut self, relay: &Relay, drafts: Vec<Draft>, seal: bool) -> Result<(), Halt> {
        let weight: u64 = drafts.iter().map(|draft| draft.weight() as u64).sum();
        let limit = relay.options.stream_bytes;
        if !seal && limit > 0 && self.weight + weight > limit {
            return Err(Halt::TooLarge);
        }
        let done = if seal { drafts.last().map(|draft| draft.payload.clone()) } else { None };
        let batch = Batch { expected: self.head, epoch: self.head.epoch, drafts, seal };
        self.head = relay.store.append(self.running.id, batch).await?;
        self.weight += weight;
        if let Some(payload) = done {
            self.report(relay, &payload);
        }
        Ok(())
    }

    /// Counts and logs the ending, once.
    fn report(&self, relay: &Relay, payload: &[u8]) {
        let Ok(Event::Done(done)) = Event::parse(Kind::Done, payload) else { return };
        let metrics = &relay.metrics;
        metrics.streams.get_or_create_owned(&Ended { status: done.status.as_str() }).inc();
        metrics.operation_duration.observe(self.began.elapsed().as_secs_f64());
        if let Some(usage) = done.usage {
            for (gen_ai_token_type, count) in [("input", usage.input_tokens), ("output", usage.output_tokens)]
            {
                metrics.token_usage.get_or_create_owned(&TokenType { gen_ai_token_type }).inc_by(count);
            }
        }
        let code = done.error.as_ref().map_or("", |error| &error.code);
        let message = done.error.as_ref().map_or("", |error| &error.message);
        let (elapsed_ms, events) = (self.began.elapsed().as_millis() as u64, self.head.seq);
        if done.status == Status::Failed {
            warn!(parent: &self.span, status = "failed", code, error = message, elapsed_ms, events, "stream ended");
        } else {
            info!(parent: &self.span, status = done.status.as_str(), elapsed_ms, events, "stream ended");
        }
    }

    /// The next deadline and its error code.
    fn deadline(&self, asked: Instant) -> Option<(Instant, &'static str)> {
        let timeouts = self.route.timeouts;
        let silence = match self.spoke {
            // The first word of an answer in one piece is its last.
            None if !self.request.stream => {
                (timeouts.first_token.max(WHOLE_PATIENCE), asked, "first_token_timeout")
            }
            None => (timeouts.first_token, asked, "first_token_timeout"),
            Some(spoke) => (timeouts.between_tokens, spoke, "between_tokens_timeout"),
        };
        let silence =
            if timeouts.first_token.is_zero() && self.spoke.is_none() { None } else { Some(silence) };
        let total = (timeouts.total, self.began, "total_timeout");
        let limits = silence.into_iter().chain([total]).filter(|(limit, ..)| !limit.is_zero());
        limits.map(|(limit, from, code)| (from + limit, code)).min()
    }

    fn draft(&self, event: &Event) -> Draft {
        Draft {
            kind: event.kind() as u8,
            at_ms: now_ms(),
            payload: event.data().into(),
            framing: Framing::Own,
        }
    }

    async fn pause(&mut self, wait: Duration) -> Result<(), Halt> {
        let pause = async {
            sleep(wait).await;
            Ok(())
        };
        self.guard.wait(None, pause).await
    }
}

/// Watches over waits on the provider: for a stop, and for a deadline. Appends do not go through here, so that none is
/// ever torn.
struct Guard {
    stopped: Pin<Box<dyn Future<Output = Stop> + Send>>,
    /// Set to the earliest deadline so far. Deadlines mostly move on with every token: the timer looks back when it
    /// fires, rather than being set again each time.
    alarm: Pin<Box<Sleep>>,
}

impl Guard {
    fn new(running: &Arc<Running>) -> Guard {
        let watched = running.clone();
        let stopped = Box::pin(async move { watched.stopped().await });
        Guard { stopped, alarm: Box::pin(sleep(FAR)) }
    }

    /// Waits for `what`, unless the stream is stopped or runs into its deadline first.
    async fn wait<T>(
        &mut self,
        deadline: Option<(Instant, &'static str)>,
        what: impl Future<Output = Result<T, Fault>>,
    ) -> Result<T, Halt> {
        let late = async {
            let Some((at, code)) = deadline else { return std::future::pending().await };
            if at < self.alarm.deadline() {
                self.alarm.as_mut().reset(at);
            }
            loop {
                self.alarm.as_mut().await;
                if at <= Instant::now() {
                    return code;
                }
                self.alarm.as_mut().reset(at);
            }
        };
        tokio::select! {
            biased;
            why = &mut self.stopped => Err(Halt::Stop(why)),
            result = what => result.map_err(Halt::Fault),
            code = late => Err(Fault::new(code, timeout_message(code), code != "total_timeout").into()),
        }
    }
}

/// How the log ends after a halt; None if it is not ours to end any more.
fn ending(halt: Halt) -> Option<Done> {
    Some(match halt {
        Halt::Stop(Stop::Cancelled(by)) => Done::cancelled(by),
        Halt::Stop(Stop::Interrupted) => {
            Done { status: Status::Interrupted, ..Done::failed("interrupted", "the server is going away") }
        }
        Halt::Fault(fault) => Done::failed(fault.code, fault.message),
        Halt::TooLarge => Done::failed("too_large", "the answer is larger than this server keeps"),
        Halt::Store(store::Error::Full) => Done::failed("store_full", "the server has no room for more"),
        Halt::Store(store::Error::Unavailable(_)) => {
            Done::failed("store_unavailable", "the server cannot keep the answer at the moment")
        }
        Halt::Store(_) => return None,
    })
}

fn timeout_message(code: &str) -> &'static str {
    match code {
        "first_token_timeout" => "the provider did not say anything in time",
        "between_tokens_timeout" => "the provider fell silent",
        _ => "the answer took longer than allowed",
    }
}

/// A request to a provider in flight, counted.
struct Open<'a>(&'a Relay);

impl<'a> Open<'a> {
    fn new(relay: &'a Relay) -> Open<'a> {
        relay.metrics.upstream_connections_open.inc();
        Open(relay)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.metrics.upstream_connections_open.dec();
    }
}
