//! The chain of statements and what it comes to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::epochs::{open_dictionary, open_previous};
use super::{
    Act, KeyringError, Keys, Member, MemberId, MemberKind, MemberSecret, NewEpoch, Statement, StatementHash,
};
use crate::limits::{MAX_DICTIONARY_BYTES, MAX_KEYRING_MEMBERS, MAX_STATEMENTS};
use crate::seal::{DatabaseKeyId, SealKeys, Secret};
use crate::topology::EncryptionSpec;

/// What sealing adds to a dictionary, in bytes.
const SEAL_TAG_BYTES: usize = 16;

/// A keyring: its statements and what they come to.
#[derive(Clone, Debug)]
pub struct Keyring {
    statements: Vec<Arc<[u8]>>,
    hashes: Vec<StatementHash>,
    database: DatabaseKeyId,
    salt: Option<[u8; 16]>,
    rule: EncryptionSpec,
    /// What was sealed before, while not everything is known to have been sent anew.
    unsettled: Option<EncryptionSpec>,
    members: BTreeMap<MemberId, Member>,
    epochs: BTreeMap<u32, Epoch>,
}

#[derive(Clone, Debug, Default)]
struct Epoch {
    wraps: BTreeMap<MemberId, Vec<u8>>,
    previous: Vec<u8>,
    /// Empty: none has been said.
    dictionary: Vec<u8>,
}

/// How far a keyring goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct KeyringHead {
    /// How many statements there are.
    pub count: u64,
    /// The hash of the last; zeros if there is none.
    pub hash: StatementHash,
}

/// The secrets that a member has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unlocked {
    /// What names are sealed with.
    pub names: Secret,
    /// What values are sealed with, by epoch.
    pub values: BTreeMap<u32, Secret>,
    /// What opens the keys of the epoch before, by epoch.
    pub(super) history: BTreeMap<u32, Secret>,
}

impl Keyring {
    /// The keyring that begins with this statement.
    ///
    /// # Errors
    /// [`KeyringError`] if it is no first statement.
    pub fn begin(statement: &[u8]) -> Result<Self, KeyringError> {
        let (parsed, signed, signature) = Statement::decode(statement)?;
        let Act::Create { database, salt, member, rule, epoch } = parsed.act else {
            return Err(KeyringError::Contradiction("it does not begin with its creation"));
        };
        let id = member.id();
        if parsed.author != id || parsed.parent != [0; 32] {
            return Err(KeyringError::NotAllowed(parsed.author));
        }
        member.verify(&signed, &signature)?;
        if (member.kind == MemberKind::Passphrase) != salt.is_some() || member.kind == MemberKind::Invitation
        {
            return Err(KeyringError::Contradiction("its first member can't be one"));
        }
        let mut keyring = Self {
            statements: Vec::new(),
            hashes: Vec::new(),
            database,
            salt,
            rule,
            unsettled: None,
            members: BTreeMap::from([(id, member.clone())]),
            epochs: BTreeMap::new(),
        };
        keyring.check_epoch(&epoch, &keyring.member_ids(), &member)?;
        keyring.add_epoch(epoch);
        keyring.push(statement);
        Ok(keyring)
    }

