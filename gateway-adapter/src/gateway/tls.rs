//! TLS of the listener for clients: HTTP/2 and HTTP/1.1, as ALPN agrees.

use std::{path::Path, sync::Arc};

use tokio_rustls::rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use super::read;
use crate::{config::GatewayConfig, error::GatewayError};

/// A TLS server with the configured certificate; `None`: no TLS.
pub(super) fn server(config: &GatewayConfig) -> Result<Option<ServerConfig>, GatewayError> {
    let Some(tls) = &config.listen.tls else {
        return Ok(None);
    };
    let (certificate, key) = (config.path(&tls.certificate), config.path(&tls.key));
    let chain: Result<Vec<CertificateDer<'static>>, _> =
        CertificateDer::pem_slice_iter(read(&certificate)?.as_bytes()).collect();
    let chain = chain.map_err(|error| wrong(&certificate, &error.to_string()))?;
    if chain.is_empty() {
        return Err(wrong(&certificate, "no certificate in PEM"));
    }
    // The parser's message could quote the secret.
    let secret = PrivateKeyDer::from_pem_slice(read(&key)?.as_bytes())
        .map_err(|_| wrong(&key, "no private key in PEM"))?;
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(&certificate, &error.to_string()))?;
    let server = builder
        .with_no_client_auth()
        .with_single_cert(chain, secret);
    let mut server = server.map_err(|error| {
        let why = format!("does not work with the key {}: {error}", key.display());
        wrong(&certificate, &why)
    })?;
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Some(server))
}

fn wrong(path: &Path, why: &str) -> GatewayError {
    GatewayError::Content {
        path: path.to_owned(),
        why: why.to_owned(),
    }
}
