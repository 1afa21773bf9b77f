//! The keys of a database, and what is derived from them.
//!
//! AES-256-GCM-SIV (RFC 8452) for all that is sealed: it stays safe if a nonce ever repeats. HKDF-SHA256 (RFC 5869)
//! and HMAC-SHA256 derive keys and nonces.

use std::collections::BTreeMap;
use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::{hkdf, hmac};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::{Dictionary, SealError};

/// What the names of sealed fields begin with; no other field's name begins with `$`.
pub(super) const NAME_PREFIX: &str = "$s.";
/// Names are padded to multiples of this before they are sealed, in bytes.
const NAME_BLOCK: usize = 16;
/// The longest name that can be sealed, in bytes of UTF-8: its sealed form has to be a name as well.
const MAX_NAME_BYTES: usize = 159;
/// Length of an authentication tag, in bytes.
pub(super) const TAG_BYTES: usize = 16;
const NONCE_BYTES: usize = 12;

/// Names a keyring, and so all that is sealed under it: 16 random bytes, drawn when it was made.
pub type DatabaseKeyId = [u8; 16];

/// Stands for a field: the first 16 bytes of its sealed name.
pub type FieldTag = [u8; 16];

/// 32 secret bytes. Wiped from memory when dropped.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Secret([u8; 32]);

