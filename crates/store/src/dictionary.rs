//! The dictionary that a database's members compress values with before they seal them.
//!
//! A member that is about to sync makes it from records of the file, once in an epoch, and says it in the keyring
//! (`docs/spec/keyring.md`); whoever made one at the same time and was later does without its own.

use std::sync::atomic::Ordering;

use blazedb_core::keyring::KeyringError;
use blazedb_core::seal::Samples;
use blazedb_sqlite::rusqlite::{self, OptionalExtension, params};

use crate::error::StoreError;
use crate::row::ALIVE;
use crate::store::Store;

/// Fewer records are not worth a dictionary.
const MIN_RECORDS: u64 = 1_000;
/// Records that are looked at.
const SAMPLES: u64 = 4_000;

impl Store {
    /// Says in the keyring what values are compressed with before they are sealed, unless that has been said in this
    /// epoch or there are too few records. Answers whether it said anything.
    ///
    /// # Errors
    /// If the file can't be read or written, or the keyring extended.
    pub fn share_dictionary(&self) -> Result<bool, StoreError> {
        let keys = self.keys();
        let (Some(keyring), Some(sealer)) = (&keys.keyring, &keys.sealer) else { return Ok(false) };
        if keyring.has_dictionary() || !sealer.is_active() || !sealer.seals() {
            return Ok(false);
        }
        // It holds pieces of what was written before, and is for all who have the epoch's key.
        if keyring.members().any(|(_, member)| !member.history) {
            return Ok(false);
        }
        let head = self.head();
        let tried = self.inner.dictionary_tried.load(Ordering::Relaxed);
        if head < MIN_RECORDS || head / 2 < tried {
            return Ok(false);
        }
        let step = (head / SAMPLES).max(1);
        let (samples, names) = (self.sample_bodies(step)?, self.names());
        let records = (samples.len() as u64).saturating_mul(step);
        if records < MIN_RECORDS {
            return Ok(false);
        }
        let mut found = Samples::new(sealer);
        for body in samples {
            found.add(&body, |no| names.field(no).cloned())?;
        }
        let Some(dictionary) = found.dictionary(records) else {
            // Tried again when there is twice as much.
            self.inner.dictionary_tried.store(head, Ordering::Relaxed);
            return Ok(false);
        };
        match self.say(|keyring, author| keyring.share_dictionary(author, &dictionary)) {
            // Another member was faster.
            Err(StoreError::Keyring(KeyringError::Contradiction(_))) => Ok(false),
            said => said.map(|()| true),
        }
    }

    /// The bodies of records that are spread over the feed, `step` places apart.
    fn sample_bodies(&self, step: u64) -> Result<Vec<Vec<u8>>, StoreError> {
        let bodies = |db: &rusqlite::Connection| -> rusqlite::Result<Vec<Vec<u8>>> {
            let sql =
                format!("SELECT seq, body FROM records WHERE seq>=? AND state={ALIVE} ORDER BY seq LIMIT 1");
            let mut statement = db.prepare(&sql)?;
            let (mut bodies, mut from) = (Vec::new(), 0_u64);
            while let Some((seq, body)) = statement
                .query_row(params![from], |row| Ok((row.get::<_, u64>(0)?, row.get::<_, Vec<u8>>(1)?)))
                .optional()?
            {
                bodies.push(body);
                from = seq.saturating_add(step);
            }
            Ok(bodies)
        };
        self.read(|db| bodies(db).map_err(|error| self.sqlite(error)))
    }
}
