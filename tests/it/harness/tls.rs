//! A provider's TLS: takes connections with a certificate made for the test, and passes on in the clear what they carry.
//!
//! Who is behind it need not know; so every scripted provider can be asked over TLS, in HTTP/1.1 or HTTP/2.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use tempfile::NamedTempFile;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

pub struct TlsFront {
    pub address: SocketAddr,
    /// Its certificate, which nobody trusts who was not told to.
    ca: NamedTempFile,
    accepting: JoinHandle<()>,
}

impl TlsFront {
    /// Before that address; speaks this protocol alone, by its name in ALPN.
    pub async fn new(behind: SocketAddr, protocol: &str) -> TlsFront {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let mut ca = NamedTempFile::new().unwrap();
        ca.write_all(made.cert.pem().as_bytes()).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let mut config = builder.with_single_cert(vec![made.cert.der().clone()], key).unwrap();
        config.alpn_protocols = vec![protocol.into()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                connections.spawn(serve(socket, acceptor.clone(), behind));
            }
        });
        TlsFront { address, ca, accepting }
    }

    /// A provider's section that goes through here and does not know the certificate.
    pub fn distrusted(&self, name: &str) -> String {
        format!(
            "[providers.{name}]\ndialect = \"openai-chat\"\nbase_url = \"https://{}/v1\"\nkeys = [\"sk-fake\"]\n",
            self.address
        )
    }

    /// The same, with the certificate.
    pub fn trusted(&self, name: &str) -> String {
        format!("{}ca = {:?}\n", self.distrusted(name), self.ca.path())
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// A client that does not trust us, or that leaves, is noticed by its own side.
async fn serve(socket: TcpStream, acceptor: TlsAcceptor, behind: SocketAddr) {
    let Ok(mut socket) = acceptor.accept(socket).await else { return };
    let mut provider = TcpStream::connect(behind).await.unwrap();
    let _either_may_break_off = copy_bidirectional(&mut socket, &mut provider).await;
}
