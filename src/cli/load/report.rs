//! The figures of a run, as a table for people and as JSON for scripts.
//!
//! Counting happens elsewhere; here are the quotients. Quantiles are exact, of the samples as they were taken.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

/// Quantiles of a set of durations, in microseconds.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Spread {
    pub p50_us: u64,
    pub p90_us: u64,
    pub p99_us: u64,
    pub max_us: u64,
    pub samples: usize,
}

impl Spread {
    /// None without samples.
    pub(super) fn of(mut samples: Vec<u32>) -> Option<Spread> {
        samples.sort_unstable();
        let max = *samples.last()?;
        let at = |share: f64| u64::from(samples[(((samples.len() - 1) as f64) * share).round() as usize]);
        Some(Spread {
            p50_us: at(0.50),
            p90_us: at(0.90),
            p99_us: at(0.99),
            max_us: u64::from(max),
            samples: samples.len(),
        })
    }
}

/// A duration as a sample. Beyond an hour all are alike.
pub(super) fn sample(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

/// One run.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    pub transport: String,
    pub model: String,
    pub streams: usize,
    pub viewers_per_stream: usize,
    /// What is counted: `tokens` of the paced upstream, or `events` of the log.
    pub unit: &'static str,
    /// The whole run, in seconds.
    pub seconds: f64,
    /// Units delivered to all viewers in the whole run, and how many should have been.
    pub delivered: u64,
    pub expected: Option<u64>,
    pub ratio: Option<f64>,
    /// HTTP chunks or WebSocket messages that carried them.
    pub frames: u64,
    /// The part in which everybody was connected: CPU time is quoted for it.
    pub window: Window,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_to_first: Option<Spread>,
    /// From the upstream's write to the viewer's read, of the paced upstream's tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag: Option<Spread>,
    /// From reconnecting to the first missing unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resume: Option<Spread>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<Idle>,
    pub errors: BTreeMap<String, u64>,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Window {
    pub seconds: f64,
    pub delivered: u64,
    /// CPU time of the server's processes, in seconds.
    pub server_cpu_s: Option<f64>,
    pub server_us_per_unit: Option<f64>,
    /// This generator's own, to see that it was not the bottleneck.
    pub generator_cpu_s: f64,
    /// The server's resident memory at the window's end.
    pub server_resident_kib: Option<u64>,
}

/// Viewers of a silent stream.
#[derive(Debug, Default, Serialize)]
pub(super) struct Idle {
    pub viewers: usize,
    pub before_kib: u64,
    pub with_kib: u64,
    /// A while after they have left.
    pub after_kib: u64,
    pub kib_per_viewer: f64,
}

impl Report {
    /// Nothing was lost or doubled and nobody was refused.
    pub(super) fn clean(&self) -> bool {
        self.errors.is_empty() && self.expected.is_none_or(|expected| expected == self.delivered)
    }

    /// A line for each figure.
    pub(super) fn lines(&self) -> Vec<String> {
        let unit = self.unit;
        let mut lines = Vec::new();
        let mut line = |name: &str, value: String| lines.push(format!("{name:<28}{value}"));
        line(
            "transport",
            format!("{} · {} streams × {} viewers", self.transport, self.streams, self.viewers_per_stream),
        );
        if let Some(idle) = &self.idle {
            line("idle viewers", idle.viewers.to_string());
            line("resident per idle viewer", format!("{:.1} KiB", idle.kib_per_viewer));
            line(
                "resident",
                format!("{} KiB, {} with them, {} after", idle.before_kib, idle.with_kib, idle.after_kib),
            );
        } else {
            let expected = self.expected.map_or("?".into(), |expected| expected.to_string());
            let ratio = self.ratio.map_or(String::new(), |ratio| format!(" ({ratio:.6})"));
            line(
                &format!("{unit} delivered"),
                format!("{} of {expected}{ratio}, in {} frames", self.delivered, self.frames),
            );
            let window = &self.window;
            line("measured", format!("{:.1} s, {} {unit}", window.seconds, window.delivered));
            if let (Some(cpu), Some(each)) = (window.server_cpu_s, window.server_us_per_unit) {
                line(
                    &format!("server CPU per {}", unit.trim_end_matches('s')),
                    format!("{each:.2} µs ({cpu:.2} s)"),
                );
            }
            line("generator CPU", format!("{:.2} s", window.generator_cpu_s));
            if let Some(kib) = window.server_resident_kib {
                line("server resident", format!("{kib} KiB"));
            }
        }
        let spreads = [
            ("time to first", &self.time_to_first),
            ("from upstream to viewer", &self.lag),
            ("resume to first missing", &self.resume),
        ];
        for (name, spread) in spreads {
            if let Some(spread) = spread {
                line(name, spread.to_string());
            }
        }
        for (error, times) in &self.errors {
            line("error", format!("{times} × {error}"));
        }
        lines
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |us: u64| us as f64 / 1000.0;
        let [p50, p99, max] = [self.p50_us, self.p99_us, self.max_us].map(ms);
        write!(f, "p50 {p50:.2} ms, p99 {p99:.2} ms, max {max:.2} ms ({} samples)", self.samples)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_samples() {
        let spread = Spread::of((1..=101).rev().collect()).unwrap();
        assert_eq!((spread.p50_us, spread.p99_us, spread.max_us, spread.samples), (51, 100, 101, 101));
        assert!(Spread::of(Vec::new()).is_none());
    }
}
