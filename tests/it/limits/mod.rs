//! How much one may have, who may come in, and whose stream is whose.

mod access;
mod bytes;
mod heads;
