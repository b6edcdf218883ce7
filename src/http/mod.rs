//! The edge: speaks HTTP to people and programs. Knows no provider's socket and no store's engine.
//!
//! A request passes, outermost first: panics caught, request id and span and errors in the route's dialect
//! (`envelope`), CORS (`origin`), streams of other machines (`replay`), the caller (`entry`), its rate (`rate`), the handler.

mod ai_sdk;
mod anthropic;
mod chat_stream;
mod compat;
pub mod connection;
mod counted;
mod entry;
mod envelope;
mod error;
mod expiry;
mod extract;
mod gemini;
mod loan;
mod messages;
mod models;
mod notifications;
mod ops;
mod origin;
mod poll;
mod prompts;
pub mod rate;
mod replay;
mod responses;
mod router;
pub mod secure;
mod sessions;
mod socket;
mod sse;
mod standing;
mod streams;
mod tickets;
mod ui;
mod usage;
mod view;
mod wish;

pub use router::router;
