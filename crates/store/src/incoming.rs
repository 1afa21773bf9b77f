//! What peers send, checked before anything of it is written: form, names and clock.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use blazedb_core::authority::Standing;
use blazedb_core::blazebinary::varint::Reader;
use blazedb_core::blazebinary::{DecodeError, FieldNo, RecordView, validate_record};
use blazedb_core::cell::Content;
use blazedb_core::feed::{Incoming, PeerNames, PeerNo, Seq};
use blazedb_core::history::{HistoryReader, UniformGroup, read_removal};
use blazedb_core::limits::{MAX_HISTORY_BYTES, MAX_RECORD_BYTES};
use blazedb_core::merge::RecordState;
use blazedb_core::numbers::NumberSet;
use blazedb_core::seal::{Sealed, Unopened};
use blazedb_core::view::{RemovalReason, View};
use blazedb_core::wire::{NamesMessage, Refusals, RefusedWrite};
use blazedb_core::{DriftError, Hlc, RecordId, ReplicaId};

use crate::error::StoreError;
use crate::functions::StoredFields;
use crate::gate::Gate;
use crate::names::{NameTable, check_peer_field_name};
use crate::readers::Reading;
use crate::store::Store;
use crate::unopened::{check_form, check_group};
use crate::views::Removals;

/// Whose changes they are.
#[derive(Clone, Debug)]
pub struct Source {
    /// The link that they came over: checkpoints are kept per link.
    pub link: Arc<str>,
    /// The replica that sent them.
    pub replica: ReplicaId,
    /// Its number here.
    pub peer_no: PeerNo,
    /// What it may do; `None`: everything.
    gate: Option<Arc<Gate>>,
    /// What it is told of this replica; `None`: everything.
    told: Option<Arc<View>>,
    /// Whose word counts.
    standing: Standing,
    /// Its reading of the local feed.
    reader: Option<Arc<Reading>>,
    /// It holds what it was shown in earlier sessions.
    resumes: bool,
    /// Whether it may take records away,
    takes_away: bool,
    /// and what becomes of them here.
    pub(crate) removals: Removals,
    /// A batch of it could not be taken in, so that no later one may be: their checkpoints would skip it.
    interrupted: Arc<AtomicBool>,
}

impl Source {
    /// A session's source. Its clones share whether all went well so far.
    #[must_use]
    pub fn new(link: Arc<str>, replica: ReplicaId, peer_no: PeerNo) -> Self {
        let (resumes, takes_away, removals) = (false, false, Removals::default());
        let (gate, told, standing, reader) = (None, None, Standing::Peer, None);
        Self {
            link,
            replica,
            peer_no,
            gate,
            told,
            standing,
            reader,
            resumes,
            takes_away,
            removals,
            interrupted: Arc::default(),
        }
    }

    /// It may take away records that it does not show any more: it is the side that was connected to.
    #[must_use]
    pub const fn taking_away(mut self, removals: Removals) -> Self {
        self.takes_away = true;
        self.removals = removals;
        self
    }

    /// The same source behind a gate: only what that lets through is applied.
    #[must_use]
    pub fn behind(self, gate: Option<Arc<Gate>>) -> Self {
        Self { gate, ..self }
    }

    /// The same source, under an authority or as one.
    #[must_use]
    pub fn standing(self, standing: Standing) -> Self {
        Self { standing, ..self }
    }

    /// The same source, which reads the local feed from `place` on, as this view shows it (`None`: nothing is sent to
    /// it). `asked`: it is asked what it holds if it may have missed a deletion.
    #[must_use]
    pub fn reading(self, view: Option<&View>, place: Seq, asked: bool) -> Self {
        Self { reader: Some(Reading::new(self.replica, view, place, asked)), ..self }
    }

    /// It has the local feed up to here.
    pub fn has_passed(&self, upto: Seq) {
        self.reader.iter().for_each(|reader| reader.passed(upto));
    }

    pub(crate) const fn reader(&self) -> Option<&Arc<Reading>> {
        self.reader.as_ref()
    }

    /// The same source, which holds what it was shown in earlier sessions.
    #[must_use]
    pub fn resuming(self, resumes: bool) -> Self {
        Self { resumes, ..self }
    }

