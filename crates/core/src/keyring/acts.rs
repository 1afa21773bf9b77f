//! Making statements. What is random comes from the caller, as 32 bytes that serve for one statement only.

use aws_lc_rs::hmac;

use super::epochs::{seal_dictionary, seal_previous};
use super::{
    Act, Keyring, KeyringError, Keys, Member, MemberId, MemberKind, MemberSecret, NewEpoch, Statement,
    StatementHash, Unlocked, retired_tag,
};
use crate::seal::{DatabaseKeyId, Secret};
use crate::topology::EncryptionSpec;

/// Who makes a statement, and with what.
#[derive(Clone, Copy, Debug)]
pub struct Author<'a> {
    /// The member's secret.
    pub secret: &'a MemberSecret,
    /// 32 random bytes.
    pub random: &'a Secret,
    /// The wall clock, in milliseconds since the Unix epoch.
    pub now_ms: u64,
}

impl Author<'_> {
    fn id(&self) -> Result<MemberId, KeyringError> {
        self.secret.id().ok_or(KeyringError::NotMember)
    }

    fn sign(&self, parent: StatementHash, act: Act) -> Result<Vec<u8>, KeyringError> {
        Statement { parent, author: self.id()?, at_ms: self.now_ms, act }.sign(self.secret)
    }

    fn secret_for(&self, what: &[u8]) -> Secret {
        self.random.derive(&[], what)
    }
}

impl Keyring {
    /// The first statement of a new keyring, whose only member is the author: a device, or with `salt` whoever
    /// knows the passphrase.
    ///
    /// # Errors
    /// [`KeyringError`] if the author's secret is no key.
    pub fn create(
        author: Author<'_>,
        name: &str,
        salt: Option<[u8; 16]>,
        rule: EncryptionSpec,
    ) -> Result<Vec<u8>, KeyringError> {
        let kind = if salt.is_some() { MemberKind::Passphrase } else { MemberKind::Device };
        let member = author.secret.member(kind, name, true).ok_or(KeyringError::NotMember)?;
        let database = author.secret_for(b"database");
        let database: DatabaseKeyId = database.as_bytes().first_chunk().copied().unwrap_or_default();
        let names = author.secret_for(b"names");
        let epoch = new_epoch(author, &database, 1, &names, Vec::new(), [&member].into_iter())?;
        author.sign([0; 32], Act::Create { database, salt, member, rule, epoch })
    }

    /// Makes whoever has `invited` a member. Without `history` it begins a new epoch, so that only what is written
    /// from now on can be read. So many statements are `agreed`: others have them too, and whoever comes with `invited` has to be
    /// shown them.
    ///
    /// # Errors
    /// [`KeyringError::NotMember`], or if the author has no history to give.
    pub fn invite(
        &self,
        author: Author<'_>,
        invited: &MemberSecret,
        kind: MemberKind,
        name: &str,
        history: bool,
        agreed: u64,
    ) -> Result<Vec<u8>, KeyringError> {
        let unlocked = self.unlock(author.secret)?;
        let member = invited.member(kind, name, history).ok_or(KeyringError::NotMember)?;
        self.invite_member(author, &unlocked, member, root_proof(invited, &self.hash_at(agreed)))
    }

    fn invite_member(
        &self,
        author: Author<'_>,
        unlocked: &Unlocked,
        member: Member,
        root_proof: [u8; 32],
    ) -> Result<Vec<u8>, KeyringError> {
        let keys = if member.history {
            let secrets = secrets(unlocked, self.epoch(), true).ok_or(KeyringError::NotMember)?;
            let seed = author.secret_for(b"invite");
            Keys::Current(member.wrap(self.database(), self.epoch(), &secrets, &seed)?)
        } else {
            let members = self.members().map(|(_, member)| member).chain([&member]);
            Keys::New(self.next_epoch(author, unlocked, members)?)
        };
        author.sign(self.head().hash, Act::Invite { member, root_proof, keys })
    }

