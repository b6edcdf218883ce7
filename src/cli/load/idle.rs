//! What a silent viewer costs: memory before, with and after many of them.
//!
//! Resident memory of the server's processes; what the kernel keeps for a socket is not in it.

use std::time::Duration;

use anyhow::{Context, bail};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use reqwest::Url;
use tokio::time::{sleep, timeout};

use super::Transport;
use super::connection::{Connection, Flow, Request};
use super::fleet::{HELLO, Plan};
use super::process::Usage;
use super::report::Idle;

/// Viewers that come before the first measurement, so that what is shared by all does not count.
const FIRST: usize = 20;
/// Connections opened at the same time.
const OPENING: usize = 128;
/// How long the server may take for one viewer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Opens `load.idle` viewers of one stream, holds them and lets them go.
pub(super) async fn run(plan: &Plan) -> anyhow::Result<Idle> {
    let load = &plan.load;
    if load.pid.is_empty() {
        bail!("--idle measures memory: name the server's process with --pid");
    }
    let settle = Duration::from_millis(load.warmup_ms.unwrap_or(2_000));
    let session = format!("idle-{}", plan.nonce);
    let stream = match &load.raw_url {
        Some(_) => None,
        None => Some(plan.start(Some(&session)).await?),
    };
    let url = match (&load.raw_url, &stream, load.transport) {
        (Some(url), ..) => url.clone(),
        (None, _, Transport::Ws) => plan.url(&format!("/v1/sessions/{session}/ws"))?,
        (None, Some(id), Transport::Sse) => plan.url(&format!("/v1/streams/{id}/events"))?,
        _ => bail!("--idle is for the transports sse and ws"),
    };
    let first = open(plan, &url, FIRST).await?;
    sleep(settle).await;
    let before = Usage::of(&load.pid)?;
    let many = open(plan, &url, load.idle).await?;
    sleep(settle).await;
    let with = Usage::of(&load.pid)?;
    let viewers = many.len();
    drop((first, many));
    sleep(Duration::from_secs(load.settle_s)).await;
    let after = Usage::of(&load.pid)?;
    if let Some(id) = stream {
        plan.post(&format!("/v1/streams/{id}/cancel"), b"").await?;
    }
    let grown = with.resident_kib.saturating_sub(before.resident_kib);
    Ok(Idle {
        viewers,
        before_kib: before.resident_kib,
        with_kib: with.resident_kib,
        after_kib: after.resident_kib,
        kib_per_viewer: grown as f64 / viewers.max(1) as f64,
    })
}

async fn open(plan: &Plan, url: &Url, count: usize) -> anyhow::Result<Vec<Connection>> {
    let viewers = stream::iter(0..count).map(|_| async {
        let opened = timeout(PATIENCE, viewer(plan, url)).await;
        opened.context("a viewer was not let in")?
    });
    viewers.buffer_unordered(OPENING).try_collect().await
}

/// A viewer that has been told everything there is.
async fn viewer(plan: &Plan, url: &Url) -> anyhow::Result<Connection> {
    let key = plan.key.as_deref();
    let mut connection = match plan.load.transport {
        Transport::Ws => Connection::upgrade(url, key).await?,
        _ => {
            let mut headers = vec![("Accept", "text/event-stream")];
            headers.extend(key.map(|key| ("Authorization", key)));
            Connection::open(&Request { method: "GET", url, headers, body: b"" }).await?
        }
    };
    if plan.load.raw_url.is_some() {
        return Ok(connection);
    }
    if plan.load.transport == Transport::Ws {
        connection.send(HELLO).await?;
    }
    let mut told = false;
    while !told {
        if connection.next(|bytes| told |= !bytes.is_empty()).await? == Flow::End {
            bail!("a viewer was sent away with status {}", connection.status);
        }
    }
    Ok(connection)
}
