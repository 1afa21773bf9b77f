//! Whether a token is good: a pure function of the token, the issuers' keys, the peer's key and the time.
//!
//! Specification and vector: `docs/spec/tokens.md`. Invariants: nothing that a token says is believed before a
//! configured key has verified its signature, but which issuer's keys to try; the algorithm is the key's.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use blazedb_core::filter::User;
use blazedb_transport::PublicKey;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Validation};
use serde::Deserialize;
use serde_json::{Map, Value as Json};

use super::claims::{Claims, issuer_of};
use super::keys::IssuerKey;
use super::refusal::{TokenRefusal, cut};

/// How far the clock of an issuer may be ahead of this node's, in seconds. For `exp` there is none: a token is over
/// when it says so.
pub const CLOCK_LEEWAY_S: u64 = 60;

/// Whose signatures count.
#[derive(Clone, Debug, Default)]
pub struct TrustedIssuer {
    /// The keys.
    pub keys: Vec<IssuerKey>,
    /// What `aud` must hold; without it a token that names an audience is for somebody else (RFC 7519, 4.1.3).
    pub audience: Option<String>,
}

/// What a good token says.
#[derive(Clone, PartialEq, Debug)]
pub struct Verified {
    /// Who the user is, for access rules.
    pub user: Arc<User>,
    /// Who issued the token.
    pub issuer: String,
    /// Its id, by which it may be revoked.
    pub id: Option<String>,
    /// When it is over, in seconds since the Unix epoch.
    pub expires: u64,
    /// Whether it is good for this peer alone.
    pub bound: bool,
}

#[derive(Deserialize)]
pub(super) struct Header {
    pub(super) alg: String,
    kid: Option<String>,
    crit: Option<Json>,
}

/// The header and the claims of a token, believed by nobody.
pub(super) struct Unverified {
    pub(super) header: Header,
    pub(super) claims: Map<String, Json>,
}

impl Unverified {
    pub(super) fn read(token: &str) -> Result<Self, TokenRefusal> {
        let mut parts = token.split('.');
        let (Some(header), Some(claims), Some(_), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenRefusal::Malformed("it has not the three parts of a signed JWT"));
        };
        let header = serde_json::from_slice(&decoded(header)?)
            .map_err(|_| TokenRefusal::Malformed("its header is not the JSON of one"))?;
        let claims = serde_json::from_slice(&decoded(claims)?)
            .map_err(|_| TokenRefusal::Malformed("its claims are not a JSON object"))?;
        Ok(Self { header, claims })
    }

    /// Who says to have issued it: to find the keys to try.
    pub(super) fn issuer(&self) -> Result<String, TokenRefusal> {
        issuer_of(&self.claims)
    }
}

fn decoded(part: &str) -> Result<Vec<u8>, TokenRefusal> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenRefusal::Malformed("a part is not base64url"))
}

/// Verifies a token that `peer`, or somebody without a proven key, presents at `now_s` (seconds since the Unix epoch). `issuer` finds the keys of an
/// issuer by its name.
///
/// # Errors
/// [`TokenRefusal`].
pub fn verify(
    token: &str,
    issuer: impl FnOnce(&str) -> Result<TrustedIssuer, TokenRefusal>,
    peer: Option<&PublicKey>,
    now_s: u64,
) -> Result<Verified, TokenRefusal> {
    choose_primitives();
    let unverified = Unverified::read(token)?;
    let algorithm = match unverified.header.alg.as_str() {
        "ES256" => Algorithm::ES256,
        "EdDSA" => Algorithm::EdDSA,
        other => return Err(TokenRefusal::Algorithm(cut(other))),
    };
    if unverified.header.crit.is_some() {
        return Err(TokenRefusal::Critical);
    }
    let name = unverified.issuer()?;
    let trusted = issuer(&name)?;
    let claims = Claims::read(verified_claims(token, &name, &unverified.header, algorithm, &trusted)?)?;
    judge(claims, &name, &trusted, peer, now_s)
}

/// Has the library use `aws-lc-rs`, unless the application chose something else: without a choice it may panic.
pub(super) fn choose_primitives() {
    let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
}

/// The claims, once a key of the issuer has verified the signature over them.
fn verified_claims(
    token: &str,
    issuer: &str,
    header: &Header,
    algorithm: Algorithm,
    trusted: &TrustedIssuer,
) -> Result<Map<String, Json>, TokenRefusal> {
    let by_id = |key: &&IssuerKey| match (&key.id, &header.kid) {
        (Some(id), Some(wanted)) => id == wanted,
        _ => true,
    };
    let mut named = trusted.keys.iter().filter(by_id).peekable();
    if named.peek().is_none() {
        let key = cut(header.kid.as_deref().unwrap_or_default());
        return Err(TokenRefusal::UnknownKey { issuer: cut(issuer), key });
    }
    let mut refusal = TokenRefusal::Algorithm(cut(&header.alg));
    for key in named.filter(|key| key.algorithm == algorithm) {
        // Times and audience are judged below, with the caller's clock.
        let mut validation = Validation::new(key.algorithm);
        validation.required_spec_claims.clear();
        (validation.validate_exp, validation.validate_nbf, validation.validate_aud) = (false, false, false);
        match jsonwebtoken::decode::<Map<String, Json>>(token, &key.key, &validation) {
            Ok(data) => return Ok(data.claims),
            Err(error) => {
                refusal = match error.kind() {
                    ErrorKind::InvalidSignature => TokenRefusal::Signature(cut(issuer)),
                    _ => TokenRefusal::Malformed("it can't be decoded"),
                };
            }
        }
    }
    Err(refusal)
}

fn judge(
    claims: Claims,
    issuer: &str,
    trusted: &TrustedIssuer,
    peer: Option<&PublicKey>,
    now_s: u64,
) -> Result<Verified, TokenRefusal> {
    if claims.issuer != issuer {
        return Err(TokenRefusal::Malformed("its issuer is given twice"));
    }
    if claims.expires <= now_s {
        return Err(TokenRefusal::Expired(claims.expires));
    }
    let begins = claims.not_before.max(claims.issued);
    if let Some(begins) = begins.filter(|begins| *begins > now_s.saturating_add(CLOCK_LEEWAY_S)) {
        return Err(TokenRefusal::NotYetValid(begins));
    }
    let meant = match &trusted.audience {
        Some(audience) => claims.audience.contains(audience),
        None => claims.audience.is_empty(),
    };
    if !meant {
        return Err(TokenRefusal::Audience);
    }
    match peer {
        Some(peer) if !claims.bindings.iter().all(|binding| binding.fits(peer)) => {
            return Err(TokenRefusal::OtherNode);
        }
        None if !claims.bindings.is_empty() => return Err(TokenRefusal::Bound),
        _ => {}
    }
    let bound = !claims.bindings.is_empty();
    let Claims { issuer, id, expires, user, .. } = claims;
    Ok(Verified { user: Arc::new(user), issuer, id, expires, bound })
}
