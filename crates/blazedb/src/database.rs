//! One database on this node: a file, and those who want to know when it changes.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, OnceLock, PoisonError, RwLock, Weak};

use blazedb_core::feed::Seq;
use blazedb_core::histogram::{Histogram, HistogramCounts};
use blazedb_core::view::View;
use blazedb_core::{FieldEdit, FieldEdits, Record, RecordId, Value, typed};
use blazedb_store::{
    Conflict, Dispute, Password, Rejected, Resolution, Store, StoreError, StoreOptions, Transaction, Verified,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::applier::Applier;
use crate::fanout::SharedFeed;
use crate::join::JoinBuilder;
use crate::meeting::Meeting;
use crate::passed::PassedList;
use crate::query::QueryBuilder;
use crate::relation::{self, Relation};
use crate::search::SearchBuilder;
use crate::wake::{ViewWatch, WakeList};

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
    pub(crate) feeds: SharedFeed,
    pub(crate) keyring: watch::Sender<u64>,
    /// How far their readers are, until that is noted.
    pub(crate) passed: PassedList,
    /// The sessions that show restricted views.
    pub(crate) wakes: WakeList,
    /// Those in which this database is one end.
    pub(crate) relations: RwLock<Vec<Relation>>,
    /// Where sessions of the node's databases meet; none if it is registered nowhere.
    pub(crate) meeting: OnceLock<Meeting>,
    /// How long peers took to acknowledge changes.
    pub(crate) lags: Histogram,
    /// Somebody drops tombstones that nobody waits for.
    pub(crate) drops_tombstones: OnceLock<()>,
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
        let inner = Inner {
            applier: Applier::new(store.clone()),
            feeds: SharedFeed::new(store.clone()),
            relations: RwLock::default(),
            meeting: OnceLock::new(),
            lags: Histogram::default(),
            drops_tombstones: OnceLock::new(),
            head,
            store,
            keyring: watch::Sender::new(0),
            wakes: WakeList::default(),
            passed: PassedList::default(),
        };
        let inner = Arc::new(inner);
        let weak = Arc::downgrade(&inner);
        inner.store.on_keyring_change(move || {
            if let Some(inner) = weak.upgrade() {
                // What was sealed before is not what goes out from now on.
                inner.feeds.clear();
                inner.keyring.send_modify(|changes| *changes += 1);
            }
        });
        Ok(Self { inner })
    }

    /// The file underneath, for what is not offered here.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// Sessions of this database meet those of others there. The first one stays.
    pub(crate) fn meet_at(&self, meeting: &Meeting) {
        let _ = self.inner.meeting.set(meeting.clone());
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

    /// Inserts many records, or references to them, in one transaction.
    ///
    /// # Errors
    /// As [`Database::insert`]; then none of them is inserted.
    pub fn insert_many(
        &self,
        records: impl IntoIterator<Item: Borrow<Fields>>,
    ) -> Result<Vec<RecordId>, StoreError> {
        self.transaction(|tx| {
            let mut insert = |fields: &Fields| {
                let id = self.store().new_id()?;
                tx.insert(id, fields).map(|()| id)
            };
            records.into_iter().map(|fields| insert(fields.borrow())).collect()
        })
    }

    /// Inserts a record, or writes these fields of the one that is there. Answers whether it inserted.
    ///
    /// # Errors
    /// As [`Database::insert`].
    pub fn upsert(&self, id: RecordId, fields: Fields) -> Result<bool, StoreError> {
        self.transaction(|tx| tx.upsert(id, &fields))
    }

    /// Inserts a value of a type as a record: under its field `id`, or under a new id. See [`blazedb_core::typed`].
    ///
    /// # Errors
    /// [`StoreError::Typed`], and as [`Database::insert_with_id`].
    pub fn insert_as<T: Serialize + ?Sized>(&self, value: &T) -> Result<RecordId, StoreError> {
        let (id, fields) = typed::to_fields(value)?;
        let id = id.map_or_else(|| self.store().new_id(), Ok)?;
        self.insert_with_id(id, fields)?;
        Ok(id)
    }

    /// The record with this id, as a value of a type.
    ///
    /// ```
    /// # use blazedb::{Database, Password, RecordId};
    /// # use serde::{Deserialize, Serialize};
    /// #[derive(Serialize, Deserialize)]
    /// struct Bug {
    ///     title: String,
    ///     priority: u8,
    /// }
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let bugs = Database::open(dir.path().join("b"), Password::Plaintext)?;
    /// let id = bugs.insert_as(&Bug { title: "crash".into(), priority: 8 })?;
    /// let bug: Option<Bug> = bugs.get_as(id)?;
    /// assert_eq!(bug.unwrap().priority, 8);
    /// # Ok::<(), blazedb::StoreError>(())
    /// ```
    ///
    /// # Errors
    /// [`StoreError::Typed`] if it does not fit, and if the file can't be read.
    pub fn get_as<T: DeserializeOwned>(&self, id: RecordId) -> Result<Option<T>, StoreError> {
        self.get(id)?.map(|record| Ok(typed::from_record(record)?)).transpose()
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
        relation::transaction(self, work)
    }

    /// Whether both are the same open database.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    pub(crate) fn of(inner: &Weak<Inner>) -> Option<Self> {
        inner.upgrade().map(|inner| Self { inner })
    }

    pub(crate) fn relations(&self) -> Vec<Relation> {
        self.inner.relations.read().unwrap_or_else(PoisonError::into_inner).clone()
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

    /// A join of this database (left) with another one (right).
    ///
    /// ```
    /// # use blazedb::{Database, Filter, Password, record};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let open = |name: &str| Database::open(dir.path().join(name), Password::Plaintext);
    /// let (bugs, users) = (open("bugs.blazedb")?, open("users.blazedb")?);
    /// let eva = users.insert(record! { "name" => "Eva" })?;
    /// bugs.insert(record! { "title" => "crash", "priority" => 8, "authorId" => eva })?;
    /// let urgent = Filter::parse(r#"priority > 5 && users.name == "Eva""#).unwrap();
    /// let rows = bugs.join(&users).on("authorId", "id").filter(urgent).all()?;
    /// assert_eq!(rows[0].right.as_ref().unwrap().id, eva);
    /// # Ok::<(), blazedb::StoreError>(())
    /// ```
    pub fn join<'a>(&'a self, right: &'a Self) -> JoinBuilder<'a> {
        JoinBuilder::new(self, right)
    }

    /// The file's name without its extension.
    pub(crate) fn stem(&self) -> String {
        self.store().path().file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// Says which fields are searched, and makes the index (anew) if that is a change.
    ///
    /// ```
    /// # use blazedb::{Database, Password, record};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let bugs = Database::open(dir.path().join("b"), Password::Plaintext)?;
    /// bugs.set_search_fields(["title", "description"])?;
    /// bugs.insert(record! { "title" => "Crash on startup" })?;
    /// let hits = bugs.search("crash start*").limit(10).all()?;
    /// assert_eq!(hits[0].snippet, "[Crash] on [startup]");
    /// # Ok::<(), blazedb::StoreError>(())
    /// ```
    ///
    /// # Errors
    /// If a field's name can't be used, or the file can't be written.
    pub fn set_search_fields<S: Into<String>>(
        &self,
        fields: impl IntoIterator<Item = S>,
    ) -> Result<(), StoreError> {
        self.store().set_search_fields(&fields.into_iter().map(Into::into).collect::<Vec<_>>())
    }

    /// Searches the fields that [`Database::set_search_fields`] named: words that a record must have, `"phrases"`,
    /// beginnings (`start*`), `-without` and `OR`.
    pub fn search(&self, text: impl Into<String>) -> SearchBuilder<'_> {
        SearchBuilder::new(self, text.into())
    }

    /// What concurrent writes and deletes displaced, newest first.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn conflicts(&self) -> Result<Vec<Conflict>, StoreError> {
        self.store().conflicts()
    }

    /// Has this node decide, as an authority, about what every node that connects writes: `resolver` is asked where a
    /// write comes that had not seen what is here. It is called inside a transaction, so it must be quick, and must not
    /// use the database.
    ///
    /// ```
    /// # use blazedb::{Database, Password, Resolution};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let bugs = Database::open(dir.path().join("b"), Password::Plaintext)?;
    /// bugs.resolver(|dispute| match dispute.field {
    ///     Some("status") => Resolution::TakeChild,
    ///     Some("total") => Resolution::Refuse("totals are counted at the office".into()),
    ///     _ => Resolution::KeepParent,
    /// });
    /// # Ok::<(), blazedb::StoreError>(())
    /// ```
    pub fn resolver(&self, resolver: impl Fn(&Dispute<'_>) -> Resolution + Send + Sync + 'static) {
        self.store().set_resolver(Some(Arc::new(resolver)));
        self.store().set_decides(true);
    }

    /// What an authority refused of this database, oldest first.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn rejected(&self) -> Result<Vec<Rejected>, StoreError> {
        self.store().rejected()
    }

    /// How many refused writes are kept.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn rejected_count(&self) -> Result<u64, StoreError> {
        self.store().rejected_count()
    }

    /// Makes the refused writes of a record again, as new ones. Answers how many they were.
    ///
    /// # Errors
    /// [`StoreError::NoRejected`]; [`StoreError::NoRecord`] if one needs a record that is not here any more.
    pub fn retry_rejected(&self, id: RecordId) -> Result<usize, StoreError> {
        self.store().retry_rejected(id)
    }

    /// Forgets the refused writes of a record. Answers how many they were.
    ///
    /// # Errors
    /// [`StoreError::NoRejected`].
    pub fn drop_rejected(&self, id: RecordId) -> Result<usize, StoreError> {
        self.store().drop_rejected(id)
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

    /// Tells when a change may concern a view, without asking the view about every change: however many views are watched, a
    /// change costs as much as it concerns. Must be called inside a tokio runtime.
    #[must_use]
    pub fn watch_view(&self, view: &View) -> ViewWatch {
        ViewWatch::new(self.inner.wakes.enter(&self.inner, view, 0, self.store().head()))
    }

    /// Tells when the keyring changes.
    #[must_use]
    pub fn watch_keyring(&self) -> watch::Receiver<u64> {
        self.inner.keyring.subscribe()
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

    /// How long peers took to acknowledge changes of this database, from when a session saw them.
    #[must_use]
    pub fn acknowledgement_times(&self) -> HistogramCounts {
        self.inner.lags.counts()
    }

    /// Batches of peers that wait to be applied.
    #[must_use]
    pub fn batches_waiting(&self) -> usize {
        self.inner.applier.waiting()
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
