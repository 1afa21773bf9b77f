//! The gate of a database with access rules: what a peer's entry would do, and whether it may.
//!
//! Invariants: an entry is judged by what it would change, in the transaction that would change it; what changes
//! nothing needs no right; of what is not let through nothing is written, not even the names of its fields.

use std::collections::HashMap;
use std::sync::Arc;

use blazedb_core::access::change::{StateFields, between};
use blazedb_core::access::news::{is_same, is_same_state, writers};
use blazedb_core::access::{Change, Operation, Rights};
use blazedb_core::blazebinary::varint::Reader;
use blazedb_core::blazebinary::{DecodeError, FieldNo};
use blazedb_core::cell::Cell;
use blazedb_core::feed::{PeerNames, PeerNo};
use blazedb_core::history::HistoryReader;
use blazedb_core::keyring::KeyringError;
use blazedb_core::limits::{MAX_FIELD_NAMES, MAX_REFUSED};
use blazedb_core::merge::{Life, MergeReport, RecordState};
use blazedb_core::{NodeId, RecordId, ReplicaId, Stamp, Timestamp};
use blazedb_sqlite::rusqlite::{Connection, OptionalExtension};

use crate::apply::Applied;
use crate::error::StoreError;
use crate::forms::{Forms, is_of_no_epoch, keep_known};
use crate::incoming::Source;
use crate::names::NameTable;
use crate::refusals;
use crate::row::StoredRow;
use crate::store::{Store, Writer};

/// What a peer may do, and which node it is.
#[derive(Clone, Debug)]
pub struct Gate {
    /// What its user may do.
    pub rights: Rights,
    /// The node, by its key.
    pub node: NodeId,
}

/// What becomes of an entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// It is applied.
    Apply,
    /// It changes no record; what it lost to is not logged, because its writer has no right to that either.
    ApplyUnlogged,
    /// It is not applied, and nobody needs to be told.
    PassOver,
    /// It is not applied, and its sender is told.
    Refuse(Refused),
}

/// What was not let through.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Refused {
    pub(crate) operation: Operation,
    pub(crate) stamp: Stamp,
    pub(crate) reason: String,
}

/// An entry as it came.
#[derive(Clone, Copy)]
pub(crate) struct Entry<'a> {
    pub(crate) id: RecordId,
    pub(crate) names: &'a PeerNames,
    pub(crate) history: &'a [u8],
    pub(crate) body: &'a [u8],
}

/// Whether an entry may go on.
pub(crate) enum Passed {
    /// It may; and what it displaces or loses to is logged or not.
    Yes {
        /// Whether conflicts are logged.
        log: bool,
    },
    /// It may not, and that is dealt with.
    No,
    /// As [`Passed::No`], but it was brought by a node that relays: others may hold it as well.
    Relayed,
}

/// The gate as one batch goes through it.
pub(crate) struct GateKeeper {
    judge: Judge,
    peer: PeerNo,
    /// Refusals that the peer has not taken.
    refused: u64,
}

impl GateKeeper {
    /// The gate that `source` stands behind, if there is one.
    ///
    /// # Errors
    /// [`StoreError::TooManyRefused`], and if the file can't be read.
    pub(crate) fn start(store: &Store, writer: &Writer, source: &Source) -> Result<Option<Self>, StoreError> {
        let Some(gate) = source.gate() else { return Ok(None) };
        let peer = source.peer_no;
        let refused = refusals::count(&writer.db, peer).map_err(|error| store.sqlite(error))?;
        if refused >= MAX_REFUSED {
            return Err(StoreError::TooManyRefused { limit: MAX_REFUSED });
        }
        let judge = Judge::new(store, Arc::clone(gate), source.replica);
        Ok(Some(Self { judge, peer, refused }))
    }

    /// Judges an entry, and keeps a refusal of it.
    pub(crate) fn ask(
        &mut self,
        store: &Store,
        writer: &Writer,
        entry: Entry<'_>,
        applied: &mut Applied,
    ) -> Result<Passed, StoreError> {
        let asked = self.ask_inside(writer, entry, applied);
        asked.map_err(|error| match error {
            JudgeError::Sqlite(error) => store.sqlite(error),
            JudgeError::Store(error) => error,
        })
    }

    /// See [`Judge::keeps_known_forms`].
    pub(crate) fn keeps_known_forms(&self) -> bool {
        self.judge.keeps_known_forms()
    }

