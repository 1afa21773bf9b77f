//! What a node says of itself on the local network, and what it does not.
//!
//! Everybody on the network hears it. It holds the node's fingerprint, so that whoever connects knows whom to expect, and
//! for each database on offer a *tag*: the first [`TAG_BYTES`] of `SHA-256(salt | name)`, with a salt that is drawn anew for every
//! announcement. Who knows a database's name can tell that it is there; who does not learns how many there are. Nothing
//! heard is trusted: the handshake proves the key, and access rules and tokens decide, as for any other address.

use sha2::{Digest as _, Sha256};

/// Bytes of a salt.
pub const SALT_BYTES: usize = 8;
/// Bytes of a tag.
pub const TAG_BYTES: usize = 8;
/// Tags of one announcement.
pub const MAX_TAGS: usize = 64;
/// Tags in one property, of which each has at most 255 bytes (RFC 6763, section 6.1).
const TAGS_PER_PROPERTY: usize = 15;
/// The form of announcements that this is.
const VERSION: &str = "1";

/// What a node says on the local network.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Announcement {
    /// The fingerprint of its key.
    pub key: String,
    /// Its listener speaks TLS.
    pub tls: bool,
    salt: [u8; SALT_BYTES],
    tags: Vec<[u8; TAG_BYTES]>,
}

impl Announcement {
    /// Of a node with this key that offers these databases; those beyond [`MAX_TAGS`] are left out.
    #[must_use]
    pub fn new<'n>(
        key: String,
        tls: bool,
        salt: [u8; SALT_BYTES],
        databases: impl IntoIterator<Item = &'n str>,
    ) -> Self {
        let tags = databases.into_iter().take(MAX_TAGS).map(|name| tag(salt, name));
        let mut tags: Vec<_> = tags.collect();
        // Their order says nothing either.
        tags.sort_unstable();
        Self { key, tls, salt, tags }
    }

    /// Whether a database of this name may be there.
    #[must_use]
    pub fn offers(&self, database: &str) -> bool {
        self.tags.contains(&tag(self.salt, database))
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
        Some(Self { key: property("k")?.to_owned(), tls, salt, tags })
    }
}

fn tag(salt: [u8; SALT_BYTES], name: &str) -> [u8; TAG_BYTES] {
    let hash: [u8; 32] = Sha256::new_with_prefix(salt).chain_update(name).finalize().into();
    let mut tag = [0; TAG_BYTES];
    tag.iter_mut().zip(hash).for_each(|(to, from)| *to = from);
    tag
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
        let said = Announcement::new("key".into(), true, [7; 8], names.iter().map(String::as_str));
        assert_eq!(heard(&said), Some(said.clone()));
        assert!(said.offers("database-0") && said.offers("database-63"));
        assert!(!said.offers("database-64") && !said.offers("bugs"));
        assert!(
            said.properties()
                .iter()
                .all(|(key, value)| key.len() + value.len() < 255 && !value.contains("database"))
        );
        let again = Announcement::new("key".into(), true, [8; 8], ["database-0"]);
        assert_ne!(said.properties()[4], again.properties()[4], "another salt, another tag");
    }

    proptest! {
        #[test]
        fn whatever_is_heard_is_refused_or_understood(properties in prop::collection::btree_map("[vktsd]0?", "[0-9a-f]{0,33}|.{0,9}", 0..8)) {
            if let Some(heard) = Announcement::parse(|key| properties.get(key).map(String::as_str)) {
                prop_assert!(heard.tags.len() <= MAX_TAGS + TAGS_PER_PROPERTY);
            }
        }
    }
}
