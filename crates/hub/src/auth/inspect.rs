//! Tokens for people: what one says, without believing it, and where one is kept.

use std::io;
use std::path::Path;

use blazedb::Token;
use blazedb_transport::{PublicKey, files};
use serde_json::{Map, Value as Json};

use super::binding::Binding;
use super::refusal::{TokenRefusal, shown};
use super::verify::Unverified;

/// What a token says of itself. Nobody has verified it.
#[derive(Clone, PartialEq, Debug)]
pub struct Inspected {
    /// The algorithm of its signature.
    pub algorithm: String,
    /// Its claims.
    pub claims: Map<String, Json>,
}

impl Inspected {
    /// Reads a token.
    ///
    /// # Errors
    /// [`TokenRefusal::Malformed`].
    pub fn read(token: &str) -> Result<Self, TokenRefusal> {
        let Unverified { header, claims } = Unverified::read(token)?;
        Ok(Self { algorithm: header.alg, claims })
    }

    /// When it is over, in seconds since the Unix epoch.
    #[must_use]
    pub fn expires(&self) -> Option<u64> {
        self.claims.get("exp").and_then(Json::as_u64)
    }

    /// Whether it says to be bound to this key (65 bytes, uncompressed).
    #[must_use]
    pub fn is_bound_to(&self, key: &[u8; 65]) -> bool {
        let key = PublicKey::from_bytes(*key);
        let bindings = self.claims.get("cnf").and_then(|claim| Binding::read_claim(claim).ok());
        bindings.is_some_and(|bindings| bindings.iter().all(|binding| binding.fits(&key)))
    }
}

/// A time in seconds since the Unix epoch, for people (RFC 3339).
#[must_use]
pub fn shown_time(seconds: u64) -> String {
    shown(seconds)
}

/// Keeps a token in a file that only its owner can read; what was there before is replaced.
///
/// # Errors
/// What the system says.
pub fn store_token(path: &Path, token: &Token) -> io::Result<()> {
    files::replace(path, &format!("{}\n", token.as_str()))
}
