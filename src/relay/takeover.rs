//! Going on with a stream whose process is gone: the log is read, fenced under the next epoch, and the answer continued
//! as after a failure of the provider.

use tokio::time::Instant;
use tracing::info;

use super::halt::Halt;
use super::pump::Job;
use super::running::Stop;
use super::{Created, Errand, Plan, Relay};
use crate::event::{Done, Event, Kind, Notice, Status};
use crate::limits::ledger::Account;
use crate::log::{Batch, Draft, LogId, Page, Position};
use crate::relay::now_ms;
use crate::relay::route::Route;
use crate::store::{self, Orphan};

/// Bytes of a log that are read at a time.
const SLICE: usize = 256 * 1024;

impl Relay {
    /// Prepares to go on with an orphan. Nothing is written before it is launched.
    pub async fn adopt(
        &self,
        orphan: &Orphan,
        plan: Plan,
        route: Route,
        account: Account,
    ) -> Result<Created, store::Error> {
        let (events, weight) = self.history(orphan.log).await?;
        let running = self.register(orphan.log, &plan);
        let errand =
            Errand { plan, ask: None, route, account: Some(account), retelling: None, known_as: None };
        let mut job = Job::new(running.clone(), errand, orphan.head);
        job.inherit(events, weight);
        Ok(Created { id: orphan.log, running, job })
    }

    /// Ends an orphan with which nobody goes on.
    pub async fn bury(&self, orphan: &Orphan, message: &str) -> Result<(), store::Error> {
        let done = Done { status: Status::Interrupted, ..Done::failed("interrupted", message) };
        let batch = Batch {
            expected: orphan.head,
            epoch: orphan.head.epoch.saturating_add(1),
            drafts: vec![Draft::own(&Event::Done(done), now_ms())],
            seal: true,
        };
        match self.store.append(orphan.log, batch).await {
            // Its writer lives, or somebody else was faster: then it is theirs.
            Ok(_) | Err(store::Error::Refused(_) | store::Error::NotFound) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// All events of a log so far, and what they weigh.
    async fn history(&self, log: LogId) -> Result<(Vec<Event>, u64), store::Error> {
        let (mut events, mut weight, mut after) = (Vec::new(), 0, Position::START);
        loop {
            let Page { records, head, .. } = self.store.read(log, after, SLICE).await?;
            for record in &records {
                weight += record.draft.weight() as u64;
                let kind = Kind::from_u8(record.draft.kind);
                events.extend(kind.and_then(|kind| Event::parse(kind, &record.draft.payload).ok()));
            }
            after = records.last().map_or(head, |record| record.position);
            if after == head {
                return Ok((events, weight));
            }
        }
    }
}

impl Job {
    /// Takes in what was said before.
    fn inherit(&mut self, events: Vec<Event>, weight: u64) {
        (self.inherited, self.weight, self.epoch) = (true, weight, self.head.epoch.saturating_add(1));
        let seams = events
            .iter()
            .filter(|event| matches!(event, Event::Notice(notice) if notice.code == "continued"))
            .count();
        self.progress.inherit(seams as u32);
        self.committed = events.iter().any(|event| !matches!(event, Event::Start(_) | Event::Notice(_)));
        if events.iter().any(|event| Kind::says(event.kind() as u8)) {
            self.spoke = Some(Instant::now());
            self.running.spoke();
        }
        self.progress.take(events);
        if self.committed {
            let usage = self.progress.usage();
            self.charged = usage.input_tokens + usage.output_tokens;
        }
    }

    /// Makes the log ours: whoever has written it so far is refused from here on.
    pub(super) async fn take_over(&mut self, relay: &Relay) -> Result<(), Halt> {
        if self.committed {
            if !self.may_go_on() {
                return Err(Halt::Stop(Stop::Interrupted));
            }
            self.progress.go_on();
        }
        let target = self.route.targets.first();
        let notice = Notice {
            code: if self.committed { "continued" } else { "retried" }.into(),
            message: "the server stopped; another one goes on from here".into(),
            provider: target.map(|target| target.endpoint.name.clone()),
            model: target.map(|target| target.model.clone()),
        };
        info!(parent: &self.span, events = self.head.seq, "going on with a stream that was left behind");
        self.append(relay, vec![Draft::own(&Event::Notice(notice), now_ms())], false).await
    }
}
