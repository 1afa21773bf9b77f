//! Dropping fields in a form that is no longer used, so that nothing of them stays in the file.
//!
//! It happens on whoever holds the database without its keys, when a member says that everything has been sent in
//! another form. A record keeps its place in the feed: nobody has to be told.
//!
//! Invariant: a value goes only if its record holds one in the other form that is not older, or is deleted. What nobody has
//! sent anew stays, and is looked at again later: a member's word alone makes nobody lose anything, and whoever may not write a
//! record can have nothing of it dropped.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use blazedb_core::blazebinary::FieldNo;
use blazedb_core::keyring::{Act, Statement, retired_tag};
use blazedb_core::merge::RecordState;
use blazedb_core::seal::is_sealed_name;
use blazedb_core::topology::EncryptionSpec;
use blazedb_sqlite::rusqlite::{self, Connection, params};

use crate::error::StoreError;
use crate::names::NameTable;
use crate::row::StoredRow;
use crate::schema::{meta, set_meta};
use crate::store::{Store, Writer};

/// `meta`: something was dropped that may still be in free pages and in the log.
const SCRUB: &str = "scrub";
/// `meta`: what is to go, see [`Retiring`].
const RETIRING: &str = "retiring";

/// Whether the file is to be scrubbed, and whether something in it waits to go.
pub(crate) fn waiting_to_go(db: &Connection) -> rusqlite::Result<(bool, bool)> {
    Ok((meta::<i64>(db, SCRUB)?.is_some(), !Retiring::load(db)?.is_empty()))
}

/// What is to go as soon as it is there in another form.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Retiring {
    /// Readable fields that are sealed by now.
    readable: BTreeSet<FieldNo>,
    /// Sealed fields of which some are readable by now.
    sealed: BTreeSet<FieldNo>,
    /// Those that are readable by now.
    opened: BTreeSet<FieldNo>,
    /// Something was said about it.
    pub(crate) has_heard: bool,
}

impl Retiring {
    /// What the file says.
    pub(crate) fn load(db: &Connection) -> rusqlite::Result<Self> {
        let text: Option<String> = meta(db, RETIRING)?;
        let mut lists = text.iter().flat_map(|text| text.split(';')).map(|list| {
            let numbers = list.split(',').filter_map(|number| number.parse().ok());
            numbers.collect::<BTreeSet<FieldNo>>()
        });
        let mut next = || lists.next().unwrap_or_default();
        Ok(Self { readable: next(), sealed: next(), opened: next(), has_heard: false })
    }

    fn text(&self) -> String {
        let lists = [&self.readable, &self.sealed, &self.opened].map(|list| {
            let numbers: Vec<String> = list.iter().map(ToString::to_string).collect();
            numbers.join(",")
        });
        lists.join(";")
    }

    /// A statement, and the rule and what was unsettled before it.
    pub(crate) fn hear(
        &mut self,
        statement: &[u8],
        (rule, unsettled): (&EncryptionSpec, Option<&EncryptionSpec>),
        names: &NameTable,
    ) {
        let Ok((statement, ..)) = Statement::decode(statement) else { return };
        match (statement.act, unsettled) {
            (Act::Rule(rule), _) => {
                self.has_heard = true;
                self.sealed.clear();
                self.readable.retain(|field| names.field(*field).is_some_and(|name| rule.seals(name)));
            }
            // Whatever else is named was not changed by the rule: nobody has sent it anew.
            (Act::Settled { retired }, Some(before)) => {
                self.has_heard = true;
                self.opened.clear();
                for (name, field) in names.fields().filter_map(|name| Some((name, names.field_no(name)?))) {
                    let is_named = || retired.contains(&retired_tag(&statement.parent, name));
                    if is_sealed_name(name) {
                        if *before != EncryptionSpec::SmartProxy && is_named() {
                            self.sealed.insert(field);
                        }
                    } else if !before.seals(name) && rule.seals(name) && is_named() {
                        self.readable.insert(field);
                    } else if before.seals(name) && !rule.seals(name) {
                        self.opened.insert(field);
                    }
                }
            }
            _ => {}
        }
    }

    fn is_empty(&self) -> bool {
        self.readable.is_empty() && self.sealed.is_empty()
    }

