//! `GET /v1/streams/{id}/poll`: the same events for clients that cannot stream. Answers at once if there is anything
//! new, else waits.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::counted::Counted;
use super::error::ApiError;
use super::extract::{Caller, after, parameter, stream_id};
use super::sse::stream_headers;
use super::view;
use crate::app::App;
use crate::event::{Kind, Status};
use crate::log::{Bad, EventId, LogId, Record};
use crate::relay::tail::End;
use crate::surface::{Format, Surface};

/// Seconds a poll waits if it is not told.
const DEFAULT_WAIT: u64 = 25;
const LONGEST_WAIT: u64 = 60;
/// How long after a poll began its viewer still counts as there, beyond the longest wait.
const LINGER: Duration = Duration::from_secs(LONGEST_WAIT + 10);

pub async fn poll(
    State(app): State<Arc<App>>,
    Caller(principal): Caller,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    let id = stream_id(&id)?;
    let facts = app.readable(&principal, id).await?;
    let query = request.uri().query().unwrap_or_default();
    let wait = match parameter(query, "wait") {
        None => DEFAULT_WAIT,
        Some(text) => text.parse().ok().filter(|wait| *wait <= LONGEST_WAIT).ok_or_else(|| {
            ApiError::invalid(
                "wait",
                format!("\"{text}\" is not a number of seconds from 0 to {LONGEST_WAIT}"),
            )
        })?,
    };
    let after = after(request.headers(), query);
    linger(&app, id);
    let tail = app.relay.tail(id).await?;
    let from = view::position(&app, &tail, after.as_deref()).await?;
    if after.is_some() {
        app.metrics.resumed(from.reset.map_or("ok", Bad::as_str));
    }
    if from.reset.is_none() && !view::at_end(&tail, from.position) {
        let _held = view::permits(&app, &principal, id)?;
        let _counted = Counted::new(&app.metrics, "poll");
        let seq = from.position.seq;
        let mut viewer = app.relay.view(tail.clone(), Format::new(Surface::Native), from.position);
        let news = viewer.until(|records| records.last().is_some_and(|record| record.position.seq > seq));
        tokio::select! {
            () = news => {}
            () = tokio::time::sleep(Duration::from_secs(wait)) => {}
            () = app.closing() => {}
        }
    }
    let mut events = Vec::new();
    if let Some(bad) = from.reset {
        events.push(json!({"id": null, "type": "reset", "data": {"reason": bad.as_str()}}));
    }
    let position = tail.with_records(|records| {
        let new = &records[from.position.seq as usize..];
        events.extend(new.iter().filter_map(|record| element(id, record)));
        new.last().map_or(from.position, |record| record.position)
    });
    let status = match tail.end() {
        Some(End::Ended(status)) if position == tail.head() => status,
        _ => Status::Running,
    };
    let position = EventId { log: id, position }.to_string();
    let body = json!({"events": events, "position": position, "status": status.as_str()});
    Ok((stream_headers(id, &facts), Json(body)).into_response())
}

/// Between two polls a viewer has not left: its stream does not count as abandoned until it could have come back.
fn linger(app: &Arc<App>, id: LogId) {
    let Some(running) = app.relay.running(id) else { return };
    let (attendance, app) = (running.attend(), app.clone());
    app.tracker.clone().spawn(async move {
        tokio::select! {
            () = tokio::time::sleep(LINGER) => {}
            () = running.finished.cancelled() => {}
            () = app.closing() => {}
        }
        drop(attendance);
    });
}

fn element(log: LogId, record: &Record) -> Option<Value> {
    let kind = Kind::from_u8(record.draft.kind)?;
    let data: &RawValue = serde_json::from_slice(&record.draft.payload).ok()?;
    let id = EventId { log, position: record.position };
    Some(json!({"id": id.to_string(), "type": kind.name(), "data": data}))
}
