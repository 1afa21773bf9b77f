//! Who may read a database: a chain of signed statements, and the keys that it hands out.
//!
//! A keyring belongs to a database and is held by its members and by every hub on the way, which can check and
//! relay it and read no key. Each statement is signed by a member and names the one before. The keys of an *epoch*
//! are wrapped for each member; a new epoch begins when a member goes. Specified in `docs/spec/keyring.md`.
//!
//! Invariants: a statement that the keyring as it stands does not allow is refused, whoever relays it; nobody
//! becomes a member but by a statement of a member, or by a secret that a member gave out; a member that has gone
//! gets no key of a later epoch.

mod acts;
mod chain;
mod code;
mod epochs;
mod member;
mod statement;

pub use acts::Author;
pub use chain::{Keyring, KeyringHead, Unlocked};
pub use code::{Code, passphrase_member};
pub use member::{Member, MemberId, MemberKind, MemberSecret};
pub use statement::{Act, Keys, NewEpoch, Statement, retired_tag};

use crate::blazebinary::DecodeError;

/// SHA-256 of a statement's bytes.
pub type StatementHash = [u8; 32];

/// A keyring can't be extended, or keys can't be had from it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyringError {
    /// Bytes that are no statement.
    #[error("a keyring statement is malformed: {0}")]
    Malformed(#[from] DecodeError),
    /// The signature is not its author's.
    #[error("a keyring statement is not signed by the member that it names")]
    Signature,
    /// It follows another statement than the last.
    #[error("a keyring statement does not follow the last one known here: fetch the keyring and try again")]
    Parent,
    /// Its author is no member, or may not say this.
    #[error("the member {0} may not make this change to the keyring")]
    NotAllowed(MemberId),
    /// It contradicts the keyring as it stands.
    #[error("a keyring statement contradicts the keyring: {0}")]
    Contradiction(&'static str),
    /// A key can't be wrapped or unwrapped.
    #[error("a key of the keyring can't be wrapped or unwrapped")]
    Wrap,
    /// This device is no member.
    #[error("this device is no member of the keyring: join it with `blazedb key join`")]
    NotMember,
    /// A code or phrase is mistyped.
    #[error("{0}")]
    Code(&'static str),
    /// The keyring was made by somebody who does not know the secret of the invitation.
    #[error(
        "the keyring offered for this invitation is not the one that its maker invited to; \
         somebody on the way (the hub) offers a key of its own"
    )]
    ForeignRoot,
    /// No member fits the code, phrase or passphrase.
    #[error("the code is not (or no longer) valid for this keyring: ask for a new invitation")]
    UnknownCode,
    /// The member that fits the code has been replaced by a device, or removed.
    #[error("the invitation has been used or withdrawn: ask for a new one")]
    SpentCode,
    /// Two keyrings went different ways.
    #[error("the other side holds another keyring of this database than this device")]
    Fork,
}

#[cfg(test)]
mod tests;
