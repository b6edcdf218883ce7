//! Writing: a log is made, appended to and forgotten, each by one script.
//!
//! Every call has a name of its own, so that one whose answer got lost can simply be made again: Redis says what came of
//! the first. That is how appends wait for Redis to come back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use redis::{Cmd, Value};
use tokio::time::{Instant, sleep};

use super::copy::{Applied, Copy, Standing};
use super::encoding::{self, entry_id};
use super::link::Failure;
use super::scripts::Script;
use super::{Error, Node, RUNNING_TTL, TOMBSTONE_TTL};
use crate::log::{Batch, Log, LogId, Position, Refused};
use crate::store::Meta;

/// How long somebody who asks may be kept waiting for Redis.
pub const MOMENT: Duration = Duration::from_secs(3);
/// Between two tries of a call that Redis could not answer.
pub const REST: Duration = Duration::from_millis(100);

/// What a log begins with is not gathered: its readers wait for the first word.
const AT_ONCE: u64 = 4;

/// One append, ready to be sent as often as it takes.
pub struct Append {
    nonce: String,
    batch: Batch,
    /// Its drafts, encoded.
    records: Vec<Bytes>,
}

/// What Redis said to an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    Accepted(Position),
    Stale(Position),
    Closed,
    /// It does not know the log, and nobody forgot it.
    Lost,
    Forgotten,
    /// Another node writes this log, and has the head there.
    Fenced(Position),
}

impl Said {
    /// The head after an append that nothing is done about if it was refused.
    pub fn head(self) -> Result<Position, Error> {
        match self {
            Said::Accepted(head) => Ok(head),
            Said::Stale(head) | Said::Fenced(head) => Err(Refused::Stale { head }.into()),
            Said::Closed => Err(Refused::Closed.into()),
            Said::Lost | Said::Forgotten => Err(Error::NotFound),
        }
    }
}

impl Append {
    /// Of nothing: the answer tells where the log stands.
    pub fn nothing(node: &Node, expected: Position) -> Append {
        Append::new(node, Batch { expected, epoch: expected.epoch, drafts: Vec::new(), seal: false })
    }

    pub fn new(node: &Node, batch: Batch) -> Append {
        let records = batch.drafts.iter().map(encoding::record).collect();
        Append { nonce: node.nonce(), batch, records }
    }
}

impl Node {
    /// Runs a script that may run twice, and gives Redis a moment to come back.
    pub async fn ask(&self, script: &Script, keys: &[&str], args: &[&[u8]]) -> Result<Value, Error> {
        self.insist(Instant::now() + MOMENT, script, keys, args).await
    }

    /// Gives a command that may run twice, and waits for Redis as long as `until`.
    pub async fn insist_on(&self, until: Instant, command: &Cmd) -> Result<Value, Error> {
        loop {
            match self.commands.call(command).await {
                Err(Failure::Away(_)) if Instant::now() < until => sleep(REST).await,
                answer => return Ok(answer?),
            }
        }
    }

    /// Runs a script that may run twice, and waits for Redis as long as `until`.
    pub async fn insist(
        &self,
        until: Instant,
        script: &Script,
        keys: &[&str],
        args: &[&[u8]],
    ) -> Result<Value, Error> {
        loop {
            match self.commands.run_script(script, keys, args).await {
                Err(Failure::Away(_)) if Instant::now() < until => sleep(REST).await,
                answer => return Ok(answer?),
            }
        }
    }

    pub fn patience(&self) -> Instant {
        Instant::now() + self.options.patience
    }

    pub async fn create(self: &Arc<Self>, log: LogId, meta: Meta, plan: Bytes) -> Result<(), Error> {
        let until = self.patience();
        let own = meta.trim_bytes.is_none();
        let bytes = (meta.data.len() + size_of::<Copy>()) as u64;
        self.make_room(&self.ledger.account(&meta.owner, || 0), bytes)?;
        if own {
            self.lease.wait(|| self.now(), until).await?;
        }
        // Listed first: a log that nobody knows to be ours would never be taken over.
        let listed = async { if own { self.list_as_own(log, until).await } else { Ok(()) } };
        let (listed, made) = tokio::join!(listed, self.make(log, &meta, &plan, Position::START, until));
        listed?;
        if !made? {
            return Err(Error::Exists);
        }
        if own {
            let copy = Copy::owned(log, meta, plan, Log::default(), self.ledger.clone());
            copy.used(self.now());
            self.running().insert(log, copy);
        } else {
            self.copy(log).await?;
        }
        Ok(())
    }