    /// Whether the peer may have a record become `after`, whoever says that it does.
    pub(crate) fn permits(
        &self,
        id: RecordId,
        (before, after): (&RecordState, &RecordState),
        names: &NameTable,
    ) -> bool {
        let field_no = |name: &str| names.field_no(name);
        let fields = |state| StateFields { id, state, field_no: &field_no };
        let (before, after) = (fields(before), fields(after));
        between(&before, &after)
            .is_none_or(|change| self.judge.gate.rights.check(&change, self.judge.now).is_ok())
    }

    fn ask_inside(
        &mut self,
        writer: &Writer,
        entry: Entry<'_>,
        applied: &mut Applied,
    ) -> Result<Passed, JudgeError> {
        let waits = self.refused > 0 && refusals::waits(&writer.db, self.peer, entry.id)?;
        Ok(match self.judge.judge(writer, entry, waits)? {
            Verdict::Apply => Passed::Yes { log: true },
            Verdict::ApplyUnlogged => Passed::Yes { log: false },
            Verdict::PassOver => Passed::No,
            Verdict::Refuse(refused) => {
                refusals::keep(&writer.db, self.peer, entry.id, &refused)?;
                self.refused += 1;
                applied.refused += 1;
                if self.judge.may_relay { Passed::Relayed } else { Passed::No }
            }
        })
    }
}

/// Judges the entries of one batch.
pub(crate) struct Judge {
    gate: Arc<Gate>,
    replica: ReplicaId,
    now: Timestamp,
    may_relay: bool,
    forms: Option<Forms>,
    /// The newest epoch of the keyring.
    epoch: u32,
    owned: HashMap<ReplicaId, bool>,
}

impl Judge {
    pub(crate) fn new(store: &Store, gate: Arc<Gate>, replica: ReplicaId) -> Self {
        let (now_ms, forms) = (store.now_ms(), Forms::of(store));
        let now = Timestamp(i64::try_from(now_ms).unwrap_or(i64::MAX).saturating_mul(1_000));
        let may_relay = gate.rights.may_relay(now);
        let epoch = store.keyring().map_or(0, |ring| ring.epoch());
        Self { gate, replica, now, may_relay, forms, epoch, owned: HashMap::new() }
    }

    /// Whether a sealed write that is known keeps the form that it has here.
    fn keeps_known_forms(&self) -> bool {
        !self.may_relay && self.forms.as_ref().is_some_and(|forms| !forms.is_changing())
    }

    /// Decides about an entry. `waits` says whether its sender has not taken an earlier refusal of the record yet.
    pub(crate) fn judge(
        &mut self,
        writer: &Writer,
        entry: Entry<'_>,
        waits: bool,
    ) -> Result<Verdict, JudgeError> {
        let before = match StoredRow::find(&writer.db, entry.id)? {
            Some(row) => row.decode(&writer.names)?,
            None => RecordState::default(),
        };
        let mut numbers = Numbers { known: &writer.names, unknown: Vec::new() };
        let mut incoming = numbers.decode(entry)?;
        if is_of_no_epoch(&incoming, self.epoch) {
            // Nothing else is wrong with it, perhaps: the keyring may be on its way.
            let problem = "a value is sealed with a key that the keyring here does not know";
            return Err(JudgeError::Store(KeyringError::Contradiction(problem).into()));
        }
        if self.keeps_known_forms() {
            keep_known(&before, &mut incoming);
        }
        let mut after = before.clone();
        let report = after.merge(incoming.clone(), writer.next_seq);
        let states = States { id: entry.id, before, incoming, after };
        let field_no = |name: &str| numbers.field_no(name);
        if is_same_state(&states.before, &states.after) {
            if !numbers.unknown.is_empty() {
                // Dropped cells of fields that nobody here has heard of.
                return Ok(Verdict::PassOver);
            }
            let logged =
                report.displaced.is_empty() || self.may_lose(&states, &report, &writer.db, &field_no)?;
            return Ok(if logged { Verdict::Apply } else { Verdict::ApplyUnlogged });
        }
        // Its sender sends what it wants to keep of this again, once it has taken the refusal.
        if waits {
            return Ok(Verdict::PassOver);
        }
        let foreign = self.foreign(&states, &numbers, &writer.db)?;
        match between(&states.fields(&states.before, &field_no), &states.fields(&states.after, &field_no)) {
            None => Ok(self.judge_unseen(&states, foreign, &field_no)),
            Some(change) => Ok(match self.judge_change(&states, &change, foreign) {
                // Its sender has the same: there is nothing to take back.
                Verdict::Refuse(_) if self.is_known(&states, &numbers) => Verdict::PassOver,
                verdict => verdict,
            }),
        }
    }

