//! Reading `gateway.toml` again while requests run.
//!
//! The file, the bearers and the certificate that it names are read and
//! checked whole; then all of it is in force, or, if anything is wrong or
//! only a start could take it, nothing has changed. Requests that run go on
//! by what they began with.

use std::sync::{Arc, Mutex, PoisonError};

use tokio_rustls::rustls::ServerConfig;

use super::{tls, upstreams};
use crate::{
    chain::terms::Terms,
    config::GatewayConfig,
    error::GatewayError,
    live::Live,
    proxy::{Proxy, policy::Policy},
};

/// Reads the configuration of one running gateway again.
#[derive(Debug, Clone)]
pub struct Reloader(Arc<Running>);

#[derive(Debug)]
struct Running {
    /// What is in force; held while another is read.
    config: Mutex<GatewayConfig>,
    proxy: Arc<Proxy>,
    tls: Option<Arc<Live<ServerConfig>>>,
}

/// Warns of limits that limit nothing.
pub(super) fn check_classes(config: &GatewayConfig, terms: &Terms) {
    for name in config.rates.class.keys() {
        if terms.class_named(name).is_none() {
            tracing::warn!(name, "`rates` limits a class that the chain does not have");
        }
    }
}

impl Reloader {
    pub(super) fn new(
        config: GatewayConfig,
        proxy: Arc<Proxy>,
        tls: Option<Arc<Live<ServerConfig>>>,
    ) -> Self {
        Reloader(Arc::new(Running {
            config: Mutex::new(config),
            proxy,
            tls,
        }))
    }

    /// Takes `gateway.toml` as it is now. It is in force when this returns;
    /// after an error nothing has changed. Either is logged and counted.
    pub fn reload(&self) -> Result<(), GatewayError> {
        let metrics = &self.0.proxy.serving.metrics;
        match self.take() {
            Ok(upstreams) => {
                metrics.reloaded("applied");
                tracing::info!(upstreams, "gateway.toml was read again and is in force");
                Ok(())
            }
            Err(error) => {
                metrics.reloaded("refused");
                tracing::error!(%error, "gateway.toml was read again; nothing was changed");
                Err(error)
            }
        }
    }

    fn take(&self) -> Result<usize, GatewayError> {
        let Running { config, proxy, tls } = &*self.0;
        let mut now = config.lock().unwrap_or_else(PoisonError::into_inner);
        let new = GatewayConfig::load(&now.home)?;
        let fixed = now.fixed(&new);
        if !fixed.is_empty() {
            return Err(GatewayError::Fixed(fixed.join(", ")));
        }
        let engines = upstreams(&new)?;
        let certificate = tls::server(&new)?;
        // From here on nothing can fail.
        let terms = proxy.serving.terms.get();
        check_classes(&new, &terms);
        let count = engines.len();
        if let (Some(tls), Some(certificate)) = (tls, certificate) {
            tls.set(certificate);
        }
        if now.rates != new.rates {
            proxy.serving.holds.rates.change(new.rates.clone());
        }
        proxy.policy.set(Policy::of(&new));
        proxy.upstreams.change(engines);
        *now = new;
        Ok(count)
    }
}
