//! relaystream: every generation becomes a log that anyone allowed can read live or later.
//!
//! The map, in reading order. ARCHITECTURE.md tells the story of one token through these modules.

// The core: pure. No tokio, axum, reqwest, clock, randomness or environment.
pub mod chat;
pub mod event;
pub mod sse;

pub mod log;

pub mod provider;
pub mod surface;

pub mod auth;
pub mod limits;
pub mod prompts;
pub mod room;

// The shell: owns tasks and I/O.
pub mod store;

pub mod relay;
pub mod tls;

pub mod hub;

pub mod metrics;
pub mod reload;
pub mod telemetry;

// Where parts meet.
pub mod app;
pub mod config;

// The edge: speaks to people.
pub mod cli;
pub mod http;