    /// Whether it holds what it was shown before, and is not told in this session what is not for it any more.
    pub(crate) fn only_remembers(&self) -> bool {
        self.resumes && self.reader.as_ref().is_none_or(|reader| !reader.reads())
    }

    /// Whether what it brings is to be judged here.
    #[must_use]
    pub fn is_child(&self) -> bool {
        self.standing == Standing::Child
    }

    /// Whether it decides about this replica.
    pub(crate) fn is_authority(&self) -> bool {
        self.standing == Standing::Authority
    }

    /// The same source, which is told only what a view shows.
    #[must_use]
    pub fn told(self, view: Arc<View>) -> Self {
        Self { told: Some(view), ..self }
    }

    /// What it is told of this replica; `None`: everything.
    pub(crate) fn told_view(&self) -> Option<&View> {
        self.told.as_deref().filter(|view| !view.is_all())
    }

    /// Whether it is not told of a record as this body shows it.
    pub(crate) fn is_untold(&self, names: &NameTable, id: RecordId, body: &[u8]) -> bool {
        let fields = StoredFields { id, body: RecordView::parse(body).ok(), names };
        self.told_view().is_some_and(|view| !view.matches(&fields))
    }

    /// The fields that it is never told of.
    pub(crate) fn untold(&self, names: &NameTable) -> Vec<FieldNo> {
        let excluded = self.told.iter().flat_map(|view| view.excluded());
        excluded.filter_map(|name| names.field_no(name)).collect()
    }

    /// What it may do; `None`: everything.
    pub(crate) const fn gate(&self) -> Option<&Arc<Gate>> {
        self.gate.as_ref()
    }

    /// Nothing that follows from it may be applied.
    pub(crate) fn interrupt(&self) {
        self.interrupted.store(true, Ordering::Release);
    }

    pub(crate) fn check_whole(&self) -> Result<(), StoreError> {
        if self.interrupted.load(Ordering::Acquire) { Err(StoreError::Interrupted) } else { Ok(()) }
    }
}

/// Something of a peer that has been checked and can be applied.
#[derive(Debug)]
pub struct CheckedBatch {
    pub(crate) source: Source,
    pub(crate) newest: Hlc,
    pub(crate) work: Work,
}

/// What there is to apply.
#[derive(Debug)]
pub(crate) enum Work {
    /// Changes of the peer.
    Changes(Changes),
    /// The peer has its refusals up to this number.
    Forget(u64),
    /// The peer has refused these writes. Their states are in the numbers of these names.
    TakeBack(Vec<RefusedWrite>, Arc<PeerNames>, Vec<Unopened>),
}

/// Changes of a peer.
#[derive(Debug)]
pub(crate) struct Changes {
    pub(crate) incoming: Incoming,
    pub(crate) entries: Vec<CheckedEntry>,
    /// The fields of the bodies, in the peer's numbers.
    pub(crate) fields: NumberSet,
    /// Records that were in it and could not be opened.
    pub(crate) unopened: Vec<Unopened>,
}

/// One change.
#[derive(Debug)]
pub(crate) struct CheckedEntry {
    pub(crate) id: RecordId,
    pub(crate) starts: bool,
    /// The record is taken away.
    pub(crate) removal: Option<RemovalReason>,
    /// Ranges in the batch's data.
    pub(crate) history: std::ops::Range<usize>,
    pub(crate) body: std::ops::Range<usize>,
}

impl CheckedBatch {
    /// Records that were in it and could not be opened: they are left out.
    #[must_use]
    pub fn unopened(&self) -> &[Unopened] {
        if let Work::Changes(changes) = &self.work { &changes.unopened } else { &[] }
    }

    /// How many changes it has.
    #[must_use]
    pub fn len(&self) -> usize {
        if let Work::Changes(changes) = &self.work { changes.entries.len() } else { 0 }
    }

    /// Whether there is no change in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Has the refusals of a peer forgotten up to a number, in the order in which batches are applied.
    #[must_use]
    pub fn forget_refusals(source: Source, upto: u64) -> Self {
        Self { source, newest: Hlc::default(), work: Work::Forget(upto) }
    }
}

