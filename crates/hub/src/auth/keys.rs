//! Public keys of issuers, as files hold them: PEM (`SubjectPublicKeyInfo`, RFC 7468), JWK and JWK sets (RFC 7517).
//!
//! Invariants: a key has one algorithm, which is a matter of the key and never of a token; every key is a point of
//! its curve; a file with a private key is refused, since it does not belong on this node.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ED25519, UnparsedPublicKey, VerificationAlgorithm};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use blazedb_core::limits::MAX_ISSUER_KEYS;
use jsonwebtoken::{Algorithm, DecodingKey};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject as _;
use serde::Deserialize;

/// One key of an issuer.
#[derive(Clone, Debug)]
pub struct IssuerKey {
    /// Its id (`kid`), if it has one.
    pub(super) id: Option<String>,
    pub(super) algorithm: Algorithm,
    pub(super) key: DecodingKey,
    /// The key itself: a point, uncompressed, or an Ed25519 key.
    pub(super) public: Vec<u8>,
}

/// A file that holds no keys that can be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// Neither PEM nor a JWK.
    #[error("it is neither a PEM public key nor a JSON Web Key")]
    Form,
    /// Not a key set.
    #[error("it is not a JSON Web Key Set: {{\"keys\": [..]}}")]
    Set,
    /// A private key.
    #[error("it holds a private key: put the public key here, and keep the private one with the issuer")]
    Private,
    /// Keys of other kinds, or points that are on no curve.
    #[error("it holds no usable key: P-256 (ES256) and Ed25519 (EdDSA) public keys are")]
    Unusable,
    /// More keys than anybody needs.
    #[error("it holds more than {MAX_ISSUER_KEYS} keys")]
    TooMany,
}

/// A JSON Web Key, as far as it matters here.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(default)]
    crv: String,
    #[serde(default)]
    x: String,
    #[serde(default)]
    y: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    /// The private part. What it is does not matter.
    d: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct JwkSet {
    keys: Vec<Jwk>,
}

impl IssuerKey {
    /// The one key of a key file.
    ///
    /// # Errors
    /// [`KeyFileError`].
    pub fn from_file(text: &str) -> Result<Self, KeyFileError> {
        if text.contains("-----BEGIN") {
            return Self::from_pem(text);
        }
        let jwk: Jwk = serde_json::from_str(text).map_err(|_| KeyFileError::Form)?;
        if jwk.d.is_some() {
            return Err(KeyFileError::Private);
        }
        Self::from_jwk(jwk).ok_or(KeyFileError::Unusable)
    }

    /// The usable keys of a key set. Keys of other kinds are passed over: a set serves many readers.
    ///
    /// # Errors
    /// [`KeyFileError`], also if no key is usable.
    pub fn from_set(text: &str) -> Result<Vec<Self>, KeyFileError> {
        let set: JwkSet = serde_json::from_str(text).map_err(|_| KeyFileError::Set)?;
        if set.keys.len() > MAX_ISSUER_KEYS {
            return Err(KeyFileError::TooMany);
        }
        if set.keys.iter().any(|key| key.d.is_some()) {
            return Err(KeyFileError::Private);
        }
        let keys: Vec<_> = set.keys.into_iter().filter_map(Self::from_jwk).collect();
        if keys.is_empty() { Err(KeyFileError::Unusable) } else { Ok(keys) }
    }

    fn from_pem(text: &str) -> Result<Self, KeyFileError> {
        if text.contains("PRIVATE KEY-----") {
            return Err(KeyFileError::Private);
        }
        let der = SubjectPublicKeyInfoDer::from_pem_slice(text.as_bytes()).map_err(|_| KeyFileError::Form)?;
        let key = Self::es256(None, &der).or_else(|| Self::eddsa(None, &der));
        key.ok_or(KeyFileError::Unusable)
    }

    fn from_jwk(jwk: Jwk) -> Option<Self> {
        if jwk.purpose.is_some_and(|purpose| purpose != "sig") {
            return None;
        }
        let fits = |alg: &str| jwk.alg.as_deref().is_none_or(|named| named == alg);
        match (jwk.kty.as_str(), jwk.crv.as_str()) {
            ("EC", "P-256") if fits("ES256") => {
                let (x, y) = (coordinate(&jwk.x)?, coordinate(&jwk.y)?);
                Self::es256(jwk.kid, &[&[4], &x[..], &y[..]].concat())
            }
            ("OKP", "Ed25519") if fits("EdDSA") || fits("Ed25519") => {
                Self::eddsa(jwk.kid, &coordinate(&jwk.x)?)
            }
            _ => None,
        }
    }

    fn es256(id: Option<String>, bytes: &[u8]) -> Option<Self> {
        is_key(&ECDSA_P256_SHA256_FIXED, bytes).then(|| Self {
            id,
            algorithm: Algorithm::ES256,
            key: DecodingKey::from_ec_der(bytes),
            public: last(bytes, 65),
        })
    }

    fn eddsa(id: Option<String>, bytes: &[u8]) -> Option<Self> {
        is_key(&ED25519, bytes).then(|| Self {
            id,
            algorithm: Algorithm::EdDSA,
            key: DecodingKey::from_ed_der(bytes),
            public: last(bytes, 32),
        })
    }
}

/// The key at the end of bytes that may begin with what kind it is (RFC 5480, RFC 8410).
fn last(bytes: &[u8], len: usize) -> Vec<u8> {
    bytes.get(bytes.len().saturating_sub(len)..).unwrap_or_default().to_vec()
}

fn is_key(algorithm: &'static dyn VerificationAlgorithm, bytes: &[u8]) -> bool {
    UnparsedPublicKey::new(algorithm, bytes).parse().is_ok()
}

fn coordinate(text: &str) -> Option<[u8; 32]> {
    URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()
}