    /// False if there is such a log. `head`: where a log that Redis has lost begins anew.
    pub async fn make(
        &self,
        log: LogId,
        meta: &Meta,
        plan: &[u8],
        head: Position,
        until: Instant,
    ) -> Result<bool, Error> {
        let keys = [self.meta_key(log), self.log_key(log)];
        let (nonce, head) = (self.nonce(), entry_id(head));
        let again = if head == entry_id(Position::START) { "" } else { "again" };
        let node = if meta.trim_bytes.is_none() { self.id.as_str() } else { "" };
        let trim = meta.trim_bytes.map_or(String::new(), |bytes| bytes.to_string());
        let ttl = RUNNING_TTL.as_millis().to_string();
        let args: [&[u8]; 9] = [
            nonce.as_bytes(),
            node.as_bytes(),
            meta.owner.as_bytes(),
            &meta.data,
            trim.as_bytes(),
            plan,
            ttl.as_bytes(),
            head.as_bytes(),
            again.as_bytes(),
        ];
        let made = self.insist(until, &self.scripts.create, &[&keys[0], &keys[1]], &args).await?;
        Ok(encoding::integer(&made)? == 1)
    }

    pub async fn append(self: &Arc<Self>, log: LogId, batch: Batch) -> Result<Position, Error> {
        let copy = self.running().get(&log).cloned();
        let bytes: u64 = batch.drafts.iter().map(|draft| draft.weight() as u64).sum();
        let grows = copy.as_ref().filter(|copy| !batch.seal && copy.is_owned());
        if let Some(account) = grows.and_then(|copy| copy.account()) {
            self.make_room(&account, bytes)?;
        }
        let append = Append::new(self, batch);
        let Some(copy) = copy else {
            return self.append_blindly(log, append).await;
        };
        // In a task of its own: a caller that leaves half-way leaves nothing half-done.
        let node = self.clone();
        let appended = self.tasks.spawn(async move {
            // Rooms have other writers, who would get in between.
            if copy.is_owned() && append.batch.expected.seq >= AT_ONCE {
                node.gather.together().await;
            }
            let _turn = copy.writing.lock().await;
            node.append_in_turn(&copy, append).await
        });
        appended.await.unwrap_or_else(|_| Err(Error::Unavailable("the runtime is going away".into())))
    }

    /// To a log of which this node holds no copy.
    async fn append_blindly(&self, log: LogId, append: Append) -> Result<Position, Error> {
        self.send(log, &append, self.patience()).await?.head()
    }

    /// The caller holds `copy.writing`.
    pub async fn append_in_turn(
        self: &Arc<Self>,
        copy: &Arc<Copy>,
        mut append: Append,
    ) -> Result<Position, Error> {
        let until = self.patience();
        let mut copy = copy.clone();
        loop {
            if copy.is_owned() {
                self.lease.wait(|| self.now(), until).await?;
            }
            if copy.standing() == Standing::Gone {
                return Err(Error::NotFound);
            }
            let mine = copy.is_owned() && append.batch.expected == copy.head();
            match self.send(copy.id, &append, until).await? {
                Said::Accepted(head) => {
                    self.accepted(&copy, append).await?;
                    return Ok(head);
                }
                // Redis has lost what it had accepted; nobody but this node has written since.
                Said::Stale(head)
                    if mine && head.seq < append.batch.expected.seq && copy.check(head).is_ok() =>
                {
                    self.put_back_tail(&copy, head, until).await?;
                }
                Said::Lost if mine && copy.standing() == Standing::Owned => {
                    copy = self.put_back_all(&copy, None, until).await?;
                    (append.batch.expected, append.batch.epoch) = (copy.head(), copy.head().epoch);
                }
                // That had been begun, and broken off.
                Said::Stale(head) if mine && head.epoch == append.batch.expected.epoch.saturating_add(1) => {
                    copy = self.put_back_all(&copy, Some(head), until).await?;
                    (append.batch.expected, append.batch.epoch) = (copy.head(), copy.head().epoch);
                }
                Said::Stale(head) => {
                    if head.seq > copy.head().seq {
                        copy.look_again();
                        self.read_back(copy.clone());
                    } else if head != copy.head() {
                        copy.fall_behind();
                    }
                    return Err(Refused::Stale { head }.into());
                }
                Said::Fenced(head) => {
                    tracing::warn!(log = %copy.id, "another node writes this log now");
                    copy.give_up();
                    self.read_back(copy.clone());
                    return Err(Refused::Stale { head }.into());
                }
                Said::Closed => return Err(Refused::Closed.into()),
                Said::Lost | Said::Forgotten => {
                    self.let_go(&copy);
                    return Err(Error::NotFound);
                }
            }
        }
    }

