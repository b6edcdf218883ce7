//! The integration tests, one binary.
//!
//! harness: a server on a free port and a scripted fake provider over real sockets; at the end nothing may be left.
//! binary: the real program as a process. fleet: several of them. fixtures: recorded provider bytes and the logs they become. heard: what a client makes of a surface's bytes.
//! seed: repeatable randomness. watchers: viewers that lose their connection all the time.

#![allow(unreachable_pub, reason = "one binary: pub means for the other modules")]
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and may look at clocks"
)]

mod harness;

mod binary;
mod fixtures;
mod fleet;
mod heard;
mod seed;
mod watchers;

mod access;
mod ai_sdk_parts;
mod anthropic;
mod api;
mod architecture;
mod asks;
mod breaks;
mod commands;
mod config;
mod cores;
mod crashes;
mod fly;
mod gemini;
mod golden;
mod limits;
mod log_model;
mod matrix;
mod nodes;
mod policies;
mod resilience;
mod responses;
mod resume;
mod rfc6455;
mod rolling;
mod rooms;
mod shutdown;
mod simulation;
mod store_contract;
mod store_coordination;
mod store_disk;
mod store_disk_faults;
mod store_disk_kill;
mod store_disk_offline;
mod store_disk_races;
mod store_memory;
mod store_redis;
mod surfaces;
mod waits;
