//! The integration tests, one binary.
//!
//! harness: a server on a free port and a scripted fake provider over real sockets; on drop nothing may be left.
//! fixtures: recorded provider bytes and the logs they become. heard: what a client makes of a surface's bytes.
//! seed: repeatable randomness.

mod harness;

mod fixtures;
mod heard;
mod seed;

mod api;
mod architecture;
mod breaks;
mod config;
mod golden;
mod limits;
mod log_model;
mod policies;
mod resume;
mod shutdown;
mod store_contract;
mod surfaces;
