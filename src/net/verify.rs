//! What of a server's certificate is checked, as libpq checks it (manual, 34.19.1).
//!
//! rustls checks the authority and the name together, and is stricter than what PostgreSQL's manual has people make
//! (19.9.5): a certificate that signed itself and is given to clients as its own authority, a host's name in the common
//! name only, and certificates of the first version. What libpq accepts of these is accepted here.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{VerifierBuilderError, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{
    CryptoProvider, verify_tls12_signature, verify_tls13_signature, verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use x509_parser::prelude::{ASN1Time, X509Certificate, parse_x509_certificate};

use super::tls::common_name;

/// What is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Check {
    /// That the server has the key of the certificate that it shows, whatever that is.
    Nothing,
    /// ... and that a known authority signed it.
    Authority,
    /// ... for this host.
    AuthorityAndName,
}

/// Checks servers' certificates.
#[derive(Debug)]
pub(super) struct Verifier {
    /// Absent where nothing is checked.
    webpki: Option<Arc<WebPkiServerVerifier>>,
    authorities: Vec<CertificateDer<'static>>,
    check: Check,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    /// `roots` are the `authorities`, made ready for webpki.
    pub(super) fn new(
        roots: RootCertStore,
        authorities: Vec<CertificateDer<'static>>,
        check: Check,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, VerifierBuilderError> {
        let webpki = match check {
            Check::Nothing => None,
            Check::Authority | Check::AuthorityAndName => Some(
                WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                    .build()?,
            ),
        };
        Ok(Self { webpki, authorities, check, provider })
    }

    /// Whether the certificate is one of the authorities itself, and of today.
    fn is_authority(&self, certificate: &CertificateDer<'_>, now: UnixTime) -> bool {
        let Ok((_, parsed)) = parse_x509_certificate(certificate) else { return false };
        let now =
            i64::try_from(now.as_secs()).ok().and_then(|seconds| ASN1Time::from_timestamp(seconds).ok());
        self.authorities.contains(certificate) && now.is_some_and(|now| parsed.validity().is_valid_at(now))
    }

    /// Whether the name, if that is checked, is right by a certificate whose authority is.
    fn is_named(&self, certificate: &CertificateDer<'_>, name: &ServerName<'_>) -> bool {
        match self.check {
            Check::Nothing | Check::Authority => true,
            Check::AuthorityAndName => {
                let by_alternative = ParsedCertificate::try_from(certificate)
                    .and_then(|parsed| verify_server_name(&parsed, name));
                by_alternative.is_ok() || is_common_name(certificate, name)
            }
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(webpki) = &self.webpki else {
            return Ok(ServerCertVerified::assertion());
        };
        let verified = webpki.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        let Err(error) = verified else { return verified };
        let has_authority = match &error {
            // The chain is checked before the name: an error about the name means that the chain is good.
            Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            ) => true,
            _ => self.is_authority(end_entity, now),
        };
        if has_authority && self.is_named(end_entity, server_name) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(error)
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        match (verify_tls13_signature(message, cert, dss, algorithms), parse_x509_certificate(cert)) {
            // webpki does not read certificates of the first version; here all that matters is the key.
            (Err(Error::InvalidCertificate(_)), Ok((_, parsed))) if self.check == Check::Nothing => {
                let key = SubjectPublicKeyInfoDer::from(parsed.public_key().raw);
                verify_tls13_signature_with_raw_key(message, &key, dss, algorithms)
            }
            (verified, _) => verified,
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The common name counts where no alternative names are given (RFC 6125, 6.4.4, and libpq).
fn is_common_name(certificate: &CertificateDer<'_>, name: &ServerName<'_>) -> bool {
    let has_alternatives =
        |parsed: X509Certificate<'_>| !matches!(parsed.subject_alternative_name(), Ok(None));
    if parse_x509_certificate(certificate).map_or(true, |(_, parsed)| has_alternatives(parsed)) {
        return false;
    }
    let is_address = !matches!(name, ServerName::DnsName(_));
    common_name(certificate).is_some_and(|pattern| fits(&pattern, &name.to_str(), is_address))
}

/// A star stands for one label of a name, and for no part of an address.
fn fits(pattern: &str, host: &str, is_address: bool) -> bool {
    match (pattern.strip_prefix("*."), host.split_once('.')) {
        (Some(domain), Some((_, rest))) => !is_address && domain.eq_ignore_ascii_case(rest),
        (Some(_), None) => false,
        (None, _) => pattern.eq_ignore_ascii_case(host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_names_fit_as_in_libpq() {
        for (pattern, host, expected) in [
            ("db.example.org", "db.example.org", true),
            ("DB.example.org", "db.EXAMPLE.org", true),
            ("db.example.org", "db2.example.org", false),
            ("*.example.org", "db.example.org", true),
            ("*.example.org", "a.db.example.org", false),
            ("*.example.org", "example.org", false),
            ("*.", "db", false),
            ("*", "db", false),
            ("db*.example.org", "db1.example.org", false),
        ] {
            assert_eq!(fits(pattern, host, false), expected, "{pattern} {host}");
        }
        assert!(fits("10.0.0.1", "10.0.0.1", true));
        assert!(!fits("*.0.0.1", "10.0.0.1", true));
    }
}