/// Checks bytes of a peer: form, names and clock. Nothing is written.
///
/// # Errors
/// [`StoreError::Malformed`] or [`StoreError::Drift`].
pub fn check(
    source: Source,
    incoming: Incoming,
    now_ms: u64,
    drift_limit_ms: u64,
) -> Result<CheckedBatch, StoreError> {
    let mut entries = Vec::new();
    let mut newest = Hlc::default();
    let mut checked = Checked::default();
    let total = incoming.data.len();
    let names = &incoming.names;
    let writer = |no| names.writer(no);
    let histories = HistoryReader { writer: &writer, row_seq: None };
    let mut reader = Reader::new(&incoming.data);
    while !reader.is_empty() {
        let lead = reader.read_varint()?;
        let body_len = usize::try_from(lead >> 1).unwrap_or(usize::MAX);
        let history_len = usize::try_from(reader.read_varint()?).unwrap_or(usize::MAX);
        if body_len > MAX_RECORD_BYTES || history_len > MAX_HISTORY_BYTES {
            return Err(DecodeError::OutOfRange.into());
        }
        let id = RecordId::from_bytes(reader.read_array()?);
        let start = total - reader.remaining();
        let history = start..start + history_len;
        let body = history.end..history.end + body_len;
        let bytes = (reader.read_bytes(history_len)?, reader.read_bytes(body_len)?);
        let removal = read_removal(bytes.0)?;
        if removal.is_some() {
            if !source.takes_away || body_len != 0 {
                return Err(DecodeError::Mismatch.into());
            }
        } else {
            newest = newest.max(check_entry(&histories, bytes, names, &mut checked)?);
        }
        entries.push(CheckedEntry { id, starts: lead & 1 != 0, removal, history, body });
    }
    let drift_ms = newest.millis().saturating_sub(now_ms);
    if drift_ms > drift_limit_ms {
        return Err(DriftError { drift_ms, limit_ms: drift_limit_ms }.into());
    }
    let changes = Changes { incoming, entries, fields: checked.fields, unopened: Vec::new() };
    Ok(CheckedBatch { source, newest, work: Work::Changes(changes) })
}

/// Checks what an authority refused, as [`check`] does changes.
///
/// # Errors
/// As [`check`].
pub fn check_refusals(
    source: Source,
    refusals: Refusals,
    now_ms: u64,
    drift_limit_ms: u64,
) -> Result<CheckedBatch, StoreError> {
    let Refusals { names, writes } = refusals;
    check_refused(source, writes, peer_names(names)?, now_ms, drift_limit_ms)
}

fn peer_names(names: NamesMessage) -> Result<PeerNames, StoreError> {
    let mut known = PeerNames::default();
    if known.learn(names.into()) { Ok(known) } else { Err(DecodeError::Mismatch.into()) }
}

fn check_refused(
    source: Source,
    writes: Vec<RefusedWrite>,
    names: PeerNames,
    now_ms: u64,
    drift_limit_ms: u64,
) -> Result<CheckedBatch, StoreError> {
    let writer = |no| names.writer(no);
    let histories = HistoryReader { writer: &writer, row_seq: None };
    let mut newest = Hlc::default();
    let mut checked = Checked::default();
    for state in writes.iter().filter_map(|write| write.state.as_ref()) {
        let entry = (state.history.as_slice(), state.body.as_slice());
        newest = newest.max(check_entry(&histories, entry, &names, &mut checked)?);
    }
    let drift_ms = newest.millis().saturating_sub(now_ms);
    if drift_ms > drift_limit_ms {
        return Err(DriftError { drift_ms, limit_ms: drift_limit_ms }.into());
    }
    Ok(CheckedBatch { source, newest, work: Work::TakeBack(writes, Arc::new(names), Vec::new()) })
}

/// What was found right in the entries so far.
#[derive(Default)]
struct Checked {
    /// The fields of their bodies.
    fields: NumberSet,
    /// Those of the last group in a uniform history, as they stand there.
    group: Vec<u8>,
}

