//! How providers have been doing of late: a circuit breaker for each target, a rest for each key that was refused.
//!
//! Passive: it learns from the requests that are made anyway. Time is an argument.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::route::{Endpoint, Target};

/// When a target is given a rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Breaker {
    /// So many failures in a row open it. Zero: never.
    pub failures: u32,
    /// How long it stays open before one request may try again.
    pub open: Duration,
}

/// A target's circuit, by its customary names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Circuit {
    Closed {
        failures: u32,
    },
    Open {
        until: Instant,
    },
    /// One request is trying.
    HalfOpen,
}

/// As it is reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    pub provider: String,
    pub model: String,
    /// `closed`, `open` or `half-open`.
    pub circuit: &'static str,
}

/// A provider's name and its model's.
type Place = (String, String);
/// A provider's name and its key.
type Key = (String, String);

/// A target that has not failed for so long is forgotten.
const MEMORY: Duration = Duration::from_secs(600);

#[derive(Debug, Default)]
pub struct Health {
    /// Of targets that have failed of late, and when something last changed. Clients name models: only failures of
    /// providers may leave something here.
    circuits: Mutex<HashMap<Place, (Circuit, Instant)>>,
    /// Keys that are not to be used until then.
    resting: Mutex<HashMap<Key, Instant>>,
}

/// A request that a circuit let through. Dropped without a verdict, it says nothing about the target.
#[derive(Debug)]
pub struct Trial {
    health: Arc<Health>,
    place: Place,
    breaker: Breaker,
    probe: bool,
}

impl Health {
    /// Lets a request through, unless the target's circuit is open or already being tried.
    pub fn admit(self: &Arc<Self>, target: &Target, breaker: Breaker, now: Instant) -> Option<Trial> {
        let place = place(target);
        let probe = match lock(&self.circuits).get_mut(&place) {
            Some((circuit, touched)) if breaker.failures > 0 => match *circuit {
                Circuit::Closed { .. } => false,
                Circuit::Open { until } if until <= now => {
                    (*circuit, *touched) = (Circuit::HalfOpen, now);
                    true
                }
                Circuit::Open { .. } | Circuit::HalfOpen => return None,
            },
            _ => false,
        };
        Some(Trial { health: self.clone(), place, breaker, probe })
    }

    /// Lets a request through whatever the circuit says: there is nobody else to ask. A success closes it.
    pub fn insist(self: &Arc<Self>, target: &Target, breaker: Breaker) -> Trial {
        Trial { health: self.clone(), place: place(target), breaker, probe: false }
    }

    /// A key of the provider that is not resting, else the one that has rested longest.
    pub fn key<'a>(&self, endpoint: &'a Endpoint, now: Instant) -> Option<&'a str> {
        let resting = lock(&self.resting);
        let until = |key: &&String| {
            let until = resting.get(&(endpoint.name.clone(), (*key).clone())).copied();
            until.filter(|until| *until > now)
        };
        endpoint.keys.iter().min_by_key(until).map(String::as_str)
    }

    /// Whether a key of the provider is not resting.
    pub fn has_fresh_key(&self, endpoint: &Endpoint, now: Instant) -> bool {
        let mut resting = lock(&self.resting);
        resting.retain(|_, until| *until > now);
        endpoint.keys.iter().any(|key| !resting.contains_key(&(endpoint.name.clone(), key.clone())))
    }

    /// Keeps a key from being used for a while.
    pub fn rest(&self, endpoint: &Endpoint, key: &str, until: Instant) {
        lock(&self.resting).insert((endpoint.name.clone(), key.to_owned()), until);
    }

    /// Targets that have failed of late, in order.
    pub fn report(&self) -> Vec<Condition> {
        let circuits = lock(&self.circuits);
        let mut report: Vec<Condition> = circuits
            .iter()
            .map(|((provider, model), (circuit, _))| Condition {
                provider: provider.clone(),
                model: model.clone(),
                circuit: match circuit {
                    Circuit::Closed { .. } => "closed",
                    Circuit::Open { .. } => "open",
                    Circuit::HalfOpen => "half-open",
                },
            })
            .collect();
        report.sort_by(|a, b| (&a.provider, &a.model).cmp(&(&b.provider, &b.model)));
        report
    }

    /// How many keys of each provider are resting.
    pub fn resting(&self, now: Instant) -> BTreeMap<String, u64> {
        let mut resting = BTreeMap::new();
        for ((provider, _), _) in lock(&self.resting).iter().filter(|(_, until)| **until > now) {
            *resting.entry(provider.clone()).or_default() += 1;
        }
        resting
    }

    /// Forgets what was long ago.
    pub fn sweep(&self, now: Instant) {
        lock(&self.circuits).retain(|_, (circuit, touched)| {
            let last = if let Circuit::Open { until } = circuit { (*until).max(*touched) } else { *touched };
            *circuit == Circuit::HalfOpen || now.saturating_duration_since(last) < MEMORY
        });
        lock(&self.resting).retain(|_, until| *until > now);
    }

    fn set(&self, place: &Place, now: Instant, change: impl FnOnce(Circuit) -> Circuit) {
        if let Some((circuit, touched)) = lock(&self.circuits).get_mut(place) {
            (*circuit, *touched) = (change(*circuit), now);
        }
    }
}

