//! Reloads what can change without a restart: credentials, providers and models, prompts.
//!
//! On SIGHUP, and when the configuration file or a prompt changes. Checked first; a bad one is reported and the last
//! good one kept. Folders are watched rather than files: editors and mounted volumes replace files.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{RecursiveMode, Watcher};
use tokio::signal::unix::Signal;
use tokio::sync::mpsc;
use tracing::{error, info, warn};

use crate::app::{App, settings};
use crate::config::{Config, Environment};

/// What the command line said.
pub struct Watched {
    pub file: Option<PathBuf>,
    pub listen: Option<SocketAddr>,
    pub open: bool,
}

/// Changes come in bursts: an editor writes, renames, sets times.
const SETTLE: Duration = Duration::from_millis(200);

/// Runs until dropped. `hangup`: SIGHUP, watched since before anybody could know that we serve.
pub async fn watch(
    app: Arc<App>,
    watched: Watched,
    config: Config,
    environment: Environment,
    mut hangup: Signal,
) {
    // One slot: what matters is that something changed, not how often.
    let (changed, mut changes) = mpsc::channel(1);
    let prompts = config.prompts.path;
    let _watcher = watcher(&watched, &prompts, changed.clone());
    let mut seen = content(&watched, &prompts);
    loop {
        let asked = tokio::select! {
            _ = hangup.recv() => true,
            _ = changes.recv() => {
                tokio::time::sleep(SETTLE).await;
                while changes.try_recv().is_ok() {}
                false
            }
        };
        // Other files live in these folders too, perhaps our own log: only what we read counts.
        let now = content(&watched, &prompts);
        if asked || now != seen {
            reload(&app, &watched, &environment);
        }
        seen = now;
    }
}

/// What is in the configuration file and the prompts, as far as it can be read.
fn content(watched: &Watched, prompts: &Path) -> Vec<(PathBuf, Option<Vec<u8>>)> {
    let entries = std::fs::read_dir(prompts).into_iter().flatten().flatten().map(|entry| entry.path());
    let prompts = entries.filter(|path| path.extension().is_some_and(|extension| extension == "prompt"));
    let mut files: Vec<_> = watched.file.iter().cloned().chain(prompts).collect();
    files.sort();
    files.into_iter().map(|path| (path.clone(), std::fs::read(path).ok())).collect()
}

fn watcher(
    watched: &Watched,
    prompts: &Path,
    changed: mpsc::Sender<()>,
) -> Option<notify::RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| !event.kind.is_access()) {
            let _a_change_waits_already = changed.try_send(());
        }
    })
    .inspect_err(|error| warn!(%error, "files are not watched; SIGHUP still reloads"))
    .ok()?;
    let folder =
        |file: &Path| file.parent().filter(|folder| !folder.as_os_str().is_empty()).map(Path::to_owned);
    let config = watched.file.as_deref().map(|file| folder(file).unwrap_or_else(|| PathBuf::from(".")));
    let prompts = Some(prompts.to_owned()).filter(|path| !path.as_os_str().is_empty());
    for path in config.into_iter().chain(prompts) {
        if let Err(error) = watcher.watch(&path, RecursiveMode::NonRecursive) {
            warn!(%error, path = %path.display(), "a folder is not watched");
        }
    }
    Some(watcher)
}

fn reload(app: &App, watched: &Watched, environment: &Environment) {
    let loaded = Config::load(watched.file.as_deref(), environment).and_then(|mut config| {
        config.server.listen = watched.listen.unwrap_or(config.server.listen);
        settings(&config, watched.open, environment)
    });
    match loaded {
        Ok(settings) => {
            app.settings.store(Arc::new(settings));
            info!("reloaded");
        }
        Err(error) => error!(error = format!("{error:#}"), "not reloaded: the last good configuration stays"),
    }
}
