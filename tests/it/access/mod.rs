//! Who may come in: tokens, tickets, cookies, origins, storms of bad credentials, TLS.

mod configuration;
mod cookies;
mod expiry;
mod issuer;
mod key_sets;
mod logs;
mod rules;
mod secure;
mod storms;
mod table;
mod tickets;
mod tokens;
