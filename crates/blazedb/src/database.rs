//! One database on this node: a file, and those who want to know when it changes.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use blazedb_core::feed::Seq;
use blazedb_core::{FieldEdit, FieldEdits, Record, RecordId, Value};
use blazedb_store::{Conflict, Password, Store, StoreError, StoreOptions, Transaction, Verified};
use tokio::sync::watch;

use crate::applier::Applier;
use crate::fanout::FeedCache;
use crate::query::QueryBuilder;

/// Field values by name: the content of a record.
pub type Fields = BTreeMap<String, Value>;

/// An open database. Cloning is cheap; the file closes with the last clone.
#[derive(Clone)]
pub struct Database {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) store: Store,
    pub(crate) head: watch::Sender<Seq>,
    pub(crate) applier: Applier,
    pub(crate) feeds: FeedCache,
}

impl Database {
    /// Opens a database file, and makes it first if there is none.
    ///
    /// # Errors
    /// [`StoreError`] about the file, its password or its lock.
    pub fn open(path: impl AsRef<Path>, password: Password) -> Result<Self, StoreError> {
        Self::open_with(path, &password, StoreOptions::default())
    }

    /// [`Database::open`] with options.
    ///
    /// # Errors
    /// As [`Database::open`].
    pub fn open_with(
        path: impl AsRef<Path>,
        password: &Password,
        options: StoreOptions,
    ) -> Result<Self, StoreError> {
        let store = Store::open(path, password, options)?;
        let head = watch::Sender::new(store.head());
        let listener = head.clone();
        store.on_commit(move |seq| {
            listener.send_if_modified(|head| {
                let ahead = seq > *head;
                *head = seq.max(*head);
                ahead
            });
        });
        let inner =
            Inner { applier: Applier::new(store.clone()), feeds: FeedCache::new(store.clone()), head, store };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The file underneath, for what is not offered here.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// Inserts a record under a new id.
    ///
    /// # Errors
    /// What is wrong with the fields, and whatever keeps the commit from being durable.
    pub fn insert(&self, fields: Fields) -> Result<RecordId, StoreError> {
        let id = self.store().new_id()?;
        self.insert_with_id(id, fields)?;
        Ok(id)
    }

    /// Inserts a record under an id of the application's choice.
    ///
    /// # Errors
    /// [`StoreError::RecordExists`], and as [`Database::insert`].
    pub fn insert_with_id(&self, id: RecordId, fields: Fields) -> Result<(), StoreError> {
        self.transaction(|tx| tx.insert(id, &fields))
    }

    /// Inserts many records in one transaction.
    ///
    /// # Errors
    /// As [`Database::insert`]; then none of them is inserted.
    pub fn insert_many(
        &self,
        records: impl IntoIterator<Item = Fields>,
    ) -> Result<Vec<RecordId>, StoreError> {
        self.transaction(|tx| {
            let insert = |fields: Fields| {
                let id = self.store().new_id()?;
                tx.insert(id, &fields).map(|()| id)
            };
            records.into_iter().map(insert).collect()
        })
    }

    /// Writes fields of a record; the others stay.
    ///
    /// # Errors
    /// [`StoreError::NoRecord`], and as [`Database::insert`].
    pub fn update(&self, id: RecordId, fields: Fields) -> Result<(), StoreError> {
        self.edit(id, &fields.into_iter().map(|(name, value)| (name, FieldEdit::Set(value))).collect())
    }

    /// Edits fields of a record: write, remove, count, add to a set.
    ///
    /// # Errors
    /// [`StoreError::NoRecord`], [`StoreError::WrongType`], and as [`Database::insert`].
    pub fn edit(&self, id: RecordId, edits: &FieldEdits) -> Result<(), StoreError> {
        self.transaction(|tx| tx.update(id, edits))
    }

    /// Deletes a record.
    ///
    /// # Errors
    /// [`StoreError::NoRecord`], and whatever keeps the commit from being durable.
    pub fn delete(&self, id: RecordId) -> Result<(), StoreError> {
        self.transaction(|tx| tx.delete(id))
    }

    /// Runs `work` in a transaction: all of it happens or nothing, here and wherever it is synced to.
    ///
    /// # Errors
    /// What `work` answers, and whatever keeps the commit from being durable.
    pub fn transaction<T>(
        &self,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.store().transaction(work)
    }

    /// The record with this id.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn get(&self, id: RecordId) -> Result<Option<Record>, StoreError> {
        self.store().get(id)
    }

    /// One field of one record.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn get_field(&self, id: RecordId, field: &str) -> Result<Option<Value>, StoreError> {
        self.store().get_field(id, field)
    }

    /// A query over the records.
    pub fn query(&self) -> QueryBuilder<'_> {
        QueryBuilder::new(self)
    }

    /// What concurrent writes and deletes displaced, newest first.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn conflicts(&self) -> Result<Vec<Conflict>, StoreError> {
        self.store().conflicts()
    }

    /// Reads every page and record and reports what does not hold.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn verify(&self) -> Result<Verified, StoreError> {
        self.store().verify()
    }

    /// Writes a copy with the same password; writers go on meanwhile.
    ///
    /// # Errors
    /// [`StoreError::Exists`], and what the disk refuses.
    pub fn backup(&self, target: impl AsRef<Path>) -> Result<(), StoreError> {
        self.store().backup(target.as_ref())
    }

    /// Tells when the database changes: the sequence of the last change.
    #[must_use]
    pub fn watch_head(&self) -> watch::Receiver<Seq> {
        self.inner.head.subscribe()
    }

    /// Gives memory back that only speeds up the next access.
    pub fn release_memory(&self) {
        self.inner.feeds.clear();
        self.store().release_memory();
    }

    /// How often the database was read or written since it was opened: tells whether it is idle.
    #[must_use]
    pub fn accesses(&self) -> u64 {
        self.store().accesses()
    }

    /// Batches encoded for subscribers since the database was opened: one per stretch of the feed, however many
    /// subscribers read it.
    #[must_use]
    pub fn batches_encoded(&self) -> u64 {
        self.inner.feeds.encoded()
    }
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Database").field(&self.store().path()).finish()
    }
}