    /// Sends an append until there is an answer.
    pub async fn send(&self, log: LogId, append: &Append, until: Instant) -> Result<Said, Error> {
        let keys = [self.meta_key(log), self.log_key(log)];
        let Append { nonce, batch, records } = append;
        let (expected, epoch) = (entry_id(batch.expected), batch.epoch.to_string());
        let message = encoding::message_head(batch);
        let channel = self.channel(log);
        let ttl = if batch.seal { self.sealed_ttl() } else { RUNNING_TTL };
        let ttl = ttl.as_millis().to_string();
        let seal: &[u8] = if batch.seal { b"seal" } else { b"" };
        let mut args: Vec<&[u8]> = Vec::with_capacity(8 + records.len());
        args.extend([
            self.id.as_bytes(),
            nonce.as_bytes(),
            expected.as_bytes(),
            epoch.as_bytes(),
            seal,
            ttl.as_bytes(),
            channel.as_bytes(),
            &message,
        ]);
        args.extend(records.iter().map(|record| &record[..]));
        let script = if batch.seal { &self.scripts.seal } else { &self.scripts.append };
        let answer = self.insist(until, script, &[&keys[0], &keys[1]], &args).await?;
        let mut answer = encoding::array(answer)?.into_iter();
        let code = answer.next().ok_or_else(encoding::unexpected)?;
        let head = encoding::head(answer.next().ok_or_else(encoding::unexpected)?)?;
        Ok(match encoding::integer(&code)? {
            0 => Said::Accepted(head),
            1 => Said::Stale(head),
            2 => Said::Closed,
            3 => Said::Lost,
            4 => Said::Forgotten,
            _ => Said::Fenced(head),
        })
    }

    /// Shows this node's readers what Redis has accepted.
    async fn accepted(self: &Arc<Self>, copy: &Arc<Copy>, append: Append) -> Result<(), Error> {
        let Append { batch, .. } = append;
        let seal = batch.seal;
        if batch.drafts.is_empty() && !seal {
            return Ok(());
        }
        if copy.apply(batch) == Applied::Missed {
            // Others have written in between. Who was told that the append is there must find it.
            self.read_back_now(copy).await?;
        }
        if seal {
            let window = u64::try_from(self.sealed_ttl().as_millis()).unwrap_or(u64::MAX);
            copy.expires(self.now().saturating_add(window));
            if copy.is_owned() {
                self.lease.is_closed(copy.clone(), self.now());
            }
            self.settle(copy);
        }
        Ok(())
    }

    pub async fn remove(self: &Arc<Self>, log: LogId) -> Result<(), Error> {
        // First here, so that an append that is under way does not put it back.
        self.forget(log);
        let keys = [self.meta_key(log), self.log_key(log)];
        let (channel, ttl) = (self.channel(log), TOMBSTONE_TTL.as_millis().to_string());
        let args: [&[u8]; 3] = [ttl.as_bytes(), channel.as_bytes(), b""];
        let known = self.insist(self.patience(), &self.scripts.remove, &[&keys[0], &keys[1]], &args).await?;
        // Somebody may have begun to read it in between.
        self.forget(log);
        self.lease.is_over(log);
        if encoding::integer(&known)? == 1 {
            self.tell_forgotten(log).await?;
        }
        Ok(())
    }

    /// Makes room by dropping copies of closed logs: all of them can be read again.
    fn make_room(&self, account: &AtomicU64, bytes: u64) -> Result<(), Error> {
        let over = || {
            let beyond = |limit: u64, held: &AtomicU64| limit > 0 && held.load(Relaxed) + bytes > limit;
            beyond(self.options.total_bytes, &self.ledger.total) || beyond(self.options.user_bytes, account)
        };
        if over() {
            self.closed.invalidate_all();
            self.closed.run_pending_tasks();
        }
        if over() { Err(Error::Full) } else { Ok(()) }
    }

    fn sealed_ttl(&self) -> Duration {
        let window = self.options.replay_window;
        if window.is_zero() { RUNNING_TTL } else { window }
    }
}
