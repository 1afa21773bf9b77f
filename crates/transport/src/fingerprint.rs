//! Public keys and the short names that people compare them by.
//!
//! A fingerprint is the SHA-256 of the 65-byte uncompressed public key. Its text is `blz1-` and 52 characters of
//! base32 (RFC 4648, lower case) in groups of four; one fingerprint has one value, so the bits that pad the last
//! character must be zero. The node's id is cut from the same hash: it can't be claimed without the key.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use aws_lc_rs::{constant_time, digest};
use blazedb_core::NodeId;

const PREFIX: &str = "blz1-";
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
const DIGEST_BYTES: usize = 32;
const TEXT_CHARACTERS: usize = 52;

/// A node's long-term P-256 public key: 65 bytes, uncompressed (SEC 1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PublicKey([u8; 65]);

impl PublicKey {
    /// Wraps the bytes; whether they are a point of the curve shows when a handshake uses them.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 65]) -> Self {
        Self(bytes)
    }

    /// The 65 bytes: `04`, x, y.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 65] {
        &self.0
    }

    /// What people compare.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        let mut bytes = [0; DIGEST_BYTES];
        for (to, from) in bytes.iter_mut().zip(digest::digest(&digest::SHA256, &self.0).as_ref()) {
            *to = *from;
        }
        Fingerprint(bytes)
    }

    /// The node that holds the private key: a version 8 UUID from the first 16 bytes of the fingerprint.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        self.fingerprint().node_id()
    }
}

/// SHA-256 of a node's public key. Compared in constant time.
#[derive(Clone, Copy)]
pub struct Fingerprint([u8; DIGEST_BYTES]);

impl Fingerprint {
    /// The fingerprint with this digest.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; DIGEST_BYTES]) -> Self {
        Self(bytes)
    }

    /// The digest.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; DIGEST_BYTES] {
        &self.0
    }

    /// The node that has this key: a version 8 UUID from the first 16 bytes.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        let mut head = [0; 16];
        for (to, from) in head.iter_mut().zip(self.0) {
            *to = from;
        }
        NodeId(uuid::Builder::from_custom_bytes(head).into_uuid())
    }
}

impl PartialEq for Fingerprint {
    fn eq(&self, other: &Self) -> bool {
        constant_time::verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl Eq for Fingerprint {}

impl Hash for Fingerprint {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::with_capacity(PREFIX.len() + TEXT_CHARACTERS + TEXT_CHARACTERS / 4);
        text.push_str(PREFIX);
        for position in 0..TEXT_CHARACTERS {
            if position > 0 && position % 4 == 0 {
                text.push('-');
            }
            let value = (0..5).fold(0, |value, bit| value << 1 | self.bit(position * 5 + bit));
            text.push(ALPHABET.get(value).map_or('?', |&byte| char::from(byte)));
        }
        f.pad(&text)
    }
}

impl Fingerprint {
    /// Bit `index` of the digest, most significant first; zero past its end.
    fn bit(&self, index: usize) -> usize {
        self.0.get(index / 8).map_or(0, |byte| usize::from(byte >> (7 - index % 8) & 1))
    }
}

/// A text that is not a fingerprint.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FingerprintError {
    /// It does not begin as fingerprints do.
    #[error("a fingerprint begins with \"blz1-\"")]
    Prefix,
    /// It is cut short or too long.
    #[error("a fingerprint has 52 characters after \"blz1-\", without its dashes; this one has {found}")]
    Length {
        /// Characters found, without dashes.
        found: usize,
    },
    /// It has a character that base32 does not use, or padding bits that are not zero.
    #[error("a fingerprint is written with a-z and 2-7; {character:?} does not fit")]
    Character {
        /// The first that does not fit.
        character: char,
    },
}

impl FromStr for Fingerprint {
    type Err = FingerprintError;

    /// Reads the text; upper case and missing dashes are forgiven, since people type fingerprints.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim().to_ascii_lowercase();
        let body = text.strip_prefix(PREFIX).ok_or(FingerprintError::Prefix)?;
        let found = body.chars().filter(|&c| c != '-').count();
        if found != TEXT_CHARACTERS {
            return Err(FingerprintError::Length { found });
        }
        let mut bytes = [0u8; DIGEST_BYTES];
        for (position, character) in body.chars().filter(|&c| c != '-').enumerate() {
            let wrong = FingerprintError::Character { character };
            let value = ALPHABET.iter().position(|&a| char::from(a) == character).ok_or(wrong)?;
            for bit in 0..5 {
                let set = value >> (4 - bit) & 1 == 1;
                let index = position * 5 + bit;
                match bytes.get_mut(index / 8) {
                    Some(byte) if set => *byte |= 0x80 >> (index % 8),
                    None if set => return Err(wrong),
                    _ => {}
                }
            }
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_is_base32_of_the_digest() {
        let fingerprint = Fingerprint::from_bytes([0xff; 32]);
        assert_eq!(fingerprint.to_string(), format!("blz1-{}777q", "7777-".repeat(12)));
        let mut bytes = [0; 32];
        bytes[..5].copy_from_slice(b"hello");
        assert!(Fingerprint::from_bytes(bytes).to_string().starts_with("blz1-nbsw-y3dp-aaaa"));
    }

    #[test]
    fn rejects_what_is_not_one() {
        let good = Fingerprint::from_bytes([7; 32]).to_string();
        assert_eq!("".parse::<Fingerprint>(), Err(FingerprintError::Prefix));
        assert_eq!(
            good[..good.len() - 1].parse::<Fingerprint>(),
            Err(FingerprintError::Length { found: 51 })
        );
        let padded = format!("blz1-{}777r", "7777-".repeat(12));
        assert_eq!(padded.parse::<Fingerprint>(), Err(FingerprintError::Character { character: 'r' }));
        let odd = good.replacen("blz1-a", "blz1-1", 1).replacen('q', "1", 1);
        assert!(odd.parse::<Fingerprint>().is_err());
    }

    #[test]
    fn node_id_is_a_version_8_uuid_of_the_same_hash() {
        let key = PublicKey::from_bytes([4; 65]);
        assert_eq!(key.node_id().0.get_version_num(), 8);
        assert_eq!(key.node_id().as_bytes()[..6], key.fingerprint().as_bytes()[..6]);
        assert_ne!(key.node_id(), PublicKey::from_bytes([5; 65]).node_id());
    }

    proptest! {
        #[test]
        fn text_round_trips(bytes: [u8; 32]) {
            let fingerprint = Fingerprint::from_bytes(bytes);
            let text = fingerprint.to_string();
            prop_assert_eq!(text.parse(), Ok(fingerprint));
            prop_assert_eq!(text.to_uppercase().replace('-', "").replace("BLZ1", "blz1-").parse(), Ok(fingerprint));
        }

        #[test]
        fn parsing_is_total(text in "\\PC*") {
            let _ = text.parse::<Fingerprint>();
        }
    }
}