    /// The keyring of these statements.
    ///
    /// # Errors
    /// The first that does not fit.
    pub fn of<'s>(statements: impl IntoIterator<Item = &'s [u8]>) -> Result<Option<Self>, KeyringError> {
        let mut statements = statements.into_iter();
        let Some(first) = statements.next() else { return Ok(None) };
        let mut keyring = Self::begin(first)?;
        statements.try_for_each(|statement| keyring.extend(statement))?;
        Ok(Some(keyring))
    }

    /// Adds a statement.
    ///
    /// # Errors
    /// [`KeyringError`]; the keyring is then unchanged.
    pub fn extend(&mut self, statement: &[u8]) -> Result<(), KeyringError> {
        let (parsed, signed, signature) = Statement::decode(statement)?;
        if parsed.parent != self.head().hash {
            return Err(KeyringError::Parent);
        }
        if self.statements.len() >= MAX_STATEMENTS {
            return Err(KeyringError::Contradiction("it has too many statements"));
        }
        let author = self.members.get(&parsed.author).ok_or(KeyringError::NotAllowed(parsed.author))?.clone();
        author.verify(&signed, &signature)?;
        let joins = matches!(parsed.act, Act::Join { .. });
        if joins == (author.kind == MemberKind::Device) || (!joins && author.kind == MemberKind::Invitation) {
            return Err(KeyringError::NotAllowed(parsed.author));
        }
        self.take(parsed.act, &author)?;
        self.push(statement);
        Ok(())
    }

    fn take(&mut self, act: Act, author: &Member) -> Result<(), KeyringError> {
        match act {
            Act::Create { .. } => Err(KeyringError::Contradiction("it is created twice")),
            Act::Invite { member, keys, .. } => self.take_invite(member, keys, author),
            Act::Join { member, wraps } => self.take_join(member, wraps, author),
            Act::Remove { members, epoch } => {
                let gone: BTreeSet<MemberId> = members.into_iter().collect();
                if gone.is_empty() || !gone.iter().all(|id| self.members.contains_key(id)) {
                    return Err(KeyringError::Contradiction("it removes somebody who is no member"));
                }
                let rest: BTreeSet<MemberId> = self.member_ids().difference(&gone).copied().collect();
                self.check_epoch(&epoch, &rest, author)?;
                self.members.retain(|id, _| rest.contains(id));
                self.add_epoch(epoch);
                Ok(())
            }
            Act::Rotate(epoch) => {
                self.check_epoch(&epoch, &self.member_ids(), author)?;
                self.add_epoch(epoch);
                Ok(())
            }
            Act::Rule(rule) => {
                let before = std::mem::replace(&mut self.rule, rule);
                self.unsettled.get_or_insert(before);
                Ok(())
            }
            Act::Settled { .. } => {
                self.unsettled = None;
                Ok(())
            }
            Act::Dictionary { epoch, sealed } => self.take_dictionary(epoch, sealed),
        }
    }

    fn take_dictionary(&mut self, number: u32, sealed: Vec<u8>) -> Result<(), KeyringError> {
        let current = self.epoch();
        let epoch =
            self.epochs.get_mut(&number).filter(|epoch| number == current && epoch.dictionary.is_empty());
        let fits = (1..=MAX_DICTIONARY_BYTES + SEAL_TAG_BYTES).contains(&sealed.len());
        let Some(epoch) = epoch.filter(|_| fits) else {
            return Err(KeyringError::Contradiction(
                "the current epoch gets one dictionary, of a limited size",
            ));
        };
        epoch.dictionary = sealed;
        Ok(())
    }

    fn take_invite(&mut self, member: Member, keys: Keys, author: &Member) -> Result<(), KeyringError> {
        let id = member.id();
        self.check_new(&member, author)?;
        if member.kind == MemberKind::Device {
            return Err(KeyringError::Contradiction("a device joins by itself"));
        }
        match keys {
            Keys::Current(wrapped) => {
                if !member.history {
                    return Err(KeyringError::Contradiction("who may not read history needs a new epoch"));
                }
                self.members.insert(id, member);
                self.epochs.entry(self.epoch()).or_default().wraps.insert(id, wrapped);
            }
            Keys::New(epoch) => {
                let mut all = self.member_ids();
                all.insert(id);
                self.check_epoch(&epoch, &all, author)?;
                self.members.insert(id, member);
                self.add_epoch(epoch);
            }
        }
        Ok(())
    }

    fn take_join(
        &mut self,
        member: Member,
        wraps: Vec<(u32, Vec<u8>)>,
        author: &Member,
    ) -> Result<(), KeyringError> {
        self.check_new(&member, author)?;
        if member.kind != MemberKind::Device || !wraps.iter().any(|(epoch, _)| *epoch == self.epoch()) {
            return Err(KeyringError::Contradiction("who joins is a device with the key of the epoch"));
        }
        if !wraps.iter().all(|(epoch, _)| self.epochs.contains_key(epoch)) {
            return Err(KeyringError::Contradiction("it names an epoch that never was"));
        }
        if author.kind == MemberKind::Invitation {
            self.members.remove(&author.id());
        }
        let id = member.id();
        for (epoch, wrapped) in wraps {
            self.epochs.entry(epoch).or_default().wraps.insert(id, wrapped);
        }
        self.members.insert(id, member);
        Ok(())
    }

    fn check_new(&self, member: &Member, author: &Member) -> Result<(), KeyringError> {
        let known = self.epochs.values().any(|epoch| epoch.wraps.contains_key(&member.id()));
        if known || self.members.len() >= MAX_KEYRING_MEMBERS {
            return Err(KeyringError::Contradiction("it names a member twice, or too many"));
        }
        if member.history && !author.history {
            return Err(KeyringError::Contradiction("history is given by somebody who has none"));
        }
        Ok(())
    }

    fn check_epoch(
        &self,
        epoch: &NewEpoch,
        members: &BTreeSet<MemberId>,
        author: &Member,
    ) -> Result<(), KeyringError> {
        if !author.history && self.members.values().any(|member| member.history) {
            return Err(KeyringError::Contradiction(
                "who has no history can't hand it on to a new epoch: a member who has it must begin that",
            ));
        }
        let wrapped: BTreeSet<MemberId> = epoch.wraps.iter().map(|(id, _)| *id).collect();
        if Some(epoch.number) != self.epoch().checked_add(1) {
            return Err(KeyringError::Contradiction("epochs are counted up one by one"));
        }
        if wrapped != *members || wrapped.len() != epoch.wraps.len() {
            return Err(KeyringError::Contradiction(
                "the keys of a new epoch are for the members, each once",
            ));
        }
        Ok(())
    }

    fn add_epoch(&mut self, epoch: NewEpoch) {
        let wraps = epoch.wraps.into_iter().collect();
        self.epochs.insert(epoch.number, Epoch { wraps, previous: epoch.previous, ..Epoch::default() });
    }

    fn push(&mut self, statement: &[u8]) {
        self.hashes.push(Statement::hash(statement));
        self.statements.push(statement.into());
    }

    /// How far it goes.
    #[must_use]
    pub fn head(&self) -> KeyringHead {
        let hash = self.hashes.last().copied().unwrap_or_default();
        KeyringHead { count: self.hashes.len() as u64, hash }
    }

    /// Whether another keyring that ends there is the start of this one.
    #[must_use]
    pub fn begins_with(&self, head: &KeyringHead) -> bool {
        let last = usize::try_from(head.count).ok().and_then(|count| count.checked_sub(1));
        last.is_none_or(|last| self.hashes.get(last) == Some(&head.hash))
    }

    /// The hash of the first statement: what tells this keyring from all others.
    #[must_use]
    pub fn root(&self) -> StatementHash {
        self.hashes.first().copied().unwrap_or_default()
    }

    /// The hash of the last of so many statements; of none, of the first.
    pub(super) fn hash_at(&self, count: u64) -> StatementHash {
        let last = usize::try_from(count.saturating_sub(1)).ok();
        last.and_then(|last| self.hashes.get(last)).copied().unwrap_or_else(|| self.root())
    }

    pub(super) fn hashes(&self) -> &[StatementHash] {
        &self.hashes
    }

    /// The statements, from the one with this number on.
    #[must_use]
    pub fn statements(&self, from: usize) -> &[Arc<[u8]>] {
        self.statements.get(from..).unwrap_or_default()
    }

    /// Its id.
    #[must_use]
    pub const fn database(&self) -> &DatabaseKeyId {
        &self.database
    }

    /// The salt of the passphrase, if it was made with one.
    #[must_use]
    pub const fn salt(&self) -> Option<&[u8; 16]> {
        self.salt.as_ref()
    }

    /// What is sealed.
    #[must_use]
    pub const fn rule(&self) -> &EncryptionSpec {
        &self.rule
    }

    /// What was sealed before the last change, as long as not everything is known to have been sent anew.
    #[must_use]
    pub const fn unsettled(&self) -> Option<&EncryptionSpec> {
        self.unsettled.as_ref()
    }

    /// The current epoch.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.epochs.keys().next_back().copied().unwrap_or(0)
    }

    /// The members.
    pub fn members(&self) -> impl Iterator<Item = (&MemberId, &Member)> {
        self.members.iter()
    }

    /// A member.
    #[must_use]
    pub fn member(&self, id: &MemberId) -> Option<&Member> {
        self.members.get(id)
    }

    /// The invitations and recovery phrases that these members made and that are still good.
    #[must_use]
    pub fn codes_of(&self, authors: &[MemberId]) -> Vec<MemberId> {
        let statements = self.statements.iter().filter_map(|bytes| Some(Statement::decode(bytes).ok()?.0));
        let made = statements.filter(|statement| authors.contains(&statement.author));
        let codes = made.filter_map(|statement| match statement.act {
            Act::Invite { member, .. } => Some(member.id()),
            _ => None,
        });
        codes.filter(|id| self.member(id).is_some_and(|member| member.kind != MemberKind::Device)).collect()
    }

    /// The proof that came with an invited member.
    #[must_use]
    pub(super) fn root_proof(&self, id: &MemberId) -> Option<[u8; 32]> {
        let mut proofs =
            self.statements.iter().rev().filter_map(|bytes| match Statement::decode(bytes).ok()?.0.act {
                Act::Invite { member, root_proof, .. } if member.id() == *id => Some(root_proof),
                _ => None,
            });
        proofs.next()
    }

    fn member_ids(&self) -> BTreeSet<MemberId> {
        self.members.keys().copied().collect()
    }

    /// The secrets that the member of `secret` has. One that was removed still has those of its time.
    ///
    /// # Errors
    /// [`KeyringError::NotMember`] if there are none that open.
    pub fn unlock(&self, secret: &MemberSecret) -> Result<Unlocked, KeyringError> {
        let id = secret.id().ok_or(KeyringError::NotMember)?;
        let mut unlocked: Option<Unlocked> = None;
        for (number, epoch) in &self.epochs {
            let Some(wrapped) = epoch.wraps.get(&id) else { continue };
            // Nobody else can check what a member wraps for this one: what does not open is a key that it does not have.
            let Ok(opened) = secret.unwrap(id, &self.database, *number, wrapped) else { continue };
            let Some(keys) = parse_secrets(&opened) else { continue };
            let unlocked = unlocked.get_or_insert_with(|| Unlocked {
                names: keys.0,
                values: BTreeMap::new(),
                history: BTreeMap::new(),
            });
            unlocked.values.insert(*number, keys.1);
            keys.2.into_iter().for_each(|history| drop(unlocked.history.insert(*number, history)));
        }
        let mut unlocked = unlocked.ok_or(KeyringError::NotMember)?;
        self.unlock_history(&mut unlocked);
        Ok(unlocked)
    }

    /// Each epoch's history key opens the keys of the one before.
    fn unlock_history(&self, unlocked: &mut Unlocked) {
        for (number, epoch) in self.epochs.iter().rev() {
            let before = number.saturating_sub(1);
            let Some(history) = unlocked.history.get(number).filter(|_| !epoch.previous.is_empty()) else {
                continue;
            };
            // As with what is wrapped: the epochs before are then closed, and all others open.
            let Ok(opened) = open_previous(&self.database, *number, history, &epoch.previous) else {
                continue;
            };
            let Some((values, older)) = opened.split_first_chunk() else { continue };
            unlocked.values.entry(before).or_insert_with(|| Secret::new(*values));
            if let Ok(older) = older.try_into() {
                unlocked.history.entry(before).or_insert_with(|| Secret::new(older));
            }
        }
    }

    /// What these secrets come to for sealing.
    #[must_use]
    pub fn seal_keys(&self, unlocked: &Unlocked) -> Option<SealKeys> {
        let values = unlocked.values.iter().map(|(epoch, secret)| (*epoch, secret));
        let mut keys = SealKeys::new(self.database, &unlocked.names, values)?;
        for (number, secret) in &unlocked.values {
            let sealed = self.epochs.get(number).map_or(&[][..], |epoch| &epoch.dictionary);
            let dictionary = open_dictionary(&self.database, *number, secret, sealed);
            dictionary.into_iter().for_each(|dictionary| keys.set_dictionary(*number, dictionary));
        }
        Some(keys)
    }

    /// Whether it was said what values are compressed with in the current epoch.
    #[must_use]
    pub fn has_dictionary(&self) -> bool {
        self.epochs.last_key_value().is_some_and(|(_, epoch)| !epoch.dictionary.is_empty())
    }
}

fn parse_secrets(bytes: &[u8]) -> Option<(Secret, Secret, Option<Secret>)> {
    let (names, rest) = bytes.split_first_chunk()?;
    let (values, history) = rest.split_first_chunk()?;
    let history = if history.is_empty() { None } else { Some(Secret::new(history.try_into().ok()?)) };
    Some((Secret::new(*names), Secret::new(*values), history))
}
