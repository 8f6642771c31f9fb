//! TLS over a channel, trusting nobody but an appliance's own authority.

use std::sync::Arc;

use anyhow::{Context as _, bail};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::Channel;

/// What a client believes.
#[derive(Clone)]
pub struct Trust(Arc<ClientConfig>);

impl Trust {
    /// Believes certificates below the authorities in `pem`, by the whole of RFC 5280 that webpki checks: names,
    /// times, name constraints, usages.
    ///
    /// # Errors
    /// There is no certificate in `pem`, or one that is none.
    pub fn in_authority(pem: &str) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            roots.add(certificate.context("reading the authority's certificate")?)?;
        }
        if roots.is_empty() {
            bail!("there is no certificate in the authority's file");
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        Ok(Self(Arc::new(config.with_root_certificates(roots).with_no_client_auth())))
    }

    /// Starts TLS on a connection and finishes the handshake. The certificate has to be for `name`.
    ///
    /// # Errors
    /// The handshake fails; the message says what is wrong with the certificate, if that is the reason.
    pub fn secure(&self, channel: Channel, name: &str) -> anyhow::Result<Channel> {
        let Channel::Plain(mut wire) = channel else { bail!("this connection has TLS already") };
        let server =
            ServerName::try_from(name.to_owned()).with_context(|| format!("using the name {name}"))?;
        let mut connection = ClientConnection::new(Arc::clone(&self.0), server)?;
        connection.complete_io(&mut wire).with_context(|| format!("shaking hands with {name}"))?;
        Ok(Channel::Tls(Box::new(StreamOwned::new(connection, wire))))
    }
}
