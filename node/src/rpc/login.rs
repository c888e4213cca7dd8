//! Who is calling: by a JWT, by a client certificate, or not known.
//!
//! A login names its caller and is signed by a key; it counts if that is the
//! caller's key in the committed state now. So a key that was rotated or a
//! gateway's that was replaced opens nothing from the next block on.
//!
//! Nothing is refused here: what a call may do without a login is for
//! [`super::gate`] to say, and Submit never asks.

use std::{net::IpAddr, sync::Arc};

use tally_ledger::{
    crypto::{ChainId, PublicKey},
    ids::{AccountNumber, GatewayNumber, Person},
    state::State,
    transaction::{Author, AuthorKind},
};
use tally_proto::{
    Local,
    jwt::{Jwt, JwtError},
    login::now,
};
use tonic::{
    Request, Status,
    metadata::MetadataMap,
    service::Interceptor,
    transport::{
        CertificateDer,
        server::{TcpConnectInfo, TlsConnectInfo},
    },
};
use x509_parser::{certificate::X509Certificate, oid_registry::OID_SIG_ED25519, prelude::FromDer};

use crate::{config::LoginOf, view::View};

/// Who is calling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Caller {
    /// Did not log in, and need not.
    Trusted,
    /// Did not log in.
    Nobody,
    /// Logged in.
    Known(Known),
}

/// Who logged in, and by what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Known {
    /// Its name on the chain.
    pub(super) name: Author,
    /// The key that signed the login.
    pub(super) key: PublicKey,
    /// When the login ends, in seconds since 1970.
    pub(super) until: u64,
}

/// What the interceptor found, in the request's extensions.
#[derive(Debug, Clone)]
pub(super) struct Found {
    /// The caller, or why the login is good for nothing.
    pub(super) caller: Result<Caller, Box<Status>>,
    /// From where, if it came by TCP.
    pub(super) from: Option<IpAddr>,
}

/// Finds out who is calling.
pub(super) struct Logins<V> {
    view: Arc<V>,
    chain: ChainId,
    who: LoginOf,
}

impl<V> Clone for Logins<V> {
    fn clone(&self) -> Self {
        Self {
            view: self.view.clone(),
            ..*self
        }
    }
}

impl<V: View> Logins<V> {
    /// Logins on this node's chain; `who` has to.
    pub(super) fn new(view: Arc<V>, who: LoginOf) -> Self {
        let chain = view.with_state(|state, _| *state.chain());
        Self { view, chain, who }
    }

    fn find(&self, request: &Request<()>, from: Option<IpAddr>) -> Result<Caller, Status> {
        if let Some(token) = bearer(request.metadata())? {
            let jwt = Jwt::parse(token).map_err(refused)?;
            jwt.check(&self.chain, now()).map_err(refused)?;
            return self.known(jwt.caller, jwt.expires, |key| jwt.verify(key));
        }
        let tls = request.extensions().get::<TlsConnectInfo<TcpConnectInfo>>();
        let certificate = tls.and_then(TlsConnectInfo::peer_certs);
        if let Some(named) = certificate.and_then(|chain| named(chain.first()?)) {
            let by_key = |key: &PublicKey| match named.key == Some(*key) {
                true => Ok(()),
                false => Err(JwtError::Signature),
            };
            return self.known(named.caller, named.until, by_key);
        }
        Ok(match is_trusted(self.who, from) {
            true => Caller::Trusted,
            false => Caller::Nobody,
        })
    }

    fn known(
        &self,
        name: Author,
        until: u64,
        check: impl FnOnce(&PublicKey) -> Result<(), JwtError>,
    ) -> Result<Caller, Status> {
        let key = self.view.with_state(|state, _| key_of(state, name));
        let key = key.ok_or_else(|| {
            Local::NotLoggedInYet.status(format!("the chain has no {name} here (yet)"))
        })?;
        check(&key).map_err(refused)?;
        Ok(Caller::Known(Known { name, key, until }))
    }
}

