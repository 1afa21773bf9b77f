//! What ties a token to the key of one node: the claim `cnf` (RFC 7800).
//!
//! Two members say the same of a node's P-256 key: `jkt`, the SHA-256 thumbprint of its JWK (RFC 7638, RFC 9449), and
//! `blz`, the fingerprint that nodes show.

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use blazedb::Fingerprint;
use blazedb_transport::PublicKey;
use serde_json::{Map, Value as Json};

use super::refusal::TokenRefusal;

/// The key that a token belongs to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Binding {
    /// By the thumbprint of its JWK, in base64url.
    Thumbprint(String),
    /// By its fingerprint.
    Fingerprint(Fingerprint),
}

/// Not the name of a node's key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "a node's key is given as its fingerprint (blz1-..., `blazedb init` and `status` show it) or as the thumbprint of its JWK"
)]
pub struct BindingError;

impl std::str::FromStr for Binding {
    type Err = BindingError;

    fn from_str(text: &str) -> Result<Self, BindingError> {
        if let Ok(fingerprint) = text.parse() {
            return Ok(Self::Fingerprint(fingerprint));
        }
        match URL_SAFE_NO_PAD.decode(text) {
            Ok(bytes) if bytes.len() == 32 => Ok(Self::Thumbprint(text.to_owned())),
            _ => Err(BindingError),
        }
    }
}

impl Binding {
    /// The binding to a key.
    #[must_use]
    pub fn to_key(key: &PublicKey) -> Self {
        Self::Thumbprint(thumbprint(key))
    }

    /// The claim.
    #[must_use]
    pub fn to_claim(&self) -> Json {
        match self {
            Self::Thumbprint(thumbprint) => serde_json::json!({ "jkt": thumbprint }),
            Self::Fingerprint(fingerprint) => serde_json::json!({ "blz": fingerprint.to_string() }),
        }
    }

    /// The bindings in a claim. Each must hold; one that is not known can't, so it is refused.
    pub(super) fn read_claim(claim: &Json) -> Result<Vec<Self>, TokenRefusal> {
        let refused = |problem| TokenRefusal::Claim { claim: "cnf".to_owned(), problem };
        let members = claim.as_object().filter(|members| !members.is_empty());
        let read = |(name, value): (&String, &Json)| match (name.as_str(), value.as_str()) {
            ("jkt", Some(thumbprint)) => Ok(Self::Thumbprint(thumbprint.to_owned())),
            ("blz", Some(text)) => {
                text.parse().map(Self::Fingerprint).map_err(|_| refused("holds no fingerprint"))
            }
            _ => Err(refused("binds the token in a way that is not known here: only jkt and blz are")),
        };
        members.map_or_else(
            || Err(refused("binds the token to nothing")),
            |members| members.iter().map(read).collect(),
        )
    }

    /// Whether this is the binding to `key`.
    #[must_use]
    pub fn fits(&self, key: &PublicKey) -> bool {
        match self {
            Self::Thumbprint(expected) => *expected == thumbprint(key),
            Self::Fingerprint(expected) => *expected == key.fingerprint(),
        }
    }
}

/// The thumbprint of a node's key (RFC 7638): SHA-256 over its JWK with the required members in order.
#[must_use]
pub fn thumbprint(key: &PublicKey) -> String {
    let (x, y) = key.as_bytes().get(1..).unwrap_or_default().split_at_checked(32).unwrap_or_default();
    let members = Map::from_iter([
        ("crv".to_owned(), Json::from("P-256")),
        ("kty".to_owned(), Json::from("EC")),
        ("x".to_owned(), URL_SAFE_NO_PAD.encode(x).into()),
        ("y".to_owned(), URL_SAFE_NO_PAD.encode(y).into()),
    ]);
    let json = Json::Object(members).to_string();
    URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, json.as_bytes()))
}
