//! Who a node is: a long-term P-256 key pair in a private file.
//!
//! Invariants: an [`Identity`] holds a scalar that is in the curve's range (the Noise library panics on others)
//! and the public key that belongs to it. The file also names the fingerprint, so a flipped bit in the scalar is
//! found as damage and never taken for another identity.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use aws_lc_rs::agreement::{self, PrivateKey};
use aws_lc_rs::encoding::{AsBigEndian, EcPrivateKeyBin};
use blazedb_core::NodeId;
use blazedb_core::limits::MAX_NODE_NAME_BYTES;
use zeroize::Zeroizing;

use crate::files;
use crate::fingerprint::{Fingerprint, PublicKey};

const HEADER: &str = "blazedb-identity 1";

/// A node's long-term key pair. Wiped from memory when it is dropped.
pub struct Identity {
    scalar: Zeroizing<[u8; 32]>,
    public: PublicKey,
    name: String,
}

/// What is left of a name without control characters and marks that change how text runs, cut to
/// [`MAX_NODE_NAME_BYTES`].
pub(crate) fn printable(name: &str) -> String {
    let hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    let mut out = String::new();
    for c in name.chars().filter(|c| !hidden(*c)) {
        if out.len() + c.len_utf8() > MAX_NODE_NAME_BYTES {
            break;
        }
        out.push(c);
    }
    out
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Identity").field(&self.fingerprint()).finish()
    }
}

/// Why a node has no identity.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The system's random source or the key generator failed.
    #[error("no key could be generated: the system's random source failed")]
    Generate,
    /// The file could not be read or written.
    #[error("identity file {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file is there and is not an identity.
    #[error("identity file {} is damaged ({problem}); restore it from a backup, or remove it to become a new node that others have to trust anew", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        problem: IdentityDamage,
    },
}

/// What is wrong with an identity's text.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityDamage {
    /// The first line is not the known one.
    #[error("its first line is not \"blazedb-identity 1\"")]
    Header,
    /// Lines are missing, unknown, or too many.
    #[error("it needs the lines \"secret\" and \"fingerprint\" and no others")]
    Lines,
    /// The secret is not 64 hexadecimal digits of a number in the curve's range.
    #[error("its secret is not a P-256 private key")]
    Secret,
    /// The secret and the fingerprint don't belong together.
    #[error("its fingerprint does not belong to its secret")]
    Mismatch,
}

impl Identity {
    /// A new key pair.
    ///
    /// # Errors
    /// [`IdentityError::Generate`] if the system's random source fails.
    pub fn generate() -> Result<Self, IdentityError> {
        let key = PrivateKey::generate(&agreement::ECDH_P256).map_err(|_| IdentityError::Generate)?;
        let bytes =
            AsBigEndian::<EcPrivateKeyBin<'_>>::as_be_bytes(&key).map_err(|_| IdentityError::Generate)?;
        let scalar = bytes.as_ref().try_into().map(Zeroizing::new).map_err(|_| IdentityError::Generate)?;
        Self::from_scalar(scalar).ok_or(IdentityError::Generate)
    }

    /// The identity in this file, which is made first if there is none. Only its owner may read the file.
    /// Two processes that start at once get the same identity.
    ///
    /// # Errors
    /// [`IdentityError::File`] for what the system refuses, [`IdentityError::Damaged`] for a file that is not an
    /// identity: it is never overwritten.
    pub fn load_or_create(path: &Path) -> Result<Self, IdentityError> {
        if let Some(found) = Self::load(path)? {
            return Ok(found);
        }
        let fresh = Self::generate()?;
        match files::create(path, &fresh.to_text()) {
            Ok(()) => Ok(fresh),
            Err(source) if source.kind() == io::ErrorKind::AlreadyExists => {
                Self::load(path)?.ok_or_else(|| IdentityError::File { path: path.to_owned(), source })
            }
            Err(source) => Err(IdentityError::File { path: path.to_owned(), source }),
        }
    }

    /// The identity in this file, or `None` if there is no file.
    ///
    /// # Errors
    /// As [`Identity::load_or_create`].
    pub fn load(path: &Path) -> Result<Option<Self>, IdentityError> {
        let text = match files::read_text(path) {
            Ok(Some(text)) => Zeroizing::new(text),
            Ok(None) => return Ok(None),
            Err(source) if source.kind() == io::ErrorKind::InvalidData => {
                return Err(IdentityError::Damaged {
                    path: path.to_owned(),
                    problem: IdentityDamage::Header,
                });
            }
            Err(source) => return Err(IdentityError::File { path: path.to_owned(), source }),
        };
        Self::parse(&text)
            .map(Some)
            .map_err(|problem| IdentityError::Damaged { path: path.to_owned(), problem })
    }

    /// The public key: 65 bytes, uncompressed.
    #[must_use]
    pub fn public_key(&self) -> &[u8; 65] {
        self.public.as_bytes()
    }