    /// The same again, on top of what others have said meanwhile. What a code let in (a join) can't be said again.
    ///
    /// # Errors
    /// As the act itself.
    pub fn remake(&self, author: Author<'_>, act: Act) -> Result<Vec<u8>, KeyringError> {
        match act {
            Act::Invite { member, root_proof, .. } => {
                self.invite_member(author, &self.unlock(author.secret)?, member, root_proof)
            }
            Act::Remove { members, .. } => {
                // Somebody else may have removed some of them: the others are still to go.
                let rest: Vec<MemberId> =
                    members.into_iter().filter(|id| self.member(id).is_some()).collect();
                self.remove(author, &rest)
            }
            Act::Rotate(_) => self.rotate(author),
            Act::Rule(_) => author.sign(self.head().hash, act),
            // Names are bound to the statement before, a dictionary to the epoch; whoever said it says it again.
            Act::Settled { .. } | Act::Dictionary { .. } | Act::Create { .. } | Act::Join { .. } => {
                Err(KeyringError::Parent)
            }
        }
    }

    /// Whether whoever made this keyring knew the secret of `code`, which names one of its members.
    ///
    /// # Errors
    /// [`KeyringError::UnknownCode`] if no member has it, [`KeyringError::SpentCode`] if one had,
    /// [`KeyringError::ForeignRoot`] if the keyring is another
    /// than the one that its maker invited to.
    pub fn check_root(&self, code: &MemberSecret) -> Result<MemberId, KeyringError> {
        let id = code.id().ok_or(KeyringError::UnknownCode)?;
        if self.member(&id).is_none() {
            let was_there = self.root_proof(&id).is_some();
            return Err(if was_there { KeyringError::SpentCode } else { KeyringError::UnknownCode });
        }
        // The passphrase's member made the keyring itself.
        let made_it = Statement::decode(self.statements(0).first().map_or(&[], |first| first))
            .is_ok_and(|(first, ..)| first.author == id);
        let proof = self.root_proof(&id);
        if made_it || self.hashes().iter().any(|hash| proof == Some(root_proof(code, hash))) {
            Ok(id)
        } else {
            Err(KeyringError::ForeignRoot)
        }
    }

    /// Lets the device of `device` join by `code`: the secret of an invitation, recovery phrase or passphrase.
    ///
    /// # Errors
    /// As [`Keyring::check_root`].
    pub fn join(&self, code: Author<'_>, device: &MemberSecret, name: &str) -> Result<Vec<u8>, KeyringError> {
        let id = self.check_root(code.secret)?;
        let unlocked = self.unlock(code.secret)?;
        let history = self.member(&id).is_some_and(|member| member.history);
        let member = device.member(MemberKind::Device, name, history).ok_or(KeyringError::NotMember)?;
        let mut wraps = Vec::new();
        for epoch in unlocked.values.keys() {
            // With history the newest opens all others.
            if history && *epoch != self.epoch() {
                continue;
            }
            let secrets = secrets(&unlocked, *epoch, history).ok_or(KeyringError::UnknownCode)?;
            let seed = code.secret_for(&epoch.to_be_bytes());
            wraps.push((*epoch, member.wrap(self.database(), *epoch, &secrets, &seed)?));
        }
        code.sign(self.head().hash, Act::Join { member, wraps })
    }

    /// Removes members and begins a new epoch without them.
    ///
    /// # Errors
    /// [`KeyringError::NotMember`].
    pub fn remove(&self, author: Author<'_>, gone: &[MemberId]) -> Result<Vec<u8>, KeyringError> {
        let unlocked = self.unlock(author.secret)?;
        let rest = self.members().filter(|(id, _)| !gone.contains(id)).map(|(_, member)| member);
        let epoch = self.next_epoch(author, &unlocked, rest)?;
        author.sign(self.head().hash, Act::Remove { members: gone.to_vec(), epoch })
    }

    /// Begins a new epoch.
    ///
    /// # Errors
    /// [`KeyringError::NotMember`].
    pub fn rotate(&self, author: Author<'_>) -> Result<Vec<u8>, KeyringError> {
        let unlocked = self.unlock(author.secret)?;
        let epoch = self.next_epoch(author, &unlocked, self.members().map(|(_, member)| member))?;
        author.sign(self.head().hash, Act::Rotate(epoch))
    }

