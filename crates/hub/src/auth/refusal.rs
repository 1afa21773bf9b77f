//! Why a token, or a peer without one, is not accepted.
//!
//! Invariant: the words go to the peer, so they hold nothing that it does not know already, cut to a bounded length.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Who a peer is was not accepted.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenRefusal {
    /// It came without a token, and this node wants one.
    #[error("a token is needed: have one issued or ask for an invitation, and set token_file")]
    Missing,
    /// It is no signed JWT.
    #[error("the token is malformed: {0}")]
    Malformed(&'static str),
    /// It is signed in a way that is not accepted here, or not at all.
    #[error(
        "the token's algorithm {0:?} is not accepted: only ES256 and EdDSA are, each with a key made for it"
    )]
    Algorithm(String),
    /// Its header demands something that this node does not know.
    #[error("the token's header has critical extensions (crit), of which none is known here")]
    Critical,
    /// No issuer with this name is configured.
    #[error("the token's issuer {0:?} is not one of this node's [auth] issuers")]
    UnknownIssuer(String),
    /// The issuer has no key that could have made the signature.
    #[error("the issuer {issuer:?} has no key {key:?} here")]
    UnknownKey {
        /// The issuer.
        issuer: String,
        /// The key's id, as the token says.
        key: String,
    },
    /// The issuer's keys can't be had at the moment.
    #[error("the keys of the issuer {0:?} can't be read on this node: its log says why")]
    KeysUnreadable(String),
    /// The list of what is revoked can't be had at the moment.
    #[error("this node's list of revoked tokens can't be read: its log says why")]
    ListUnreadable,
    /// The signature does not fit.
    #[error("the token's signature is not one of the issuer {0:?}")]
    Signature(String),
    /// It is over.
    #[error("the token expired at {}", shown(*.0))]
    Expired(u64),
    /// It has not begun.
    #[error("the token is not valid before {}", shown(*.0))]
    NotYetValid(u64),
    /// A claim is missing or is not what it must be.
    #[error("the token's claim {claim:?} {problem}")]
    Claim {
        /// Its name.
        claim: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// It is meant for somebody else.
    #[error("the token is not meant for this node: its claim \"aud\" is not the issuer's audience here")]
    Audience,
    /// It belongs to another node.
    #[error("the token is bound to the key of another node")]
    OtherNode,
    /// It belongs to a node, and none is there to prove its key.
    #[error("the token is bound to a node's key: only that node can use it")]
    Bound,
    /// This node stopped in the middle.
    #[error("this node is stopping: try again")]
    Interrupted,
    /// It, its user or the node has been revoked.
    #[error("{0} is revoked")]
    Revoked(&'static str),
}

/// Text of a stranger, cut.
pub(super) fn cut(text: &str) -> String {
    text.chars().take(64).collect()
}

/// A time in seconds since the Unix epoch, for people.
pub(super) fn shown(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|at| OffsetDateTime::from_unix_timestamp(at).ok());
    time.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_else(|| "the end of time".to_owned())
}
