//! Reloads what can change without a restart: credentials, certificates, providers and models, prompts.
//!
//! On SIGHUP, and when the configuration file or what it names changes: a certificate, a secret's file, a prompt. Checked
//! first; a bad one is reported and the last good one kept. Folders are watched rather than files: editors and mounted
//! volumes replace files.

pub mod key_sets;

use std::collections::{BTreeMap, BTreeSet};
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
    let mut paths = Paths::new(&watched, &config);
    let mut _watcher = paths.watcher(changed.clone());
    let mut seen = paths.content();
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
        let mut now = paths.content();
        if asked || now != seen {
            let loaded = loop {
                let loaded = watched.load(&environment);
                let named = loaded.as_ref().ok().map(|config| Paths::new(&watched, config));
                let Some(named) = named.filter(|named| *named != paths) else { break loaded };
                // What is named anew is watched before it is read.
                paths = named;
                _watcher = paths.watcher(changed.clone());
                now = paths.content();
            };
            reload(&app, loaded, watched.open, &environment);
        }
        seen = now;
    }
}

impl Watched {
    fn load(&self, environment: &Environment) -> anyhow::Result<Config> {
        let mut config = Config::load(self.file.as_deref(), environment)?;
        config.server.listen = self.listen.unwrap_or(config.server.listen);
        Ok(config)
    }
}

/// What a configuration is read from.
#[derive(PartialEq)]
struct Paths {
    files: BTreeSet<PathBuf>,
    /// The folder of prompts; empty: none.
    prompts: PathBuf,
}

impl Paths {
    fn new(watched: &Watched, config: &Config) -> Paths {
        let files = config.files().into_iter().chain(watched.file.clone()).collect();
        Paths { files, prompts: config.prompts.path.clone() }
    }

    /// What is in the files and the prompts, as far as it can be read.
    fn content(&self) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
        let entries =
            std::fs::read_dir(&self.prompts).into_iter().flatten().flatten().map(|entry| entry.path());
        let prompts = entries.filter(|path| path.extension().is_some_and(|extension| extension == "prompt"));
        let files = self.files.iter().cloned().chain(prompts);
        // A pipe can be read once, and may never end.
        let text = |path: &Path| path.is_file().then(|| std::fs::read(path).ok()).flatten();
        files.map(|path| (path.clone(), text(&path))).collect()
    }

    fn watcher(&self, changed: mpsc::Sender<()>) -> Option<notify::RecommendedWatcher> {
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| !event.kind.is_access()) {
                let _a_change_waits_already = changed.try_send(());
            }
        })
        .inspect_err(|error| warn!(%error, "files are not watched; SIGHUP still reloads"))
        .ok()?;
        let folder =
            |file: &Path| file.parent().filter(|folder| !folder.as_os_str().is_empty()).map(Path::to_owned);
        let folders = self.files.iter().map(|file| folder(file).unwrap_or_else(|| PathBuf::from(".")));
        let prompts = Some(self.prompts.clone()).filter(|path| !path.as_os_str().is_empty());
        for path in folders.chain(prompts).collect::<BTreeSet<_>>() {
            if let Err(error) = watcher.watch(&path, RecursiveMode::NonRecursive) {
                warn!(%error, path = %path.display(), "a folder is not watched");
            }
        }
        Some(watcher)
    }
}

fn reload(app: &App, loaded: anyhow::Result<Config>, open: bool, environment: &Environment) {
    let loaded = loaded.and_then(|config| {
        let settings = settings(&config, open, environment)?;
        let (tls, now) = (app.settings.load().identity.is_some(), settings.identity.is_some());
        anyhow::ensure!(tls == now, "tls: it cannot be switched on or off without a restart");
        Ok(settings)
    });
    match loaded {
        Ok(settings) => {
            app.settings.store(Arc::new(settings));
            info!("reloaded");
        }
        Err(error) => error!(error = format!("{error:#}"), "not reloaded: the last good configuration stays"),
    }
}
