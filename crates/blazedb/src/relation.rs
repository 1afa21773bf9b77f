//! Relations between the databases of a node: a field that holds the id of a record of another database.
//!
//! A local deletion keeps its relations in its own transaction, over all databases that it reaches. A deletion that
//! comes in over a link can't be refused; the relation's *keeper* does here what the rule says, as ordinary changes,
//! as does the keeper of every node that declares the relation. They agree, since to delete and to set null twice
//! is to do it once.
//!
//! Invariants: what was never seen here is "not here yet" and no error; what was deleted can't be referred to anew.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, Weak};

use blazedb_core::topology::OnDelete;
use blazedb_core::{FieldEdit, FieldEdits, Record, RecordId, Value};
use blazedb_store::{
    FeedReader, MultiTransaction, Presence, Store, StoreError, Transaction, transaction_over,
};

use crate::database::{Database, Inner};
use crate::fanout::blocking;

/// Changes that a keeper looks at in one step.
const STEP: usize = 512;

/// A declared relation.
#[derive(Clone)]
pub(crate) struct Relation {
    child: Weak<Inner>,
    field: String,
    parent: Weak<Inner>,
    rule: OnDelete,
}

impl Relation {
    fn is_of(&self, database: &Database, end: &Weak<Inner>) -> bool {
        std::ptr::eq(end.as_ptr(), Arc::as_ptr(&database.inner))
    }

    fn parent_is(&self, database: &Database) -> bool {
        self.is_of(database, &self.parent)
    }

    fn child_is(&self, database: &Database) -> bool {
        self.is_of(database, &self.child)
    }
}

/// Declares that `field` of `child` holds ids of `parent`, and starts the keeper. Must be called inside a tokio
/// runtime.
pub(crate) fn relate(
    child: &Database,
    field: &str,
    parent: &Database,
    rule: OnDelete,
) -> Result<(), StoreError> {
    child.store().ensure_index(field)?;
    let relation = Relation {
        child: Arc::downgrade(&child.inner),
        field: field.to_owned(),
        parent: Arc::downgrade(&parent.inner),
        rule,
    };
    let ends: &[&Database] = if child.is(parent) { &[child] } else { &[child, parent] };
    for end in ends {
        let mut relations = end.inner.relations.write().unwrap_or_else(PoisonError::into_inner);
        relations.retain(|known| !(known.child_is(child) && known.field == field));
        relations.push(relation.clone());
    }
    tokio::spawn(keep(relation));
    Ok(())
}

/// Runs `work` in a transaction of `database` that keeps its relations.
pub(crate) fn transaction<T>(
    database: &Database,
    work: impl FnOnce(&mut Transaction<'_>) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    if database.relations().is_empty() {
        return database.store().transaction(work);
    }
    over(std::slice::from_ref(database), |multi| work(multi.on(database.store())?))
}

