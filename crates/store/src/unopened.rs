//! Opening what arrives, and keeping in mind what could not be opened.

use std::collections::HashMap;
use std::sync::Arc;

use blazedb_core::RecordId;
use blazedb_core::blazebinary::varint::{Reader, write_varint};
use blazedb_core::blazebinary::{DecodeError, FieldNo, RecordView};
use blazedb_core::feed::{Incoming, PeerNames};
use blazedb_core::seal::{SealError, Unopened, is_sealed_name};
use blazedb_core::topology::EncryptionSpec;
use blazedb_core::wire::{RefusedState, RefusedWrite};
use blazedb_sqlite::rusqlite::params;

use crate::error::StoreError;
use crate::incoming::{CheckedBatch, Source, Work, check, check_field};
use crate::store::{Store, Writer};

/// A record that could not be opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnopenedRecord {
    /// The record.
    pub id: RecordId,
    /// Why.
    pub reason: String,
    /// When it came, in milliseconds since the Unix epoch.
    pub at_ms: u64,
}

impl Store {
    pub(crate) fn open_and_check(
        &self,
        source: Source,
        mut incoming: Incoming,
    ) -> Result<CheckedBatch, StoreError> {
        let unopened = self.open_incoming(&mut incoming)?;
        let keys = self.keys();
        let rule = keys.rule();
        let mut checked = check(source, incoming, self.now_ms(), self.inner.options.drift_limit_ms)?;
        if keys.is_outsider() && rule != EncryptionSpec::SmartProxy {
            checked.check_sealed(&rule)?;
        }
        if let Work::Changes(changes) = &mut checked.work {
            changes.unopened = unopened;
        }
        Ok(checked)
    }

    /// Opens what a peer sent, if this device is a member.
    pub(crate) fn open_incoming(&self, incoming: &mut Incoming) -> Result<Vec<Unopened>, StoreError> {
        match self.sealer() {
            Some(sealer) => Ok(sealer.open_batch(incoming)?),
            None => Ok(Vec::new()),
        }
    }

    /// Opens what an authority has in the place of refused writes, if this device is a member. A record that can't be opened
    /// is answered, and taken back as if it were not there.
    pub(crate) fn open_refused(
        &self,
        writes: &mut [RefusedWrite],
        names: PeerNames,
    ) -> Result<(PeerNames, Vec<Unopened>), StoreError> {
        let Some(sealer) = self.sealer() else { return Ok((names, Vec::new())) };
        let mut data = Vec::new();
        for write in writes.iter() {
            if let Some(RefusedState { history, body }) = &write.state {
                write_varint((body.len() as u64) << 1 | 1, &mut data);
                write_varint(history.len() as u64, &mut data);
                data.extend_from_slice(write.id.as_bytes());
                data.extend_from_slice(history);
                data.extend_from_slice(body);
            }
        }
        let mut incoming = Incoming { data, names: Arc::new(names), checkpoint: None, peer_has: 0 };
        let unopened = sealer.open_batch(&mut incoming)?;
        let mut opened = HashMap::new();
        let mut reader = Reader::new(&incoming.data);
        let len = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        while !reader.is_empty() {
            let (body, history) = (len(reader.read_varint()? >> 1), len(reader.read_varint()?));
            let id = RecordId::from_bytes(reader.read_array()?);
            let (history, body) = (reader.read_bytes(history)?.to_vec(), reader.read_bytes(body)?.to_vec());
            opened.insert(id, RefusedState { history, body });
        }
        for write in writes {
            write.state = write.state.take().and_then(|_| opened.remove(&write.id));
        }
        Ok((Arc::unwrap_or_clone(incoming.names), unopened))
    }

    /// Records that could not be opened, and have not come in a form that could be since.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn unopened(&self) -> Result<Vec<UnopenedRecord>, StoreError> {
        self.read(|db| {
            db.prepare_cached("SELECT id, reason, at_ms FROM unopened ORDER BY at_ms DESC LIMIT 1000")
                .and_then(|mut all| {
                    let rows = all.query_map([], |row| {
                        let id = RecordId::from_bytes(row.get(0)?);
                        Ok(UnopenedRecord { id, reason: row.get(1)?, at_ms: row.get(2)? })
                    })?;
                    rows.collect()
                })
                .map_err(|error| self.sqlite(error))
        })
    }

    /// What came in a form that could be opened is no longer missing.
    pub(crate) fn note_opened(
        &self,
        writer: &Writer,
        opened: impl Iterator<Item = RecordId>,
    ) -> Result<(), StoreError> {
        let sqlite = |error| self.sqlite(error);
        let some = "SELECT EXISTS(SELECT 1 FROM unopened)";
        let some = writer.db.prepare_cached(some).and_then(|mut ask| ask.query_row([], |row| row.get(0)));
        if !some.map_err(sqlite)? {
            return Ok(());
        }
        let mut forget = writer.db.prepare_cached("DELETE FROM unopened WHERE id=?").map_err(sqlite)?;
        for id in opened {
            forget.execute([id.as_bytes().as_slice()]).map_err(sqlite)?;
        }
        Ok(())
    }

    pub(crate) fn note_unopened(&self, writer: &Writer, unopened: &[Unopened]) -> Result<(), StoreError> {
        let sql = "INSERT OR REPLACE INTO unopened(id, reason, keyless, at_ms) VALUES(?,?,?,?)";
        for Unopened { id, reason } in unopened {
            let keyless = matches!(reason, SealError::NoKey(_));
            writer
                .db
                .prepare_cached(sql)
                .and_then(|mut note| {
                    note.execute(params![
                        id.as_bytes().as_slice(),
                        reason.to_string(),
                        keyless,
                        self.now_ms()
                    ])
                })
                .map_err(|error| self.sqlite(error))?;
        }
        Ok(())
    }
}

impl CheckedBatch {
    /// Refuses readable values of fields that are to be sealed.
    pub(crate) fn check_sealed(&self, rule: &EncryptionSpec) -> Result<(), StoreError> {
        let Work::Changes(changes) = &self.work else { return Ok(()) };
        let names = &changes.incoming.names;
        for entry in &changes.entries {
            let body = changes.incoming.data.get(entry.body.clone()).unwrap_or_default();
            if body.is_empty() {
                continue;
            }
            for (field, _) in RecordView::parse(body)?.iter() {
                if let Some(name) = names.field(field).filter(|name| rule.seals(name)) {
                    return Err(StoreError::NotSealed(name.to_string()));
                }
            }
        }
        Ok(())
    }
}

/// Checks the names of a group's fields.
pub(crate) fn check_group(
    mut fields: impl Iterator<Item = FieldNo>,
    names: &PeerNames,
) -> Result<(), StoreError> {
    fields.try_for_each(|field| {
        check_field(field, names)?;
        check_form(field, true, names)
    })
}

/// Sealed values have sealed names, and no others have.
pub(crate) fn check_form(field: FieldNo, sealed: bool, names: &PeerNames) -> Result<(), StoreError> {
    let named = names.field(field).is_some_and(|name| is_sealed_name(name));
    if named == sealed { Ok(()) } else { Err(DecodeError::Mismatch.into()) }
}
