//! Whether the store takes appends, and since when that is so.

use std::sync::{Mutex, PoisonError};

use crate::store::Error;

/// What an operator is told of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// What is wrong; None: nothing.
    pub code: Option<&'static str>,
    /// In milliseconds since the Unix epoch.
    pub since_ms: u64,
}

pub struct Condition(Mutex<Report>);

impl Condition {
    pub fn new(now_ms: u64) -> Condition {
        Condition(Mutex::new(Report { code: None, since_ms: now_ms }))
    }

    /// Takes down how the store does now.
    pub fn note(&self, health: Result<(), Error>, now_ms: u64) -> Report {
        let code = health.err().map(|error| match error {
            Error::Full => "store_full",
            _ => "store_unavailable",
        });
        let mut report = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if report.code != code {
            *report = Report { code, since_ms: now_ms };
            match code {
                Some(code) => tracing::error!(code, "the store takes no appends"),
                None => tracing::info!("the store takes appends again"),
            }
        }
        *report
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_since_when() {
        let condition = Condition::new(10);
        assert_eq!(condition.note(Ok(()), 20), Report { code: None, since_ms: 10 });
        assert_eq!(condition.note(Err(Error::Full), 30), Report { code: Some("store_full"), since_ms: 30 });
        let gone = || Err(Error::Unavailable(String::new()));
        assert_eq!(condition.note(gone(), 40), Report { code: Some("store_unavailable"), since_ms: 40 });
        assert_eq!(condition.note(gone(), 50).since_ms, 40);
        assert_eq!(condition.note(Ok(()), 60), Report { code: None, since_ms: 60 });
    }
}
