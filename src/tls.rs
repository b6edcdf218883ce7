//! TLS, towards others and for others. Its cryptography is ring's: aws-lc, which reqwest brings by default, is a minute
//! of C to compile.

use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::ResolvesServerCert;
use rustls::{ClientConfig, ServerConfig};
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

/// Certificates and the key that goes with them: who we are.
pub type Identity = rustls::sign::CertifiedKey;

#[derive(Debug, thiserror::Error)]
pub enum BadIdentity {
    #[error("cert: there are no certificates in it")]
    Certificates,
    #[error("key: there is no private key in it")]
    Key,
    #[error("cert and key do not go together, or are of a kind that is not supported: {0}")]
    Unusable(#[from] rustls::Error),
}

/// Reads both from PEM files' text.
pub fn identity(chain: &[u8], key: &[u8]) -> Result<Identity, BadIdentity> {
    let chain = certificates(chain).ok_or(BadIdentity::Certificates)?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| BadIdentity::Key)?;
    Ok(Identity::from_der(chain, key, &ring::default_provider())?)
}

/// Serves HTTP/2 to those who can, else HTTP/1.1. `identities` is asked with every handshake.
pub fn server(identities: Arc<dyn ResolvesServerCert>) -> Result<ServerConfig, rustls::Error> {
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions()?.with_no_client_auth();
    let mut config = builder.with_cert_resolver(identities);
    config.alpn_protocols = vec![HTTP2.to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// HTTP/2's name in a handshake.
pub const HTTP2: &[u8] = b"h2";
