//! A viewer in the metrics, for as long as it is connected.

use std::sync::Arc;

use tokio::time::Instant;

use crate::metrics::{Metrics, Transport};

pub struct Counted {
    metrics: Arc<Metrics>,
    transport: Transport,
    since: Instant,
}

impl Counted {
    /// `transport`: `sse`, `poll`, `websocket` or `json`.
    pub fn new(metrics: &Arc<Metrics>, transport: &'static str) -> Counted {
        let transport = Transport { transport };
        metrics.viewers.get_or_create_owned(&transport).inc();
        Counted { metrics: metrics.clone(), transport, since: Instant::now() }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.metrics.viewers.get_or_create_owned(&self.transport).dec();
        let stayed = self.since.elapsed().as_secs_f64();
        self.metrics.connection_duration.get_or_create_owned(&self.transport).observe(stayed);
    }
}
