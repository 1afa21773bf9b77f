//! What is sealed with the keys of an epoch and stands in the keyring: the keys of the epoch before, and a dictionary.
//!
//! Each key seals one thing only, so nonces are constant; AES-GCM-SIV holds even where a fork seals a second one.

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, Nonce, UnboundKey};

use super::KeyringError;
use crate::seal::{DatabaseKeyId, Dictionary, Secret};

fn key(database: &DatabaseKeyId, secret: &Secret, info: &[u8]) -> Result<LessSafeKey, KeyringError> {
    let key = secret.derive(database, info);
    UnboundKey::new(&AES_256_GCM_SIV, key.as_bytes()).map(LessSafeKey::new).map_err(|_| KeyringError::Wrap)
}

const PREVIOUS: &[u8] = b"blazedb keyring 1 history";
const DICTIONARY: &[u8] = b"blazedb keyring 1 dictionary";

fn seal(key: &LessSafeKey, epoch: u32, mut plain: Vec<u8>) -> Result<Vec<u8>, KeyringError> {
    let nonce = Nonce::assume_unique_for_key([0; 12]);
    key.seal_in_place_append_tag(nonce, Aad::from(epoch.to_be_bytes()), &mut plain)
        .map_err(|_| KeyringError::Wrap)?;
    Ok(plain)
}

fn open(key: &LessSafeKey, epoch: u32, sealed: &[u8]) -> Result<Vec<u8>, KeyringError> {
    let nonce = Nonce::assume_unique_for_key([0; 12]);
    let mut bytes = sealed.to_vec();
    let len = key.open_in_place(nonce, Aad::from(epoch.to_be_bytes()), &mut bytes);
    let len = len.map_err(|_| KeyringError::Wrap)?.len();
    bytes.truncate(len);
    Ok(bytes)
}

/// Seals the keys of the epoch before `epoch` with the history secret of `epoch`.
pub(super) fn seal_previous(
    database: &DatabaseKeyId,
    epoch: u32,
    history: &Secret,
    previous: Vec<u8>,
) -> Result<Vec<u8>, KeyringError> {
    seal(&key(database, history, PREVIOUS)?, epoch, previous)
}

/// Reverses [`seal_previous`].
pub(super) fn open_previous(
    database: &DatabaseKeyId,
    epoch: u32,
    history: &Secret,
    sealed: &[u8],
) -> Result<Vec<u8>, KeyringError> {
    open(&key(database, history, PREVIOUS)?, epoch, sealed)
}

/// Seals the dictionary of `epoch` with a key that follows from its value secret.
pub(super) fn seal_dictionary(
    database: &DatabaseKeyId,
    epoch: u32,
    values: &Secret,
    dictionary: Vec<u8>,
) -> Result<Vec<u8>, KeyringError> {
    seal(&key(database, values, DICTIONARY)?, epoch, dictionary)
}

/// Reverses [`seal_dictionary`]. `None` if it is none: then nothing is compressed in that epoch.
pub(super) fn open_dictionary(
    database: &DatabaseKeyId,
    epoch: u32,
    values: &Secret,
    sealed: &[u8],
) -> Option<Dictionary> {
    Dictionary::new(&open(&key(database, values, DICTIONARY).ok()?, epoch, sealed).ok()?)
}