    fn judge_change(&self, states: &States, change: &Change<'_>, foreign: Option<ReplicaId>) -> Verdict {
        if let Some(replica) = foreign {
            return states.refuse(Operation::Relay, Some(replica));
        }
        match self.gate.rights.check(change, self.now) {
            Ok(()) => Verdict::Apply,
            Err(operation) => states.refuse(self.as_claimed(states, change, operation), None),
        }
    }

    /// The operation that a refusal names: what happened here, unless that would tell of a record that the user
    /// must not know of; then what the peer itself says.
    fn as_claimed(&self, states: &States, change: &Change<'_>, operation: Operation) -> Operation {
        let before = match *change {
            Change::Insert { .. } => return operation,
            Change::Update { before, .. } | Change::Delete { before } | Change::Replace { before, .. } => {
                before
            }
        };
        if self.gate.rights.may_read(before, self.now) {
            return operation;
        }
        let Life { born, dead, .. } = states.incoming.life;
        match (dead, born) {
            (Some(_), _) => Operation::Delete,
            (None, born) if born.is_some() && born != states.before.life.born => Operation::Insert,
            _ => Operation::Update,
        }
    }

    /// A change that nobody sees: of what is deleted, or of what has not come to be.
    fn judge_unseen(
        &self,
        states: &States,
        foreign: Option<ReplicaId>,
        field_no: &dyn Fn(&str) -> Option<FieldNo>,
    ) -> Verdict {
        let after = states.fields(&states.after, field_no);
        let deletes =
            is_same_state(&RecordState { life: states.after.life, ..states.before.clone() }, &states.after);
        let gone = states.after.life.dead.is_some();
        let change =
            if deletes { Change::Delete { before: &after } } else { Change::Insert { after: &after } };
        let allowed = foreign.is_none() && (deletes || self.may_relay);
        if allowed && self.gate.rights.check(&change, self.now).is_ok() {
            return Verdict::Apply;
        }
        // Where the record is deleted for both sides, there is nothing that they would show differently.
        match foreign {
            _ if gone => Verdict::PassOver,
            Some(replica) => states.refuse(Operation::Relay, Some(replica)),
            None => states.refuse(Operation::Update, None),
        }
    }

    /// Whether writes that lost may be logged: as if they had been made to the record as it is.
    fn may_lose(
        &mut self,
        states: &States,
        report: &MergeReport,
        db: &Connection,
        field_no: &dyn Fn(&str) -> Option<FieldNo>,
    ) -> Result<bool, JudgeError> {
        let record = states.fields(&states.before, field_no);
        let change = Change::Update { before: &record, after: &record };
        if !states.before.life.is_alive() || self.gate.rights.check(&change, self.now).is_err() {
            return Ok(false);
        }
        let writers = report.displaced.iter().map(|displaced| displaced.cell.stamp.writer).collect();
        Ok(self.first_foreign(writers, db)?.is_none())
    }

    /// A replica whose writes the entry brings and its sender may not.
    fn foreign(
        &mut self,
        states: &States,
        numbers: &Numbers<'_>,
        db: &Connection,
    ) -> Result<Option<ReplicaId>, JudgeError> {
        let is_known = |field: FieldNo, cell: &Cell| self.is_known_cell(states, numbers, (field, cell));
        let writers = writers(&states.before, &states.incoming, &states.after, is_known);
        self.first_foreign(writers, db)
    }

    /// Whether all that an entry brings is known here in another form.
    fn is_known(&self, states: &States, numbers: &Numbers<'_>) -> bool {
        let same = |field: FieldNo, cell: &Cell| {
            states.before.cell(field).is_some_and(|known| is_same(known, cell))
                || self.is_known_cell(states, numbers, (field, cell))
        };
        states.before.life == states.after.life
            && states.after.cells.iter().all(|(field, cell)| same(*field, cell))
    }

    fn is_known_cell(&self, states: &States, numbers: &Numbers<'_>, (field, cell): (FieldNo, &Cell)) -> bool {
        let Some((forms, name)) = self.forms.as_ref().zip(numbers.name(field)) else { return false };
        let new = states.before.cell(field).is_none();
        new && forms.is_known((name, cell), &states.before, |field| numbers.name(field))
    }

