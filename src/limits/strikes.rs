//! Credentials that were refused, by where they come from and by what they are: whoever has sent too many is told to
//! wait before anything of the next one is checked.
//!
//! What a strike costs is paid back steadily (GCRA). A credential that was good of late is checked at any rate: whoever
//! shares an address with a client that has gone wild is not shut out. Pure: `now` is an argument, the time since some
//! fixed moment.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A credential, in a form that does not tell it.
pub type Digest = [u8; 32];

/// So many wrong credentials may come from an address at once, and one more in each period.
const OF_ADDRESS: Rule = Rule { burst: 60, period: Duration::from_secs(1) };
/// And so often the same one.
const OF_CREDENTIAL: Rule = Rule { burst: 10, period: Duration::from_secs(6) };
/// Addresses and credentials that are remembered at a time, each.
const MOST: usize = 50_000;

#[derive(Clone, Copy)]
struct Rule {
    burst: u32,
    period: Duration,
}

#[derive(Debug, Default)]
pub struct Strikes {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// When each will be as if it had never sent a wrong one.
    addresses: HashMap<String, Duration>,
    credentials: HashMap<Digest, Duration>,
    /// Good ones in two generations: when the young one is full it becomes the old one, and the old one is forgotten.
    good: [HashSet<Digest>; 2],
}

impl Strikes {
    /// How long to wait before this credential is looked at; None: not at all.
    pub fn wait(&self, address: &str, credential: &Digest, now: Duration) -> Option<Duration> {
        let inner = self.lock();
        if inner.good.iter().any(|generation| generation.contains(credential)) {
            return None;
        }
        let of_address = inner.addresses.get(address).and_then(|at| OF_ADDRESS.wait(*at, now));
        let of_credential = inner.credentials.get(credential).and_then(|at| OF_CREDENTIAL.wait(*at, now));
        of_address.max(of_credential)
    }

    /// It was refused.
    pub fn bad(&self, address: &str, credential: &Digest, now: Duration) {
        let mut inner = self.lock();
        for generation in &mut inner.good {
            generation.remove(credential);
        }
        strike(&mut inner.addresses, address.to_owned(), OF_ADDRESS, now);
        strike(&mut inner.credentials, *credential, OF_CREDENTIAL, now);
    }

    /// It was accepted.
    pub fn good(&self, credential: &Digest) {
        let mut inner = self.lock();
        if inner.good[0].contains(credential) {
            return;
        }
        if inner.good[0].len() >= MOST {
            inner.good[1] = std::mem::take(&mut inner.good[0]);
        }
        inner.good[0].insert(*credential);
    }

    /// Forgets those that have paid everything back.
    pub fn sweep(&self, now: Duration) {
        let mut inner = self.lock();
        inner.addresses.retain(|_, at| *at > now);
        inner.credentials.retain(|_, at| *at > now);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rule {
    fn wait(self, whole_at: Duration, now: Duration) -> Option<Duration> {
        let allowed = self.period * (self.burst - 1);
        Some(whole_at.saturating_sub(now + allowed)).filter(|wait| !wait.is_zero())
    }
}

fn strike<K: std::hash::Hash + Eq>(known: &mut HashMap<K, Duration>, key: K, rule: Rule, now: Duration) {
    // Full: who is remembered already stays so, and more cannot be.
    if known.len() >= MOST && !known.contains_key(&key) {
        return;
    }
    let whole_at = known.entry(key).or_default();
    *whole_at = (*whole_at).max(now) + rule.period;
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1000);

    #[test]
    fn the_same_wrong_credential_has_to_wait_from_wherever_it_comes() {
        let (strikes, stale) = (Strikes::default(), [1; 32]);
        for _ in 0..10 {
            assert_eq!(strikes.wait("1.1.1.1", &stale, NOW), None);
            strikes.bad("1.1.1.1", &stale, NOW);
        }
        assert_eq!(strikes.wait("2.2.2.2", &stale, NOW), Some(Duration::from_secs(6)));
        assert_eq!(strikes.wait("1.1.1.1", &[2; 32], NOW), None);
        assert_eq!(strikes.wait("2.2.2.2", &stale, NOW + Duration::from_secs(6)), None);
        strikes.sweep(NOW + Duration::from_secs(60));
        assert!(strikes.lock().credentials.is_empty() && strikes.lock().addresses.is_empty());
    }

    #[test]
    fn an_address_that_guesses_has_to_wait_but_not_whoever_was_good_there() {
        let (strikes, good) = (Strikes::default(), [255; 32]);
        strikes.good(&good);
        for guess in 0..60 {
            assert_eq!(strikes.wait("1.1.1.1", &[guess; 32], NOW), None);
            strikes.bad("1.1.1.1", &[guess; 32], NOW);
        }
        assert_eq!(strikes.wait("1.1.1.1", &[200; 32], NOW), Some(Duration::from_secs(1)));
        assert_eq!(strikes.wait("1.1.1.2", &[200; 32], NOW), None);
        assert_eq!(strikes.wait("1.1.1.1", &good, NOW), None);
        // Until it is refused itself, its key withdrawn for instance.
        strikes.bad("1.1.1.1", &good, NOW);
        assert!(strikes.wait("1.1.1.1", &good, NOW).is_some());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let strikes = Strikes::default();
        for number in 0..MOST as u64 * 2 {
            let mut credential = [0; 32];
            credential[..8].copy_from_slice(&number.to_le_bytes());
            strikes.bad(&number.to_string(), &credential, NOW);
            strikes.good(&credential);
        }
        let inner = strikes.lock();
        assert!(inner.addresses.len() == MOST && inner.credentials.len() == MOST);
        assert!(inner.good[0].len() <= MOST && inner.good[1].len() <= MOST);
    }
}
