//! Logins: short-lived JWTs (RFC 7519) as compact JWS (RFC 7515), signed with
//! EdDSA (RFC 8037) by a key that is registered on the chain.
//!
//! ```text
//! authorization: Bearer base64url(header).base64url(claims).base64url(signature)
//! header  {"alg":"EdDSA","typ":"JWT"}
//! claims  {"iss":"person:3","sub":"person:3","aud":"<chain id, 64 hex digits>",
//!          "iat":1766000000,"nbf":1766000000,"exp":1766000600}
//! ```
//!
//! There is one form: `alg` is exactly `EdDSA`, so no token chooses how it is
//! checked; no key, address or extension in a header is ever looked at; a
//! member that is unknown, twice there or of another type makes the token
//! invalid. `typ` and `nbf` may be left out. `iss` and `sub` are the same: who
//! logs in signs for itself. `aud` is the chain id, so a token for one chain
//! opens nothing of another. A token lives [`MAX_LIFE_S`] at most, and clocks
//! may differ by [`SKEW_S`].
//!
//! What is signed is base64url text and a dot, which no signed message of the
//! ledger can be: see [`tally_ledger::crypto`]. The signature is checked
//! strictly, as all of the ledger's are; libraries for JWT check it more
//! loosely and allow more forms, which is why this is not left to one.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use tally_ledger::{
    crypto::{ChainId, PublicKey, SecretKey, Signature},
    transaction::{Author, AuthorKind},
};

/// Most bytes of a token; one that is well made has fewer than 500.
pub const MAX_BYTES: usize = 1024;
/// Longest life of a token, in seconds.
pub const MAX_LIFE_S: u64 = 15 * 60;
/// How far the clocks of caller and node may be apart, in seconds.
pub const SKEW_S: u64 = 30;

/// Why a token opens nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JwtError {
    /// Longer than any that is well made.
    #[error("the token has more than {MAX_BYTES} bytes")]
    TooLong,
    /// Not three parts of base64url without padding.
    #[error("the token is no compact JWS: three parts of base64url, without padding")]
    Parts,
    /// The header has another form.
    #[error(
        "the token's header must be {{\"alg\":\"EdDSA\",\"typ\":\"JWT\"}}, with no other member"
    )]
    Header,
    /// Signed by other means, or not at all.
    #[error("the token's alg must be EdDSA")]
    Algorithm,
    /// The claims have another form.
    #[error(
        "the token's claims must be iss, sub and aud as text, iat, exp and perhaps nbf in whole \
         seconds, each once, with no other member"
    )]
    Claims,
    /// Nobody who could log in.
    #[error("iss and sub must both name the caller: person:3, gateway:0 or account:7")]
    Caller,
    /// For somebody else: another chain, another service.
    #[error("aud must be this chain's id, {0}")]
    Audience(ChainId),
    /// Lives too long, or ends before it begins.
    #[error("exp must be after iat, by at most {MAX_LIFE_S} s")]
    Life,
    /// Not valid yet.
    #[error("the token is not valid yet: the clock here is {0} s behind it")]
    Early(u64),
    /// Not valid any more.
    #[error("the token has expired {0} s ago: make a new one")]
    Expired(u64),
    /// Not signed by the caller's key.
    #[error("the token is not signed by the key that the chain has for the caller now")]
    Signature,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    alg: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    typ: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Claims {
    iss: String,
    sub: String,
    aud: String,
    iat: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nbf: Option<u64>,
    exp: u64,
}

/// A token that was read. Nothing in it is to be believed before
/// [`Jwt::verify`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jwt {
    /// Who it says is calling.
    pub caller: Author,
    /// When it ends, in seconds since 1970.
    pub expires: u64,
    begins: u64,
    issued: u64,
    audience: String,
    input: String,
    signature: Signature,
}

