//! Anthropic Messages beyond what the tests over all dialects say.

mod answers;
mod requests;