/// Runs `work` in a transaction over databases and whatever their relations reach, and keeps the relations.
pub(crate) fn over<T>(
    databases: &[Database],
    work: impl FnOnce(&mut MultiTransaction<'_>) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let mut reached = databases.to_vec();
    let mut at = 0;
    while let Some(database) = reached.get(at).cloned() {
        for relation in database.relations().iter().filter(|relation| relation.parent_is(&database)) {
            if let Some(child) = Database::of(&relation.child)
                && !reached.iter().any(|known| known.is(&child))
            {
                reached.push(child);
            }
        }
        at += 1;
    }
    let stores: Vec<&Store> = reached.iter().map(Database::store).collect();
    transaction_over(&stores, |multi| {
        let value = work(multi)?;
        keep_in(multi, &reached)?;
        Ok(value)
    })
}

/// Does what the rules say about everything that the transaction has written.
fn keep_in(multi: &mut MultiTransaction<'_>, databases: &[Database]) -> Result<(), StoreError> {
    let mut deleted = VecDeque::new();
    for database in databases {
        let relations = database.relations();
        if relations.is_empty() {
            continue;
        }
        let part = multi.on(database.store())?;
        let written: Vec<(RecordId, Option<Record>)> = part
            .touched()
            .into_iter()
            .map(|id| Ok((id, part.get(id)?)))
            .collect::<Result<_, StoreError>>()?;
        for (id, record) in written {
            let Some(record) = record else {
                deleted.push_back((database.clone(), id));
                continue;
            };
            for relation in relations.iter().filter(|relation| relation.child_is(database)) {
                check_target(multi, database, relation, &record)?;
            }
        }
    }
    while let Some((database, id)) = deleted.pop_front() {
        for relation in database.relations().iter().filter(|relation| relation.parent_is(&database)) {
            let Some(child) = Database::of(&relation.child) else { continue };
            let part = multi.on(child.store())?;
            let referring = part.referring(&relation.field, id)?;
            if relation.rule == OnDelete::Restrict && !referring.is_empty() {
                let (path, field) = (child.store().path().to_owned(), relation.field.clone());
                return Err(StoreError::Restricted { id, count: referring.len(), path, field });
            }
            for id in referring {
                apply_rule(part, relation, id)?;
                if relation.rule == OnDelete::Cascade {
                    deleted.push_back((child.clone(), id));
                }
            }
        }
    }
    Ok(())
}

fn apply_rule(part: &mut Transaction<'_>, relation: &Relation, id: RecordId) -> Result<(), StoreError> {
    match relation.rule {
        OnDelete::Restrict => Ok(()),
        OnDelete::Cascade => part.delete(id),
        OnDelete::SetNull => {
            part.update(id, &FieldEdits::from([(relation.field.clone(), FieldEdit::Set(Value::Null))]))
        }
    }
}

/// A reference that is new must not lead to what was deleted.
fn check_target(
    multi: &mut MultiTransaction<'_>,
    child: &Database,
    relation: &Relation,
    record: &Record,
) -> Result<(), StoreError> {
    let (Some(target), Some(parent)) = (target_of(record, &relation.field), Database::of(&relation.parent))
    else {
        return Ok(());
    };
    let presence = match multi.on(parent.store()) {
        Ok(part) => part.presence(target)?,
        // Who deletes there holds the writer of this database too, so the answer stays true.
        Err(_) => parent.store().presence(target)?,
    };
    let before = child.store().get_field(record.id, &relation.field)?;
    if presence != Presence::Deleted || before.as_ref() == record.get(&relation.field) {
        return Ok(());
    }
    let (field, path) = (relation.field.clone(), parent.store().path().to_owned());
    Err(StoreError::Dangling { id: record.id, field, target, path })
}

/// The id that a field holds, as a uuid or as its text.
fn target_of(record: &Record, field: &str) -> Option<RecordId> {
    match record.get(field)? {
        Value::Uuid(uuid) => Some(RecordId(*uuid)),
        Value::String(text) => text.parse().ok().filter(|id: &RecordId| id.to_string() == *text),
        _ => None,
    }
}

/// Does what the rule says about deletions that came in over links, until a database is closed.
async fn keep(relation: Relation) {
    let heads = || Some((Database::of(&relation.parent)?, Database::of(&relation.child)?));
    let Some((parent, child)) = heads() else { return };
    let mut heads = (parent.watch_head(), child.watch_head());
    // What the parent's feed lost before this run, the child's tells: all of it is looked at once more.
    let followed = parent.store().follow(0);
    drop((parent, child));
    loop {
        heads.0.mark_unchanged();
        heads.1.mark_unchanged();
        let (relation, followed) = (relation.clone(), followed.clone());
        let kept = blocking(move || {
            let (Some(parent), Some(child)) = (Database::of(&relation.parent), Database::of(&relation.child))
            else {
                return Ok(());
            };
            catch_up(&relation, &parent, &child, &followed)
        });
        if let Err(error) = kept.await {
            tracing::warn!(%error, "a relation could not be kept; it is tried again with the next change");
        }
        let changed = tokio::select! {
            changed = heads.0.changed() => changed,
            changed = heads.1.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

/// Looks at what changed on both sides since the last time, also in an earlier run.
fn catch_up(
    relation: &Relation,
    parent: &Database,
    child: &Database,
    followed: &FeedReader,
) -> Result<(), StoreError> {
    let name = |side: &str| format!("relation {} {side} {}", relation.field, parent.store().replica());
    let saved = |side: &str| {
        let saved = child.store().mark(&name(side))?.unwrap_or(0);
        Ok::<_, StoreError>(u64::try_from(saved).unwrap_or(0))
    };
    // Deletions were dropped from the parent's feed that were never looked at: what refers to them is found from the
    // child's side.
    let missed = saved("parent")? < parent.store().fence() && !followed.has_passed(parent.store().fence());
    for (side, database) in [("parent", parent), ("child", child)] {
        let start = if missed && side == "child" { 0 } else { saved(side)? };
        let (mut cursor, end) = (start, database.store().head());
        loop {
            let changes = database.store().changes(cursor, STEP, None)?;
            let Some(last) = changes.last() else { break };
            cursor = last.seq;
            for change in changes {
                let gone = match (side, &change.record) {
                    ("parent", None) => Some(change.id),
                    ("child", Some(record)) => target_of(record, &relation.field),
                    _ => None,
                };
                if let Some(gone) = gone
                    && parent.store().presence(gone)? == Presence::Deleted
                {
                    settle(relation, child, gone)?;
                }
            }
        }
        if side == "parent" {
            followed.passed(cursor.max(end));
        }
        // To look at a change again does nothing, so not every one is worth a commit.
        if missed || cursor >= start + STEP as u64 {
            child.store().set_mark(&name(side), i64::try_from(cursor).unwrap_or(i64::MAX))?;
        }
    }
    Ok(())
}

/// Does what the rule says about the deletion of one record.
fn settle(relation: &Relation, child: &Database, gone: RecordId) -> Result<(), StoreError> {
    if relation.rule == OnDelete::Restrict {
        return Ok(());
    }
    child.transaction(|tx| {
        let referring = tx.referring(&relation.field, gone)?;
        referring.into_iter().try_for_each(|id| apply_rule(tx, relation, id))
    })
}
