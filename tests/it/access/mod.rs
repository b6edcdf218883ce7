//! Who may come in: tokens, tickets, cookies, origins, storms of bad credentials, TLS.

mod configuration;
mod tokens;