/// A token of `caller`, from `now` on, for `life` seconds.
pub fn issue(key: &SecretKey, caller: Author, chain: &ChainId, now: u64, life: u64) -> String {
    let header = Header {
        alg: "EdDSA".to_owned(),
        typ: Some("JWT".to_owned()),
    };
    let claims = Claims {
        iss: caller.to_string(),
        sub: caller.to_string(),
        aud: chain.to_string(),
        iat: now,
        nbf: Some(now),
        exp: now.saturating_add(life),
    };
    let part = |bytes: Vec<u8>| URL_SAFE_NO_PAD.encode(bytes);
    let json = "plain values have a JSON text";
    let header = part(serde_json::to_vec(&header).expect(json));
    let claims = part(serde_json::to_vec(&claims).expect(json));
    let input = format!("{header}.{claims}");
    let signature = key.sign_jws(&input).expect("a header is an object");
    format!("{input}.{}", part(signature.0.to_vec()))
}

impl Jwt {
    /// Reads a token of the one form there is.
    pub fn parse(token: &str) -> Result<Self, JwtError> {
        if token.len() > MAX_BYTES {
            return Err(JwtError::TooLong);
        }
        let parts: Vec<&str> = token.split('.').collect();
        let [header, claims, signature] = parts[..] else {
            return Err(JwtError::Parts);
        };
        let part = |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| JwtError::Parts);
        let input = format!("{header}.{claims}");
        let (header, claims, signature) = (part(header)?, part(claims)?, part(signature)?);
        let header: Header = serde_json::from_slice(&header).map_err(|_| JwtError::Header)?;
        if header.alg != "EdDSA" {
            return Err(JwtError::Algorithm);
        }
        if header.typ.is_some_and(|typ| typ != "JWT") {
            return Err(JwtError::Header);
        }
        let claims: Claims = serde_json::from_slice(&claims).map_err(|_| JwtError::Claims)?;
        let caller: Author = claims.sub.parse().map_err(|_| JwtError::Caller)?;
        if claims.iss != claims.sub || caller.kind == AuthorKind::ApiKey {
            return Err(JwtError::Caller);
        }
        let signature = signature.try_into().map_err(|_| JwtError::Signature)?;
        Ok(Jwt {
            caller,
            expires: claims.exp,
            begins: claims.nbf.unwrap_or(claims.iat),
            issued: claims.iat,
            audience: claims.aud,
            input,
            signature: Signature(signature),
        })
    }

    /// Whether it is for `chain` and valid at `now`, in seconds since 1970.
    pub fn check(&self, chain: &ChainId, now: u64) -> Result<(), JwtError> {
        if self.audience != chain.to_string() {
            return Err(JwtError::Audience(*chain));
        }
        let life = self.expires.checked_sub(self.issued);
        if !life.is_some_and(|life| (1..=MAX_LIFE_S).contains(&life)) {
            return Err(JwtError::Life);
        }
        let begins = self.begins.max(self.issued);
        if begins > now.saturating_add(SKEW_S) {
            return Err(JwtError::Early(begins - now));
        }
        match self.has_expired(now) {
            true => Err(JwtError::Expired(now - self.expires)),
            false => Ok(()),
        }
    }

    /// Whether its time is over at `now`, by any clock.
    fn has_expired(&self, now: u64) -> bool {
        now >= self.expires.saturating_add(SKEW_S)
    }

    /// Whether `key`, the caller's on the chain, signed it.
    pub fn verify(&self, key: &PublicKey) -> Result<(), JwtError> {
        match key.verify_jws(&self.input, &self.signature) {
            true => Ok(()),
            false => Err(JwtError::Signature),
        }
    }
}

#[cfg(test)]
mod tests {
    use tally_ledger::{
        hash::Hash,
        ids::{ApiKeyNumber, GatewayNumber, Person},
    };

    use super::*;

    const NOW: u64 = 1_766_000_000;
    const CHAIN: ChainId = ChainId(Hash([5; 32]));

    fn key() -> SecretKey {
        SecretKey::from_seed(&[7; 32])
    }