    /// What others pin.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.public.fingerprint()
    }

    /// The node's id.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        self.public.node_id()
    }

    /// The same node with a name, which it tells the nodes that it connects to once it has proof of who they are.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.name = printable(name);
        self
    }

    /// What this node calls itself; empty if it has no name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The private scalar, 32 bytes, big-endian, in range. For the key wrapping and token signing of this node.
    #[must_use]
    pub fn secret_scalar(&self) -> &[u8; 32] {
        &self.scalar
    }

    /// `None` if the scalar is zero or not below the curve's order.
    fn from_scalar(scalar: Zeroizing<[u8; 32]>) -> Option<Self> {
        let key = PrivateKey::from_private_key(&agreement::ECDH_P256, scalar.as_ref()).ok()?;
        let public = key.compute_public_key().ok()?.as_ref().try_into().ok()?;
        Some(Self { scalar, public: PublicKey::from_bytes(public), name: String::new() })
    }

    fn to_text(&self) -> Zeroizing<String> {
        let mut text = String::with_capacity(256);
        text.push_str(HEADER);
        text.push_str("\nsecret ");
        for byte in self.scalar.iter() {
            for nibble in [byte >> 4, byte & 15] {
                text.extend(char::from_digit(u32::from(nibble), 16));
            }
        }
        text.push_str("\nfingerprint ");
        text.push_str(&self.fingerprint().to_string());
        text.push('\n');
        Zeroizing::new(text)
    }

    fn parse(text: &str) -> Result<Self, IdentityDamage> {
        let mut lines = text.lines();
        if lines.next() != Some(HEADER) {
            return Err(IdentityDamage::Header);
        }
        let secret =
            lines.next().and_then(|line| line.strip_prefix("secret ")).ok_or(IdentityDamage::Lines)?;
        let fingerprint =
            lines.next().and_then(|line| line.strip_prefix("fingerprint ")).ok_or(IdentityDamage::Lines)?;
        if lines.next().is_some() {
            return Err(IdentityDamage::Lines);
        }
        let scalar = parse_scalar(secret).ok_or(IdentityDamage::Secret)?;
        let identity = Self::from_scalar(scalar).ok_or(IdentityDamage::Secret)?;
        match fingerprint.parse::<Fingerprint>() {
            Ok(named) if named == identity.fingerprint() => Ok(identity),
            _ => Err(IdentityDamage::Mismatch),
        }
    }
}

fn parse_scalar(digits: &str) -> Option<Zeroizing<[u8; 32]>> {
    if digits.len() != 64 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let mut scalar = Zeroizing::new([0; 32]);
    for (index, byte) in scalar.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(index * 2..index * 2 + 2)?, 16).ok()?;
    }
    Some(scalar)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text_of(secret: &str, fingerprint: &str) -> String {
        format!("{HEADER}\nsecret {secret}\nfingerprint {fingerprint}\n")
    }

    #[test]
    fn is_created_once_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.key");
        let first = Identity::load_or_create(&path).unwrap();
        let second = Identity::load_or_create(&path).unwrap();
        assert_eq!(first.public_key(), second.public_key());
        assert_eq!(first.secret_scalar(), second.secret_scalar());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "a draft stayed behind");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn processes_that_race_get_the_same_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.key");
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let path = path.clone();
                std::thread::spawn(move || Identity::load_or_create(&path).unwrap().fingerprint())
            })
            .collect();
        let mut found: Vec<_> =
            threads.into_iter().map(|thread| thread.join().unwrap().to_string()).collect();
        found.dedup();
        assert_eq!(found.len(), 1);
    }

    #[test]
    fn damage_is_named_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.key");
        let good = Identity::generate().unwrap();
        let name = good.fingerprint().to_string();
        let order = "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551";
        let cases = [
            (String::new(), IdentityDamage::Header),
            ("blazedb-identity 2\n".into(), IdentityDamage::Header),
            (format!("{HEADER}\nsecret 00\n"), IdentityDamage::Lines),
            (format!("{}more\n", good.to_text().as_str()), IdentityDamage::Lines),
            (text_of("00", &name), IdentityDamage::Secret),
            (text_of(&"zz".repeat(32), &name), IdentityDamage::Secret),
            (text_of(&"00".repeat(32), &name), IdentityDamage::Secret),
            (text_of(order, &name), IdentityDamage::Secret),
            (text_of(&"ff".repeat(32), &name), IdentityDamage::Secret),
            (text_of(&"11".repeat(32), &name), IdentityDamage::Mismatch),
        ];
        for (text, expected) in cases {
            std::fs::write(&path, &text).unwrap();
            match Identity::load_or_create(&path) {
                Err(error @ IdentityError::Damaged { problem, .. }) if problem == expected => {
                    assert!(error.to_string().contains("node.key"));
                }
                other => panic!("{text:?} gave {other:?}"),
            }
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        std::fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(matches!(Identity::load(&path), Err(IdentityError::Damaged { .. })));
    }

    #[test]
    fn debug_does_not_show_the_secret() {
        let identity = Identity::generate().unwrap();
        let shown = format!("{identity:?}");
        let text = identity.to_text();
        let secret = text.lines().nth(1).unwrap().strip_prefix("secret ").unwrap();
        assert!(!shown.contains(secret) && shown.contains("blz1-"));
    }

    proptest! {
        #[test]
        fn parsing_is_total(text in "(blazedb-identity 1\n)?(secret [0-9a-g]{60,66}\n)?\\PC*") {
            let _ = Identity::parse(&text);
        }
    }
}
