//! Which key a node had when this node first met it: trust on first use, kept in a file that people may edit.
//!
//! Invariants: a URL has at most one fingerprint; a changed key is never stored by itself, only after
//! [`KnownNodes::forget`]; lines that this module did not write (comments) survive its writes.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use blazedb_core::topology::Endpoint;

use crate::files;
use crate::fingerprint::{Fingerprint, FingerprintError};

const HEADER: &str = "# BlazeDB: keys of known nodes, one `URL FINGERPRINT` a line. \
                      Remove a line to trust the node's next key.\n";

/// Which keys a connection accepts. There is no policy that accepts every key.
#[derive(Clone, Debug)]
pub enum PinPolicy {
    /// This one only: it is given in the configuration.
    Exactly(Fingerprint),
    /// The one of the first contact with the endpoint.
    FirstUse(Arc<KnownNodes>),
}

/// How a key is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Acquaintance {
    /// It was stored just now.
    FirstContact,
    /// It is the stored one.
    Known,
}

/// Why a node's key was not accepted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PinError {
    /// The node has another key than before. Somebody may be in the middle.
    #[error("the key of {url} has changed: expected {expected}, found {found}; if its owner confirms the new key, {}", remedy(file.as_deref()))]
    KeyChanged {
        /// The node's URL.
        url: String,
        /// The stored fingerprint.
        expected: Fingerprint,
        /// The fingerprint of the key that the node showed.
        found: Fingerprint,
        /// The file that holds the stored fingerprint.
        file: Option<PathBuf>,
    },
    /// The file could not be read or written.
    #[error("file of known nodes {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A line of the file is not `URL FINGERPRINT`.
    #[error("file of known nodes {}, line {line}: {problem}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What does not fit.
        problem: LineProblem,
    },
}

/// What is wrong with a line of the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LineProblem {
    /// Not two words.
    #[error("expected a URL and a fingerprint")]
    Shape,
    /// The second word is not a fingerprint.
    #[error(transparent)]
    Fingerprint(#[from] FingerprintError),
    /// The URL has a line already, with another fingerprint.
    #[error("this URL has another fingerprint above")]
    Contradiction,
}

fn remedy(file: Option<&Path>) -> String {
    match file {
        Some(path) => format!("pin the new one in {}", path.display()),
        None => "pin the new one".to_owned(),
    }
}

/// The nodes met so far. Shared by all links of a process.
#[derive(Debug)]
pub struct KnownNodes {
    file: Option<PathBuf>,
    pins: Mutex<HashMap<String, Fingerprint>>,
}

impl KnownNodes {
    /// Knows nobody, and forgets with the process.
    #[must_use]
    pub fn in_memory() -> Self {
        Self { file: None, pins: Mutex::default() }
    }

    /// The nodes in this file; it is made at the first contact if there is none.
    ///
    /// # Errors
    /// [`PinError::File`] and [`PinError::Line`].
    pub fn open(path: &Path) -> Result<Self, PinError> {
        let (_, pins) = load(path)?;
        Ok(Self { file: Some(path.to_owned()), pins: Mutex::new(pins) })
    }

    /// The stored fingerprint of the node at `endpoint`.
    #[must_use]
    pub fn get(&self, endpoint: &Endpoint) -> Option<Fingerprint> {
        self.pins().get(&endpoint.to_string()).copied()
    }

    /// Accepts the key that was stored for `endpoint`, or stores `found` if there is none yet. A first contact writes
    /// the file and waits for the disk.
    ///
    /// # Errors
    /// [`PinError::KeyChanged`] for another key; [`PinError::File`] and [`PinError::Line`].
    pub fn check(&self, endpoint: &Endpoint, found: Fingerprint) -> Result<Acquaintance, PinError> {
        let url = endpoint.to_string();
        let mut pins = self.pins();
        if pins.get(&url) != Some(&found)
            && let Some(path) = &self.file
        {
            // Another process may have met the node since, or its owner confirmed a new key.
            let (text, current) = load(path)?;
            *pins = current;
            if let Entry::Vacant(place) = pins.entry(url.clone()) {
                save(path, &append(&text, &url, found))?;
                place.insert(found);
                return Ok(Acquaintance::FirstContact);
            }
        }
        match pins.get(&url) {
            None => {
                pins.insert(url, found);
                Ok(Acquaintance::FirstContact)
            }
            Some(expected) if *expected == found => Ok(Acquaintance::Known),
            Some(&expected) => Err(PinError::KeyChanged { url, expected, found, file: self.file.clone() }),
        }
    }

    /// Stores `key` as the one of `endpoint`, in place of the one that was there, which it answers. For a key that
    /// somebody has compared.
    ///
    /// # Errors
    /// [`PinError::File`] and [`PinError::Line`].
    pub fn pin(&self, endpoint: &Endpoint, key: Fingerprint) -> Result<Option<Fingerprint>, PinError> {
        let url = endpoint.to_string();
        let mut pins = self.pins();
        if let Some(path) = &self.file {
            let (text, current) = load(path)?;
            *pins = current;
            save(path, &append(&without(&text, &url), &url, key))?;
        }
        Ok(pins.insert(url, key))
    }