impl Trial {
    /// The target has begun to speak. Whether it gets to its end may take minutes: others may ask it meanwhile, but one
    /// more failure is one too many.
    pub fn answers(&mut self, now: Instant) {
        if std::mem::take(&mut self.probe) {
            let failures = self.breaker.failures.saturating_sub(1);
            self.health.set(&self.place, now, |_| Circuit::Closed { failures });
        }
    }

    /// The target answered to the end.
    pub fn succeeded(mut self, now: Instant) {
        self.probe = false;
        self.health.set(&self.place, now, |_| Circuit::Closed { failures: 0 });
    }

    /// The target failed, before its first word or after.
    pub fn failed(mut self, now: Instant) {
        let probe = std::mem::take(&mut self.probe);
        let open = Circuit::Open { until: now + self.breaker.open };
        let most = self.breaker.failures;
        if most == 0 {
            return;
        }
        lock(&self.health.circuits)
            .entry(self.place.clone())
            .or_insert((Circuit::Closed { failures: 0 }, now));
        self.health.set(&self.place, now, |circuit| match circuit {
            Circuit::Closed { failures } if failures + 1 < most => Circuit::Closed { failures: failures + 1 },
            // Others that were under way when it opened do not keep it open for longer.
            Circuit::Open { until } if !probe => Circuit::Open { until },
            Circuit::HalfOpen if !probe => Circuit::HalfOpen,
            _ => open,
        });
    }
}

impl Drop for Trial {
    /// A probe that was called off leaves its place to the next.
    fn drop(&mut self) {
        if self.probe {
            let now = Instant::now();
            self.health.set(&self.place, now, |circuit| match circuit {
                Circuit::HalfOpen => Circuit::Open { until: now },
                other => other,
            });
        }
    }
}

fn place(target: &Target) -> Place {
    (target.endpoint.name.clone(), target.model.clone())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::super::route::Pool;
    use super::*;
    use crate::provider::Provider;

    fn target() -> Target {
        let endpoint = Endpoint {
            name: "p".into(),
            dialect: Provider::OpenAiChat,
            base_url: String::new(),
            keys: vec!["a".into(), "b".into()],
            headers: Vec::new(),
            http2: false,
            trusts: Vec::new(),
            pool: Pool { connections: 0, idle: 0, idle_timeout: Duration::ZERO },
        };
        Target { endpoint, model: "m".into(), weight: None }
    }

    #[test]
    fn a_circuit_opens_is_tried_once_and_closes() {
        let (health, target, now) = (Arc::new(Health::default()), target(), Instant::now());
        let breaker = Breaker { failures: 2, open: Duration::from_secs(10) };
        let admit = |at: Instant| health.admit(&target, breaker, at);
        let fail = |at: Instant| admit(at).expect("let through").failed(at);
        fail(now);
        admit(now).expect("one failure is none").succeeded(now);
        fail(now);
        fail(now);
        assert!(admit(now).is_none(), "open");
        let later = now + Duration::from_secs(10);
        let probe = admit(later).expect("one may try");
        assert!(admit(later).is_none(), "only one");
        probe.failed(later);
        assert!(admit(later).is_none(), "open again");
        let much_later = later + Duration::from_secs(10);
        drop(admit(much_later).expect("tries, and is called off"));
        let probe =
            health.admit(&target, breaker, Instant::now() + Duration::from_secs(60)).expect("the next one");
        assert_eq!(health.report()[0].circuit, "half-open");
        probe.succeeded(now);
        fail(now);
        fail(now);
        let mut probe = admit(now + Duration::from_secs(10)).expect("one may try");
        probe.answers(now);
        let other = admit(now).expect("so may others, once it speaks");
        probe.failed(now);
        assert!(admit(now).is_none(), "it died");
        other.succeeded(now);
        assert!(admit(now).is_some() && admit(now).is_some());
        let off = Breaker { failures: 0, ..breaker };
        for _ in 0..9 {
            health.admit(&target, off, now).expect("never opens").failed(now);
        }
        health.sweep(now + MEMORY / 2);
        assert_eq!(health.report().len(), 1);
        health.sweep(now + MEMORY * 2);
        assert!(health.report().is_empty());
    }

    #[test]
    fn a_refused_key_rests() {
        let (health, target, now) = (Health::default(), target(), Instant::now());
        let endpoint = &target.endpoint;
        assert_eq!(health.key(endpoint, now), Some("a"));
        let until = now + Duration::from_secs(1);
        health.rest(endpoint, "a", until);
        assert_eq!(health.key(endpoint, now), Some("b"));
        assert!(health.has_fresh_key(endpoint, now));
        health.rest(endpoint, "b", until + Duration::from_secs(1));
        assert!(!health.has_fresh_key(endpoint, now));
        assert_eq!(health.key(endpoint, now), Some("a"), "the one that is back sooner");
        assert_eq!(health.resting(now), BTreeMap::from([("p".to_owned(), 2)]));
        assert_eq!(health.resting(until)["p"], 1);
        assert!(health.has_fresh_key(endpoint, until));
    }
}
