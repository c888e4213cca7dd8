//! A client's login: adds `authorization: Bearer ...` to each call, with a
//! token that is made anew before it ends. See [`crate::jwt`].

use std::{
    fmt,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use tally_ledger::{
    crypto::{ChainId, SecretKey},
    transaction::Author,
};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Uri},
};

use crate::jwt;

/// A connection whose calls log in, if there is somebody to log in as.
pub type LoggedIn = InterceptedService<Channel, Login>;

/// Life of a token, in seconds.
const LIFE_S: u64 = 10 * 60;
/// It is made anew when less of its life is left.
const RENEW_S: u64 = 5 * 60;

/// Who logs in, or nobody. Clones share a token.
#[derive(Clone, Default)]
pub struct Login(Option<Arc<Caller>>);

struct Caller {
    name: Author,
    key: SecretKey,
    chain: ChainId,
    /// The token in use, and when it was made.
    current: Mutex<Option<(u64, MetadataValue<Ascii>)>>,
}

/// Seconds since 1970.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// Whether a login may go to this address: inside TLS, or on this machine.
pub fn may_be_shown_to(address: &Uri) -> bool {
    let host = address.host().unwrap_or_default();
    let ip = host.trim_matches(['[', ']']).parse::<IpAddr>();
    address.scheme_str() == Some("https")
        || host == "localhost"
        || ip.is_ok_and(|ip| ip.is_loopback())
}

impl Login {
    /// Calls go out as they are.
    pub fn none() -> Self {
        Login(None)
    }

    /// Calls go out in the name of `caller`, whose key this is on `chain`.
    pub fn new(caller: Author, key: SecretKey, chain: ChainId) -> Self {
        Login(Some(Arc::new(Caller {
            name: caller,
            key,
            chain,
            current: Mutex::default(),
        })))
    }

    /// The header's value at `now`.
    fn bearer(&self, now: u64) -> Option<MetadataValue<Ascii>> {
        let caller = self.0.as_ref()?;
        let mut current = caller
            .current
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let fresh = |made: u64| (made..made + LIFE_S - RENEW_S).contains(&now);
        if let Some((_, value)) = current.as_ref().filter(|(made, _)| fresh(*made)) {
            return Some(value.clone());
        }
        let token = jwt::issue(&caller.key, caller.name, &caller.chain, now, LIFE_S);
        let value = MetadataValue::try_from(format!("Bearer {token}"));
        let mut value = value.expect("base64url and dots make a header");
        value.set_sensitive(true);
        *current = Some((now, value.clone()));
        Some(value)
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(caller) => write!(f, "Login({})", caller.name),
            None => f.write_str("Login(nobody)"),
        }
    }
}

impl Interceptor for Login {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = self.bearer(now()) {
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use tally_ledger::ids::Person;

    use super::*;

    #[test]
    fn a_token_is_used_again_and_renewed_in_time() {
        let key = SecretKey::from_seed(&[7; 32]);
        let login = Login::new(Person(3).into(), key.clone(), ChainId::default());
        let at = |now: u64| login.bearer(now).unwrap();
        let first = at(1_000);
        assert_eq!(at(1_299), first);
        assert_eq!(login.clone().bearer(1_299).unwrap(), first);
        let second = at(1_300);
        assert_ne!(second, first);
        // A clock that was set back: the token would be too early.
        assert_ne!(at(1_100), second);
        let value = at(1_100);
        let token = value.to_str().unwrap().strip_prefix("Bearer ").unwrap();
        let jwt = jwt::Jwt::parse(token).unwrap();
        jwt.check(&ChainId::default(), 1_100).unwrap();
        jwt.verify(&key.public()).unwrap();
        assert!(value.is_sensitive());
        assert_eq!(format!("{login:?}"), "Login(person:3)");
    }

    #[test]
    fn a_login_leaves_the_machine_inside_tls_only() {
        for (address, may) in [
            ("http://127.0.0.1:1", true),
            ("http://[::1]:1", true),
            ("http://localhost:1", true),
            ("https://192.0.2.1:1", true),
            ("http://192.0.2.1:1", false),
            ("http://localhost.example:1", false),
            ("http://127.0.0.1.example:1", false),
        ] {
            assert_eq!(may_be_shown_to(&address.parse().unwrap()), may, "{address}");
        }
    }

    #[test]
    fn nobody_adds_nothing() {
        let request = Login::none().call(Request::new(())).unwrap();
        assert!(request.metadata().get("authorization").is_none());
    }
}
