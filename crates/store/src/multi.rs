//! Transactions over several files: all of it happens or nothing, whatever crashes when.
//!
//! SQLite commits files one after the other, so a crash could leave one of them behind. Therefore:
//!
//! 1. **Work.** The writers of all files are taken, in the order of their replica ids. The work runs in a
//!    transaction of each file, is read back as states of records, and is rolled back.
//! 2. **Prepare.** Each file that was changed keeps its part in the table `prepared`, durably.
//! 3. **Decide.** A record in the journal of the first of these files, durably. This is the moment of the commit.
//! 4. **Apply.** Each file merges its part into `records` and forgets it, durably. No join reads both files between
//!    the first of these commits and the last: see [`crate::pair`].
//! 5. The record in the journal is forgotten, writers are let go, listeners are told.
//!
//! A file that is opened and has a part looks into the journal: a record there means apply, none means forget. States and proofs: `docs/spec/transactions.md`.

use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};

use blazedb_core::feed::Seq;
use blazedb_core::{Clock, Hlc, RecordId, ReplicaId, Stamp};

use crate::apply::{Applied, apply_all};
use crate::error::StoreError;
use crate::incoming::CheckedBatch;
use crate::journal::{Journal, TransactionId};
use crate::pair::Changing;
use crate::prepared::{apply_part, drop_part, keep_part, part_of};
use crate::sleep::Slot;
use crate::store::{Store, Writer, lock};
use crate::write::Transaction;

/// How far a transaction over several files has come. Each is told at the moment after which a crash finds it so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CommitStep {
    /// The work is done; nothing is on the disk.
    Worked,
    /// So many files have their part.
    Prepared(usize),
    /// The decision is written, and may not have reached the disk.
    Written,
    /// The decision is durable.
    Decided,
    /// So many files have applied their part.
    Applied(usize),
}

/// A transaction on several databases: see [`transaction_over`].
pub struct MultiTransaction<'a> {
    parts: Vec<Transaction<'a>>,
}

impl<'a> MultiTransaction<'a> {
    /// The transaction's part on one database.
    ///
    /// # Errors
    /// [`StoreError::NotPartOf`] if the transaction is not over that database.
    pub fn on(&mut self, store: &Store) -> Result<&mut Transaction<'a>, StoreError> {
        let part = self.parts.iter_mut().find(|part| part.store().is(store));
        part.ok_or_else(|| StoreError::NotPartOf(store.path().to_owned()))
    }
}

/// Runs `work` in a transaction over several databases. They must not be written in any other way by `work`.
///
/// # Errors
/// What `work` answers, and whatever keeps the commit from being durable: then nothing happened.
/// [`StoreError::Unfinished`] if it happened and a file could not take in its part yet.
pub fn transaction_over<T>(
    stores: &[&Store],
    work: impl FnOnce(&mut MultiTransaction<'_>) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    observed_transaction_over(stores, |_| (), work)
}

/// [`transaction_over`] that tells `observe` of every step, for tests that end the process there.
///
/// # Errors
/// As [`transaction_over`].
pub fn observed_transaction_over<T>(
    stores: &[&Store],
    mut observe: impl FnMut(CommitStep),
    work: impl FnOnce(&mut MultiTransaction<'_>) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let mut sorted: Vec<&Store> = stores.to_vec();
    sorted.sort_by_key(|store| store.replica());
    sorted.dedup_by(|a, b| a.is(b));
    let mut slots = slots_caught_up(&sorted)?;
    let (outcome, changed) = with_writers(&sorted, &mut slots, &mut observe, work)?;
    drop(slots);
    changed.into_iter().for_each(|(store, before)| store.tell_head(before));
    outcome
}

/// The writers of all of these, none of which has anything to catch up on.
fn slots_caught_up<'s>(stores: &[&'s Store]) -> Result<Vec<MutexGuard<'s, Slot>>, StoreError> {
    loop {
        stores.iter().try_for_each(|store| store.catch_up())?;
        let slots: Vec<_> = stores.iter().map(|store| store.writer_slot()).collect();
        // A transaction that ended while these were waited for may have left something.
        if stores.iter().all(|store| store.inner.behind.load(Ordering::Acquire) == 0) {
            return Ok(slots);
        }
    }
}

impl Store {
    /// Applies what of transactions over several files could not be applied when they were decided: what is written
    /// now has to be written on top of it.
    fn catch_up(&self) -> Result<(), StoreError> {
        let behind = self.inner.behind.load(Ordering::Acquire);
        if behind > 0 {
            self.recover()?;
            // What failed meanwhile is left for the next one.
            let _ = self.inner.behind.compare_exchange(behind, 0, Ordering::AcqRel, Ordering::Acquire);
        }
        Ok(())
    }

