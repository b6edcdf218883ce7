//! What processes tell one another about streams: that one is to stop, and that somebody looks.
//!
//! Messages of the store, which may get lost: a stop is kept beside its message, and who looks says so again and again.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, sleep};

use super::running::{Attendance, Stop};
use super::{Relay, lock};
use crate::log::LogId;
use crate::store;

const TOPIC: &str = "streams";
/// A stop is remembered for whoever takes the stream over meanwhile.
const STOP_TTL: Duration = Duration::from_secs(60);
/// How often it is said who looks.
const TICK: Duration = Duration::from_millis(500);
/// Said anew after so many ticks.
const REFRESH: u32 = 6;
/// Who was not heard of for so long does not look any more.
const GUEST_TTL: Duration = Duration::from_secs(8);

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Signal {
    Stop { stream: String, by: String },
    Looking { node: String, streams: Vec<String> },
    Left { node: String, streams: Vec<String> },
}

/// Viewers of our streams on other nodes, one for each node.
type Guests = HashMap<(LogId, String), (Attendance, Instant)>;

/// What this node knows of the others.
#[derive(Default)]
struct Exchange {
    /// How it calls itself.
    node: String,
    guests: Guests,
    /// What was said last of who looks here.
    told: HashSet<LogId>,
    signals: Option<Receiver<Bytes>>,
}

impl Exchange {
    /// Sees those out who were not heard of for long; while nobody can be heard, nobody is taken for gone.
    fn see_out(&mut self, heard: bool) {
        let now = Instant::now();
        if heard {
            self.guests.retain(|_, (_, last)| now - *last < GUEST_TTL);
        } else {
            self.guests.values_mut().for_each(|(_, last)| *last = now);
        }
    }
}

fn stopped(id: LogId) -> String {
    format!("stopped/{id}")
}

impl Relay {
    /// Stops a stream, wherever it runs.
    pub async fn stop(&self, id: LogId, by: &str) -> Result<(), store::Error> {
        if let Some(running) = self.running(id) {
            running.stop(Stop::Cancelled(by.to_owned()));
            running.finished.cancelled().await;
            return Ok(());
        }
        self.store.claim(&stopped(id), by, STOP_TTL).await?;
        self.send(&Signal::Stop { stream: id.to_string(), by: by.to_owned() }).await
    }

    /// By whom the stream was to be stopped when nobody wrote it.
    pub async fn was_stopped(&self, id: LogId) -> Result<Option<String>, store::Error> {
        self.store.claimed(&stopped(id)).await
    }

    async fn send(&self, signal: &Signal) -> Result<(), store::Error> {
        let message = serde_json::to_vec(signal).expect("a signal has string keys");
        self.store.publish(TOPIC, Bytes::from(message)).await
    }

    /// Hears what other nodes say, and tells them who looks at their streams, for as long as it is polled.
    pub async fn exchange_signals(&self) {
        let mut exchange = Exchange { node: ulid::Ulid::generate().to_string(), ..Exchange::default() };
        let mut away = false;
        for round in 0_u32.. {
            let exchanged = self.exchange(&mut exchange, round).await;
            exchange.see_out(exchanged.is_ok());
            if let Err(error) = &exchanged {
                if !away {
                    tracing::warn!(%error, "other processes cannot be heard");
                }
                sleep(TICK).await;
            }
            away = exchanged.is_err();
        }
    }

    /// Hears for a tick, then tells.
    async fn exchange(&self, exchange: &mut Exchange, round: u32) -> Result<(), store::Error> {
        let tick = sleep(TICK);
        tokio::pin!(tick);
        let Exchange { node, guests, told, signals } = exchange;
        let heard = match signals {
            Some(signals) => signals,
            None => signals.insert(self.store.subscribe(TOPIC).await?),
        };
        loop {
            tokio::select! {
                // What came while the store kept us waiting is heard before anybody is taken for gone.
                biased;
                signal = heard.recv() => match signal {
                    Ok(message) => self.heard(&message, node, guests),
                    // What was missed is said again.
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => {
                        *signals = None;
                        return Err(store::Error::Unavailable("no signals".into()));
                    }
                },
                () = &mut tick => break,
            }
        }
        let looking = self.looked_at_elsewhere();
        let left: Vec<LogId> = told.difference(&looking).copied().collect();
        let news = looking.iter().any(|id| !told.contains(id));
        if !looking.is_empty() && (news || round.is_multiple_of(REFRESH)) {
            self.send(&Signal::Looking { node: node.clone(), streams: print(&looking) }).await?;
        }
        if !left.is_empty() {
            self.send(&Signal::Left { node: node.clone(), streams: print(&left) }).await?;
        }
        *told = looking;
        self.store.health()
    }

    /// Streams that are looked at here and run elsewhere.
    fn looked_at_elsewhere(&self) -> HashSet<LogId> {
        let tails: Vec<_> = lock(&self.tails).values().filter_map(std::sync::Weak::upgrade).collect();
        let elsewhere = tails.iter().filter(|tail| {
            tail.watchers.count() > 0 && tail.end().is_none() && self.running(tail.log).is_none()
        });
        elsewhere.map(|tail| tail.log).collect()
    }

    fn heard(&self, message: &[u8], own: &str, guests: &mut Guests) {
        // Another version's signals are not ours to understand.
        let Ok(signal) = serde_json::from_slice(message) else { return };
        let ours = |stream: &String| stream.parse().ok().and_then(|id| self.running(id));
        match signal {
            Signal::Stop { stream, by } => {
                if let Some(running) = ours(&stream) {
                    running.stop(Stop::Cancelled(by));
                }
            }
            Signal::Looking { node, streams } if node != own => {
                for running in streams.iter().filter_map(ours) {
                    let key = (running.id, node.clone());
                    guests.entry(key).or_insert_with(|| (running.attend(), Instant::now())).1 =
                        Instant::now();
                }
            }
            Signal::Left { node, streams } => {
                for id in streams.iter().filter_map(|stream| stream.parse().ok()) {
                    guests.remove(&(id, node.clone()));
                }
            }
            Signal::Looking { .. } => {}
        }
    }
}

fn print<'a>(ids: impl IntoIterator<Item = &'a LogId>) -> Vec<String> {
    ids.into_iter().map(LogId::to_string).collect()
}
