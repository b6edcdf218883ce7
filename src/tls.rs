//! TLS towards others. Its cryptography is ring's: aws-lc, which reqwest brings by default, is a minute of C to compile.

use rustls::ClientConfig;
use rustls_platform_verifier::ConfigVerifierExt;

/// A builder of HTTP clients. reqwest's own one panics as long as nobody has installed any cryptography.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn client() -> reqwest::ClientBuilder {
    install();
    reqwest::Client::builder()
}

/// Trusts what this machine trusts. Reading its certificates takes milliseconds, and keeping them a megabyte: clients
/// should share one of these.
pub fn config() -> Result<ClientConfig, rustls::Error> {
    install();
    ClientConfig::with_platform_verifier()
}

fn install() {
    // There is one already, if this fails: from an earlier client, or from the program that embeds us.
    let _installed = rustls::crypto::ring::default_provider().install_default();
}
