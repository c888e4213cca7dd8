//! What a running gateway cannot change: all that was opened at its start.

use super::GatewayConfig;

impl GatewayConfig {
    /// The fields in which `new` differs from this configuration and that
    /// only a start takes.
    pub fn fixed(&self, new: &Self) -> Vec<&'static str> {
        let (limits, other) = (&self.limits, &new.limits);
        let fields = [
            ("gateway", self.gateway == new.gateway),
            ("key", self.key == new.key),
            ("genesis", self.genesis == new.genesis),
            ("journal", self.journal == new.journal),
            ("nodes", self.nodes == new.nodes),
            ("node_ca", self.node_ca == new.node_ca),
            ("listen.http", self.listen.http == new.listen.http),
            ("listen.grpc", self.listen.grpc == new.listen.grpc),
            ("listen.admin", self.listen.admin == new.listen.admin),
            ("listen.envoy", self.listen.envoy == new.listen.envoy),
            // Another certificate is taken; TLS or none is another listener.
            (
                "listen.tls",
                self.listen.tls.is_some() == new.listen.tls.is_some(),
            ),
            ("lease", self.lease == new.lease),
            ("submit", self.submit == new.submit),
            ("limits.body_bytes", limits.body_bytes == other.body_bytes),
            ("limits.wait_ms", limits.wait_ms == other.wait_ms),
            (
                "limits.hold_seconds",
                limits.hold_seconds == other.hold_seconds,
            ),
            ("limits.unproven", limits.unproven == other.unproven),
            (
                "limits.connections",
                limits.connections == other.connections,
            ),
            (
                "limits.segment_bytes",
                limits.segment_bytes == other.segment_bytes,
            ),
        ];
        let differ = fields.into_iter().filter(|(_, same)| !same);
        differ.map(|(field, _)| field).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Tls, Upstream};

    fn config() -> GatewayConfig {
        let http = "127.0.0.1:8080".parse().unwrap();
        GatewayConfig::new("/gw".as_ref(), vec!["127.0.0.1:9000".into()], http)
    }

    #[test]
    fn what_only_a_start_takes_is_named() {
        type Change = fn(&mut GatewayConfig);
        let changes: [(&str, Change); 10] = [
            ("gateway", |c| c.gateway = Some(7)),
            ("key", |c| c.key = "other".into()),
            ("genesis", |c| c.genesis = "other".into()),
            ("journal", |c| c.journal = "other".into()),
            ("nodes", |c| c.nodes.push("127.0.0.1:9001".into())),
            ("listen.http", |c| c.listen.http.set_port(1)),
            ("listen.grpc", |c| c.listen.grpc = Some(c.listen.http)),
            ("lease", |c| c.lease.seconds += 1),
            ("submit", |c| c.submit.batch += 1),
            ("limits.wait_ms", |c| c.limits.wait_ms += 1),
        ];
        for (field, change) in changes {
            let mut new = config();
            change(&mut new);
            assert_eq!(config().fixed(&new), [field]);
        }
    }

    #[test]
    fn engines_policy_and_a_renewed_certificate_are_taken() {
        let tls = |name: &str| {
            Some(Tls {
                certificate: name.into(),
                key: name.into(),
            })
        };
        let mut old = config();
        old.listen.tls = tls("old");
        let mut new = config();
        new.listen.tls = tls("new");
        new.upstreams = vec![Upstream::new("http://127.0.0.1:1", vec!["m".into()])];
        new.routes.free.clear();
        new.priority.service_tier_fee = Some(tally_ledger::ids::Amount(1));
        new.rates.key.requests = Some(1);
        new.limits.drain_seconds += 1;
        new.limits.bodies_bytes += 1;
        new.limits.stall_seconds += 1;
        assert_eq!(old.fixed(&new), Vec::<&str>::new());
        new.listen.tls = None;
        assert_eq!(old.fixed(&new), ["listen.tls"]);
    }
}