    /// Forgets the key of `endpoint`, so that the next contact is a first one. Whether there was one.
    ///
    /// # Errors
    /// [`PinError::File`] and [`PinError::Line`].
    pub fn forget(&self, endpoint: &Endpoint) -> Result<bool, PinError> {
        let url = endpoint.to_string();
        let mut pins = self.pins();
        if let Some(path) = &self.file {
            let (text, current) = load(path)?;
            *pins = current;
            if pins.contains_key(&url) {
                save(path, &without(&text, &url))?;
            }
        }
        Ok(pins.remove(&url).is_some())
    }

    /// A panic elsewhere can't leave the map half changed: every change is one insertion or removal.
    fn pins(&self) -> MutexGuard<'_, HashMap<String, Fingerprint>> {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn load(path: &Path) -> Result<(String, HashMap<String, Fingerprint>), PinError> {
    let text = files::read_text(path).map_err(|source| PinError::File { path: path.to_owned(), source })?;
    let text = text.unwrap_or_default();
    let mut pins = HashMap::new();
    for (index, line) in text.lines().enumerate() {
        let failed = |problem| PinError::Line { path: path.to_owned(), line: index + 1, problem };
        if let Some((url, fingerprint)) = parse_line(line).map_err(failed)? {
            let before = pins.insert(url.to_owned(), fingerprint);
            if before.is_some_and(|before| before != fingerprint) {
                return Err(failed(LineProblem::Contradiction));
            }
        }
    }
    Ok((text, pins))
}

fn parse_line(line: &str) -> Result<Option<(&str, Fingerprint)>, LineProblem> {
    if line.trim().is_empty() || line.trim_start().starts_with('#') {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    match (words.next(), words.next(), words.next()) {
        (Some(url), Some(fingerprint), None) => Ok(Some((url, fingerprint.parse()?))),
        _ => Err(LineProblem::Shape),
    }
}

/// The text without the lines of a URL.
fn without(text: &str, url: &str) -> String {
    text.split_inclusive('\n').filter(|line| line.split_whitespace().next() != Some(url)).collect()
}

fn append(text: &str, url: &str, fingerprint: Fingerprint) -> String {
    let mut text = if text.is_empty() { HEADER.to_owned() } else { text.to_owned() };
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(&format!("{url} {fingerprint}\n"));
    text
}

fn save(path: &Path, text: &str) -> Result<(), PinError> {
    files::replace(path, text).map_err(|source| PinError::File { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "ws://hub:7500";

    fn at(url: &str) -> Endpoint {
        url.parse().unwrap()
    }

    fn key(byte: u8) -> Fingerprint {
        Fingerprint::from_bytes([byte; 32])
    }

    fn assert_trusts_the_first_key_only(nodes: &KnownNodes) {
        assert_eq!(nodes.check(&at(URL), key(1)).unwrap(), Acquaintance::FirstContact);
        assert_eq!(nodes.check(&at(URL), key(1)).unwrap(), Acquaintance::Known);
        let error = nodes.check(&at(URL), key(2)).unwrap_err();
        assert!(
            matches!(&error, PinError::KeyChanged { expected, found, .. } if *expected == key(1) && *found == key(2))
        );
        let message = error.to_string();
        assert!(
            message.contains(&key(1).to_string())
                && message.contains(&key(2).to_string())
                && message.contains(URL)
        );
        assert_eq!(nodes.get(&at(URL)), Some(key(1)));
        assert_eq!(nodes.check(&at("ws://other"), key(2)).unwrap(), Acquaintance::FirstContact);
        assert!(nodes.forget(&at(URL)).unwrap());
        assert!(!nodes.forget(&at(URL)).unwrap());
        assert_eq!(nodes.check(&at(URL), key(2)).unwrap(), Acquaintance::FirstContact);
    }

    #[test]
    fn in_memory() {
        assert_trusts_the_first_key_only(&KnownNodes::in_memory());
    }

    #[test]
    fn in_a_file_that_outlives_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("known_nodes");
        assert_trusts_the_first_key_only(&KnownNodes::open(&path).unwrap());
        let again = KnownNodes::open(&path).unwrap();
        assert_eq!(again.check(&at(URL), key(2)).unwrap(), Acquaintance::Known);
        assert!(again.check(&at("ws://other"), key(3)).unwrap_err().to_string().contains("known_nodes"));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn edits_of_people_and_other_processes_count() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("known_nodes");
        std::fs::write(&path, "# mine").unwrap();
        let (left, right) = (KnownNodes::open(&path).unwrap(), KnownNodes::open(&path).unwrap());
        left.check(&at(URL), key(1)).unwrap();
        assert!(matches!(right.check(&at(URL), key(2)), Err(PinError::KeyChanged { .. })));
        right.check(&at("ws://other"), key(2)).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!("# mine\n{URL} {}\nws://other {}\n", key(1), key(2)));
    }

    #[test]
    fn a_damaged_line_is_named_and_nothing_is_trusted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("known_nodes");
        let twice = format!("{URL} {}\n{URL} {}\n", key(1), key(2));
        for (text, line) in [("\nws://hub\n".to_owned(), 2), ("ws://hub blz1-x".to_owned(), 1), (twice, 2)] {
            std::fs::write(&path, &text).unwrap();
            assert!(
                matches!(KnownNodes::open(&path), Err(PinError::Line { line: found, .. }) if found == line),
                "{text}"
            );
        }
    }
}
