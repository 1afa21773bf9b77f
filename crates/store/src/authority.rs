//! Where an authority judges what its children bring, in the transaction that takes it in.
//!
//! The logic is `blazedb_core::authority`; this module asks the application's resolver, gives decisions their stamps,
//! and keeps refusals. Meaning: `docs/spec/authority.md`.
//!
//! Invariants: a decision, the refusal that goes with it and the checkpoint that passes what was judged commit
//! together; what a peer brings is judged only while that peer decides about nothing here.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use blazedb_core::access::Operation;
use blazedb_core::access::change::visible;
use blazedb_core::authority::{self as core, Judge, Judged, Matter, Merged, Ruling, overrule};
use blazedb_core::blazebinary::FieldNo;
use blazedb_core::blazebinary::RecordBuilder;
use blazedb_core::feed::{PeerNo, Seq};
use blazedb_core::limits::{MAX_REFUSAL_CHARACTERS, MAX_REFUSED};
use blazedb_core::merge::RecordState;
use blazedb_core::{RecordId, ReplicaId, Stamp, Value};
use blazedb_sqlite::rusqlite::{Row, params};

use crate::conflicts::has_lost;
use crate::error::StoreError;
use crate::gate::Refused;
use crate::incoming::Source;
use crate::names::NameTable;
use crate::query::clamp;
use crate::refusals;
use crate::store::{Store, Writer, lock};

/// A child's write and what the authority holds, where neither was made with knowledge of the other.
#[derive(Clone, PartialEq, Debug)]
pub struct Dispute<'a> {
    /// The record.
    pub id: RecordId,
    /// The field; `None`: the child deleted the record.
    pub field: Option<&'a str>,
    /// What the authority holds; `None` if the field was removed, and about a deletion.
    pub parent: Option<Value>,
    /// What the child wrote; `None` if it removed the field, and about a deletion.
    pub child: Option<Value>,
    /// When and by which replica what the authority holds was written; about a deletion the last write.
    pub parent_stamp: Stamp,
    /// When and by which replica the child's write was made.
    pub child_stamp: Stamp,
}

/// What becomes of a [`Dispute`].
#[derive(Clone, PartialEq, Debug)]
pub enum Resolution {
    /// What the authority holds stands.
    KeepParent,
    /// The child's write stands.
    TakeChild,
    /// This value stands. About a deletion it means [`Resolution::KeepParent`].
    Merge(Value),
    /// The child's write is refused, with this reason: it and what came with it for the same record end in the child's
    /// list of rejected writes.
    Refuse(String),
}

/// Decides about disputes. It is called inside a transaction: it must be quick, and must not use the database.
pub type Resolver = Arc<dyn Fn(&Dispute<'_>) -> Resolution + Send + Sync>;

/// Who decides about a database, as far as this node has a say.
#[derive(Default)]
pub(crate) struct Authority {
    resolver: RwLock<Option<Resolver>>,
    /// Whoever connects is judged here.
    decides: AtomicBool,
    /// The replicas that decide about this one, and over how many sessions each.
    deciders: Mutex<BTreeMap<ReplicaId, usize>>,
}

/// As long as it is there, a replica counts as one that decides about this one.
pub struct Decider {
    store: Store,
    replica: ReplicaId,
}

impl Drop for Decider {
    fn drop(&mut self) {
        let mut deciders = lock(&self.store.inner.authority.deciders);
        if let Some(count) = deciders.get_mut(&self.replica) {
            *count -= 1;
            if *count == 0 {
                deciders.remove(&self.replica);
            }
        }
    }
}

impl Store {
    /// Has `resolver` decide about disputes, where this node is the authority. Without one the authority's value
    /// stands. One that panics counts as if it had said so.
    pub fn set_resolver(&self, resolver: Option<Resolver>) {
        *self.inner.authority.resolver.write().unwrap_or_else(PoisonError::into_inner) = resolver;
    }

    /// Has this node decide about what every client writes, or only where the client asks for that.
    pub fn set_decides(&self, decides: bool) {
        self.inner.authority.decides.store(decides, Ordering::Release);
    }

    /// Whether this node decides about what every client writes.
    #[must_use]
    pub fn decides(&self) -> bool {
        self.inner.authority.decides.load(Ordering::Acquire)
    }

    /// Takes note that a replica decides about this one, for as long as the answer is kept.
    #[must_use]
    pub fn decided_by(&self, replica: ReplicaId) -> Decider {
        *lock(&self.inner.authority.deciders).entry(replica).or_default() += 1;
        Decider { store: self.clone(), replica }
    }

    /// Records that a peer has not acknowledged in their present state, in the order of the feed: those behind `after`
    /// that it did not bring itself. If it decides, what was written of them is provisional.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn pending_ids(&self, after: Seq, peer_no: PeerNo) -> Result<Vec<RecordId>, StoreError> {
        let sql = "SELECT id FROM records WHERE seq>?1 AND (origin<>?2 OR ?2=0) ORDER BY seq";
        self.read(|db| {
            let id = |row: &Row<'_>| row.get(0).map(RecordId::from_bytes);
            db.prepare_cached(sql)
                .and_then(|mut find| find.query_map(params![clamp(after), peer_no], id)?.collect())
                .map_err(|error| self.sqlite(error))
        })
    }

    /// Whether a replica decides about this one, over a session that is open.
    #[must_use]
    pub fn is_decided_by(&self, replica: ReplicaId) -> bool {
        lock(&self.inner.authority.deciders).contains_key(&replica)
    }
}

/// The reason of a refusal where nothing that could be decided is allowed.
const NOT_ALLOWED: &str = "the access rule `update` does not allow what would be left of it";