    fn first_foreign(
        &mut self,
        writers: Vec<ReplicaId>,
        db: &Connection,
    ) -> Result<Option<ReplicaId>, JudgeError> {
        if self.may_relay {
            return Ok(None);
        }
        for writer in writers {
            if writer != self.replica && !self.owns(writer, db)? {
                return Ok(Some(writer));
            }
        }
        Ok(None)
    }

    fn owns(&mut self, replica: ReplicaId, db: &Connection) -> Result<bool, JudgeError> {
        if let Some(known) = self.owned.get(&replica) {
            return Ok(*known);
        }
        let owned = owner(db, replica)? == Some(self.gate.node);
        self.owned.insert(replica, owned);
        Ok(owned)
    }
}

/// The node that a replica belongs to, if it has been introduced.
pub(crate) fn owner(db: &Connection, replica: ReplicaId) -> blazedb_sqlite::rusqlite::Result<Option<NodeId>> {
    db.prepare_cached("SELECT node FROM replica_owners WHERE replica=?")?
        .query_row([replica.as_bytes().as_slice()], |row| row.get(0).map(NodeId::from_bytes))
        .optional()
}

/// A record as it is, as it comes, and as it would be.
struct States {
    id: RecordId,
    before: RecordState,
    incoming: RecordState,
    after: RecordState,
}

impl States {
    fn fields<'a>(
        &self,
        state: &'a RecordState,
        field_no: &'a dyn Fn(&str) -> Option<FieldNo>,
    ) -> StateFields<'a> {
        StateFields { id: self.id, state, field_no }
    }

    fn refuse(&self, operation: Operation, foreign: Option<ReplicaId>) -> Verdict {
        let Some(stamp) = self.incoming.newest() else { return Verdict::PassOver };
        let reason = match (operation, foreign) {
            (_, Some(replica)) => format!(
                "written by replica {replica}, which this node did not introduce: only who the rule `relay` \
                 allows may bring writes of others"
            ),
            (operation, None) => format!("the access rule `{}` does not allow it", operation.as_str()),
        };
        Verdict::Refuse(Refused { operation, stamp, reason })
    }
}

/// Field numbers while an entry is judged: names that are new here have some only for that long.
struct Numbers<'a> {
    known: &'a NameTable,
    unknown: Vec<Arc<str>>,
}

impl Numbers<'_> {
    fn field_no(&self, name: &str) -> Option<FieldNo> {
        self.known.field_no(name).or_else(|| {
            let at = self.unknown.iter().position(|unknown| **unknown == *name)?;
            FieldNo::try_from(MAX_FIELD_NAMES + at).ok()
        })
    }

    fn name(&self, field: FieldNo) -> Option<&str> {
        let unknown = usize::try_from(field).ok()?.checked_sub(MAX_FIELD_NAMES);
        match unknown {
            Some(at) => self.unknown.get(at).map(|name| &**name),
            None => self.known.field(field).map(|name| &**name),
        }
    }

    fn number(&mut self, name: &Arc<str>) -> FieldNo {
        if let Some(no) = self.field_no(name) {
            return no;
        }
        self.unknown.push(Arc::clone(name));
        self.field_no(name).unwrap_or(FieldNo::MAX)
    }

    fn decode(&mut self, entry: Entry<'_>) -> Result<RecordState, DecodeError> {
        let writer = |no| entry.names.writer(no);
        let reader = HistoryReader { writer: &writer, row_seq: None };
        let mut state = reader.state(&mut Reader::new(entry.history), entry.body)?;
        for (field, _) in &mut state.cells {
            *field = self.number(entry.names.field(*field).ok_or(DecodeError::UnknownNumber(*field))?);
        }
        state.cells.sort_unstable_by_key(|(field, _)| *field);
        // One name under two numbers: what is judged must be what is written.
        let twice = state.cells.windows(2).any(|pair| matches!(pair, [a, b] if a.0 == b.0));
        if twice { Err(DecodeError::Mismatch) } else { Ok(state) }
    }
}

/// An entry can't be judged.
pub(crate) enum JudgeError {
    Sqlite(blazedb_sqlite::rusqlite::Error),
    Store(StoreError),
}

impl From<blazedb_sqlite::rusqlite::Error> for JudgeError {
    fn from(error: blazedb_sqlite::rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<DecodeError> for JudgeError {
    fn from(error: DecodeError) -> Self {
        Self::Store(error.into())
    }
}
