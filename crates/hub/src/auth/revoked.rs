//! What is revoked: tokens by their id, users, nodes.
//!
//! A line each; empty lines and lines that begin with `#` mean nothing. `sub:NAME` is a user, `blz1-...` the
//! fingerprint of a node's key, anything else the id of a token (`jti`).

use std::collections::HashSet;
use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::Path;
use std::str::FromStr;

use blazedb::Fingerprint;
use blazedb_transport::files;

use super::peer::Peer;
use super::refusal::TokenRefusal;

const HEADER: &str =
    "# Revoked: the id of a token, sub:USER, or the fingerprint of a node's key, one a line.\n";

/// One thing that is revoked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Revocation {
    /// A token, by its id.
    Token(String),
    /// A user, whatever the token and the issuer.
    User(String),
    /// A node, whoever uses it.
    Node(Fingerprint),
}

/// A text that revokes nothing.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RevocationError {
    /// A fingerprint that is none.
    #[error("{0:?} is no fingerprint of a node's key")]
    Node(String),
    /// Something that does not fit a line.
    #[error("{0:?} can't be revoked: it is empty or has spaces or control characters")]
    Text(String),
}

impl FromStr for Revocation {
    type Err = RevocationError;

    fn from_str(text: &str) -> Result<Self, RevocationError> {
        let user = text.strip_prefix("sub:");
        let named = user.unwrap_or(text);
        let odd = |c: char| c.is_control() || (user.is_none() && c.is_whitespace());
        if named.is_empty() || named.chars().any(odd) {
            return Err(RevocationError::Text(text.to_owned()));
        }
        match (user, text.parse()) {
            (Some(user), _) => Ok(Self::User(user.to_owned())),
            (None, Ok(fingerprint)) => Ok(Self::Node(fingerprint)),
            (None, Err(_)) if text.starts_with("blz1-") => Err(RevocationError::Node(text.to_owned())),
            (None, Err(_)) => Ok(Self::Token(text.to_owned())),
        }
    }
}

impl fmt::Display for Revocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token(id) => f.write_str(id),
            Self::User(name) => write!(f, "sub:{name}"),
            Self::Node(fingerprint) => fingerprint.fmt(f),
        }
    }
}

impl Revocation {
    /// Adds a line to the list in `path`, unless it is there. Whether it was added. Lines of processes that do so at
    /// the same time don't get lost.
    ///
    /// # Errors
    /// What the system says.
    pub fn append_to(&self, path: &Path) -> io::Result<bool> {
        let text = files::read_text(path)?;
        let line = self.to_string();
        if text.iter().flat_map(|text| text.lines()).any(|known| known.trim() == line) {
            return Ok(false);
        }
        let before = match &text {
            None => HEADER,
            Some(text) if text.is_empty() || text.ends_with('\n') => "",
            Some(_) => "\n",
        };
        let mut options = OpenOptions::new();
        options.append(true).create(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(path)?;
        file.write_all(format!("{before}{line}\n").as_bytes())?;
        file.sync_all().map(|()| true)
    }
}

/// All that is revoked.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RevokedList {
    tokens: HashSet<String>,
    users: HashSet<String>,
    nodes: HashSet<Fingerprint>,
}

impl RevokedList {
    /// Reads the lines.
    ///
    /// # Errors
    /// The first line that can't be understood, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut list = Self::default();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match line.parse() {
                Ok(Revocation::Token(id)) => drop(list.tokens.insert(id)),
                Ok(Revocation::User(name)) => drop(list.users.insert(name)),
                Ok(Revocation::Node(fingerprint)) => drop(list.nodes.insert(fingerprint)),
                Err(error) => return Err(format!("line {}: {error}", index + 1)),
            }
        }
        Ok(list)
    }

    /// Refuses a peer that is on the list.
    ///
    /// # Errors
    /// [`TokenRefusal::Revoked`].
    pub fn check(&self, peer: &Peer) -> Result<(), TokenRefusal> {
        if self.nodes.contains(&peer.fingerprint) {
            return Err(TokenRefusal::Revoked("this node's key"));
        }
        self.check_user(peer.user.as_ref().map(|user| user.id.as_str()), peer.token.as_deref())
    }

    /// Refuses a user, or the token with this id, that is on the list.
    ///
    /// # Errors
    /// [`TokenRefusal::Revoked`].
    pub fn check_user(&self, user: Option<&str>, token: Option<&str>) -> Result<(), TokenRefusal> {
        if user.is_some_and(|user| self.users.contains(user)) {
            return Err(TokenRefusal::Revoked("the token's user"));
        }
        if token.is_some_and(|id| self.tokens.contains(id)) {
            return Err(TokenRefusal::Revoked("the token"));
        }
        Ok(())
    }
}