/// Judges what one child brings in one batch.
pub(crate) struct Court {
    resolver: Option<Resolver>,
    /// Refusals that the child has not taken.
    refused: u64,
}

impl Court {
    /// The court that what `source` brings comes before, if there is one.
    ///
    /// # Errors
    /// [`StoreError::Ring`] and [`StoreError::TooManyRefused`], and if the file can't be read.
    pub(crate) fn start(store: &Store, writer: &Writer, source: &Source) -> Result<Option<Self>, StoreError> {
        if !source.is_child() {
            return Ok(None);
        }
        if store.is_decided_by(source.replica) {
            return Err(StoreError::Ring);
        }
        let refused = refusals::count(&writer.db, source.peer_no).map_err(|error| store.sqlite(error))?;
        if refused >= MAX_REFUSED {
            return Err(StoreError::TooManyRefused { limit: MAX_REFUSED });
        }
        let authority = &store.inner.authority;
        let resolver = authority.resolver.read().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(Some(Self { resolver, refused }))
    }

    /// Whether the child has not taken an earlier refusal of the record: until then nothing else of it is looked at.
    pub(crate) fn waits(
        &self,
        store: &Store,
        writer: &Writer,
        source: &Source,
        id: RecordId,
    ) -> Result<bool, StoreError> {
        if self.refused == 0 {
            return Ok(false);
        }
        refusals::waits(&writer.db, source.peer_no, id).map_err(|error| store.sqlite(error))
    }

    /// Judges what came of a record, and keeps a refusal of it. `may` says whether access rules let the child have the record
    /// become this: the resolver can make win what was let through because it had lost.
    pub(crate) fn judge(
        &mut self,
        store: &Store,
        writer: &mut Writer,
        (source, may): (&Source, &dyn Fn(&RecordState) -> bool),
        id: RecordId,
        merged: Merged,
    ) -> Result<Judged, StoreError> {
        let newest = merged.came.newest();
        let judged = Self::decide(self.resolver.as_ref(), store, writer, id, merged.clone());
        let judged = match judged.refused.is_some() || !judged.decided || may(&judged.state) {
            true => judged,
            false => {
                let mut held = Self::decide(None, store, writer, id, merged.clone());
                if held.refused.is_none() && held.decided && !may(&held.state) {
                    held = Judged {
                        state: merged.before,
                        decided: true,
                        refused: Some(core::Refused { reason: NOT_ALLOWED.to_owned(), deletion: false }),
                        ..Judged::default()
                    };
                }
                held
            }
        };
        if let (Some(refused), Some(stamp)) = (&judged.refused, newest) {
            let operation = if refused.deletion { Operation::Delete } else { Operation::Update };
            let refused = Refused { operation, stamp, reason: refused.reason.clone() };
            refusals::keep(&writer.db, source.peer_no, id, &refused).map_err(|error| store.sqlite(error))?;
            self.refused += 1;
        }
        Ok(judged)
    }

    /// What the authority makes of it, with this resolver.
    fn decide(
        resolver: Option<&Resolver>,
        store: &Store,
        writer: &mut Writer,
        id: RecordId,
        merged: Merged,
    ) -> Judged {
        let Writer { db, clock, names, next_seq, .. } = writer;
        let lost =
            |field: FieldNo, stamp| names.field(field).is_some_and(|name| has_lost(db, id, name, stamp));
        let mut stamp = || Stamp::new(clock.tick(store.now_ms()), store.replica());
        let mut rule =
            |matter: Matter<'_>| resolver.map_or(Ruling::Held, |resolver| ask(resolver, id, matter, names));
        let mut judge = Judge { seq: *next_seq, clock: &mut stamp, rule: &mut rule, lost: &lost };
        judge.judge(merged)
    }

    /// What the authority holds once access rules have refused what made `after` out of `before`.
    pub(crate) fn overrule(
        &mut self,
        store: &Store,
        writer: &mut Writer,
        before: &RecordState,
        after: &RecordState,
    ) -> RecordState {
        self.refused += 1;
        let Writer { clock, next_seq, .. } = writer;
        overrule(before, after, *next_seq, &mut || Stamp::new(clock.tick(store.now_ms()), store.replica()))
    }
}

/// What the application says. What it can't have meant (a value that no record can hold, a panic) leaves the
/// authority's value standing.
fn ask(resolver: &Resolver, id: RecordId, matter: Matter<'_>, names: &NameTable) -> Ruling {
    let name;
    let dispute = match matter {
        Matter::Field { field, held, came } => {
            name = names.field(field).cloned();
            Dispute {
                id,
                field: name.as_deref(),
                parent: visible(&held.content),
                child: visible(&came.content),
                parent_stamp: held.stamp,
                child_stamp: came.stamp,
            }
        }
        Matter::Deletion { held, deletion } => Dispute {
            id,
            field: None,
            parent: None,
            child: None,
            parent_stamp: held.newest().unwrap_or(deletion),
            child_stamp: deletion,
        },
    };
    match catch_unwind(AssertUnwindSafe(|| resolver(&dispute))) {
        Ok(Resolution::TakeChild) => Ruling::Came,
        Ok(Resolution::Merge(value)) if RecordBuilder::new().push(0, &value).is_ok() => Ruling::Value(value),
        Ok(Resolution::Refuse(reason)) => {
            Ruling::Refuse(reason.chars().take(MAX_REFUSAL_CHARACTERS).collect())
        }
        Ok(Resolution::KeepParent | Resolution::Merge(_)) | Err(_) => Ruling::Held,
    }
}