    /// Says what is sealed from now on.
    ///
    /// # Errors
    /// [`KeyringError::NotMember`].
    pub fn set_rule(&self, author: Author<'_>, rule: EncryptionSpec) -> Result<Vec<u8>, KeyringError> {
        author.sign(self.head().hash, Act::Rule(rule))
    }

    /// Says that what the last rule changed has been sent anew: `retired` are the names of fields in the form before.
    ///
    /// # Errors
    /// [`KeyringError::NotMember`].
    pub fn settle(&self, author: Author<'_>, retired: &[String]) -> Result<Vec<u8>, KeyringError> {
        let parent = self.head().hash;
        let retired = retired.iter().map(|name| retired_tag(&parent, name)).collect();
        author.sign(self.head().hash, Act::Settled { retired })
    }

    /// Says what values are compressed with before they are sealed in the current epoch.
    ///
    /// # Errors
    /// [`KeyringError::NotMember`] if the author lacks the epoch's key.
    pub fn share_dictionary(&self, author: Author<'_>, dictionary: &[u8]) -> Result<Vec<u8>, KeyringError> {
        let (unlocked, epoch) = (self.unlock(author.secret)?, self.epoch());
        let values = unlocked.values.get(&epoch).ok_or(KeyringError::NotMember)?;
        let sealed = seal_dictionary(self.database(), epoch, values, dictionary.to_vec())?;
        author.sign(self.head().hash, Act::Dictionary { epoch, sealed })
    }

    fn next_epoch<'m>(
        &self,
        author: Author<'_>,
        unlocked: &Unlocked,
        members: impl Iterator<Item = &'m Member>,
    ) -> Result<NewEpoch, KeyringError> {
        let current = self.epoch();
        let values = unlocked.values.get(&current).ok_or(KeyringError::NotMember)?;
        let mut previous = values.as_bytes().to_vec();
        unlocked.history.get(&current).iter().for_each(|older| previous.extend_from_slice(older.as_bytes()));
        let number = current.saturating_add(1);
        new_epoch(author, self.database(), number, &unlocked.names, previous, members)
    }
}

/// Fresh keys, wrapped for `members`.
fn new_epoch<'m>(
    author: Author<'_>,
    database: &DatabaseKeyId,
    number: u32,
    names: &Secret,
    previous: Vec<u8>,
    members: impl Iterator<Item = &'m Member>,
) -> Result<NewEpoch, KeyringError> {
    let values = author.secret_for(b"values");
    let history = author.secret_for(b"history");
    let mut wraps = Vec::new();
    for member in members {
        let mut secrets = [names.as_bytes().as_slice(), values.as_bytes()].concat();
        if member.history {
            secrets.extend_from_slice(history.as_bytes());
        }
        wraps.push((member.id(), member.wrap(database, number, &secrets, &author.secret_for(b"wrap"))?));
    }
    let previous =
        if previous.is_empty() { previous } else { seal_previous(database, number, &history, previous)? };
    Ok(NewEpoch { number, wraps, previous })
}

/// What is wrapped for a member; `None` if the author does not have it.
fn secrets(unlocked: &Unlocked, epoch: u32, history: bool) -> Option<Vec<u8>> {
    let mut secrets = unlocked.names.as_bytes().to_vec();
    secrets.extend_from_slice(unlocked.values.get(&epoch)?.as_bytes());
    if history {
        secrets.extend_from_slice(unlocked.history.get(&epoch)?.as_bytes());
    }
    Some(secrets)
}

/// Proves to whoever has `secret` which keyring it belongs to.
fn root_proof(secret: &MemberSecret, root: &StatementHash) -> [u8; 32] {
    let key = secret.secret().derive(&[], b"blazedb keyring 1 root");
    let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes()), root);
    mac.as_ref().try_into().unwrap_or_default()
}
