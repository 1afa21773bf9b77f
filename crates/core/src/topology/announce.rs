//! What a node says of itself on the local network, and what it does not.
//!
//! Everybody on the network hears it. It holds the node's fingerprint, so that whoever connects knows whom to expect, and
//! for each database on offer a *tag*: the first [`TAG_BYTES`] of `SHA-256(salt | key | name)`, with a salt that is drawn anew for
//! every announcement. Who knows a database's name can tell that it is there; who does not learns how many there are, and can't
//! say the same of itself. For each issuer of tokens whose key lies with the node in a file, it holds a *proof* that the node knows
//! that key: the first [`PROOF_BYTES`] of `SHA-256("blazedb peer 1" | salt | key | issuer's key)`. Nothing heard is trusted: the handshake
//! proves the node's key, and access rules and tokens decide, as for any other address.

use sha2::{Digest as _, Sha256};

/// Bytes of a salt.
pub const SALT_BYTES: usize = 8;
/// Bytes of a tag.
pub const TAG_BYTES: usize = 8;
/// Tags of one announcement.
pub const MAX_TAGS: usize = 64;
/// Bytes of a proof.
pub const PROOF_BYTES: usize = 16;
/// Proofs of one announcement: as many as one property holds.
pub const MAX_PROOFS: usize = 7;
/// Tags in one property, of which each has at most 255 bytes (RFC 6763, section 6.1).
const TAGS_PER_PROPERTY: usize = 15;
/// The form of announcements that this is.
const VERSION: &str = "2";

/// What a node says on the local network.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Announcement {
    /// The fingerprint of its key.
    pub key: String,
    /// Its listener speaks TLS.
    pub tls: bool,
    salt: [u8; SALT_BYTES],
    tags: Vec<[u8; TAG_BYTES]>,
    proofs: Vec<[u8; PROOF_BYTES]>,
}

impl Announcement {
    /// Of a node with this key that offers these databases and knows the public keys of these issuers; those beyond
    /// [`MAX_TAGS`] and [`MAX_PROOFS`] are left out.
    #[must_use]
    pub fn new<'n>(
        key: String,
        tls: bool,
        salt: [u8; SALT_BYTES],
        databases: impl IntoIterator<Item = &'n str>,
        issuers: impl IntoIterator<Item = &'n [u8]>,
    ) -> Self {
        let tags = databases.into_iter().take(MAX_TAGS).map(|name| tag(salt, &key, name));
        let mut tags: Vec<_> = tags.collect();
        // Their order says nothing either.
        tags.sort_unstable();
        let mut proofs: Vec<_> =
            issuers.into_iter().take(MAX_PROOFS).map(|issuer| proof(salt, &key, issuer)).collect();
        proofs.sort_unstable();
        Self { key, tls, salt, tags, proofs }
    }

    /// Whether who said it knows the public key of this issuer.
    #[must_use]
    pub fn proves(&self, issuer: &[u8]) -> bool {
        self.proofs.contains(&proof(self.salt, &self.key, issuer))
    }

    /// Whether a database of this name may be there.
    #[must_use]
    pub fn offers(&self, database: &str) -> bool {
        self.tags.contains(&tag(self.salt, &self.key, database))
    }

    /// As the properties of a DNS-SD service.
    #[must_use]
    pub fn properties(&self) -> Vec<(String, String)> {
        let word = |key: &str, value: String| (key.to_owned(), value);
        let mut all = vec![
            word("v", VERSION.to_owned()),
            word("k", self.key.clone()),
            word("t", u8::from(self.tls).to_string()),
            word("s", hex(&self.salt)),
        ];
        if !self.proofs.is_empty() {
            all.push(word("p", self.proofs.iter().map(|proof| hex(proof)).collect()));
        }
        for (number, tags) in self.tags.chunks(TAGS_PER_PROPERTY).enumerate() {
            all.push((format!("d{number}"), tags.iter().map(|tag| hex(tag)).collect()));
        }
        all
    }

    /// From the properties of a service that was found; `None` if it is not one of these.
    #[must_use]
    pub fn parse<'p>(property: impl Fn(&str) -> Option<&'p str>) -> Option<Self> {
        if property("v")? != VERSION {
            return None;
        }
        let tls = match property("t")? {
            "0" => false,
            "1" => true,
            _ => return None,
        };
        let salt = unhex(property("s")?).and_then(|salt| salt.try_into().ok())?;
        let mut tags = Vec::new();
        for number in 0..MAX_TAGS.div_ceil(TAGS_PER_PROPERTY) {
            let Some(text) = property(&format!("d{number}")) else { break };
            let bytes = unhex(text)?;
            let (whole, rest) = bytes.as_chunks::<TAG_BYTES>();
            if !rest.is_empty() || whole.len() > TAGS_PER_PROPERTY {
                return None;
            }
            tags.extend_from_slice(whole);
        }
        let proofs = unhex(property("p").unwrap_or_default())?;
        let (proofs, rest) = proofs.as_chunks::<PROOF_BYTES>();
        if !rest.is_empty() || proofs.len() > MAX_PROOFS {
            return None;
        }
        Some(Self { key: property("k")?.to_owned(), tls, salt, tags, proofs: proofs.to_vec() })
    }
}