impl Secret {
    /// A secret of these bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Another secret that follows from this one and `info` (HKDF-SHA256).
    #[must_use]
    pub fn derive(&self, salt: &[u8], info: &[u8]) -> Self {
        let mut out = [0; 32];
        let info = [info];
        let derived = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(&self.0);
        // 32 bytes of one block: there is nothing that could fail.
        let filled = derived.expand(&info, hkdf::HKDF_SHA256).and_then(|okm| okm.fill(&mut out));
        if filled.is_err() {
            out = [0; 32];
        }
        Self(out)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

struct EpochKey {
    aead: LessSafeKey,
    nonces: hmac::Key,
    dictionary: Option<Dictionary>,
}

/// The keys that a member has of a database.
pub struct SealKeys {
    database: DatabaseKeyId,
    names: LessSafeKey,
    epochs: BTreeMap<u32, EpochKey>,
}

impl fmt::Debug for SealKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealKeys")
            .field("epochs", &self.epochs.keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

fn aead(key: &Secret) -> Option<LessSafeKey> {
    UnboundKey::new(&AES_256_GCM_SIV, key.as_bytes()).ok().map(LessSafeKey::new)
}

impl SealKeys {
    /// The keys of the database `database`: the secret that names are sealed with, for good, and those of epochs.
    /// `None` only if the cryptography library refuses 32 bytes.
    #[must_use]
    pub fn new<'s>(
        database: DatabaseKeyId,
        names: &Secret,
        epochs: impl IntoIterator<Item = (u32, &'s Secret)>,
    ) -> Option<Self> {
        let mut keys = Self {
            database,
            names: aead(&names.derive(&database, b"blazedb seal 1 names"))?,
            epochs: BTreeMap::new(),
        };
        for (epoch, secret) in epochs {
            let nonces = secret.derive(&database, b"blazedb seal 1 nonces");
            let key = EpochKey {
                aead: aead(&secret.derive(&database, b"blazedb seal 1 values"))?,
                nonces: hmac::Key::new(hmac::HMAC_SHA256, nonces.as_bytes()),
                dictionary: None,
            };
            keys.epochs.insert(epoch, key);
        }
        Some(keys)
    }

    /// The keyring that they belong to.
    #[must_use]
    pub const fn database(&self) -> &DatabaseKeyId {
        &self.database
    }

    /// The newest epoch: what is sealed now is sealed with its key.
    #[must_use]
    pub fn current(&self) -> u32 {
        self.epochs.keys().next_back().copied().unwrap_or(0)
    }

    /// The epochs whose key is there.
    pub fn epochs(&self) -> impl Iterator<Item = u32> + '_ {
        self.epochs.keys().copied()
    }

    /// What values are compressed with before they are sealed in `epoch`, if its key is there.
    pub fn set_dictionary(&mut self, epoch: u32, dictionary: Dictionary) {
        if let Some(key) = self.epochs.get_mut(&epoch) {
            key.dictionary = Some(dictionary);
        }
    }

    /// What values are compressed with before they are sealed in `epoch`.
    #[must_use]
    pub fn dictionary(&self, epoch: u32) -> Option<&Dictionary> {
        self.epochs.get(&epoch)?.dictionary.as_ref()
    }

    /// Seals `plain` with the key of the newest epoch, bound to `context`. Answers the epoch.
    pub(super) fn seal(&self, context: &[u8], plain: &mut Vec<u8>) -> Result<u32, SealError> {
        let epoch = self.current();
        let key = self.epochs.get(&epoch).ok_or(SealError::NoKey(epoch))?;
        key.aead
            .seal_in_place_append_tag(key.nonce(context), Aad::from(context), plain)
            .map_err(|_| SealError::Tampered)?;
        Ok(epoch)
    }

    /// Reverses [`SealKeys::seal`]; `sealed` becomes the plaintext.
    pub(super) fn open(&self, epoch: u32, context: &[u8], sealed: &mut Vec<u8>) -> Result<(), SealError> {
        let key = self.epochs.get(&epoch).ok_or(SealError::NoKey(epoch))?;
        let opened = key.aead.open_in_place(key.nonce(context), Aad::from(context), sealed);
        let len = opened.map_err(|_| SealError::Tampered)?.len();
        sealed.truncate(len);
        Ok(())
    }

    /// The sealed form of a field's name: its tag, and the text that stands for it.
    ///
    /// Deterministic, so that one field has one name everywhere; and it can be opened, so that a member learns
    /// names from it.
    ///
    /// # Errors
    /// [`SealError::LongName`].
    pub fn seal_name(&self, name: &str) -> Result<(FieldTag, String), SealError> {
        let long = || SealError::LongName(name.to_owned());
        let len = u8::try_from(name.len()).ok().filter(|len| usize::from(*len) <= MAX_NAME_BYTES);
        let mut plain = Vec::with_capacity(TAG_BYTES + NAME_BLOCK + name.len());
        plain.push(len.ok_or_else(long)?);
        plain.extend_from_slice(name.as_bytes());
        plain.resize(plain.len().next_multiple_of(NAME_BLOCK), 0);
        let nonce = Nonce::assume_unique_for_key([0; NONCE_BYTES]);
        let tag = self.names.seal_in_place_separate_tag(nonce, Aad::from(self.database), &mut plain);
        let tag: FieldTag = tag.ok().and_then(|tag| tag.as_ref().try_into().ok()).ok_or_else(long)?;
        let mut text = NAME_PREFIX.to_owned();
        URL_SAFE_NO_PAD.encode_string([tag.as_slice(), &plain].concat(), &mut text);
        Ok((tag, text))
    }

    /// The tag and the name that a sealed name stands for.
    ///
    /// # Errors
    /// [`SealError::Tampered`] if it is not one of this database.
    pub fn open_name(&self, text: &str) -> Result<(FieldTag, String), SealError> {
        let encoded = text.strip_prefix(NAME_PREFIX).ok_or(SealError::Tampered)?;
        let bytes = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| SealError::Tampered)?;
        let (tag, sealed) = bytes.split_first_chunk::<TAG_BYTES>().ok_or(SealError::Tampered)?;
        let mut sealed = [sealed, tag].concat();
        let nonce = Nonce::assume_unique_for_key([0; NONCE_BYTES]);
        let opened = self.names.open_in_place(nonce, Aad::from(self.database), &mut sealed);
        let opened: &[u8] = opened.map_err(|_| SealError::Tampered)?;
        let name = opened.split_first().and_then(|(len, rest)| rest.get(..usize::from(*len)));
        let name = name.and_then(|name| std::str::from_utf8(name).ok()).ok_or(SealError::Tampered)?;
        Ok((*tag, name.to_owned()))
    }
}

impl EpochKey {
    /// The nonce of what is bound to `context`. Whatever differs in it has another nonce.
    fn nonce(&self, context: &[u8]) -> Nonce {
        let mac = hmac::sign(&self.nonces, context);
        let mut nonce = [0; NONCE_BYTES];
        nonce.iter_mut().zip(mac.as_ref()).for_each(|(byte, mac)| *byte = *mac);
        Nonce::assume_unique_for_key(nonce)
    }
}

/// Whether a field name is the sealed form of one. No application can give a field such a name.
#[must_use]
pub fn is_sealed_name(name: &str) -> bool {
    name.starts_with(NAME_PREFIX)
}
