//! Fetches the key set that tokens are checked with: at the start, every few minutes, and when a token names a key that
//! is not in it.
//!
//! What was fetched last stays good until something better was: a provider that is away for a while shuts nobody out.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use reqwest::Client;
use reqwest::redirect::Policy;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use crate::app::App;
use crate::auth::jwt::{Fetched, Source};
use crate::auth::key::{Alg, key_set};
use crate::tls;

/// Between two looks when nobody asks.
const REFRESH: Duration = Duration::from_secs(300);
/// And after one that failed.
const RETRY: Duration = Duration::from_secs(10);
/// Between two looks because somebody asked: tokens can name any key they like.
const COOLDOWN: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(5);
/// Larger documents are refused.
const MOST_BYTES: usize = 256 * 1024;

/// Runs until dropped.
pub async fn keep(app: Arc<App>) {
    // Made when it is needed: reading this machine's certificates takes milliseconds, keeping them a megabyte.
    let client = LazyLock::new(|| tls::client().redirect(Policy::none()).timeout(TIMEOUT).build());
    let mut asked_at: Option<Instant> = None;
    // A moment, not a wait: however often somebody asks, it comes.
    let mut due = Instant::now();
    loop {
        let asked = tokio::select! {
            () = app.key_sets.asked() => true,
            () = sleep_until(due) => false,
        };
        let Some((url, alg)) = wanted(&app) else {
            app.key_sets.answer();
            due = Instant::now() + REFRESH;
            continue;
        };
        let moved = app.key_sets.current().url != url;
        if asked && !moved && asked_at.is_some_and(|at| at.elapsed() < COOLDOWN) {
            app.key_sets.answer();
            continue;
        }
        if asked {
            asked_at = Some(Instant::now());
        }
        if moved {
            // Those of another provider vouch for nobody any more.
            app.key_sets.put(Fetched { url: url.clone(), keys: Vec::new() });
        }
        let wait = match fetch(&client, &url, alg).await {
            Ok(fetched) => {
                info!(keys = fetched.keys.len(), "the key set was fetched");
                app.key_sets.put(fetched);
                REFRESH
            }
            Err(error) => {
                warn!(error = format!("{error:#}"), "the key set was not fetched; the last one stays");
                RETRY
            }
        };
        due = Instant::now() + wait;
        app.key_sets.answer();
    }
}

fn wanted(app: &App) -> Option<(String, Option<Alg>)> {
    match &app.settings.load().access.jwt.as_ref()?.keys {
        Source::Fetched { url, alg } => Some((url.clone(), *alg)),
        Source::Fixed(_) => None,
    }
}

async fn fetch(client: &reqwest::Result<Client>, url: &str, alg: Option<Alg>) -> anyhow::Result<Fetched> {
    let client = client.as_ref().map_err(|error| anyhow::anyhow!("{error}"))?;
    let mut response = client.get(url).send().await.map_err(reqwest::Error::without_url)?;
    anyhow::ensure!(response.status() == 200, "the answer was {}", response.status());
    let mut text = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(reqwest::Error::without_url)? {
        text.extend_from_slice(&chunk);
        anyhow::ensure!(text.len() <= MOST_BYTES, "it is larger than {MOST_BYTES} bytes");
    }
    let keys = key_set(&text, alg)?;
    anyhow::ensure!(!keys.is_empty(), "there is no key in it that can be used");
    Ok(Fetched { url: url.to_owned(), keys })
}
