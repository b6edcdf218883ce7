//! From the provider's socket into the log: bytes, decoder, append; deadlines. What is asked next after a failure is
//! `attempts`.
//!
//! The pump is the only writer of its log. It stops for its provider's end, for a cancel, for a deadline or for a
//! full store, and whatever stops it is said in the log. Only a log that was taken away ends without a word.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{Span, info, info_span, warn};

use super::body::Body;
use super::guard::Guard;
use super::halt::{Halt, ending};
use super::health::Trial;
use super::progress::Progress;
use super::retelling::Retelling;
use super::route::{Route, Target};
use super::running::{Running, Stop};
use super::upstream::{Answer, Fault};
use super::{Errand, Relay, now_ms, since_start};
use crate::chat::Request;
use crate::event::{Done, Event, Kind, Status};
use crate::limits::ledger::Account;
use crate::log::{Batch, Draft, Position};
use crate::metrics::{Ended, TokenType};
use crate::provider::{Ask, Decoder, Frame};
use crate::store;
use crate::surface::openai_responses;

pub struct Job {
    pub(super) running: Arc<Running>,
    pub(super) request: Request,
    /// See `Errand`; none once there was a first attempt.
    pub(super) ask: Option<Ask>,
    pub(super) route: Route,
    /// See `Errand`.
    account: Option<Account>,
    /// See `Errand`; none once it is being told.
    retelling: Option<Retelling>,
    /// Tokens that the account was charged with so far.
    pub(super) charged: u64,
    /// See `Errand`; none once the id is noted.
    known_as: Option<String>,
    pub(super) head: Position,
    /// The epoch of what is written.
    pub(super) epoch: u16,
    /// The log was begun by another process.
    pub(super) inherited: bool,
    pub(super) weight: u64,
    pub(super) began: Instant,
    /// When the reader last heard something.
    pub(super) spoke: Option<Instant>,
    /// When the request that is under way last said something.
    heard: Option<Instant>,
    pub(super) progress: Progress,
    /// The request that is under way, as its target's circuit sees it.
    pub(super) trial: Option<Trial>,
    /// The request that is under way ends in the beginning of its answer.
    pub(super) prefilled: bool,
    /// A model refused that: models are told to go on instead.
    pub(super) in_words: bool,
    /// What came before the first word, until it is clear that the answer is not a failure.
    early: Early,
    /// Something of the answer is out, be it not a word.
    pub(super) committed: bool,
    guard: Guard,
    /// The parent of what is logged here. Never entered: that would cost something at every poll.
    pub(super) span: Span,
}

#[derive(Default)]
struct Early {
    drafts: Vec<Draft>,
    since: Option<Instant>,
}

/// What comes before the first word is held back this long, and up to so many bytes.
const EARLY_PATIENCE: Duration = Duration::from_secs(1);
const EARLY_BYTES: usize = 64 * 1024;

/// How long an answer in one piece may take at least, however short the patience with streams is.
const WHOLE_PATIENCE: Duration = Duration::from_secs(600);

/// A provider's id of a running response is kept this long.
const ID_TTL: Duration = Duration::from_secs(24 * 3600);

impl Job {
    pub fn new(running: Arc<Running>, errand: Errand, head: Position) -> Job {
        let guard = Guard::new(&running);
        let asked_bytes = serde_json::to_vec(&errand.plan.request.messages).map_or(0, |text| text.len());
        Job {
            running,
            progress: Progress::new(asked_bytes, errand.route.policy.continuing.most > 0),
            request: errand.plan.request,
            ask: errand.ask,
            route: errand.route,
            account: errand.account,
            retelling: errand.retelling,
            charged: 0,
            known_as: errand.known_as,
            head,
            epoch: head.epoch,
            inherited: false,
            weight: 0,
            began: Instant::now(),
            spoke: None,
            heard: None,
            trial: None,
            prefilled: false,
            in_words: false,
            early: Early::default(),
            committed: false,
            guard,
            span: Span::none(),
        }
    }

    /// Runs the stream to its end; true if it was left to another process before.
    pub async fn run(mut self, relay: &Relay) -> bool {
        let target = self.route.targets.first();
        let (provider, model) =
            target.map_or(("", ""), |target| (target.endpoint.name.as_str(), target.model.as_str()));
        self.span = info_span!("stream", stream.id = %self.running.id, provider, model);
        let halt = match self.retelling.take() {
            Some(kept) => self.retell(relay, kept).await.err(),
            None if self.charge() => self.relay(relay).await.err(),
            None => Some(Halt::Budget),
        };
        let left = matches!(halt, Some(Halt::Stop(Stop::Left)));
        let gone = matches!(halt, Some(Halt::Store(store::Error::NotFound)));
        let Some(done) = halt.map_or(Some(None), |halt| ending(halt).map(Some)) else {
            if !gone {
                self.running.leave();
            }
            let why = if left { "the stream is left to another process" } else { "the log was taken away" };
            info!(parent: &self.span, "{why}");
            return left;
        };
        if let Some(mut done) = done {
            // What was said was paid for, however it ended.
            done.usage = done.usage.or(self.progress.cost());
            return self.conclude(relay, done).await;
        }
        false
    }