impl<V: View> Interceptor for Logins<V> {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let plain = || request.extensions().get::<TcpConnectInfo>();
        let tls = || {
            let info = request.extensions().get::<TlsConnectInfo<TcpConnectInfo>>();
            info.map(TlsConnectInfo::get_ref)
        };
        let address = plain().or_else(tls).and_then(TcpConnectInfo::remote_addr);
        let from = address.map(|address| address.ip());
        let caller = self.find(&request, from).map_err(Box::new);
        request.extensions_mut().insert(Found { caller, from });
        Ok(request)
    }
}

/// Whether who comes from this address need not log in.
fn is_trusted(who: LoginOf, from: Option<IpAddr>) -> bool {
    match who {
        LoginOf::None => true,
        LoginOf::Remote => from.is_some_and(|from| from.to_canonical().is_loopback()),
        LoginOf::All => false,
    }
}

/// The key that a caller has on the chain now.
pub(super) fn key_of(state: &State, name: Author) -> Option<PublicKey> {
    let number = name.number;
    match name.kind {
        AuthorKind::Person => state.person(Person(number)).map(|person| person.key),
        AuthorKind::Gateway => state.gateway(GatewayNumber(number)).map(|it| it.key),
        AuthorKind::Account => state.account(AccountNumber(number)).map(|it| it.holder),
        AuthorKind::ApiKey | AuthorKind::Validator => None,
    }
}

fn refused(error: JwtError) -> Status {
    let local = match error {
        JwtError::Early(_) => Local::NotLoggedInYet,
        _ => Local::NotLoggedIn,
    };
    local.status(format!("not logged in: {error}"))
}

/// The token of `authorization: Bearer`, if there is that header.
fn bearer(metadata: &MetadataMap) -> Result<Option<&str>, Status> {
    let mut all = metadata.get_all("authorization").iter();
    let Some(value) = all.next() else {
        return Ok(None);
    };
    let form =
        || Local::NotLoggedIn.status("not logged in: write `authorization: Bearer JWT`, once");
    if all.next().is_some() {
        return Err(form());
    }
    let text = value.to_str().map_err(|_| form())?;
    let (scheme, token) = text.split_once(' ').ok_or_else(form)?;
    match scheme.eq_ignore_ascii_case("bearer") {
        true => Ok(Some(token)),
        false => Err(form()),
    }
}

/// A certificate that names a caller.
struct Named {
    caller: Author,
    /// `None`: not an ed25519 key.
    key: Option<PublicKey>,
    until: u64,
}

/// The caller that a client's own certificate names: its subject has one
/// common name, and that is a caller's. TLS has checked that it is of the
/// authority, valid now, and that the client has its key.
fn named(certificate: &CertificateDer<'_>) -> Option<Named> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let mut names = certificate.subject().iter_common_name();
    let (name, more) = (names.next()?, names.next());
    let caller: Author = name.as_str().ok()?.parse().ok()?;
    let until = certificate.validity().not_after.timestamp();
    Some(Named {
        caller,
        // RFC 8410, section 4: the algorithm without parameters, 32 bytes.
        key: more.is_none().then(|| ed25519(&certificate)).flatten(),
        until: u64::try_from(until).unwrap_or(0),
    })
}

fn ed25519(certificate: &X509Certificate<'_>) -> Option<PublicKey> {
    let info = certificate.public_key();
    let algorithm = &info.algorithm;
    if algorithm.algorithm != OID_SIG_ED25519 || algorithm.parameters.is_some() {
        return None;
    }
    if info.subject_public_key.unused_bits != 0 {
        return None;
    }
    let bytes = info.subject_public_key.data.as_ref().try_into().ok()?;
    Some(PublicKey(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remote_callers_log_in_unless_the_operator_says_otherwise() {
        let here = ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"];
        let there = [
            "10.0.0.1",
            "192.0.2.1",
            "::ffff:10.0.0.1",
            "2001:db8::1",
            "0.0.0.0",
        ];
        let trusted = |who, from: &str| is_trusted(who, Some(from.parse().unwrap()));
        for from in here {
            assert!(trusted(LoginOf::Remote, from), "{from}");
        }
        for from in there {
            assert!(!trusted(LoginOf::Remote, from), "{from}");
        }
        for from in here.into_iter().chain(there) {
            assert!(!trusted(LoginOf::All, from) && trusted(LoginOf::None, from));
        }
        assert!(!is_trusted(LoginOf::Remote, None) && !is_trusted(LoginOf::All, None));
    }
}
