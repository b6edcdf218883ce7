//! Who comes in: a credential is weighed before it is checked, and checked before anything is done for it.
//!
//! What a credential stands for is `auth`'s to say; here it gets the key sets, the store and the clock that it needs.

use std::time::Duration;

use super::App;
use crate::auth::{Digest, Principal, Refused, digest_of};
use crate::relay::{now_ms, since_start};
use crate::store;

/// Why somebody does not come in.
#[derive(Debug, thiserror::Error)]
pub enum Barred {
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("too many wrong credentials were sent from here")]
    TooMany { wait: Duration },
    #[error("the keys that tokens are checked with have not been fetched yet")]
    NoKeys,
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// Now, in seconds since the Unix epoch.
pub fn now_s() -> u64 {
    now_ms() / 1000
}

impl App {
    /// Whoever this key or token stands for. `address`: where it comes from.
    pub async fn admit(&self, credential: Option<&str>, address: &str) -> Result<Principal, Barred> {
        match credential {
            Some(sent) if !self.settings.load().access.open => {
                self.weigh(sent, address, self.check(sent)).await
            }
            // Nobody could have a wrong one.
            _ => Ok(self.known(credential)?),
        }
    }

    fn known(&self, credential: Option<&str>) -> Result<Principal, Refused> {
        self.settings.load().access.admit(credential, &self.key_sets.current(), now_s())
    }

    async fn check(&self, sent: &str) -> Result<Principal, Barred> {
        match self.known(Some(sent)) {
            Err(Refused::UnknownKey) => {}
            known => return Ok(known?),
        }
        self.key_sets.ask().await;
        match self.known(Some(sent)) {
            Err(Refused::UnknownKey) if self.key_sets.current().keys.is_empty() => Err(Barred::NoKeys),
            known => Ok(known?),
        }
    }

    /// Does the work of `check` unless too much of it was in vain already.
    pub(super) async fn weigh<T>(
        &self,
        sent: &str,
        address: &str,
        check: impl Future<Output = Result<T, Barred>>,
    ) -> Result<T, Barred> {
        let digest = digest_of(sent);
        if let Some(wait) = self.strikes.wait(address, &digest, since_start()) {
            return Err(Barred::TooMany { wait });
        }
        let checked = check.await;
        match &checked {
            Ok(_) => self.strikes.good(&digest),
            Err(Barred::Refused(_)) => self.strike(&digest, address),
            Err(_) => {}
        }
        checked
    }

    /// This credential was wrong.
    pub fn strike(&self, credential: &Digest, address: &str) {
        self.strikes.bad(address, credential, since_start());
    }
}
