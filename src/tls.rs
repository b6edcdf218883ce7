//! TLS towards others. Its cryptography is ring's: aws-lc, which reqwest brings by default, is a minute of C to compile.

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls_platform_verifier::Verifier;

/// Somebody to trust.
pub type Certificate = CertificateDer<'static>;

/// A builder of HTTP clients. reqwest's own one panics as long as nobody has installed any cryptography.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn client() -> reqwest::ClientBuilder {
    // There is one already, if this fails: from an earlier client, or from the program that embeds us.
    let _installed = ring::default_provider().install_default();
    reqwest::Client::builder()
}

/// Trusts what this machine trusts, and these. Reading its certificates takes milliseconds, and keeping them a megabyte:
/// clients should share one of these.
pub fn config(trusts: &[Certificate]) -> Result<ClientConfig, rustls::Error> {
    let cryptography = Arc::new(ring::default_provider());
    let verifier = Verifier::new_with_extra_roots(trusts.iter().cloned(), cryptography.clone())?;
    let builder = ClientConfig::builder_with_provider(cryptography).with_safe_default_protocol_versions()?;
    Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth())
}

/// The certificates in a PEM file's text; None if one cannot be read, or there is none.
pub fn certificates(pem: &[u8]) -> Option<Vec<Certificate>> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().ok()?;
    Some(certificates).filter(|certificates| !certificates.is_empty())
}
