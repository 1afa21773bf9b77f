//! Full-text search, step by step.

use blazedb_core::Filter;
use blazedb_store::{Search, SearchHit, StoreError};

use crate::database::Database;

/// A search being put together: see [`Database::search`].
#[derive(Clone, Debug)]
#[must_use = "a search does nothing until it is run"]
pub struct SearchBuilder<'a> {
    database: &'a Database,
    search: Search,
}

impl<'a> SearchBuilder<'a> {
    pub(crate) fn new(database: &'a Database, text: String) -> Self {
        Self { database, search: Search::new(text) }
    }

    /// Only records that match; a second filter narrows further.
    pub fn filter(mut self, filter: Filter) -> Self {
        self.search.filter = Some(match self.search.filter.take() {
            Some(first) => first & filter,
            None => filter,
        });
        self
    }

    /// At most so many records.
    pub const fn limit(mut self, limit: u64) -> Self {
        self.search.limit = Some(limit);
        self
    }

    /// Leaves out the first so many.
    pub const fn offset(mut self, offset: u64) -> Self {
        self.search.offset = offset;
        self
    }

    /// What stands before and behind each word found in a snippet; without this, brackets.
    pub fn marks(mut self, open: impl Into<String>, close: impl Into<String>) -> Self {
        self.search.marks = (open.into(), close.into());
        self
    }

    /// All records that are found, the best first.
    ///
    /// # Errors
    /// [`StoreError::Query`] about the text, and if the file can't be read.
    pub fn all(&self) -> Result<Vec<SearchHit>, StoreError> {
        let mut hits = Vec::new();
        self.each(|hit| {
            hits.push(hit);
            true
        })?;
        Ok(hits)
    }

    /// Calls `visit` with every record that is found, the best first, until it answers false.
    ///
    /// # Errors
    /// [`StoreError::Query`] about the text, and if the file can't be read.
    pub fn each(&self, visit: impl FnMut(SearchHit) -> bool) -> Result<(), StoreError> {
        self.database.store().search(&self.search, visit)
    }
}
