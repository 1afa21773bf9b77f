//! Changing every record that matches.
//!
//! Invariant: a record is changed only if it matches at the moment of its change. The changes are made in
//! transactions of bounded size ([`BULK_RECORDS`], [`BULK_BYTES`]): what fits in one happens whole or not at all;
//! of more, an error leaves what the transactions before it did.

use blazedb_core::limits::{BULK_BYTES, BULK_RECORDS};
use blazedb_core::{FieldEdits, Filter, RecordId};

use crate::error::StoreError;
use crate::query::{Query, VisitError, select_sql};
use crate::store::Store;
use crate::write::Transaction;

/// The part of a bulk change that is one transaction: answers how many records it looked at and how many it changed.
pub type BulkWork<'a> = dyn FnMut(&mut Transaction<'_>) -> Result<(usize, u64), StoreError> + 'a;

impl Store {
    /// Edits every record that matches. Answers how many.
    ///
    /// # Errors
    /// [`StoreError::WrongType`], and whatever keeps a commit from being durable.
    pub fn update_matching(&self, filter: &Filter, edits: &FieldEdits) -> Result<u64, StoreError> {
        let transact = |work: &mut BulkWork<'_>| self.transaction(|tx| work(tx));
        self.change_matching(filter, |tx, id| tx.update(id, edits), transact)
    }

    /// Deletes every record that matches. Answers how many.
    ///
    /// # Errors
    /// Whatever keeps a commit from being durable.
    pub fn delete_matching(&self, filter: &Filter) -> Result<u64, StoreError> {
        let transact = |work: &mut BulkWork<'_>| self.transaction(|tx| work(tx));
        self.change_matching(filter, |tx, id| tx.delete(id), transact)
    }

    /// Changes every record that matches, in transactions that `transact` runs. Answers how many.
    ///
    /// # Errors
    /// What `change` and `transact` answer.
    pub fn change_matching(
        &self,
        filter: &Filter,
        mut change: impl FnMut(&mut Transaction<'_>, RecordId) -> Result<(), StoreError>,
        mut transact: impl FnMut(&mut BulkWork<'_>) -> Result<(usize, u64), StoreError>,
    ) -> Result<u64, StoreError> {
        let ids = self.matching_ids(filter)?;
        let mut left = ids.as_slice();
        let mut changed = 0;
        while !left.is_empty() {
            let (done, here) = transact(&mut |tx| {
                let (mut done, mut here) = (0, 0);
                for id in left.iter().take(BULK_RECORDS) {
                    if tx.matches(*id, filter)? {
                        change(tx, *id)?;
                        here += 1;
                    }
                    done += 1;
                    if tx.bytes() > BULK_BYTES {
                        break;
                    }
                }
                Ok((done, here))
            })?;
            changed += here;
            left = left.get(done..).unwrap_or_default();
        }
        Ok(changed)
    }

    /// The ids of the records that match.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn matching_ids(&self, filter: &Filter) -> Result<Vec<RecordId>, StoreError> {
        let query = Query { filter: Some(filter.clone()), ..Query::default() };
        let (sql, params) = select_sql("id", &query, &self.names());
        let mut ids = Vec::new();
        self.read_once(|db| {
            self.each(db, &sql, &params, |row| {
                ids.push(RecordId::from_bytes(row.get(0).map_err(VisitError::from)?));
                Ok(true)
            })
        })?;
        Ok(ids)
    }
}