    /// A token of any header and claims, well signed.
    fn signed(header: &str, claims: &str) -> String {
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let input = format!("{}.{}", part(header), part(claims));
        let signature = key().sign_jws(&input).unwrap_or(Signature([0; 64]));
        format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature.0))
    }

    fn claims(change: &[(&str, &str)]) -> String {
        let chain = format!("\"{CHAIN}\"");
        let (iat, exp) = (NOW.to_string(), (NOW + 600).to_string());
        let mut all = vec![
            ("iss", "\"person:3\""),
            ("sub", "\"person:3\""),
            ("aud", &chain),
            ("iat", &iat),
            ("exp", &exp),
        ];
        for (name, value) in change {
            match all.iter_mut().find(|(known, _)| known == name) {
                Some(known) => known.1 = value,
                None => all.push((name, value)),
            }
        }
        let all = all
            .iter()
            .map(|(name, value)| format!("\"{name}\":{value}"));
        format!("{{{}}}", all.collect::<Vec<_>>().join(","))
    }

    const HEADER: &str = r#"{"alg":"EdDSA"}"#;

    fn open(token: &str) -> Result<Author, JwtError> {
        let jwt = Jwt::parse(token)?;
        jwt.check(&CHAIN, NOW)?;
        jwt.verify(&key().public())?;
        Ok(jwt.caller)
    }

    #[test]
    fn what_is_issued_opens_and_stays_small() {
        for caller in [Person(u32::MAX).into(), GatewayNumber(0).into()] {
            let token = issue(&key(), caller, &CHAIN, NOW, MAX_LIFE_S);
            assert_eq!(open(&token), Ok(caller));
            assert!(token.len() < 500, "{}", token.len());
        }
        // As other programs write it.
        assert_eq!(open(&signed(HEADER, &claims(&[]))), Ok(Person(3).into()));
        let spaced = signed("{ \"typ\": \"JWT\", \"alg\": \"EdDSA\" }", &claims(&[]));
        assert_eq!(open(&spaced), Ok(Person(3).into()));
    }

    #[test]
    fn other_algorithms_and_headers_open_nothing() {
        let of = |header: &str| open(&signed(header, &claims(&[])));
        for alg in ["none", "None", "HS256", "ES256", "Ed25519", "eddsa", ""] {
            let header = format!(r#"{{"alg":"{alg}","typ":"JWT"}}"#);
            assert_eq!(of(&header), Err(JwtError::Algorithm), "{alg}");
        }
        for header in [
            r#"{}"#,
            r#"{"alg":"EdDSA","alg":"EdDSA"}"#,
            r#"{"alg":"none","alg":"EdDSA"}"#,
            r#"{"alg":"EdDSA","typ":"JWS"}"#,
            r#"{"alg":"EdDSA","kid":"1"}"#,
            r#"{"alg":"EdDSA","crit":["exp"]}"#,
            r#"{"alg":"EdDSA","jwk":{"kty":"OKP","crv":"Ed25519","x":"AA"}}"#,
            r#"{"alg":"EdDSA"} x"#,
            r#"{"alg":1}"#,
        ] {
            assert_eq!(of(header), Err(JwtError::Header), "{header}");
        }
        // Without a signature at all.
        let unsigned = signed(r#"{"alg":"none"}"#, &claims(&[]));
        let unsigned = format!("{}.", unsigned.rsplit_once('.').unwrap().0);
        assert_eq!(open(&unsigned), Err(JwtError::Algorithm));
    }

    #[test]
    fn claims_have_one_form() {
        let of = |change: &[(&str, &str)]| open(&signed(HEADER, &claims(change)));
        for change in [
            ("role", "\"auditor\""),
            ("jti", "\"1\""),
            ("iat", "1766000000.0"),
            ("exp", "\"1766000600\""),
            ("exp", "-1"),
            ("exp", "1e12"),
            ("aud", "[\"x\"]"),
            ("nbf", "null, \"nbf\": 1766000000"),
        ] {
            assert_eq!(of(&[change]), Err(JwtError::Claims), "{change:?}");
        }
        let twice = claims(&[]).replace("{", r#"{"sub":"person:0","#);
        assert_eq!(open(&signed(HEADER, &twice)), Err(JwtError::Claims));
        let less = claims(&[]).replace(r#""iss":"person:3","#, "");
        assert_eq!(open(&signed(HEADER, &less)), Err(JwtError::Claims));
        for sub in ["person:03", "robot:3", "", "api-key:3", "person:3 "] {
            let sub = format!("\"{sub}\"");
            let refused = of(&[("iss", &sub), ("sub", &sub)]);
            assert_eq!(refused, Err(JwtError::Caller), "{sub}");
        }
        assert_eq!(of(&[("iss", "\"person:4\"")]), Err(JwtError::Caller));
        assert_eq!(
            Jwt::parse(&issue(&key(), ApiKeyNumber(1).into(), &CHAIN, NOW, 1)),
            Err(JwtError::Caller)
        );
    }

    #[test]
    fn time_and_audience_are_checked() {
        let of =
            |issued: u64, life: u64| open(&issue(&key(), Person(3).into(), &CHAIN, issued, life));
        assert_eq!(of(NOW + SKEW_S, 60), Ok(Person(3).into()));
        assert_eq!(of(NOW + SKEW_S + 1, 60), Err(JwtError::Early(SKEW_S + 1)));
        assert_eq!(of(NOW - 60 - SKEW_S + 1, 60), Ok(Person(3).into()));
        assert_eq!(of(NOW - 60 - SKEW_S, 60), Err(JwtError::Expired(SKEW_S)));
        assert_eq!(of(NOW, MAX_LIFE_S + 1), Err(JwtError::Life));
        assert_eq!(of(NOW, 0), Err(JwtError::Life));
        assert_eq!(of(NOW, u64::MAX), Err(JwtError::Life));
        let later = (NOW + SKEW_S + 5).to_string();
        let later = open(&signed(HEADER, &claims(&[("nbf", &later)])));
        assert_eq!(later, Err(JwtError::Early(SKEW_S + 5)));
        let backwards = open(&signed(HEADER, &claims(&[("exp", "1")])));
        assert_eq!(backwards, Err(JwtError::Life));
        for other in [
            ChainId(Hash([6; 32])).to_string(),
            String::new(),
            "tally".into(),
        ] {
            let other = format!("\"{other}\"");
            let refused = open(&signed(HEADER, &claims(&[("aud", &other)])));
            assert_eq!(refused, Err(JwtError::Audience(CHAIN)));
        }
    }

    #[test]
    fn a_changed_or_foreign_token_opens_nothing() {
        let token = issue(&key(), Person(3).into(), &CHAIN, NOW, 60);
        let other = SecretKey::from_seed(&[8; 32]);
        let forged = issue(&other, Person(3).into(), &CHAIN, NOW, 60);
        assert_eq!(open(&forged), Err(JwtError::Signature));
        // Every bit of it counts.
        for i in 0..token.len() {
            for bit in 0..7 {
                let mut bytes = token.clone().into_bytes();
                bytes[i] ^= 1 << bit;
                let changed = String::from_utf8(bytes).unwrap();
                assert!(open(&changed).is_err(), "{changed}");
            }
        }
        for text in [
            "",
            ".",
            "..",
            "a.b",
            &format!("{token}."),
            &format!("{token}="),
            &format!(" {token}"),
            &token.replace('.', ".."),
        ] {
            assert!(Jwt::parse(text).is_err(), "{text}");
        }
        assert_eq!(
            Jwt::parse(&"a".repeat(MAX_BYTES + 1)),
            Err(JwtError::TooLong)
        );
        let short = token.rsplit_once('.').unwrap().0;
        assert_eq!(
            Jwt::parse(&format!("{short}.AAAA")),
            Err(JwtError::Signature)
        );
    }
}
