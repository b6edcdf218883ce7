//! The integration tests, one binary.
//!
//! harness: a server on a free port and a scripted fake provider over real sockets; at the end nothing may be left.

#![allow(unreachable_pub, reason = "one binary: pub means for the other modules")]
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and may look at clocks"
)]

mod harness;

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