    /// Takes what may go out of a record. Answers which fields have to stay.
    fn drop_from(&self, state: &mut RecordState, names: &NameTable) -> Vec<FieldNo> {
        let is_sealed = |field| names.field(field).is_some_and(|name| is_sealed_name(name));
        let stays = |field: &FieldNo| !self.readable.contains(field) && !self.sealed.contains(field);
        let newest = |other: &dyn Fn(FieldNo) -> bool| {
            let others = state.cells.iter().filter(|(field, _)| stays(field) && other(*field));
            others.map(|(_, cell)| cell.stamp).max()
        };
        let (sealed, opened) = (newest(&is_sealed), newest(&|field| self.opened.contains(&field)));
        let deleted = state.life.dead.is_some() && !state.life.is_alive();
        let mut kept = Vec::new();
        state.cells.retain(|(field, cell)| {
            let other_form = if self.readable.contains(field) { sealed } else { opened };
            let goes = stays(field) || deleted || other_form.is_some_and(|other| other >= cell.stamp);
            if !stays(field) && !goes {
                kept.push(*field);
            }
            stays(field) || !goes
        });
        kept
    }
}

impl Store {
    /// Drops what is to go from all records, as far as it may, and the names of what is gone from all of them. The rest is
    /// kept in mind.
    pub(crate) fn retire(&self, writer: &mut Writer, mut retiring: Retiring) -> Result<(), StoreError> {
        let sqlite = |error| self.sqlite(error);
        let (mut after, mut dropped) = (0, false);
        let mut left = BTreeSet::new();
        while !retiring.is_empty()
            && let Some(row) = StoredRow::next_behind(&writer.db, after).map_err(sqlite)?
        {
            after = row.seq;
            let mut state = row.decode(&writer.names)?;
            let before = state.cells.len();
            left.extend(retiring.drop_from(&mut state, &writer.names));
            if state.cells.len() < before {
                dropped = true;
                let Writer { db, names, buffer, .. } = &mut *writer;
                buffer.encode(row.id, &state, row.seq, names)?;
                buffer.replace(db, row.seq, state.life, row.place()).map_err(sqlite)?;
            }
        }
        let all = retiring.readable.iter().chain(&retiring.sealed).copied();
        let gone: Vec<FieldNo> = all.filter(|field| !left.contains(field)).collect();
        for field in &gone {
            // Numbers are counted through, so the row stays.
            let name = format!("$retired.{field}");
            let rename = "UPDATE fields SET name=? WHERE no=?";
            writer.db.execute(rename, params![name, field]).map_err(sqlite)?;
        }
        if dropped || !gone.is_empty() {
            // Former states that readers with restricted views may need. Without them such a reader compares.
            writer.db.execute_batch("DELETE FROM conflicts; DELETE FROM shadows").map_err(sqlite)?;
            set_meta(&writer.db, SCRUB, 1).map_err(sqlite)?;
            self.inner.needs_scrub.store(true, Ordering::Relaxed);
            writer.names = NameTable::load(&writer.db).map_err(sqlite)?;
            *self.inner.names.write().unwrap_or_else(std::sync::PoisonError::into_inner) =
                std::sync::Arc::new(writer.names.clone());
        }
        retiring.readable.retain(|field| left.contains(field));
        retiring.sealed.retain(|field| left.contains(field));
        self.inner.retiring.store(!retiring.is_empty(), Ordering::Relaxed);
        set_meta(&writer.db, RETIRING, retiring.text()).map_err(sqlite)
    }

    /// Drops what had to stay before because nobody had sent it in another form.
    fn retire_rest(&self) -> Result<(), StoreError> {
        if !self.inner.retiring.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.commit(|writer| {
            let retiring = Retiring::load(&writer.db).map_err(|error| self.sqlite(error))?;
            self.retire(writer, retiring)
        })
    }

    /// Whether something was dropped that may still be in free pages and in the log.
    #[must_use]
    pub fn needs_scrub(&self) -> bool {
        self.inner.needs_scrub.load(Ordering::Relaxed)
    }

    /// Drops what waits for that, then writes the file anew without free pages and empties the log, if something was
    /// dropped. Writers wait.
    ///
    /// # Errors
    /// What the disk refuses; it can be tried again.
    pub fn scrub(&self) -> Result<(), StoreError> {
        self.retire_rest()?;
        if !self.needs_scrub() {
            return Ok(());
        }
        self.release_memory();
        let mut slot = self.writer_slot();
        let writer = self.awake(&mut slot)?;
        let sqlite = |error| self.sqlite(error);
        // The log is emptied last: the pages of before are in it as well.
        let rewrite = "PRAGMA secure_delete=ON; VACUUM; PRAGMA wal_checkpoint(TRUNCATE);";
        writer.db.execute_batch(rewrite).map_err(sqlite)?;
        let busy: i64 =
            writer.db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0)).map_err(sqlite)?;
        if busy == 0 {
            writer.db.execute("DELETE FROM meta WHERE key=?", [SCRUB]).map_err(sqlite)?;
            self.inner.needs_scrub.store(false, Ordering::Relaxed);
        }
        Ok(())
    }
}
