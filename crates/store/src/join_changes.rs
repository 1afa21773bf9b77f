//! What changes in a join, at a cost that grows with the changes.
//!
//! A pair can come, change or go only if one of its records changed. So the pairs of every left record are worked
//! out anew that changed itself, had a right record that changed, or has one now; all at one moment of both files.
//! For the last kind an index on the left field finds them: [`Store::start_join_changes`] makes sure of it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use blazedb_core::RecordId;
use blazedb_core::feed::Seq;

use crate::error::StoreError;
use crate::join::{Join, JoinReader, JoinedRow, With};
use crate::query::clamp;
use crate::readers::FeedReader;
use crate::sql_filter::SqlParam;
use crate::store::Store;

/// Changes of each file that are looked at in one step.
const STEP: usize = 1_024;

/// A difference in what a join finds.
#[derive(Clone, PartialEq, Debug)]
pub enum JoinChange {
    /// The pair is new.
    Added(JoinedRow),
    /// One of its records has changed.
    Changed(JoinedRow),
    /// The pair is gone: its left and right record.
    Removed(RecordId, Option<RecordId>),
}

/// What a join found when it was last looked at.
#[derive(Debug, Default)]
pub struct JoinMembers {
    cursors: (Seq, Seq),
    /// Neither file drops what they have not passed.
    followed: Option<(FeedReader, FeedReader)>,
    rights_of: HashMap<RecordId, BTreeSet<Option<RecordId>>>,
    lefts_of: HashMap<RecordId, HashSet<RecordId>>,
}

impl JoinMembers {
    fn add(&mut self, left: RecordId, right: Option<RecordId>) -> bool {
        if let Some(right) = right {
            self.lefts_of.entry(right).or_default().insert(left);
        }
        self.rights_of.entry(left).or_default().insert(right)
    }

    fn remove(&mut self, left: RecordId, right: Option<RecordId>) {
        if let Some(rights) = self.rights_of.get_mut(&left) {
            rights.remove(&right);
            if rights.is_empty() {
                self.rights_of.remove(&left);
            }
        }
        if let Some(right) = right
            && let Some(lefts) = self.lefts_of.get_mut(&right)
        {
            lefts.remove(&left);
            if lefts.is_empty() {
                self.lefts_of.remove(&right);
            }
        }
    }
}

impl Store {
    /// All pairs of a join as it is now, and what later differences are told from. Order and limits don't apply.
    ///
    /// # Errors
    /// If a file can't be read, or the index on the left field can't be made.
    pub fn start_join_changes(
        &self,
        right: &Self,
        wanted: &Join,
    ) -> Result<(JoinMembers, Vec<JoinChange>), StoreError> {
        for (store, field) in [(self, &wanted.on.0), (right, &wanted.on.1)] {
            if field != "id" {
                store.ensure_index(field)?;
            }
        }
        let heads = (self.head(), right.head());
        let followed = Some((self.follow(heads.0), right.follow(heads.1)));
        self.read_pair(right, |db| {
            let mut members = JoinMembers { followed, ..JoinMembers::default() };
            let mut changes = Vec::new();
            let unordered = Join { order_by: Vec::new(), limit: None, offset: 0, ..wanted.clone() };
            let reader = JoinReader::new(self, right, &unordered, db)?;
            reader.each(None, |row| {
                members.add(row.left.id, row.right.as_ref().map(|right| right.id));
                changes.push(JoinChange::Added(row));
                true
            })?;
            let last = |schema: &str| {
                db.query_row(&format!("SELECT max(seq) FROM {schema}.records"), [], |row| {
                    row.get::<_, Option<Seq>>(0)
                })
                .map_err(|error| self.sqlite(error))
            };
            let (left_last, right_last) = (last("main")?, last(self.schema_of(right))?);
            members.cursors = (left_last.unwrap_or(0).max(heads.0), right_last.unwrap_or(0).max(heads.1));
            Ok((members, changes))
        })
    }

    /// The differences since `members` was last looked at; none if there are none yet.
    ///
    /// # Errors
    /// If a file can't be read.
    pub fn join_changes(
        &self,
        right: &Self,
        wanted: &Join,
        members: &mut JoinMembers,
    ) -> Result<Vec<JoinChange>, StoreError> {
        let heads = (self.head(), right.head());
        self.read_pair(right, |db| {
            let reader = JoinReader::new(self, right, wanted, db)?;
            let changed = |schema: &str, cursor: &mut Seq, head: Seq| {
                let sql =
                    format!("SELECT id, seq FROM {schema}.records WHERE seq>? ORDER BY seq LIMIT {STEP}");
                let mut ids = BTreeSet::new();
                let mut rows = 0;
                self.each(db, &sql, &[SqlParam::Int(clamp(*cursor))], |row| {
                    ids.insert(RecordId::from_bytes(row.get(0)?));
                    *cursor = row.get(1)?;
                    rows += 1;
                    Ok(true)
                })?;
                if rows < STEP {
                    // The feed may end behind its last record.
                    *cursor = head.max(*cursor);
                }
                Ok::<_, StoreError>(ids)
            };
            let changed_left = changed("main", &mut members.cursors.0, heads.0)?;
            let changed_right = changed(self.schema_of(right), &mut members.cursors.1, heads.1)?;
            if let Some((left, right)) = &members.followed {
                left.passed(members.cursors.0);
                right.passed(members.cursors.1);
            }
            let mut affected = changed_left.clone();
            for id in &changed_right {
                affected.extend(members.lefts_of.get(id).into_iter().flatten());
                reader.lefts_of(*id, |left| {
                    affected.insert(left);
                })?;
            }
            let mut changes = Vec::new();
            for left in affected {
                let touched = |right: Option<RecordId>| {
                    changed_left.contains(&left) || right.is_some_and(|right| changed_right.contains(&right))
                };
                differences(&reader, left, touched, members, &mut changes)?;
            }
            Ok(changes)
        })
    }

    /// Whether a join may have changed since `members` was last looked at.
    #[must_use]
    pub fn join_is_behind(&self, right: &Self, members: &JoinMembers) -> bool {
        members.cursors.0 < self.head() || members.cursors.1 < right.head()
    }
}

/// The differences among the pairs of one left record. Those that go come first.
fn differences(
    reader: &JoinReader<'_>,
    left: RecordId,
    touched: impl Fn(Option<RecordId>) -> bool,
    members: &mut JoinMembers,
    changes: &mut Vec<JoinChange>,
) -> Result<(), StoreError> {
    let mut now: BTreeMap<Option<RecordId>, JoinedRow> = BTreeMap::new();
    reader.each(Some(With::Left(left)), |row| {
        now.insert(row.right.as_ref().map(|right| right.id), row);
        true
    })?;
    let before = members.rights_of.get(&left).cloned().unwrap_or_default();
    for gone in before.into_iter().filter(|right| !now.contains_key(right)) {
        members.remove(left, gone);
        changes.push(JoinChange::Removed(left, gone));
    }
    for (right, row) in now {
        if members.add(left, right) {
            changes.push(JoinChange::Added(row));
        } else if touched(right) {
            changes.push(JoinChange::Changed(row));
        }
    }
    Ok(())
}
