//! Serving readers: a copy that is true now, or a wait until it is; and the growth of followed copies by what is pushed.
//!
//! A node that cannot reach Redis serves closed logs that it holds, and what it writes itself as long as its lease lasts.
//! Of everything else it does not know whether it is still true: those who read get an error, those who wait go on waiting.

use std::sync::Arc;

use bytes::Bytes;
use redis::Value;
use tokio::sync::mpsc;

use super::copy::{Applied, Copy, Standing};
use super::encoding::{self, entry_id};
use super::link::{self, Failure};
use super::push::{Listener, Pushed};
use super::{Error, Node};
use crate::log::{Bad, Draft, LogId, Position};
use crate::store::Meta;

/// Entries asked for at once.
const PAGE: usize = 256;
/// A copy that nobody has used for this long is dropped.
const IDLE_MS: u64 = 30_000;
/// A followed log that has been silent for this long is looked at: what if the silence is ours?
const LOOK_MS: u64 = 15_000;

/// A page of a log as Redis has it.
struct Found {
    sealed: bool,
    trimmed: Position,
    meta: Meta,
    ttl_ms: Option<u64>,
    entries: Vec<(Position, Draft)>,
}

/// How a copy stands after it was read back.
enum End {
    Sealed {
        ttl_ms: Option<u64>,
    },
    Running,
    /// Redis holds another past than this copy does.
    Lost,
}

impl Node {
    /// A copy that can be read from now.
    pub async fn copy(self: &Arc<Self>, log: LogId) -> Result<Arc<Copy>, Error> {
        loop {
            let copy = match self.known(log) {
                Some(copy) => copy,
                None => {
                    let new = || Copy::followed(log, self.ledger.clone());
                    self.running().entry(log).or_insert_with(new).clone()
                }
            };
            copy.used(self.now());
            match copy.standing() {
                Standing::Gone => self.let_go(&copy),
                Standing::Behind => self.read_back_now(&copy).await?,
                Standing::Closed => return Ok(copy),
                Standing::Owned | Standing::Followed => return self.true_now(&copy).map(|()| copy),
            }
        }
    }

    /// Whether what this node holds of a running log is known to be true.
    fn true_now(&self, copy: &Copy) -> Result<(), Error> {
        let now = self.now();
        match copy.standing() {
            Standing::Owned if self.lease.holds(now) => Ok(()),
            _ => self.health.reachable(now),
        }
    }

    pub async fn check(self: &Arc<Self>, log: LogId, position: Position) -> Result<Result<(), Bad>, Error> {
        let copy = self.copy(log).await?;
        match copy.check(position) {
            // Seen on another node, before we were told here.
            Err(Bad::Ahead) if copy.standing() == Standing::Followed => {
                copy.fall_behind();
                Ok(self.copy(log).await?.check(position))
            }
            checked => Ok(checked),
        }
    }

    pub async fn changed(self: &Arc<Self>, log: LogId, after: Position) -> Result<(), Error> {
        let copy = match self.copy(log).await {
            Err(Error::Unavailable(why)) => {
                // Somebody who reads already does not lose his place for a failure that passes.
                let known = self.running().get(&log).cloned();
                known.filter(|copy| copy.meta().is_some()).ok_or(Error::Unavailable(why))?
            }
            found => found?,
        };
        let changed = copy.changed.notified();
        tokio::pin!(changed);
        loop {
            changed.as_mut().enable();
            let known = match copy.standing() {
                Standing::Gone => return Err(Error::NotFound),
                Standing::Closed => true,
                Standing::Behind => false,
                Standing::Owned | Standing::Followed => self.true_now(&copy).is_ok(),
            };
            if known && copy.has_more(after)? {
                return Ok(());
            }
            changed.as_mut().await;
            changed.set(copy.changed.notified());
            copy.used(self.now());
        }
    }

    /// First the running ones: a log that closes is put among the others before it is taken from these.
    fn known(&self, log: LogId) -> Option<Arc<Copy>> {
        let running = self.running().get(&log).cloned();
        running.or_else(|| self.closed_copy(log))
    }

    fn closed_copy(&self, log: LogId) -> Option<Arc<Copy>> {
        let copy = self.closed.get(&log)?;
        let over = copy.expires_at().is_some_and(|at| at <= self.now());
        if over {
            self.closed.invalidate(&log);
        }
        (!over && copy.standing() == Standing::Closed).then_some(copy)
    }

    /// Reads a copy back in a task of its own.
    pub fn read_back(self: &Arc<Self>, copy: Arc<Copy>) {
        let node = self.clone();
        self.tasks.spawn(async move {
            // It stays behind if this fails, and is looked at again by and by.
            let _still_behind = node.read_back_now(&copy).await;
        });
    }