    async fn relay(&mut self, relay: &Relay) -> Result<(), Halt> {
        if self.inherited {
            self.take_over(relay).await?;
        }
        self.attempts(relay).await
    }

    /// Charges the account with what has come since; false once its budget is used up.
    fn charge(&mut self) -> bool {
        let cost = self.progress.usage();
        let tokens = cost.input_tokens + cost.output_tokens;
        let more = tokens.saturating_sub(self.charged);
        self.charged += more;
        more == 0 || self.account.as_ref().is_none_or(|account| account.spend(more, since_start()))
    }

    pub(super) async fn attempt(
        &mut self,
        relay: &Relay,
        target: &Target,
        key: Option<&str>,
        ready: Option<Ask>,
    ) -> Result<(), Halt> {
        (self.early, self.heard) = (Early::default(), None);
        let ask = match ready {
            Some(ask) => Ok(ask),
            None => target.endpoint.dialect.ask(&self.asking(target), &target.model),
        };
        let ask = ask.map_err(|invalid| Fault::new("invalid", invalid.to_string(), false))?;
        let asked = Instant::now();
        let _open = Open::new(relay);
        let answer = {
            let deadline = self.deadline(asked);
            let connect = self.route.policy.timeouts.connect;
            let call = relay.upstreams.ask(target, key, ask, connect, now_ms() / 1000);
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
            let chunk = self.chunk(relay, &mut body, asked).await?;
            let mut decoded = match &chunk {
                Some(bytes) => decoder.push(bytes, &mut frames),
                None => decoder.finish(&mut frames),
            };
            while decoded.is_ok()
                && let Some(bytes) = body.at_hand()
            {
                decoded = decoder.push(&bytes, &mut frames);
            }
            // What comes while the store takes its time is the next append, in one piece.
            if body.ahead_of(self.take(relay, &mut frames)).await? {
                return Ok(());
            }
            decoded?;
            if chunk.is_none() {
                let message = "the provider's answer ended before it was complete";
                return Err(Fault::new("upstream_truncated", message, true).into());
            }
        }
    }

