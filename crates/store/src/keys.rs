//! The keyring of a database file, and the keys that this device has.
//!
//! Every holder of the database keeps the statements and checks them; a member also keeps its secret (the page
//! cipher protects it at rest) and seals and opens with what it unlocks.

use std::sync::{Arc, RwLock};

use blazedb_core::keyring::{
    Author, Code, Keyring, KeyringError, MemberId, MemberKind, MemberSecret, passphrase_member,
};
use blazedb_core::seal::{Sealer, Secret};
use blazedb_core::topology::EncryptionSpec;
use blazedb_sqlite::rusqlite::{self, Connection};

use crate::error::StoreError;
use crate::schema::{meta, set_meta};
use crate::store::Store;

/// `meta`: the secret of this device's member.
pub(crate) const SECRET: &str = "member_secret";
/// `meta`: the code, phrase or passphrase that this device is to join with, and what it is to be called.
pub(crate) const JOIN_WITH: &str = "join_with";
pub(crate) const JOIN_AS: &str = "join_as";
/// `meta`: the code that it joined with, for as long as it may have to be used again.
pub(crate) const JOINED_WITH: &str = "joined_with";
/// `meta`: how many statements somebody else is known to have as well.
pub(crate) const AGREED: &str = "keyring_agreed";

/// The keyring and what this device has of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Keys {
    pub(crate) keyring: Option<Arc<Keyring>>,
    pub(crate) secret: Option<MemberSecret>,
    /// Seals and opens; `None` on whoever is no member.
    pub(crate) sealer: Option<Arc<Sealer>>,
    /// Rises when what goes out is sealed in another way.
    pub(crate) generation: u64,
    /// How many statements somebody else is known to have as well.
    pub(crate) agreed: u64,
}

/// Shared by everybody who has the file open.
pub(crate) type SharedKeys = RwLock<Keys>;

/// Who made statements.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Origin {
    Here,
    Peer,
}

impl Keys {
    /// What the file says.
    pub(crate) fn load(db: &Connection) -> Result<Self, StoreError> {
        let sqlite = |error| crate::error::from_sqlite(std::path::Path::new("keyring"), error);
        let statements = read_statements(db).map_err(sqlite)?;
        let keyring = Keyring::of(statements.iter().map(Vec::as_slice))?.map(Arc::new);
        let secret: Option<[u8; 32]> = meta(db, SECRET).map_err(sqlite)?;
        let secret = secret.map(|secret| MemberSecret::new(Secret::new(secret)));
        let agreed: u64 = meta(db, AGREED).map_err(sqlite)?.unwrap_or(0);
        let mut keys = Self { keyring, secret, agreed, ..Self::default() };
        keys.unlock()?;
        Ok(keys)
    }

