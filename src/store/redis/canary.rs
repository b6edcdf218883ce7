//! Whether Redis works, found out by using it: every second something is appended and must come back as a push.
//!
//! Servers that answer and yet deliver nothing are the failure that others did not see: all green, nothing arrives. In
//! a cluster there are several canaries, so that each server is likely to have one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::copy::Standing;
use super::link::Failure;
use super::push::Listener;
use super::{Error, Node};

const EVERY: Duration = Duration::from_secs(1);
/// Not heard for this long, Redis is taken for gone.
const SILENCE_MS: u64 = 4_000;

pub struct Health {
    /// When each canary was last heard, in milliseconds by the store's own clock; 0: never.
    heard: Vec<AtomicU64>,
    full: AtomicBool,
}

impl Health {
    pub fn new(canaries: usize) -> Health {
        let heard = std::iter::repeat_with(AtomicU64::default).take(canaries).collect();
        Health { heard, full: AtomicBool::new(false) }
    }

    pub fn heard(&self, canary: usize, now: u64) {
        if let Some(heard) = self.heard.get(canary) {
            heard.store(now.max(1), Relaxed);
        }
    }

    /// Whether what Redis said is likely to be all that there is.
    pub fn reachable(&self, now: u64) -> Result<(), Error> {
        let silent = |heard: &AtomicU64| match heard.load(Relaxed) {
            0 => true,
            at => now > at + SILENCE_MS,
        };
        if self.full.load(Relaxed) || !self.heard.iter().any(silent) {
            return Ok(());
        }
        Err(Error::Unavailable("Redis does not answer".into()))
    }

    /// Like `reachable`, but hopeful at the start.
    pub fn worth_asking(&self, now: u64) -> Result<(), Error> {
        if now <= SILENCE_MS { Ok(()) } else { self.reachable(now) }
    }

    pub fn now(&self, now: u64) -> Result<(), Error> {
        self.reachable(now)?;
        if self.full.load(Relaxed) { Err(Error::Full) } else { Ok(()) }
    }
}

impl Node {
    /// Sends the canaries out for as long as the store lives.
    pub async fn sing(self: Arc<Self>) {
        let mut every = interval(EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut well, mut renewed) = (true, 0);
        loop {
            every.tick().await;
            let canaries = 0..self.health.heard.len();
            let sent = futures_util::future::join_all(canaries.map(|number| self.send_canary(number))).await;
            self.health.full.store(sent.iter().any(|sent| matches!(sent, Err(Failure::Full))), Relaxed);
            let state = self.health.reachable(self.now());
            // A new connection has its time, too.
            if state.is_err() && self.now() > renewed + SILENCE_MS {
                renewed = self.now();
                // What was sent went through, or nothing does: a connection that is deaf, or one that leads nowhere.
                let deaf = sent.iter().any(Result::is_ok);
                if deaf { self.push.link.renew_any() } else { self.commands.renew_any() }
            }
            match (std::mem::replace(&mut well, state.is_ok()), state) {
                (true, Err(error)) if self.now() > SILENCE_MS => {
                    tracing::warn!(%error, "Redis is not to be relied on")
                }
                (false, Ok(())) => {
                    tracing::info!("Redis is well");
                    // Who waited because nothing was certain looks again.
                    let copies: Vec<_> = self.running().values().cloned().collect();
                    for copy in copies {
                        copy.changed.notify_waiters();
                        if copy.standing() == Standing::Behind {
                            self.read_back(copy);
                        }
                    }
                }
                _ => {}
            }
        }
    }

    async fn send_canary(&self, number: usize) -> Result<(), Failure> {
        let name = self.key(&format!("{{canary:{}:{number}}}", self.id));
        if self.push.listener(&name).is_none() {
            self.push.follow(&name, Listener::Canary(number)).await?;
        }
        let key = format!("{name}:log");
        let args: [&[u8]; 2] = [name.as_bytes(), b"."];
        self.commands.run_script(&self.scripts.canary, &[&key], &args).await.map(drop)
    }

    /// Follows again, on each new connection, what was followed on the last.
    pub async fn follow_again(self: Arc<Self>) {
        let mut generation = 0;
        loop {
            generation = self.push.link.opened_after(generation).await;
            self.push.follow_all_again().await;
            let forgotten = self.forgotten_channel();
            if self.push.listener(&forgotten).is_none() {
                // If it fails there will be another connection.
                let _next_time = self.push.follow(&forgotten, Listener::Forgotten).await;
            }
        }
    }

    pub fn forgotten_channel(&self) -> String {
        self.key("forgotten")
    }
}
