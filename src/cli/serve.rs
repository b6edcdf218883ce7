//! `relaystream serve`: start, serve, reload, and leave gracefully.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::cores::Cores;
use super::refuse;
use crate::app::{App, settings, store};
use crate::config::{Config, Environment, environment};
use crate::http::rate::Rate;
use crate::http::{connection, router};
use crate::reload;
use crate::telemetry;

#[derive(Debug, clap::Args)]
pub struct Serve {
    /// The configuration file; none is needed.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The address to listen on.
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Let everyone in, without credentials, even where others than this machine can connect.
    #[arg(long)]
    open: bool,
}

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;
/// After the deadline, viewers have this long to read their endings.
const LAST_WORDS: Duration = Duration::from_millis(1200);

pub fn run(command: &Serve) -> ExitCode {
    let environment = environment();
    telemetry::init(environment.get("RUST_LOG").map(String::as_str));
    let prepared = load(command, &environment).and_then(|config| {
        let settings = settings(&config, command.open, &environment)?;
        Ok((config, settings))
    });
    let (config, settings) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return refuse(&error),
    };
    let Cores { first, handles } = match Cores::start().context("there are no threads to serve with") {
        Ok(cores) => cores,
        Err(error) => return refuse(&error),
    };
    let result = first.block_on(async {
        let app = App::new(&config, settings, store::open(&config, &environment)?);
        serve(command, config, app, handles, environment).await
    });
    first.shutdown_timeout(Duration::from_millis(200));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => refuse(&error),
    }
}

pub(crate) fn load(command: &Serve, environment: &Environment) -> Result<Config> {
    let mut config = Config::load(command.config.as_deref(), environment)?;
    if let Some(listen) = command.listen {
        config.server.listen = listen;
    }
    Ok(config)
}

async fn serve(
    command: &Serve,
    config: Config,
    app: Arc<App>,
    cores: Vec<Handle>,
    environment: Environment,
) -> Result<()> {
    // First of all: until it is watched, a signal ends the process at once.
    let [mut terminate, mut interrupt, hangup] =
        [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?, signal(SignalKind::hangup())?];
    app.recover().await.context("store: what the last process has left cannot be read")?;
    let rate = Rate::new(app.limits.requests_per_minute);
    let router = router(&app, rate.as_ref());
    let stop = CancellationToken::new();
    let background = CancellationToken::new();
    app.tracker.spawn(background.clone().run_until_cancelled_owned(housekeeping(app.clone(), rate)));
    app.tracker.spawn(background.clone().run_until_cancelled_owned(app.clone().cooperate()));
    let watched =
        reload::Watched { file: command.config.clone(), listen: command.listen, open: command.open };
    app.tracker.spawn(background.clone().run_until_cancelled_owned(reload::watch(
        app.clone(),
        watched,
        config.clone(),
        environment,
        hangup,
    )));
    let listener = listen(config.server.listen)?;
    let address = listener.local_addr().context("the socket has no address")?;
    info!(%address, open = app.settings.load().access.open, "serving");
    app.tracker.spawn(connection::serve(listener, cores, router, app.tracker.clone(), stop.clone()));

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    info!(streams = app.relay.running_count(), drain_s = config.server.drain_s, "draining");
    tokio::select! {
        () = app.drain(Duration::from_secs(config.server.drain_s)) => {}
        // Asked twice: now.
        _ = terminate.recv() => app.drain(Duration::ZERO).await,
        _ = interrupt.recv() => app.drain(Duration::ZERO).await,
    }
    background.cancel();
    stop.cancel();
    app.tracker.close();
    if tokio::time::timeout(LAST_WORDS, app.tracker.wait()).await.is_err() {
        warn!(left = app.tracker.len(), "some connections did not end in time");
    }
    if let Err(error) = app.relay.store.close().await {
        warn!(%error, "what was kept last may not survive a power loss");
    }
    info!("stopped");
    Ok(())
}

fn listen(address: SocketAddr) -> Result<TcpListener> {
    let open = || -> std::io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    open().with_context(|| format!("server.listen: cannot listen on {address}"))
}

/// Expired logs, idle keys and sampled gauges, once a second.
async fn housekeeping(app: Arc<App>, rate: Option<Rate>) {
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    for second in 0_u64.. {
        tick.tick().await;
        app.sweep().await;
        if let Some(rate) = rate.as_ref().filter(|_| second.is_multiple_of(60)) {
            app.metrics.rate_limit_keys.set(i64::try_from(rate.sweep()).unwrap_or(i64::MAX));
        }
    }
}
