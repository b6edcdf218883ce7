//! The native API and the compatible routes, as a client sees them.

mod ai_sdk;
mod anthropic;
mod chat_stream;
mod errors;
mod gemini;
mod keys;
mod openai;
mod operations;
mod poll;
mod positions;
mod prompts;
mod responses;
mod sessions;
mod socket;
mod streams;