/// Checks one entry, its history and its body. Answers the newest time in it, and adds to what was found right.
fn check_entry(
    histories: &HistoryReader<'_>,
    (history, body): (&[u8], &[u8]),
    names: &PeerNames,
    checked: &mut Checked,
) -> Result<Hlc, StoreError> {
    let mut reader = Reader::new(history);
    let mergeable = !body.is_empty() && check_body(body, names, &mut checked.fields)?;
    let head = histories.head(&mut reader)?;
    if head.uniform {
        if head.sealed {
            let group = UniformGroup::read(&mut reader, &checked.group)?;
            if group.fields != checked.group {
                check_group(group.numbers(), names)?;
                checked.group = group.fields.to_vec();
            }
        }
        reader.finish()?;
        if mergeable {
            return Err(DecodeError::Mismatch.into());
        }
        return Ok(head.life.newest().map_or(Hlc::default(), |stamp| stamp.time));
    }
    let mut reader = Reader::new(history);
    let state = histories.state(&mut reader, body)?;
    reader.finish()?;
    for (field, cell) in &state.cells {
        check_field(*field, names)?;
        if let Content::Sealed(Sealed::Write { group, .. }) = &cell.content {
            check_group(group.fields.iter().map(|field| field.field), names)?;
        }
        let sealed = matches!(cell.content, Content::Sealed(_));
        check_form(*field, sealed, names)?;
    }
    Ok(newest_time(&state))
}

/// The newest time anywhere in a state, also among what it says it has seen or started from.
fn newest_time(state: &RecordState) -> Hlc {
    let seen = state.life.dead.iter().flat_map(|dead| dead.seen.iter()).max();
    let mut newest = state.newest().max(seen).map_or(Hlc::default(), |stamp| stamp.time);
    for (_, cell) in &state.cells {
        newest = cell.replaced.iter().map(|stamp| stamp.time).fold(newest, Hlc::max);
        let base = match &cell.content {
            Content::Absent | Content::Register(_) => None,
            Content::Sealed(sealed) => {
                newest = newest.max(sealed.newest());
                None
            }
            Content::Counter(counter) => {
                newest = counter.seen.values().copied().fold(newest, Hlc::max);
                counter.base
            }
            Content::Set(set) => {
                let times = set.elements.values().flat_map(BTreeMap::values).chain(set.seen.values());
                newest = times.copied().fold(newest, Hlc::max);
                set.base
            }
        };
        newest = base.map_or(newest, |base| newest.max(base.time));
    }
    newest
}

/// Checks a body, and each of its fields' names that is not among `fields` yet. Answers whether a value in it is
/// mergeable.
fn check_body(body: &[u8], names: &PeerNames, fields: &mut NumberSet) -> Result<bool, StoreError> {
    validate_record(body)?;
    let mut mergeable = false;
    for (field, value) in RecordView::parse(body)?.iter() {
        // Named first: a number without a name must not make the set long.
        let name = names.field(field).ok_or(DecodeError::UnknownNumber(field))?;
        if fields.insert(field) {
            check_peer_field_name(name)?;
            check_form(field, false, names)?;
        }
        mergeable |= value.is_mergeable();
    }
    Ok(mergeable)
}

pub(crate) fn check_field(field: FieldNo, names: &PeerNames) -> Result<(), StoreError> {
    check_peer_field_name(names.field(field).ok_or(DecodeError::UnknownNumber(field))?)
}

impl Store {
    /// Checks bytes of a peer against this database's clock and limits.
    ///
    /// Once one is refused, so is everything that follows from the same source.
    ///
    /// # Errors
    /// See [`check`]; [`StoreError::Interrupted`].
    pub fn check(&self, source: Source, incoming: Incoming) -> Result<CheckedBatch, StoreError> {
        source.check_whole()?;
        let interrupted = Arc::clone(&source.interrupted);
        self.open_and_check(source, incoming).inspect_err(|_| interrupted.store(true, Ordering::Release))
    }

    /// Checks what an authority refused of this replica.
    ///
    /// # Errors
    /// See [`check_refusals`].
    pub fn check_refusals(&self, source: Source, refusals: Refusals) -> Result<CheckedBatch, StoreError> {
        let Refusals { names, mut writes } = refusals;
        let (names, failed) = self.open_refused(&mut writes, peer_names(names)?)?;
        let limit = self.inner.options.drift_limit_ms;
        let mut checked = check_refused(source, writes, names, self.now_ms(), limit)?;
        if let Work::TakeBack(_, _, unopened) = &mut checked.work {
            *unopened = failed;
        }
        Ok(checked)
    }
}
