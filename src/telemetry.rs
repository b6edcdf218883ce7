//! Structured logs: JSON lines where a program reads them, plain lines in a terminal.
//!
//! `RUST_LOG` filters, as usual. Prompts, tokens and credentials are never among the fields.

use std::io::IsTerminal;

use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::prelude::*;

/// Call it once, at the start. `filter`: the value of `RUST_LOG`, if there is one.
pub fn init(filter: Option<&str>) {
    let filter = EnvFilter::try_new(filter.unwrap_or("info")).unwrap_or_else(|_| EnvFilter::new("info"));
    let registry = tracing_subscriber::registry().with(filter).with(filter_fn(discreet));
    let stderr = std::io::stderr;
    if stderr().is_terminal() {
        registry.with(tracing_subscriber::fmt::layer().with_writer(stderr).with_target(false)).init();
    } else {
        registry.with(tracing_subscriber::fmt::layer().json().with_writer(stderr).flatten_event(true)).init();
    }
}

/// Libraries trace what passes through them: tungstenite prints whole messages, which may be credentials or prompts.
fn discreet(metadata: &Metadata<'_>) -> bool {
    *metadata.level() <= Level::DEBUG || metadata.target().starts_with("relaystream")
}