fn tag(salt: [u8; SALT_BYTES], key: &str, name: &str) -> [u8; TAG_BYTES] {
    // A fingerprint has one length: the two can't be told apart in another way.
    start_of(Sha256::new_with_prefix(salt).chain_update(key).chain_update(name))
}

fn proof(salt: [u8; SALT_BYTES], key: &str, issuer: &[u8]) -> [u8; PROOF_BYTES] {
    let hash = Sha256::new_with_prefix(b"blazedb peer 1").chain_update(salt);
    start_of(hash.chain_update(key).chain_update(issuer))
}

fn start_of<const N: usize>(hash: Sha256) -> [u8; N] {
    let hash: [u8; 32] = hash.finalize().into();
    let mut start = [0; N];
    start.iter_mut().zip(hash).for_each(|(to, from)| *to = from);
    start
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let pairs = (0..text.len()).step_by(2);
    pairs.map(|at| text.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn heard(announcement: &Announcement) -> Option<Announcement> {
        let properties: BTreeMap<String, String> = announcement.properties().into_iter().collect();
        Announcement::parse(|key| properties.get(key).map(String::as_str))
    }

    #[test]
    fn what_is_said_is_heard_and_names_are_not_in_it() {
        let names: Vec<String> = (0..100).map(|number| format!("database-{number}")).collect();
        let said = Announcement::new("key".into(), true, [7; 8], names.iter().map(String::as_str), []);
        assert_eq!(heard(&said), Some(said.clone()));
        assert!(said.offers("database-0") && said.offers("database-63"));
        assert!(!said.offers("database-64") && !said.offers("bugs"));
        assert!(
            said.properties()
                .iter()
                .all(|(key, value)| key.len() + value.len() < 255 && !value.contains("database"))
        );
        let again = Announcement::new("key".into(), true, [8; 8], ["database-0"], []);
        assert_ne!(said.properties()[4], again.properties()[4], "another salt, another tag");
    }

    /// Who says again what another node has said has another key.
    #[test]
    fn what_a_node_says_proves_nothing_of_another_one() {
        let issuers: Vec<[u8; 2]> = (0..9).map(|number| [number, 1]).collect();
        let of = |key: &str| {
            let issuers = issuers.iter().map(|issuer| &issuer[..]);
            Announcement::new(key.to_owned(), false, [7; 8], ["bugs"], issuers)
        };
        let said = of("one");
        assert_eq!(heard(&said), Some(said.clone()));
        assert!(said.properties().iter().all(|(key, value)| key.len() + value.len() < 255));
        assert!(said.offers("bugs") && said.proves(&[0, 1]) && said.proves(&[6, 1]));
        assert!(!said.proves(&[7, 1]) && !said.proves(&[0, 2]));
        let stolen = Announcement { key: "two".to_owned(), ..said };
        assert!(!stolen.offers("bugs") && !stolen.proves(&[0, 1]));
        assert!(of("two").proves(&[0, 1]));
    }

    proptest! {
        #[test]
        fn whatever_is_heard_is_refused_or_understood(properties in prop::collection::btree_map("[vktsdp]0?", "[0-9a-f]{0,33}|.{0,9}", 0..8)) {
            if let Some(heard) = Announcement::parse(|key| properties.get(key).map(String::as_str)) {
                prop_assert!(heard.tags.len() <= MAX_TAGS + TAGS_PER_PROPERTY);
            }
        }
    }
}