    /// Makes a sealer of what is there.
    pub(crate) fn unlock(&mut self) -> Result<(), StoreError> {
        let before = self.sealer.take();
        if let (Some(keyring), Some(secret)) = (&self.keyring, &self.secret) {
            let member = secret.id().is_some_and(|id| keyring.member(&id).is_some());
            match keyring.unlock(secret) {
                Ok(unlocked) => {
                    // Who lacks the key of the epoch reads what it can, and seals for nobody.
                    let member = member && unlocked.values.contains_key(&keyring.epoch());
                    let keys = keyring.seal_keys(&unlocked).ok_or(KeyringError::Wrap)?;
                    // One that was removed reads what it could read, and seals for nobody.
                    let sealer = Sealer::new(keys, keyring.rule().clone())
                        .active(member)
                        .lenient(keyring.unsettled().is_some());
                    self.sealer = Some(Arc::new(sealer));
                }
                Err(KeyringError::NotMember) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let rule = |sealer: &Option<Arc<Sealer>>| sealer.as_ref().map(|s| (s.rule().clone(), s.is_active()));
        let changed = rule(&before) != rule(&self.sealer);
        self.generation += u64::from(changed);
        Ok(())
    }

    /// Whether nothing was said here that nobody else has heard: nothing may be sealed with keys that another
    /// member's statement may yet come before.
    fn is_agreed(&self) -> bool {
        self.keyring.as_ref().is_none_or(|keyring| keyring.head().count <= self.agreed)
    }
}

fn read_statements(db: &Connection) -> rusqlite::Result<Vec<Vec<u8>>> {
    let mut statement = db.prepare("SELECT statement FROM keyring ORDER BY no")?;
    statement.query_map([], |row| row.get(0))?.collect()
}

/// Whether a code is an invitation, and neither a phrase nor a passphrase.
fn is_invitation(code: &str) -> bool {
    code.trim().to_lowercase().starts_with("blzi-")
}

/// The member that a code, phrase or passphrase makes of whoever has it.
pub(crate) fn secret_of(code: &str, keyring: &Keyring) -> Result<MemberSecret, StoreError> {
    match (Code::parse(code), keyring.salt()) {
        (Ok(code), _) => Ok(code.member()),
        (Err(_), Some(salt)) => Ok(passphrase_member(code, salt)?),
        (Err(error), None) => Err(error.into()),
    }
}

impl Store {
    pub(crate) fn random(&self) -> Result<Secret, StoreError> {
        let mut bytes = [0; 32];
        (self.inner.options.entropy)(&mut bytes)?;
        Ok(Secret::new(bytes))
    }

    pub(crate) fn keys(&self) -> Keys {
        self.inner.keys.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// The database's keyring, if it has one.
    #[must_use]
    pub fn keyring(&self) -> Option<Arc<Keyring>> {
        self.keys().keyring
    }

    /// What this device seals and opens with, if it is or was a member of the keyring.
    #[must_use]
    pub fn sealer(&self) -> Option<Arc<Sealer>> {
        self.keys().sealer
    }

    /// This device's member.
    #[must_use]
    pub fn member_id(&self) -> Option<MemberId> {
        self.keys().secret.and_then(|secret| secret.id())
    }

    /// Rises when what is sent from now on is sealed in another way than before: sessions then start anew.
    #[must_use]
    pub fn seal_generation(&self) -> u64 {
        self.keys().generation
    }

    /// Whether somebody else has heard of everything that was said here.
    #[must_use]
    pub fn keyring_is_agreed(&self) -> bool {
        self.keys().is_agreed()
    }

    /// Whether this device can sync under `policy`: it has the keys, and the keyring says the same.
    ///
    /// # Errors
    /// What is missing, in words that say what to do.
    pub fn ready_for(&self, policy: &EncryptionSpec) -> Result<(), String> {
        let keys = self.keys();
        let rule = keys.keyring.as_ref().map(|keyring| keyring.rule().clone()).unwrap_or_default();
        let member = keys.sealer.as_ref().is_some_and(|sealer| sealer.is_active());
        if keys.is_outsider() && *policy == EncryptionSpec::SmartProxy {
            // It relays what it can't read; what it wrote itself is refused where it arrives.
            return Ok(());
        }
        if rule != *policy {
            let problem = match (&keys.keyring, policy) {
                (None, _) => {
                    "there is no keyring yet: `blazedb key create` makes one, `blazedb key join` joins one"
                }
                (_, EncryptionSpec::SmartProxy) => {
                    "the policy says smart-proxy and the keyring seals: see `blazedb key rule`"
                }
                _ => "the policy seals other fields than the keyring says: see `blazedb key rule`",
            };
            return Err(problem.to_owned());
        }
        if member && !keys.is_agreed() {
            return Err("the other side has not heard of the keyring's last change yet".to_owned());
        }
        if *policy != EncryptionSpec::SmartProxy && !member {
            return Err("this device is no member of the keyring: `blazedb key join` makes it one".to_owned());
        }
        Ok(())
    }

    /// Makes a keyring, with this device as its first member. With a passphrase, whoever knows it can join.
    ///
    /// # Errors
    /// [`StoreError::Keyring`] if there is one already.
    pub fn create_keyring(
        &self,
        name: &str,
        rule: EncryptionSpec,
        passphrase: Option<&str>,
    ) -> Result<(), StoreError> {
        let now_ms = self.now_ms();
        if self.keyring().is_some() {
            return Err(KeyringError::Contradiction("there is one already").into());
        }
        let device = MemberSecret::new(self.random()?);
        let seed = self.random()?;
        let first = match passphrase {
            None => Keyring::create(Author { secret: &device, random: &seed, now_ms }, name, None, rule)?,
            Some(passphrase) => {
                let salt = self.random()?.as_bytes().first_chunk().copied().unwrap_or_default();
                let group = passphrase_member(passphrase, &salt)?;
                let author = Author { secret: &group, random: &seed, now_ms };
                Keyring::create(author, "passphrase", Some(salt), rule)?
            }
        };
        self.save_secret(&device)?;
        self.add_statements(&[first.into()], Origin::Here)?;
        if let Some(passphrase) = passphrase {
            self.join_keyring(passphrase, name)?;
        }
        Ok(())
    }

    /// Adds what this device's member says.
    pub(crate) fn say(
        &self,
        act: impl Fn(&Keyring, Author<'_>) -> Result<Vec<u8>, KeyringError>,
    ) -> Result<(), StoreError> {
        loop {
            let keys = self.keys();
            let (Some(keyring), Some(secret)) = (&keys.keyring, &keys.secret) else {
                return Err(KeyringError::NotMember.into());
            };
            let author = Author { secret, random: &self.random()?, now_ms: self.now_ms() };
            let statement = act(keyring, author)?;
            match self.add_statements(&[statement.into()], Origin::Here) {
                // Somebody else's statement arrived meanwhile.
                Err(StoreError::Keyring(KeyringError::Parent))
                    if self.keyring().map(|now| now.head()) != Some(keyring.head()) => {}
                done => return done,
            }
        }
    }

    /// Makes an invitation for one device and answers its code. It serves once another node has heard of it: see
    /// [`Store::keyring_is_agreed`]. Without `history` that device will read only what
    /// is written from now on.
    ///
    /// # Errors
    /// [`StoreError::Keyring`].
    pub fn invite_member(&self, name: &str, history: bool) -> Result<String, StoreError> {
        let bytes = self.random()?.as_bytes().first_chunk().copied().unwrap_or_default();
        let (code, text) = Code::invitation(bytes);
        self.say(|keyring, author| {
            keyring.invite(author, &code.member(), MemberKind::Invitation, name, history, self.keys().agreed)
        })?;
        Ok(text)
    }

    /// Makes a recovery phrase and answers its words: whoever has them can join again and again.
    ///
    /// # Errors
    /// [`StoreError::Keyring`].
    pub fn make_recovery_phrase(&self) -> Result<String, StoreError> {
        let (code, words) = Code::recovery(*self.random()?.as_bytes())?;
        self.say(|keyring, author| {
            keyring.invite(author, &code.member(), MemberKind::Recovery, "recovery", true, self.keys().agreed)
        })?;
        Ok(words)
    }

    /// Removes members, and with them the invitations and recovery phrases that they made and know, and begins a new epoch.
    ///
    /// # Errors
    /// [`StoreError::Keyring`].
    pub fn remove_members(&self, gone: &[MemberId]) -> Result<(), StoreError> {
        self.say(|keyring, author| {
            let codes = keyring.codes_of(gone).into_iter().filter(|code| !gone.contains(code));
            keyring.remove(author, &gone.iter().copied().chain(codes).collect::<Vec<_>>())
        })
    }

    /// Begins a new epoch.
    ///
    /// # Errors
    /// [`StoreError::Keyring`].
    pub fn rotate_keys(&self) -> Result<(), StoreError> {
        self.say(Keyring::rotate)
    }

    /// Says what is sealed from now on. Everything is then sent anew in its new form.
    ///
    /// # Errors
    /// [`StoreError::Keyring`].
    pub fn set_seal_rule(&self, rule: EncryptionSpec) -> Result<(), StoreError> {
        self.say(|keyring, author| keyring.set_rule(author, rule.clone()))
    }

    /// Says that everything has been sent anew since the rule was changed, and so may go in its old form: the hub
    /// then drops that, and nothing of it stays in its file. Only to be called once every link is caught up.
    ///
    /// # Errors
    /// [`StoreError::Keyring`].
    pub fn settle_seal_rule(&self) -> Result<(), StoreError> {
        let keys = self.keys();
        let (Some(keyring), Some(sealer)) = (&keys.keyring, &keys.sealer) else {
            return Err(KeyringError::NotMember.into());
        };
        let Some(before) = keyring.unsettled() else { return Ok(()) };
        let mut retired = Vec::new();
        for name in self.names().fields().filter(|name| before.seals(name) != sealer.rule().seals(name)) {
            let sealed = sealer.keys().seal_name(name)?.1;
            retired.push(if before.seals(name) { sealed } else { name.to_string() });
        }
        self.say(|keyring, author| keyring.settle(author, &retired))
    }

    /// Joins the keyring with an invitation code, a recovery phrase, or the passphrase: now if the keyring is here,
    /// else as soon as a peer has sent it; an invitation that the keyring here does not know yet, as soon as a peer has sent
    /// that. Answers whether it is done.
    ///
    /// # Errors
    /// [`StoreError::Keyring`] if the code is none, not valid, or the keyring is not the one it is for.
    pub fn join_keyring(&self, code: &str, name: &str) -> Result<bool, StoreError> {
        if self.sealer().is_some_and(|sealer| sealer.is_active()) {
            return Err(KeyringError::Contradiction("this device is a member already").into());
        }
        if is_invitation(code) {
            Code::parse(code)?;
        }
        self.commit(|writer| {
            set_meta(&writer.db, JOIN_WITH, code.trim())
                .and_then(|()| set_meta(&writer.db, JOIN_AS, name))
                .map_err(|error| self.sqlite(error))
        })?;
        match self.join_now() {
            // The keyring here may be older than the invitation.
            Err(StoreError::Keyring(KeyringError::UnknownCode)) if is_invitation(code) => {
                self.drop_keyring()?;
                Ok(false)
            }
            done => done.inspect_err(|error| drop(self.give_up_joining(error))),
        }
    }

    /// A keyring that this device is no member of and that its code does not fit is not kept either: the hub may
    /// have made it up, or not sent all of it yet.
    fn give_up_joining(&self, error: &StoreError) -> Result<(), StoreError> {
        self.forget_code()?;
        let unfit = [KeyringError::ForeignRoot, KeyringError::UnknownCode, KeyringError::SpentCode];
        match error {
            StoreError::Keyring(error) if unfit.contains(error) => self.drop_keyring(),
            _ => Ok(()),
        }
    }

    fn drop_keyring(&self) -> Result<(), StoreError> {
        let _turn = crate::store::lock(&self.inner.changing_keys);
        self.commit(|writer| {
            writer.db.execute("DELETE FROM keyring", []).map(drop).map_err(|error| self.sqlite(error))
        })?;
        let mut keys = self.inner.keys.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        keys.keyring = None;
        Ok(())
    }

    fn forget_code(&self) -> Result<(), StoreError> {
        self.commit(|writer| {
            let forget = writer.db.execute("DELETE FROM meta WHERE key IN (?,?)", [JOIN_WITH, JOIN_AS]);
            forget.map(drop).map_err(|error| self.sqlite(error))
        })
    }

    /// Whether this device waits for a keyring to join.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn waits_to_join(&self) -> Result<bool, StoreError> {
        self.read(|db| meta::<String>(db, JOIN_WITH).map_err(|error| self.sqlite(error)))
            .map(|code| code.is_some())
    }

    pub(crate) fn join_request(&self) -> Result<Option<(String, String)>, StoreError> {
        self.read(|db| {
            let both =
                meta::<String>(db, JOIN_WITH).and_then(|code| Ok((code, meta::<String>(db, JOIN_AS)?)));
            let (code, name) = both.map_err(|error| self.sqlite(error))?;
            Ok(code.zip(name))
        })
    }

    pub(crate) fn join_now(&self) -> Result<bool, StoreError> {
        // A code serves once, whoever finds first that it can be used.
        let _turn = crate::store::lock(&self.inner.joining);
        let Some(keyring) = self.keyring() else { return Ok(false) };
        let Some((code, name)) = self.join_request()? else { return Ok(false) };
        if self.sealer().is_some_and(|sealer| sealer.is_active()) {
            // It has joined, and was interrupted before it had forgotten the code.
            return self.forget_code().map(|()| true);
        }
        let with = secret_of(&code, &keyring)?;
        let device = MemberSecret::new(self.random()?);
        let author = Author { secret: &with, random: &self.random()?, now_ms: self.now_ms() };
        let statement = keyring.join(author, &device, &name)?;
        self.save_secret(&device)?;
        // The code has served; it is used again only if somebody else was faster.
        self.commit(|writer| set_meta(&writer.db, JOINED_WITH, &code).map_err(|error| self.sqlite(error)))?;
        self.add_statements(&[statement.into()], Origin::Here)?;
        // Not before: who waits for a code is either waiting or a member.
        self.forget_code().map(|()| true)
    }

    fn save_secret(&self, secret: &MemberSecret) -> Result<(), StoreError> {
        let _turn = crate::store::lock(&self.inner.changing_keys);
        let bytes = *secret.secret().as_bytes();
        self.commit(|writer| {
            set_meta(&writer.db, SECRET, bytes.as_slice()).map_err(|error| self.sqlite(error))
        })?;
        let mut keys = self.inner.keys.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        keys.secret = Some(secret.clone());
        Ok(())
    }

    /// Calls `listener` after every change of the keyring. It must not block.
    pub fn on_keyring_change(&self, listener: impl Fn() + Send + Sync + 'static) {
        crate::store::lock(&self.inner.keyring_listeners).push(Box::new(listener));
    }
}

impl Keys {
    /// What the keyring says is sealed.
    pub(crate) fn rule(&self) -> EncryptionSpec {
        self.keyring.as_ref().map(|keyring| keyring.rule().clone()).unwrap_or_default()
    }

    /// Whether this file is held by somebody who has no key: a hub.
    pub(crate) const fn is_outsider(&self) -> bool {
        self.secret.is_none()
    }

    pub(crate) fn epochs(&self) -> Vec<u32> {
        self.sealer.as_ref().map(|sealer| sealer.keys().epochs().collect()).unwrap_or_default()
    }
}
