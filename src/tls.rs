//! TLS towards others. Its cryptography is ring's: aws-lc, which reqwest brings by default, is a minute of C to compile.

/// A builder of HTTP clients. reqwest's own one panics as long as nobody has installed any cryptography.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn client() -> reqwest::ClientBuilder {
    // There is one already, if this fails: from an earlier client, or from the program that embeds us.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
}
