//! From a password to the key of a file.
//!
//! The first 16 bytes of an encrypted file are not secret: a profile byte that names the Argon2id parameters,
//! 12 random bytes, and 3 bytes of a hash of the key. The salt is the first 13 of them. The hash tells a wrong
//! password (it differs) from a damaged file (it agrees, and a page does not open). Argon2: RFC 9106.

use std::fmt;
use std::path::Path;

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::{digest, rand};

use crate::error::StoreError;

/// Length of a file's clear header, in bytes.
pub(crate) const HEADER_LEN: usize = 16;
/// Length of the salt inside it, in bytes.
const SALT_LEN: usize = 13;
/// The profile that new files get.
const PROFILE: u8 = 1;
/// What an unencrypted file starts with.
const PLAINTEXT: &[u8; HEADER_LEN] = b"SQLite format 3\0";

/// How a database is locked.
#[derive(Clone)]
pub enum Password {
    /// Encrypted under a key derived from this.
    Secret(String),
    /// Not encrypted, on purpose.
    Plaintext,
}

impl Password {
    /// The password in an environment variable.
    ///
    /// # Errors
    /// [`std::env::VarError`] if it is not set or not UTF-8.
    pub fn from_env(name: &str) -> Result<Self, std::env::VarError> {
        std::env::var(name).map(Self::Secret)
    }
}

impl From<&str> for Password {
    fn from(secret: &str) -> Self {
        Self::Secret(secret.to_owned())
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Secret(_) => "Secret(..)",
            Self::Plaintext => "Plaintext",
        })
    }
}

/// The key of one file: what SQLite is given.
#[derive(Clone)]
pub(crate) struct FileKey {
    key: [u8; 32],
    header: [u8; HEADER_LEN],
}

impl FileKey {
    /// A key for a new file.
    pub(crate) fn create(secret: &str) -> Result<Self, StoreError> {
        let mut header = [0; HEADER_LEN];
        rand::fill(&mut header).map_err(|_| StoreError::Kdf("no randomness".to_owned()))?;
        let [profile, ..] = &mut header;
        *profile = PROFILE;
        let key = derive(secret, &header)?;
        let check = check_of(&key);
        if let Some(slot) = header.last_chunk_mut::<3>() {
            *slot = check;
        }
        Ok(Self { key, header })
    }

    /// The key of the file with this header.
    pub(crate) fn open(path: &Path, secret: &str, header: [u8; HEADER_LEN]) -> Result<Self, StoreError> {
        let [profile, ..] = header;
        if profile != PROFILE {
            let text = format!("unknown key profile {profile}");
            return Err(StoreError::Damaged(path.to_owned(), text));
        }
        let key = derive(secret, &header)?;
        if header.last_chunk::<3>() != Some(&check_of(&key)) {
            return Err(StoreError::WrongPassword(path.to_owned()));
        }
        Ok(Self { key, header })
    }

    /// The key as SQLite3 Multiple Ciphers takes it: `raw:` and the hexadecimal key and salt.
    pub(crate) fn raw(&self) -> String {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        format!("raw:{}{}", hex(&self.key), hex(&self.header))
    }
}

/// Whether a file that starts like this is unencrypted.
pub(crate) fn is_plaintext(header: &[u8; HEADER_LEN]) -> bool {
    header == PLAINTEXT
}

fn derive(secret: &str, header: &[u8; HEADER_LEN]) -> Result<[u8; 32], StoreError> {
    let failed = |error: argon2::Error| StoreError::Kdf(error.to_string());
    // Profile 1: 46 MiB, one pass, one lane (OWASP password storage cheat sheet, first Argon2id choice).
    let params = Params::new(47_104, 1, 1, Some(32)).map_err(failed)?;
    let mut key = [0; 32];
    let salt = header.get(..SALT_LEN).unwrap_or_default();
    let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    argon.hash_password_into(secret.as_bytes(), salt, &mut key).map_err(failed)?;
    Ok(key)
}

fn check_of(key: &[u8; 32]) -> [u8; 3] {
    let mut input = b"blazedb key check".to_vec();
    input.extend_from_slice(key);
    let hash = digest::digest(&digest::SHA256, &input);
    hash.as_ref().first_chunk::<3>().copied().unwrap_or_default()
}
