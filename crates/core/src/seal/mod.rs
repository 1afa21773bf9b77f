//! Sealing: what leaves a member of a database is readable by its members only.
//!
//! A member keeps plain records. [`Sealer::seal_batch`] stands between its feed and the wire, [`Sealer::open_batch`]
//! between the wire and its merge; whoever has no key (a hub) merges what is sealed by its stamps. Specified in
//! `docs/spec/sealing.md`, with golden vectors in `vectors/sealing.json`.
//!
//! Invariants:
//! - **Bound**: what is sealed opens in its database, record, field, write and epoch, and nowhere else.
//! - **Deterministic**: sealing the same again gives the same bytes, and a nonce is never used for anything else.
//! - **Nothing fails open**: a field that is to be sealed and arrives readable is not taken.

mod batch;
mod cells;
mod content;
mod keys;
mod pack;
mod shape;

pub use batch::Unopened;
pub(crate) use content::Renumbered;
pub use content::{Mergeable, Sealed, SealedField, SealedGroup, SealedMergeable, SealedVersion};
pub use keys::{DatabaseKeyId, FieldTag, SealKeys, Secret, is_sealed_name};
pub use pack::{Dictionary, Samples};

use crate::blazebinary::DecodeError;
use crate::topology::EncryptionSpec;

/// Why something can't be sealed or opened.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// The key of an epoch is not here.
    #[error("it is sealed with the key of epoch {0}, which this device does not have")]
    NoKey(u32),
    /// The authentication tag does not fit what it came with.
    #[error("its sealed value was tampered with")]
    Tampered,
    /// A field arrived readable.
    #[error("its field {0:?} is to be sealed and is not")]
    NotSealed(String),
    /// A field name is too long to be sealed.
    #[error("field name {0:?} is too long to be sealed: at most 159 bytes")]
    LongName(String),
    /// What came out of a sealed value is not what a member puts in.
    #[error("its sealed value is malformed: {0}")]
    Malformed(#[from] DecodeError),
    /// A record became too large by sealing.
    #[error(transparent)]
    TooLarge(#[from] crate::blazebinary::EncodeError),
}

/// Seals and opens for one database, with the keys that a member has.
#[derive(Debug)]
pub struct Sealer {
    keys: SealKeys,
    rule: EncryptionSpec,
    active: bool,
    /// Readable forms of sealed fields are still under way, from before they were sealed.
    lenient: bool,
}

impl Sealer {
    /// A sealer that seals what `rule` says.
    #[must_use]
    pub const fn new(keys: SealKeys, rule: EncryptionSpec) -> Self {
        Self { keys, rule, active: true, lenient: false }
    }

    /// Whether it stands for a member: one that was removed opens what it can, and sends nothing.
    #[must_use]
    pub const fn active(mut self, active: bool) -> Self {
        self.active = active;
        self
    }

    /// Whether it takes readable forms of sealed fields: while a change of the rule is not settled.
    #[must_use]
    pub const fn lenient(mut self, lenient: bool) -> Self {
        self.lenient = lenient;
        self
    }

    /// Whether it stands for a member.
    #[must_use]
    pub const fn is_active(&self) -> bool {
        self.active
    }

    /// Whether anything is sealed.
    #[must_use]
    pub fn seals(&self) -> bool {
        self.rule != EncryptionSpec::SmartProxy
    }

    /// What is sealed.
    #[must_use]
    pub const fn rule(&self) -> &EncryptionSpec {
        &self.rule
    }

    /// The keys.
    #[must_use]
    pub const fn keys(&self) -> &SealKeys {
        &self.keys
    }

    /// The name of a field as others see it: sealed, or as it is if the rule leaves it readable.
    ///
    /// # Errors
    /// [`SealError::LongName`].
    pub fn public_name(&self, name: &str) -> Result<String, SealError> {
        if self.rule.seals(name) {
            self.keys.seal_name(name).map(|(_, text)| text)
        } else {
            Ok(name.to_owned())
        }
    }
}

#[cfg(test)]
mod tests;
