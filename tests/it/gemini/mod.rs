//! Gemini, both ways, without a server.

mod events;
mod requests;
