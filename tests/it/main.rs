//! The integration tests, one binary.
//!
//! harness: a server on a free port and a scripted fake provider over real sockets; on drop nothing may be left.

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
