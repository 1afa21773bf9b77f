//! Transactions over several databases.

use blazedb_core::RecordId;
use blazedb_store::{MultiTransaction, StoreError, Transaction};

use crate::database::{Database, Fields};

/// A transaction over several databases: see [`Topology::transaction`](crate::Topology::transaction).
pub struct CrossTransaction<'a, 'b> {
    parts: &'a mut MultiTransaction<'b>,
}

impl<'b> CrossTransaction<'_, 'b> {
    /// The transaction's part on one of its databases.
    ///
    /// # Errors
    /// [`StoreError::NotPartOf`] if it is not over that database.
    pub fn on(&mut self, database: &Database) -> Result<&mut Transaction<'b>, StoreError> {
        self.parts.on(database.store())
    }

    /// Inserts a record under a new id.
    ///
    /// # Errors
    /// As [`CrossTransaction::on`], and what is wrong with the fields.
    pub fn insert(&mut self, database: &Database, fields: Fields) -> Result<RecordId, StoreError> {
        let id = database.store().new_id()?;
        self.on(database)?.insert(id, &fields)?;
        Ok(id)
    }
}

pub(crate) fn run<'d, T>(
    databases: impl IntoIterator<Item = &'d Database>,
    work: impl FnOnce(&mut CrossTransaction<'_, '_>) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let databases: Vec<Database> = databases.into_iter().cloned().collect();
    crate::relation::over(&databases, |parts| work(&mut CrossTransaction { parts }))
}
