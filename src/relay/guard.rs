//! Watches over waits on the provider: for a stop, and for a deadline.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

use super::halt::{Halt, timeout_message};
use super::running::{Running, Stop};
use super::upstream::Fault;

/// Later than any deadline.
const FAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// Watches over waits on the provider: for a stop, and for a deadline. Appends do not go through here, so that none is
/// ever torn.
pub struct Guard {
    stopped: Pin<Box<dyn Future<Output = Stop> + Send>>,
    /// Set to the earliest deadline so far. Deadlines mostly move on with every token: the timer looks back when it
    /// fires, rather than being set again each time.
    alarm: Pin<Box<Sleep>>,
}

impl Guard {
    pub fn new(running: &Arc<Running>) -> Guard {
        let watched = running.clone();
        let stopped = Box::pin(async move { watched.stopped().await });
        Guard { stopped, alarm: Box::pin(sleep(FAR)) }
    }

    /// Waits for `what`, unless the stream is stopped or runs into its deadline first.
    pub async fn wait<T>(
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
            code = late => {
                // Nobody is asked for more once the whole time is up.
                let more = code != "total_timeout";
                Err(Fault { elsewhere: more, ..Fault::new(code, timeout_message(code), more) }.into())
            }
        }
    }
}
