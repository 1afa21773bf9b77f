//! A node's own issuer of tokens: a P-256 key in its data directory.
//!
//! Invariant: the private key is made once, readable by its owner only, and never leaves its file.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use blazedb::Token;
use blazedb_transport::files;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};
use zeroize::Zeroizing;

use super::binding::Binding;
use super::verify::choose_primitives;

/// The issuer that a node is for itself, in `iss` and in `[auth] issuers`.
pub const OWN_ISSUER: &str = "self";
/// Claims that a request has fields of its own for, or that are nobody's to choose.
const RESERVED: [&str; 10] = ["iss", "sub", "exp", "nbf", "iat", "jti", "aud", "cnf", "teams", "roles"];

/// What a token is to say.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// The user.
    pub user: String,
    /// The user's teams.
    pub teams: Vec<String>,
    /// The user's roles.
    pub roles: Vec<String>,
    /// Further claims.
    pub claims: Map<String, Json>,
    /// How long it is good, in seconds.
    pub ttl_s: u64,
}

/// No token can be issued.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IssueError {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The key file is there and holds no key.
    #[error("{}: it is damaged: no P-256 private key is in it; restore it from a backup, or remove it to begin with a new issuer, whose tokens other nodes have to trust anew", .0.display())]
    Damaged(PathBuf),
    /// The cryptographic library failed.
    #[error("signing failed: the system's random source failed")]
    Sign,
    /// A claim that is not free.
    #[error("the claim {0:?} has a meaning of its own and can't be set")]
    Reserved(String),
    /// A user without a name.
    #[error("the user's name is empty")]
    NoUser,
    /// It would not be accepted.
    #[error("the token is too long: {0}")]
    TooLong(blazedb_core::wire::TokenTextError),
}

/// The key of a node's own issuer.
pub struct OwnIssuer {
    key: EncodingKey,
    public: String,
}

impl OwnIssuer {
    /// The issuer of the node with this data directory, made first if there is none. The public key stands beside
    /// the private one, for other nodes.
    ///
    /// # Errors
    /// [`IssueError::File`], [`IssueError::Damaged`].
    pub fn load_or_create(data: &Path) -> Result<Self, IssueError> {
        let path = data.join("issuer.key");
        let failed = |source| IssueError::File { path: path.clone(), source };
        let text = match files::read_text(&path).map_err(failed)? {
            Some(text) => Zeroizing::new(text),
            None => {
                let fresh = generate()?;
                match files::create(&path, &fresh) {
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                        Zeroizing::new(files::read_text(&path).map_err(failed)?.unwrap_or_default())
                    }
                    created => created.map(|()| fresh).map_err(failed)?,
                }
            }
        };
        let issuer = Self::from_pem(&text).ok_or_else(|| IssueError::Damaged(path.clone()))?;
        issuer.publish(&data.join("issuer.pub"))?;
        Ok(issuer)
    }

    fn from_pem(text: &str) -> Option<Self> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes()).ok()?;
        let der = der.secret_pkcs8_der();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der).ok()?;
        let public: PublicKeyX509Der<'_> = pair.public_key().as_der().ok()?;
        Some(Self {
            key: EncodingKey::from_ec_der(der),
            public: pem("PUBLIC KEY", public.as_ref()).to_string(),
        })
    }

    /// The public key, in PEM.
    #[must_use]
    pub fn public_pem(&self) -> &str {
        &self.public
    }

    /// Writes the public key to a file, unless there is one.
    ///
    /// # Errors
    /// [`IssueError::File`].
    pub fn publish(&self, path: &Path) -> Result<(), IssueError> {
        match files::create(path, &self.public) {
            Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
                Err(IssueError::File { path: path.to_owned(), source })
            }
            _ => Ok(()),
        }
    }

    /// A token for `request`, in the name of `issuer`, issued at `now_s` (seconds since the Unix epoch); good for the
    /// node of `binding` only, if there is one.
    ///
    /// # Errors
    /// [`IssueError`] about the request.
    pub fn issue(
        &self,
        issuer: &str,
        request: &TokenRequest,
        binding: Option<&Binding>,
        now_s: u64,
    ) -> Result<Token, IssueError> {
        request.check()?;
        choose_primitives();
        let mut id = [0; 12];
        aws_lc_rs::rand::fill(&mut id).map_err(|_| IssueError::Sign)?;
        let mut claims = request.claims.clone();
        claims.extend([
            ("iss".to_owned(), issuer.into()),
            ("sub".to_owned(), request.user.as_str().into()),
            ("iat".to_owned(), now_s.into()),
            ("exp".to_owned(), now_s.saturating_add(request.ttl_s).into()),
            ("jti".to_owned(), id.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into()),
            ("teams".to_owned(), request.teams.clone().into()),
            ("roles".to_owned(), request.roles.clone().into()),
        ]);
        claims.extend(binding.map(|binding| ("cnf".to_owned(), binding.to_claim())));
        let text = jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims, &self.key);
        text.map_err(|_| IssueError::Sign)?.parse().map_err(IssueError::TooLong)
    }
}

impl TokenRequest {
    /// How long the token is good.
    #[must_use]
    pub const fn ttl(&self) -> Duration {
        Duration::from_secs(self.ttl_s)
    }

    /// Whether a token can say this.
    ///
    /// # Errors
    /// [`IssueError::NoUser`], [`IssueError::Reserved`].
    pub fn check(&self) -> Result<(), IssueError> {
        if self.user.is_empty() {
            return Err(IssueError::NoUser);
        }
        let reserved = self.claims.keys().find(|name| RESERVED.contains(&name.as_str()));
        reserved.map_or(Ok(()), |name| Err(IssueError::Reserved(name.clone())))
    }
}

fn generate() -> Result<Zeroizing<String>, IssueError> {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(|_| IssueError::Sign)?;
    let der = pair.to_pkcs8v1().map_err(|_| IssueError::Sign)?;
    Ok(pem("PRIVATE KEY", der.as_ref()))
}

/// RFC 7468: base64 in lines of 64 characters.
fn pem(label: &str, der: &[u8]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(format!("-----BEGIN {label}-----\n"));
    let body = Zeroizing::new(STANDARD.encode(der));
    for line in body.as_bytes().chunks(64) {
        text.extend(line.iter().map(|byte| char::from(*byte)));
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}