    /// Brings a copy up to date, and has it followed if more may come.
    pub async fn read_back_now(self: &Arc<Self>, copy: &Arc<Copy>) -> Result<(), Error> {
        let _turn = copy.reading.lock().await;
        let channel = self.channel(copy.id);
        while copy.standing() == Standing::Behind {
            // Those who wait here one after the other must not each try in vain for seconds.
            self.health.worth_asking(self.now())?;
            let missed = copy.missed();
            match self.read_pages(copy).await {
                Ok(End::Sealed { ttl_ms }) => {
                    let now = self.now();
                    copy.caught_up(missed, true, now, ttl_ms.map(|ttl| now + ttl));
                    self.settle(copy);
                }
                Ok(End::Running) if copy.is_owned() || self.push.follows(&channel, copy) => {
                    copy.caught_up(missed, false, self.now(), None);
                }
                // Then read once more: nothing that was said before we listened is missing.
                Ok(End::Running) => self.push.follow(&channel, Listener::Log(copy.clone())).await?,
                Ok(End::Lost) => {
                    tracing::warn!(log = %copy.id, "Redis has lost what was read of a log");
                    self.let_go(copy);
                }
                Err(Error::NotFound) => {
                    self.let_go(copy);
                    return Err(Error::NotFound);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn read_pages(&self, copy: &Copy) -> Result<End, Error> {
        let (had, mut last) = (copy.head(), None);
        loop {
            let start = match last {
                None if had.seq == 0 => "-".to_owned(),
                None => entry_id(had),
                Some(last) => format!("({}", entry_id(last)),
            };
            let Some(found) = self.page(copy, &start).await? else {
                // Whoever writes it puts it back; only for so long is it taken for lost.
                let since = copy.missing(self.now());
                let waiting = copy.meta().is_some() && self.now() < since + 2 * self.lease_ms();
                return Err(if waiting {
                    Error::Unavailable("Redis has lost the log".into())
                } else {
                    Error::NotFound
                });
            };
            if last.is_none() {
                let first = found.entries.first().map(|(position, _)| *position);
                copy.introduce(found.meta, found.trimmed);
                if had.seq > found.trimmed.seq && first != Some(had) {
                    return Ok(End::Lost);
                }
            }
            let full = found.entries.len() == PAGE;
            last = found.entries.last().map(|(position, _)| *position).or(last);
            if !grow(copy, found.entries) {
                return Ok(End::Lost);
            }
            if !full {
                let ttl_ms = found.ttl_ms;
                return Ok(if found.sealed { End::Sealed { ttl_ms } } else { End::Running });
            }
        }
    }

    /// None if Redis does not know the log and nobody forgot it.
    async fn page(&self, copy: &Copy, start: &str) -> Result<Option<Found>, Error> {
        let (meta, log) = (self.meta_key(copy.id), self.log_key(copy.id));
        let count = PAGE.to_string();
        let read = &self.scripts.read;
        let answer = self.ask(read, &[&meta, &log], &[start.as_bytes(), count.as_bytes()]).await?;
        match found(answer)? {
            Ok(found) => Ok(Some(found)),
            Err(forgotten) if forgotten || copy.meta().is_none() => Err(Error::NotFound),
            Err(_) => Ok(None),
        }
    }

    /// Moves a copy of a closed log to where it can be evicted.
    pub fn settle(self: &Arc<Self>, copy: &Arc<Copy>) {
        copy.used(self.now());
        // First into the cache, then out of the map: a reader always finds it in one of them.
        self.closed.insert(copy.id, copy.clone());
        self.strike(copy);
        if copy.standing() == Standing::Gone {
            self.closed.invalidate(&copy.id);
        }
        self.stop_following(copy);
    }

    /// Forgets a copy that is no longer true. Its readers look again.
    pub fn let_go(self: &Arc<Self>, copy: &Arc<Copy>) {
        copy.forget();
        self.strike(copy);
        self.stop_following(copy);
    }

    /// Takes this copy, and no later one, out of the map.
    fn strike(&self, copy: &Arc<Copy>) {
        let mut running = self.running();
        if running.get(&copy.id).is_some_and(|found| Arc::ptr_eq(found, copy)) {
            running.remove(&copy.id);
        }
    }

    pub fn stop_following(self: &Arc<Self>, copy: &Arc<Copy>) {
        let channel = self.channel(copy.id);
        if self.push.follows(&channel, copy) {
            let (node, copy) = (self.clone(), copy.clone());
            self.tasks.spawn(async move { node.push.unfollow(&channel, &copy).await });
        }
    }

    pub fn unused(&self, copy: &Arc<Copy>, now: u64) -> bool {
        // The map's, the channel's, and the asker's own.
        now > copy.used_at() + IDLE_MS && Arc::strong_count(copy) <= 3
    }

    /// Whether a followed copy is to be looked at.
    pub fn due(&self, copy: &Copy, now: u64) -> bool {
        now > copy.read_at() + LOOK_MS
    }

    /// Drops a copy that nobody uses, unless somebody has just begun to.
    pub fn drop_copy(self: &Arc<Self>, copy: &Arc<Copy>) {
        let mut running = self.running();
        if self.unused(copy, self.now()) {
            running.remove(&copy.id);
            drop(running);
            copy.forget();
            self.stop_following(copy);
        }
    }

    /// Hears what is pushed, for as long as the store lives.
    pub async fn listen(self: Arc<Self>, mut pushes: mpsc::UnboundedReceiver<link::Push>) {
        while let Some(pushed) = self.push.next(&mut pushes).await {
            match pushed {
                Pushed::Message(Listener::Log(copy), message) => self.told(&copy, message),
                Pushed::Message(Listener::Topic(sender), message) => {
                    let _nobody_there = sender.send(message);
                }
                Pushed::Message(Listener::Forgotten, name) => {
                    let log = std::str::from_utf8(&name).ok().and_then(|name| name.parse().ok());
                    log.into_iter().for_each(|log| self.forget(log));
                }
                Pushed::Message(Listener::Canary(number), _) => self.health.heard(number, self.now()),
                Pushed::Again(Listener::Log(copy)) => {
                    copy.fall_behind();
                    self.read_back(copy);
                }
                // What was forgotten meanwhile must not be served for ever.
                Pushed::Again(Listener::Forgotten) => self.closed.invalidate_all(),
                Pushed::Again(_) => {}
                Pushed::Moved(channel, listener) => self.moved(channel, listener),
                Pushed::Cut => self.cut(),
            }
        }
    }

    fn told(self: &Arc<Self>, copy: &Arc<Copy>, message: Bytes) {
        let applied = encoding::message(message).map(|told| copy.apply(told));
        match (applied, copy.standing()) {
            (Some(Applied::Grown | Applied::Known), Standing::Closed) => self.settle(copy),
            (Some(Applied::Grown | Applied::Known), _) => {}
            (Some(Applied::Missed) | None, _) => {
                copy.fall_behind();
                self.read_back(copy.clone());
            }
        }
    }

    fn moved(self: &Arc<Self>, channel: String, listener: Listener) {
        if let Listener::Log(copy) = listener {
            // Reading it back has it followed where it is now.
            copy.fall_behind();
            self.read_back(copy);
        } else {
            let node = self.clone();
            self.tasks.spawn(async move { node.push.follow_again(&channel).await });
        }
    }

    fn cut(self: &Arc<Self>) {
        for (_, listener) in self.push.listeners() {
            let Listener::Log(copy) = listener else { continue };
            copy.fall_behind();
        }
        // Otherwise there will be a new connection. Of a cluster's servers only one was cut off, nobody says which.
        if self.push.link.is_cluster() {
            let node = self.clone();
            self.tasks.spawn(async move { node.push.follow_all_again().await });
        }
    }

    /// Forgets all that is held of a log. Its readers are told.
    pub fn forget(self: &Arc<Self>, log: LogId) {
        let running = self.running().get(&log).cloned();
        for copy in running.into_iter().chain(self.closed.get(&log)) {
            self.let_go(&copy);
        }
        self.closed.invalidate(&log);
    }
}

/// Adds entries; false if there is a hole before or between them.
fn grow(copy: &Copy, entries: Vec<(Position, Draft)>) -> bool {
    let mut entries = entries.into_iter().peekable();
    while let Some((first, draft)) = entries.next() {
        if first.seq > copy.head().seq + 1 {
            return false;
        }
        let (mut drafts, mut seq) = (vec![draft], first.seq);
        while let Some((_, draft)) =
            entries.next_if(|(next, _)| next.epoch == first.epoch && next.seq == seq + 1)
        {
            drafts.push(draft);
            seq += 1;
        }
        copy.catch_up(Position::new(first.epoch, first.seq - 1), first.epoch, drafts);
    }
    true
}

/// Takes the answer of `read.lua` apart. Err: there is no such log, and whether it was forgotten on purpose.
fn found(answer: Value) -> Result<Result<Found, bool>, Failure> {
    let mut answer = encoding::array(answer)?.into_iter();
    let mut next = || answer.next().ok_or_else(encoding::unexpected);
    if encoding::integer(&next()?)? == 0 {
        return Ok(Err(encoding::integer(&next()?)? == 1));
    }
    let sealed = encoding::integer(&next()?)? == 1;
    let trimmed = encoding::head(next()?)?;
    let (owner, data, trim) = (encoding::text(next()?)?, encoding::bulk(next()?)?, encoding::text(next()?)?);
    let trim_bytes = if trim.is_empty() { None } else { trim.parse().ok() };
    let ttl_ms = u64::try_from(encoding::integer(&next()?)?).ok();
    let entries = encoding::array(next()?)?.into_iter().map(entry).collect::<Result<_, _>>()?;
    Ok(Ok(Found { sealed, trimmed, meta: Meta { owner, data, trim_bytes }, ttl_ms, entries }))
}

/// `[id, [field, value, …]]`, our record first.
fn entry(value: Value) -> Result<(Position, Draft), Failure> {
    let mut parts = encoding::array(value)?.into_iter();
    let position = encoding::head(parts.next().ok_or_else(encoding::unexpected)?)?;
    let fields = encoding::array(parts.next().ok_or_else(encoding::unexpected)?)?;
    let mut record = encoding::bulk(fields.into_iter().nth(1).ok_or_else(encoding::unexpected)?)?;
    let draft = encoding::take_record(&mut record).ok_or_else(encoding::unexpected)?;
    Ok((position, draft))
}