    /// The writer, with nothing to catch up on.
    pub(crate) fn slot_caught_up(&self) -> Result<MutexGuard<'_, Slot>, StoreError> {
        loop {
            self.catch_up()?;
            let slot = self.writer_slot();
            if self.inner.behind.load(Ordering::Acquire) == 0 {
                return Ok(slot);
            }
        }
    }
}

/// What became of the transaction, and the changed files with the end of their feeds before it.
type Outcome<'a, T> = (Result<T, StoreError>, Vec<(&'a Store, u64)>);

fn with_writers<'a, T>(
    stores: &[&'a Store],
    slots: &mut [MutexGuard<'_, Slot>],
    observe: &mut impl FnMut(CommitStep),
    work: impl FnOnce(&mut MultiTransaction<'_>) -> Result<T, StoreError>,
) -> Result<Outcome<'a, T>, StoreError> {
    let mut files = Vec::with_capacity(stores.len());
    for (store, slot) in stores.iter().zip(slots) {
        files.push(Participant::take(store, slot)?);
    }
    let done = work_on(&mut files, work);
    let value = match done {
        Ok(value) => value,
        Err(error) => {
            files.iter_mut().for_each(Participant::take_back);
            return Err(error);
        }
    };
    observe(CommitStep::Worked);
    files.retain_mut(Participant::keeps_part);
    let outcome = match files.as_mut_slice() {
        [] => Ok(()),
        [single] => single.commit_alone(),
        several => commit_all(several, observe),
    };
    let changed = files.into_iter().map(Participant::let_go).collect();
    Ok((outcome.map(|()| value), changed))
}

/// A file of the transaction, with its writer.
struct Participant<'a, 's> {
    store: &'a Store,
    writer: &'s mut Writer,
    before: (u64, Clock),
    touched: Vec<RecordId>,
    rows: Vec<u8>,
    /// How many rows these are.
    count: u64,
}

impl<'a, 's> Participant<'a, 's> {
    fn take(store: &'a Store, slot: &'s mut Slot) -> Result<Self, StoreError> {
        let writer = store.awake(slot)?;
        let before = (store.head() + 1, writer.clock.clone());
        Ok(Self { store, writer, before, touched: Vec::new(), rows: Vec::new(), count: 0 })
    }

    /// Nothing of it happened.
    fn take_back(&mut self) {
        self.store.roll_back(self.writer, self.before.clone());
    }

    /// Whether the file was changed at all; one that was not is let go.
    fn keeps_part(&mut self) -> bool {
        if self.touched.is_empty() {
            self.take_back();
        }
        !self.touched.is_empty()
    }

    fn sqlite<T>(&self, done: blazedb_sqlite::rusqlite::Result<T>) -> Result<T, StoreError> {
        done.map_err(|error| self.store.sqlite(error))
    }

    /// The work on the only file that was changed is what it is committed as.
    fn commit_alone(&mut self) -> Result<(), StoreError> {
        let _becoming_visible = self.store.changing();
        let done = self.finish();
        if done.is_err() {
            self.take_back();
        }
        done
    }

    /// Commits what is open.
    fn finish(&mut self) -> Result<(), StoreError> {
        let reserved = self.writer.reserve_clock();
        self.sqlite(reserved)?;
        self.store.publish_names(self.writer);
        self.sqlite(self.writer.end())?;
        let mut brought = lock(&self.store.inner.brought);
        self.writer.brought.drain(..).for_each(|stretch| brought.add(stretch));
        drop(brought);
        self.store.set_head(self.writer.next_seq - 1);
        Ok(())
    }

    /// Reads back what the work did, undoes it, and keeps it as a part.
    fn prepare(&mut self, id: TransactionId, journal: &Journal) -> Result<(), StoreError> {
        (self.rows, self.count) = part_of(self.store, self.writer, &self.touched)?;
        self.sqlite(self.writer.db.execute_batch("ROLLBACK"))?;
        self.writer.next_seq = self.before.0;
        // Other connections must not lose a commit that this one depends on.
        self.sqlite(self.writer.db.execute_batch("PRAGMA synchronous=FULL"))?;
        self.sqlite(self.writer.begin())?;
        let named = self.writer.names.store_missing(&self.writer.db);
        self.sqlite(named)?;
        keep_part(self.store, self.writer, id, journal, &self.rows)?;
        self.finish()
    }

    /// The transaction did not happen: forgets the part, if it was kept.
    fn unprepare(&mut self, id: TransactionId) {
        self.take_back();
        let undo = self.writer.begin().map_err(|error| self.store.sqlite(error));
        let undo = undo.and_then(|()| drop_part(self.store, self.writer, id)).and_then(|()| self.finish());
        if undo.is_err() {
            // The journal says the same when the file is opened next.
            self.take_back();
        }
    }

    /// The transaction happened.
    fn apply(&mut self, id: TransactionId, parts: &[(ReplicaId, Seq)]) -> Result<(), StoreError> {
        self.sqlite(self.writer.begin())?;
        let applied = apply_part(self.store, self.writer, &self.rows)
            .and_then(|()| drop_part(self.store, self.writer, id))
            .and_then(|()| self.tie(parts))
            .and_then(|()| self.finish());
        if applied.is_err() {
            let before = (self.before.0, self.writer.clock.clone());
            self.store.roll_back(self.writer, before);
        }
        applied
    }

    /// The end of the feed once this file has its part.
    fn last(&self) -> (ReplicaId, Seq) {
        (self.store.replica(), (self.before.0 + self.count).saturating_sub(1))
    }

    /// Notes what belongs together with what is written here.
    fn tie(&self, parts: &[(ReplicaId, Seq)]) -> Result<(), StoreError> {
        let own = self.store.replica();
        let others: Vec<_> = parts.iter().filter(|(replica, _)| *replica != own).copied().collect();
        match others.is_empty() {
            true => Ok(()),
            false => self.store.tie(self.writer, self.writer.next_seq.saturating_sub(1), &others),
        }
    }

    /// Lets the writer go. Answers the store and where its feed ended before.
    fn let_go(self) -> (&'a Store, u64) {
        let pragma = self.store.inner.options.durability.pragma();
        let _ = self.writer.db.execute_batch(pragma);
        (self.store, self.before.0)
    }
}

/// Runs the work in an open transaction of each file, all with one time.
fn work_on<T>(
    files: &mut [Participant<'_, '_>],
    work: impl FnOnce(&mut MultiTransaction<'_>) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let mut time = Hlc::default();
    for file in files.iter_mut() {
        file.sqlite(file.writer.begin())?;
        time = time.max(file.writer.clock.tick(file.store.now_ms()));
    }
    let (value, touched) = work_at(files, time, work)?;
    for (file, touched) in files.iter_mut().zip(touched) {
        file.touched = touched;
    }
    Ok(value)
}

/// Answers also which records were written, file by file.
fn work_at<T>(
    files: &mut [Participant<'_, '_>],
    time: Hlc,
    work: impl FnOnce(&mut MultiTransaction<'_>) -> Result<T, StoreError>,
) -> Result<(T, Vec<Vec<RecordId>>), StoreError> {
    let mut parts = Vec::with_capacity(files.len());
    for Participant { store, writer, .. } in files {
        writer.clock.observe(time, time.millis())?;
        parts.push(Transaction::new(store, writer, Stamp::new(time, store.replica())));
    }
    let mut multi = MultiTransaction { parts };
    let value = work(&mut multi)?;
    let mut touched = Vec::with_capacity(multi.parts.len());
    for part in &mut multi.parts {
        // Also where `work` went on after it had been told.
        part.count(0)?;
        touched.push(part.touched());
    }
    Ok((value, touched))
}

/// Steps 2 to 5.
fn commit_all(
    files: &mut [Participant<'_, '_>],
    observe: &mut impl FnMut(CommitStep),
) -> Result<(), StoreError> {
    let id = TransactionId::from(crate::opening::random_replica()?.0);
    let Some(first) = files.first().map(|file| file.store) else { return Ok(()) };
    let mut journal = lock(&first.inner.journal);
    let journal = match &mut *journal {
        Some(open) => open,
        none => match Journal::open(first.path()) {
            Ok(opened) => none.insert(opened),
            Err(error) => {
                files.iter_mut().for_each(Participant::take_back);
                return Err(error);
            }
        },
    };
    for at in 0..files.len() {
        let Some(file) = files.get_mut(at) else { break };
        if let Err(error) = file.prepare(id, journal) {
            files.iter_mut().for_each(|file| file.unprepare(id));
            return Err(error);
        }
        observe(CommitStep::Prepared(at + 1));
    }
    if let Err(error) = journal.commit(id, || observe(CommitStep::Written)) {
        files.iter_mut().for_each(|file| file.unprepare(id));
        return Err(error);
    }
    observe(CommitStep::Decided);
    let visible: Vec<Option<Changing<'_>>> = files.iter().map(|file| file.store.changing()).collect();
    let mut unfinished = None;
    let parts: Vec<(ReplicaId, Seq)> = files.iter().map(Participant::last).collect();
    for (at, file) in files.iter_mut().enumerate() {
        match file.apply(id, &parts) {
            Ok(()) => observe(CommitStep::Applied(at + 1)),
            Err(error) => {
                file.store.inner.behind.fetch_add(1, Ordering::AcqRel);
                unfinished = Some(StoreError::Unfinished {
                    path: file.store.path().to_owned(),
                    error: Box::new(error),
                });
            }
        }
    }
    drop(visible);
    match unfinished {
        Some(error) => Err(error),
        None => {
            journal.forget_last();
            Ok(())
        }
    }
}

/// Applies batches of peers to several databases at one moment: no join sees some of them and others not, and whoever
/// reads these databases here is told that they belong together. Each database is named once. A crash between two commits
/// leaves a database behind, whose peer sends the rest again.
///
/// # Errors
/// If any of the batches can't be applied: then none is, unless it was the last step that failed; applying them once more
/// one by one is right in any case.
pub fn apply_over(parts: &[(&Store, &[CheckedBatch])]) -> Result<Vec<Applied>, StoreError> {
    let mut order: Vec<(usize, &Store, &[CheckedBatch])> =
        parts.iter().enumerate().map(|(at, (store, batches))| (at, *store, *batches)).collect();
    order.sort_by_key(|(_, store, _)| store.replica());
    if order.iter().any(|(_, store, _)| store.inner.behind.load(Ordering::Acquire) > 0) {
        // An ordinary commit brings it up to date first.
        return Err(StoreError::Interrupted);
    }
    let mut slots: Vec<MutexGuard<'_, Slot>> =
        order.iter().map(|(_, store, _)| store.writer_slot()).collect();
    let mut files = Vec::with_capacity(order.len());
    for ((_, store, _), slot) in order.iter().zip(&mut slots) {
        files.push(Participant::take(store, slot)?);
    }
    let applied = apply_to(&mut files, &order)?;
    let changed: Vec<(&Store, u64)> = files.into_iter().map(Participant::let_go).collect();
    drop(slots);
    changed.into_iter().for_each(|(store, before)| store.tell_head(before));
    // As they were named.
    let mut applied: Vec<(usize, Applied)> = order.iter().map(|(at, ..)| *at).zip(applied).collect();
    applied.sort_by_key(|(at, _)| *at);
    Ok(applied.into_iter().map(|(_, applied)| applied).collect())
}

fn apply_to(
    files: &mut [Participant<'_, '_>],
    order: &[(usize, &Store, &[CheckedBatch])],
) -> Result<Vec<Applied>, StoreError> {
    let done = write_all(files, order);
    let applied = match done {
        Ok(applied) => applied,
        Err(error) => {
            files.iter_mut().for_each(Participant::take_back);
            return Err(error);
        }
    };
    let visible: Vec<Option<Changing<'_>>> = files.iter().map(|file| file.store.changing()).collect();
    let mut failed = None;
    for file in files {
        match &failed {
            None => failed = file.finish().inspect_err(|_| file.take_back()).err(),
            Some(_) => file.take_back(),
        }
    }
    drop(visible);
    failed.map_or(Ok(applied), Err)
}

/// Writes all of it into open transactions.
fn write_all(
    files: &mut [Participant<'_, '_>],
    order: &[(usize, &Store, &[CheckedBatch])],
) -> Result<Vec<Applied>, StoreError> {
    let mut applied = Vec::with_capacity(files.len());
    for (file, (_, store, batches)) in files.iter_mut().zip(order) {
        file.sqlite(file.writer.begin())?;
        applied.push(apply_all(store, file.writer, batches)?);
        file.count = file.writer.next_seq.saturating_sub(file.before.0);
    }
    let parts: Vec<(ReplicaId, Seq)> =
        files.iter().filter(|file| file.count > 0).map(Participant::last).collect();
    for file in files.iter().filter(|file| file.count > 0) {
        file.tie(&parts)?;
    }
    Ok(applied)
}

impl Store {
    /// The end of the feed, once a commit is done.
    fn set_head(&self, head: u64) {
        self.inner.head.store(head, std::sync::atomic::Ordering::Release);
    }

    /// Tells listeners of a feed that ended before `next` and goes further now.
    fn tell_head(&self, next: u64) {
        let head = self.head();
        if next <= head {
            let listeners = self.inner.listeners.lock().unwrap_or_else(PoisonError::into_inner);
            listeners.iter().for_each(|listener| listener(head));
        }
    }
}
