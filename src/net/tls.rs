//! TLS on both sides, by rustls.
//!
//! Bytes that a peer sent behind SSLRequest without waiting for the answer would be read as if they had come
//! inside TLS; so whoever begins a handshake looks at what was already read: nothing, or for direct TLS the first
//! record, which is handed to rustls.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use super::verify::{Check, Verifier};
use crate::config::{ClientTlsSettings, ServerSettings, SslMode};
use crate::wire::scram;

/// The application protocol that direct TLS must name (manual, 55.2.11).
const ALPN: &[u8] = b"postgresql";

/// Why TLS could not be set up from the settings.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A PEM file without what it should hold.
    #[error("cannot read {what}: {source}")]
    Pem {
        /// Which of the files.
        what: &'static str,
        /// What rustls said.
        source: rustls::pki_types::pem::Error,
    },
    /// Certificate and key do not fit, or rustls refuses them.
    #[error("cannot use {what}: {source}")]
    Rustls {
        /// Which of the files.
        what: &'static str,
        /// What rustls said.
        source: rustls::Error,
    },
    /// The authorities are not usable.
    #[error("cannot use {what}: {source}")]
    Verifier {
        /// Which of the files.
        what: &'static str,
        /// What rustls said.
        source: rustls::server::VerifierBuilderError,
    },
}

fn certificates(pem: &[u8], what: &'static str) -> Result<Vec<CertificateDer<'static>>, SetupError> {
    CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|source| SetupError::Pem { what, source })
}

fn private_key(pem: &[u8], what: &'static str) -> Result<PrivateKeyDer<'static>, SetupError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|source| SetupError::Pem { what, source })
}

fn roots(authorities: &[CertificateDer<'static>], what: &'static str) -> Result<RootCertStore, SetupError> {
    let mut roots = RootCertStore::empty();
    for certificate in authorities.iter().cloned() {
        roots.add(certificate).map_err(|source| SetupError::Rustls { what, source })?;
    }
    Ok(roots)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// A TCP stream in front of which stands what was already read off it.
#[derive(Debug)]
pub struct Replay {
    read: Vec<u8>,
    at: usize,
    stream: TcpStream,
}

impl Replay {
    /// The stream itself.
    pub fn tcp(&self) -> &TcpStream {
        &self.stream
    }
}

impl AsyncRead for Replay {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let rest = &this.read[this.at..];
        if rest.is_empty() {
            return Pin::new(&mut this.stream).poll_read(cx, buf);
        }
        let count = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..count]);
        this.at += count;
        if this.at == this.read.len() {
            this.read = Vec::new();
            this.at = 0;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Replay {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

/// TLS towards clients.
#[derive(Clone)]
pub struct Acceptor {
    acceptor: TlsAcceptor,
    /// What SCRAM-SHA-256-PLUS binds to: `tls-server-end-point` of our own certificate (RFC 5929).
    pub end_point: Option<Vec<u8>>,
}

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acceptor").finish_non_exhaustive()
    }
}

/// A finished handshake with a client.
#[derive(Debug)]
pub struct Accepted {
    /// The stream.
    pub stream: TlsStream<Replay>,
    /// The common name of the certificate that the client showed, if it was checked.
    pub common_name: Option<String>,
    /// The client named `postgresql` by ALPN, as direct TLS must.
    pub alpn: bool,
}

impl Acceptor {
    /// Reads the certificates.
    pub fn new(settings: &ClientTlsSettings) -> Result<Self, SetupError> {
        let chain = certificates(&settings.certificate_pem, "the client-side certificate")?;
        let key = private_key(&settings.key_pem, "the client-side key")?;
        let end_point = chain.first().and_then(end_point);
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|source| SetupError::Rustls { what: "the TLS versions", source })?;
        let builder = match &settings.client_ca_pem {
            Some(pem) => {
                let what = "the client certificate authorities";
                let roots = Arc::new(roots(&certificates(pem, what)?, what)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
                    .allow_unauthenticated()
                    .build()
                    .map_err(|source| SetupError::Verifier { what, source })?;
                builder.with_client_cert_verifier(verifier)
            }
            None => builder.with_no_client_auth(),
        };
        let mut config = builder
            .with_single_cert(chain, key)
            .map_err(|source| SetupError::Rustls { what: "the client-side certificate", source })?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), end_point })
    }

    /// The handshake. `read` is what was already read off the stream: of direct TLS the first bytes, else nothing.
    pub async fn accept(&self, stream: TcpStream, read: Vec<u8>) -> io::Result<Accepted> {
        let stream = self.acceptor.accept(Replay { read, at: 0, stream }).await?;
        let session = stream.get_ref().1;
        let common_name = session.peer_certificates().and_then(|chain| chain.first()).and_then(common_name);
        let alpn = session.alpn_protocol() == Some(ALPN);
        Ok(Accepted { stream: TlsStream::Server(stream), common_name, alpn })
    }
}

/// TLS towards servers.
#[derive(Clone)]
pub struct Connector {
    connector: TlsConnector,
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector").finish_non_exhaustive()
    }
}

impl Connector {
    /// Reads the authorities and the client certificate; `None` when TLS is disabled.
    pub fn new(settings: &ServerSettings) -> Result<Option<Self>, SetupError> {
        let what = "the server certificate authorities";
        let authorities = match &settings.ca_pem {
            Some(pem) => certificates(pem, what)?,
            None => Vec::new(),
        };
        let check = match settings.ssl_mode {
            SslMode::Disable => return Ok(None),
            // As libpq: with authorities at hand `require` checks them too.
            SslMode::Require if settings.ca_pem.is_some() => Check::Authority,
            SslMode::Prefer | SslMode::Require => Check::Nothing,
            SslMode::VerifyCa => Check::Authority,
            SslMode::VerifyFull => Check::AuthorityAndName,
        };
        let roots = roots(&authorities, what)?;
        let verifier = Verifier::new(roots, authorities, check, provider())
            .map_err(|source| SetupError::Verifier { what, source })?;
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|source| SetupError::Rustls { what: "the TLS versions", source })?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match &settings.certificate {
            Some((certificate, key)) => {
                let what = "the certificate shown to servers";
                let chain = certificates(certificate, what)?;
                builder
                    .with_client_auth_cert(chain, private_key(key, "the key for servers")?)
                    .map_err(|source| SetupError::Rustls { what, source })?
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Some(Self { connector: TlsConnector::from(Arc::new(config)) }))
    }

    /// The handshake; also gives the server's `tls-server-end-point`, for SCRAM-SHA-256-PLUS.
    pub async fn connect(
        &self,
        host: &str,
        stream: TcpStream,
    ) -> io::Result<(TlsStream<Replay>, Option<Vec<u8>>)> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error.to_string()))?;
        let stream = self.connector.connect(name, Replay { read: Vec::new(), at: 0, stream }).await?;
        let leaf = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).and_then(end_point);
        Ok((TlsStream::Client(stream), leaf))
    }
}

/// What SCRAM-SHA-256-PLUS binds to; empty where RFC 5929 defines nothing for the certificate's signature.
fn end_point(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    scram::server_end_point(&parsed.signature_algorithm.algorithm.to_id_string(), certificate)
}

pub(super) fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok()).map(str::to_owned)
}