    /// The next bytes. What is held back goes out meanwhile, once it has waited for long enough.
    async fn chunk(&mut self, relay: &Relay, body: &mut Body, asked: Instant) -> Result<Option<Bytes>, Halt> {
        let deadline = self.deadline(asked);
        let mut chunk = pin!(body.chunk());
        if let Some(since) = self.early.since {
            let waited = self.guard.wait(deadline, chunk.as_mut());
            if let Ok(chunk) = timeout_at(since + EARLY_PATIENCE, waited).await {
                return chunk;
            }
            let early = std::mem::take(&mut self.early.drafts);
            self.publish(relay, early, 0, false).await?;
        }
        self.guard.wait(deadline, chunk).await
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

    /// Appends frames; true once one held the ending. What comes before the first word is held back for a moment, so that
    /// an error in the answer's own words can still be retried.
    async fn take(&mut self, relay: &Relay, frames: &mut Vec<Frame>) -> Result<bool, Halt> {
        if frames.is_empty() {
            return Ok(false);
        }
        let mut drafts = std::mem::take(&mut self.early.drafts);
        drafts.reserve_exact(frames.iter().map(|frame| frame.events.len()).sum());
        let (at_ms, before, mut done) = (now_ms(), self.progress.said(), None);
        for frame in frames.drain(..) {
            let raw = frame.raw.filter(|_| !self.progress.goes_on());
            let events = self.progress.take(frame.events);
            done = done.or(events.iter().find_map(|event| match event {
                Event::Done(done) => Some(done.clone()),
                _ => None,
            }));
            Frame { events, raw }.into_drafts(at_ms, &mut drafts);
        }
        let spoken = drafts.iter().filter(|draft| Kind::says(draft.kind)).count() as u64;
        if spoken > 0 || self.progress.said() > before {
            self.hear();
        }
        let silent = !self.committed && spoken == 0;
        if let Some(Done { status: Status::Failed, error: Some(error), .. }) = &done
            && (silent || self.may_go_on())
        {
            let fault = Fault::new("upstream_error", error.message.clone(), true);
            drafts.retain(|draft| draft.kind != Kind::Done as u8);
            if !silent {
                self.publish(relay, drafts, spoken, false).await?;
            }
            return Err(fault.into());
        }
        if silent && done.is_none() && self.hold(&mut drafts) {
            return Ok(false);
        }
        self.publish(relay, drafts, spoken, done.is_some()).await?;
        if let Some(done) = done {
            if let Some(error) = done.error {
                relay.metrics.upstream_error(&error.code);
            }
            return Ok(true);
        }
        if !self.charge() {
            return Err(Halt::Budget);
        }
        self.check_pace()?;
        Ok(false)
    }

    /// Lets readers have what came.
    async fn publish(
        &mut self,
        relay: &Relay,
        drafts: Vec<Draft>,
        spoken: u64,
        seal: bool,
    ) -> Result<(), Halt> {
        if drafts.is_empty() {
            return Ok(());
        }
        if let Some(since) = self.early.since.take() {
            relay.metrics.first_frame_held.observe(since.elapsed().as_secs_f64());
        }
        self.committed = true;
        self.note_id(relay, &drafts).await?;
        self.append(relay, drafts, seal).await?;
        self.running.spoke();
        if spoken > 0 {
            self.count_spoken(relay, spoken);
        }
        Ok(())
    }

    /// The request that is under way has said something.
    fn hear(&mut self) {
        if self.heard.replace(Instant::now()).is_none()
            && let Some(trial) = &mut self.trial
        {
            trial.answers(Instant::now());
        }
    }

    /// Keeps drafts that hold no word yet; false if they have waited for long enough or are too many.
    fn hold(&mut self, drafts: &mut Vec<Draft>) -> bool {
        let since = *self.early.since.get_or_insert_with(Instant::now);
        let size: usize = drafts.iter().map(Draft::weight).sum();
        let holds = since.elapsed() < EARLY_PATIENCE && size < EARLY_BYTES;
        if holds {
            self.early.drafts = std::mem::take(drafts);
        }
        holds
    }

    fn check_pace(&mut self) -> Result<(), Halt> {
        let floor = self.route.policy.min_tokens_per_s;
        // Who has not begun to speak may be thinking: that is for the first token's deadline.
        if floor > 0.0
            && self.heard.is_some()
            && let Some(pace) = self.progress.pace(Instant::now())
            && pace < floor
        {
            let message = format!("the provider says {pace:.1} tokens a second, at least {floor} are wanted");
            return Err(Fault::new("too_slow", message, true).into());
        }
        Ok(())
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
        self.running.said(spoken);
        match self.spoke.replace(now) {
            None => {
                let waited = (now - self.began).as_secs_f64();
                relay.metrics.time_to_first_token.observe(waited);
                relay.metrics.time_to_first_chunk.observe(waited);
            }
            Some(before) => relay.metrics.time_between_tokens.observe((now - before).as_secs_f64()),
        }
    }

    pub(super) async fn append(&mut self, relay: &Relay, drafts: Vec<Draft>, seal: bool) -> Result<(), Halt> {
        let weight: u64 = drafts.iter().map(|draft| draft.weight() as u64).sum();
        let limit = relay.options.stream_bytes;
        if !seal && limit > 0 && self.weight + weight > limit {
            return Err(Halt::TooLarge);
        }
        let done = if seal { drafts.last().map(|draft| draft.payload.clone()) } else { None };
        let batch = Batch { expected: self.head, epoch: self.epoch, drafts, seal };
        self.head = relay.store.append(self.running.id, batch).await?;
        self.weight += weight;
        if let Some(payload) = done {
            self.report(relay, &payload);
        }
        Ok(())
    }

    /// Counts and logs the ending, once.
    pub(super) fn report(&self, relay: &Relay, payload: &[u8]) {
        let Ok(Event::Done(done)) = Event::parse(Kind::Done, payload) else { return };
        let metrics = &relay.metrics;
        metrics.upstream_tokens_unread.inc_by(self.running.unread());
        metrics.streams.get_or_create_owned(&Ended { status: done.status.as_str() }).inc();
        if let Some(account) = &self.account {
            metrics.operation_duration.observe(self.began.elapsed().as_secs_f64());
            account.settle(done.usage.or(self.progress.cost()), self.charged, since_start());
            let usage = done.usage.unwrap_or_default();
            for (gen_ai_token_type, count) in [("input", usage.input_tokens), ("output", usage.output_tokens)]
            {
                metrics.token_usage.get_or_create_owned(&TokenType { gen_ai_token_type }).inc_by(count);
            }
        }
        if done.status == Status::Completed {
            self.running.complete();
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
        let timeouts = self.route.policy.timeouts;
        let silence = match self.heard {
            // The first word of an answer in one piece is its last.
            None if !self.request.stream => {
                (timeouts.first_token.max(WHOLE_PATIENCE), asked, "first_token_timeout")
            }
            None => (timeouts.first_token, asked, "first_token_timeout"),
            Some(heard) => (timeouts.between_tokens, heard, "between_tokens_timeout"),
        };
        let silence =
            if timeouts.first_token.is_zero() && self.heard.is_none() { None } else { Some(silence) };
        let total = (timeouts.total, self.began, "total_timeout");
        let limits = silence.into_iter().chain([total]).filter(|(limit, ..)| !limit.is_zero());
        limits.map(|(limit, from, code)| (from + limit, code)).min()
    }

    pub(super) async fn pause(&mut self, wait: Duration) -> Result<(), Halt> {
        let pause = async {
            sleep(wait).await;
            Ok(())
        };
        self.guard.wait(None, pause).await
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
