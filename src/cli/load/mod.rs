//! `relaystream load`: streams × viewers against a running server, and what they cost it.
//!
//! Works against any server that speaks one of the transports: this product, its upstream, a plain proxy before it,
//! or a publish-subscribe server. It reads raw bytes and counts; it does not check texts, which is the tests' job.
//! CPU time and memory are the operating system's account of the server's processes, which must run on this machine.

mod connection;
mod fleet;
mod idle;
mod process;
mod report;
mod upstream;
mod viewer;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::bail;
use reqwest::Url;
use tokio::time::Instant;

use fleet::Plan;
use report::{Report, Spread};
use upstream::Pace;
use viewer::{Outcome, Tally};

/// How a viewer reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Transport {
    /// Native server-sent events of a stream
    Sse,
    /// The session's WebSocket
    Ws,
    /// Native long poll
    Poll,
    /// A streamed chat completion; every viewer asks for its own
    Chat,
}

/// Generate load and print what it costs.
///
/// A model such as `500x20` means the built-in paced upstream (`relaystream load upstream`): 500 tokens, 20 ms apart.
/// Its tokens are counted and timed one by one; with any other model, events are counted.
#[derive(Debug, Clone, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Load {
    #[command(subcommand)]
    command: Option<Command>,
    /// The server's base URL
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    server: Url,
    /// API key
    #[arg(long)]
    key: Option<String>,
    /// Streams at the same time
    #[arg(long, default_value_t = 1)]
    streams: usize,
    /// Viewers of each stream
    #[arg(long, default_value_t = 1)]
    viewers: usize,
    #[arg(long, value_enum, default_value_t = Transport::Sse)]
    transport: Transport,
    #[arg(long, default_value = "demo")]
    model: String,
    /// Start streams one after the other for so long; 0: each slot starts one
    #[arg(long, default_value_t = 0)]
    seconds: u64,
    /// Spread the first starts over so many milliseconds
    #[arg(long, default_value_t = 0)]
    ramp_ms: u64,
    /// Take the cost from so long after everybody is connected to the first end; absent: of the whole run
    #[arg(long)]
    warmup_ms: Option<u64>,
    /// Every viewer cuts its connection this often and resumes (sse only); 0: never
    #[arg(long, default_value_t = 0)]
    cut_every_ms: u64,
    /// Hold so many viewers of a stream and measure the server's memory instead
    #[arg(long, default_value_t = 0)]
    idle: usize,
    /// After idle viewers have left, wait so long before measuring again
    #[arg(long, default_value_t = 12)]
    settle_s: u64,
    /// Read this URL (with sse or ws) and start nothing
    #[arg(long)]
    raw_url: Option<Url>,
    /// Post the model's tokens here, once all viewers of --raw-url are connected
    #[arg(long, requires = "raw_url")]
    publish: Option<Url>,
    /// The server's process, whose CPU and memory are read, with its children; repeatable
    #[arg(long)]
    pid: Vec<u32>,
    /// Give up after so long
    #[arg(long, default_value_t = 300)]
    limit_s: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum Command {
    /// Serve a paced OpenAI-compatible upstream for measurements
    #[command(hide = true)]
    Upstream(upstream::Upstream),
}

impl Load {
    fn total(&self) -> u64 {
        (self.streams * self.viewers) as u64
    }

    fn check(&self) -> anyhow::Result<()> {
        if self.streams == 0 || self.viewers == 0 {
            bail!("--streams and --viewers count from 1");
        }
        if self.cut_every_ms > 0 && self.transport != Transport::Sse {
            bail!("--cut-every-ms is for the transport sse");
        }
        if self.raw_url.is_some() && matches!(self.transport, Transport::Poll | Transport::Chat) {
            bail!("--raw-url is for the transports sse and ws");
        }
        Ok(())
    }
}

/// Exit code 0 if everything arrived, 1 if not.
pub(super) async fn run(mut args: Load) -> anyhow::Result<ExitCode> {
    if let Some(Command::Upstream(upstream)) = args.command.take() {
        return upstream::run(upstream).await;
    }
    args.check()?;
    let plan = Arc::new(Plan {
        key: args.key.as_ref().map(|key| format!("Bearer {key}").into()),
        pace: Pace::of(&args.model),
        nonce: upstream::now_us(),
        load: args,
    });
    let report = if plan.load.idle > 0 { held(&plan).await? } else { ran(&plan).await? };
    print(&report, plan.load.json)?;
    Ok(if report.clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[expect(clippy::print_stdout, reason = "a command prints its result")]
fn print(report: &Report, json: bool) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string(report)?);
    } else {
        println!("{}", report.lines().join("\n"));
    }
    Ok(())
}

fn blank(load: &Load) -> Report {
    Report {
        transport: format!("{:?}", load.transport).to_lowercase(),
        model: load.model.clone(),
        streams: load.streams,
        viewers_per_stream: load.viewers,
        unit: if Pace::of(&load.model).is_some() { "tokens" } else { "events" },
        ..Report::default()
    }
}

async fn held(plan: &Plan) -> anyhow::Result<Report> {
    Ok(Report { idle: Some(idle::run(plan).await?), ..blank(&plan.load) })
}

async fn ran(plan: &Arc<Plan>) -> anyhow::Result<Report> {
    let tally = Arc::new(Tally::new());
    let began = Instant::now();
    let (outcomes, window) = tokio::join!(plan.run(&tally), plan.window(&tally));
    let seconds = began.elapsed().as_secs_f64();
    Ok(Report { seconds, window: window?, ..summary(blank(&plan.load), outcomes) })
}

fn summary(mut report: Report, outcomes: Vec<Outcome>) -> Report {
    let (mut first, mut lags, mut resumes) = (Vec::new(), Vec::new(), Vec::new());
    let mut errors = BTreeMap::new();
    // Unknown as soon as one viewer does not know.
    let expected =
        outcomes.iter().map(|seen| seen.expected.filter(|_| seen.error.is_none())).sum::<Option<u64>>();
    for seen in outcomes {
        report.delivered += seen.units;
        report.frames += seen.frames;
        first.extend(seen.first);
        lags.extend(seen.lags);
        resumes.extend(seen.resumes);
        if let Some(error) = seen.error {
            *errors.entry(error).or_default() += 1;
        }
    }
    let ratio =
        expected.filter(|expected| *expected > 0).map(|expected| report.delivered as f64 / expected as f64);
    Report {
        expected,
        ratio,
        time_to_first: Spread::of(first),
        lag: Spread::of(lags),
        resume: Spread::of(resumes),
        errors,
        ..report
    }
}
