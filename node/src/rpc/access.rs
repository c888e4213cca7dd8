//! Who may ask AuditService: callers on this machine, until callers can be
//! authenticated.

use tally_proto::Local;
use tonic::{
    Request, Status,
    service::Interceptor,
    transport::server::{TcpConnectInfo, TlsConnectInfo},
};

/// Lets through who connects from loopback, or everybody.
#[derive(Debug, Clone, Copy)]
pub(super) struct OnlyHere {
    everybody: bool,
}

impl OnlyHere {
    /// `everybody`: the operator allowed remote callers.
    pub(super) fn unless(everybody: bool) -> Self {
        Self { everybody }
    }
}

impl Interceptor for OnlyHere {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let plain = || request.extensions().get::<TcpConnectInfo>();
        let tls = || {
            let info = request.extensions().get::<TlsConnectInfo<TcpConnectInfo>>();
            info.map(TlsConnectInfo::get_ref)
        };
        let address = plain().or_else(tls).and_then(TcpConnectInfo::remote_addr);
        if self.everybody || address.is_some_and(|address| address.ip().is_loopback()) {
            return Ok(request);
        }
        Err(Local::NotAllowed.status(
            "AuditService answers on this machine only; its operator can set \
             rpc.allow_remote_audit",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(address: &str) -> Request<()> {
        let mut request = Request::new(());
        request.extensions_mut().insert(TcpConnectInfo {
            local_addr: None,
            remote_addr: Some(address.parse().unwrap()),
        });
        request
    }

    #[test]
    fn remote_callers_need_the_operators_word() {
        assert!(OnlyHere::unless(false).call(from("127.0.0.1:9")).is_ok());
        assert!(OnlyHere::unless(false).call(from("[::1]:9")).is_ok());
        let refused = OnlyHere::unless(false).call(from("10.0.0.1:9"));
        assert_eq!(refused.unwrap_err().code(), tonic::Code::PermissionDenied);
        assert!(OnlyHere::unless(false).call(Request::new(())).is_err());
        assert!(OnlyHere::unless(true).call(from("10.0.0.1:9")).is_ok());
    }
}
