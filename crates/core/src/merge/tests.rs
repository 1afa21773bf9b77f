//! The laws of merging, over histories of several replicas with partial knowledge.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::blazebinary::varint::Reader;
use crate::blazebinary::{OwnedValue, RecordBuilder};
use crate::cell::{Content, Counter, Set};
use crate::history::{HistoryReader, HistoryWriter, encode_body};
use crate::{Hlc, RecordId, ReplicaId, Value, version};

const REPLICAS: usize = 4;
const FIELDS: u32 = 3;

#[derive(Clone, Debug)]
pub(crate) enum Op {
    Insert(u32, i64),
    Write(u32, i64),
    Unset(u32),
    Increment(u32, i64),
    SetEdit(u32, i64, i64),
    Delete,
    /// The whole state, or what changed since the last time.
    Send(usize, bool),
}

fn op() -> impl Strategy<Value = Op> {
    let field = || 0..FIELDS;
    prop_oneof![
        2 => (field(), 0..99i64).prop_map(|(f, v)| Op::Insert(f, v)),
        3 => (field(), 0..99i64).prop_map(|(f, v)| Op::Write(f, v)),
        1 => field().prop_map(Op::Unset),
        3 => (field(), -5..9i64).prop_map(|(f, v)| Op::Increment(f, v)),
        3 => (field(), 0..4i64, 0..4i64).prop_map(|(f, a, r)| Op::SetEdit(f, a, r)),
        1 => Just(Op::Delete),
        6 => (0..REPLICAS, any::<bool>()).prop_map(|(to, whole)| Op::Send(to, whole)),
    ]
}

pub(crate) fn script() -> impl Strategy<Value = Vec<(usize, Op)>> {
    vec((0..REPLICAS, op()), 1..40)
}

pub(crate) fn id(no: usize) -> ReplicaId {
    ReplicaId::from_bytes([no as u8 + 1; 16])
}

fn register(value: i64) -> Content {
    Content::Register(OwnedValue::from(&Value::Int(value)))
}

fn element(value: i64) -> OwnedValue {
    OwnedValue::from(&Value::Int(value))
}

/// Replicas of one record. Their clocks are apart, and observe what they merge.
pub(crate) struct Replicas {
    pub(crate) states: Vec<RecordState>,
    clocks: Vec<u64>,
    pub(crate) seq: u64,
    /// What a replica has sent to which other.
    sent: BTreeMap<(usize, usize), u64>,
    /// Every state that ever was.
    pub(crate) snapshots: Vec<RecordState>,
    displaced: Vec<Displaced>,
}

impl Replicas {
    fn new() -> Self {
        Self {
            states: std::vec![RecordState::default(); REPLICAS],
            clocks: (0..REPLICAS as u64).map(|no| 100 * no).collect(),
            seq: 0,
            sent: BTreeMap::new(),
            snapshots: std::vec![RecordState::default()],
            displaced: Vec::new(),
        }
    }

    pub(crate) fn run(script: &[(usize, Op)]) -> Self {
        let mut replicas = Self::new();
        script.iter().for_each(|(at, op)| replicas.step(*at, op));
        replicas
    }

    fn tick(&mut self, at: usize) -> Stamp {
        self.clocks[at] += 1;
        Stamp::new(Hlc(self.clocks[at]), id(at))
    }

    fn step(&mut self, at: usize, op: &Op) {
        self.seq += 1;
        if let Op::Send(to, whole) = op {
            return self.send(at, *to, *whole);
        }
        let alive = self.states[at].life.is_alive();
        if alive == matches!(op, Op::Insert(..)) {
            return;
        }
        let stamp = self.tick(at);
        let state = &mut self.states[at];
        match op {
            Op::Insert(field, value) => insert(state, stamp, *field, *value, self.seq),
            Op::Delete => {
                let dead = Some(Tombstone::new(stamp, state));
                *state = RecordState { life: Life { dead, ..state.life }, cells: Vec::new() };
            }
            Op::Write(field, _) | Op::Unset(field) | Op::Increment(field, _) | Op::SetEdit(field, ..) => {
                if let Some(content) = edited(state, stamp, *field, op) {
                    let cell = Cell::write(stamp, state.cell(*field), content, self.seq);
                    state.put(*field, cell);
                }
            }
            Op::Send(..) => {}
        }
        self.snapshots.push(self.states[at].clone());
    }

    fn send(&mut self, from: usize, to: usize, whole: bool) {
        if from == to {
            return;
        }
        self.clocks[to] = self.clocks[to].max(self.clocks[from]);
        let since = if whole { 0 } else { self.sent.get(&(from, to)).copied().unwrap_or(0) };
        self.sent.insert((from, to), self.seq);
        let mut message = self.states[from].clone();
        message.cells.retain(|(_, cell)| cell.seq > since);
        let message = over_the_wire(&message);
        let report = self.states[to].merge(message.clone(), self.seq);
        self.displaced.extend(report.displaced);
        let before = self.states[to].clone();
        let again = self.states[to].merge(message, self.seq + 1);
        assert!(!again.changed, "applying what is known changes nothing");
        assert_eq!(self.states[to], before);
        self.snapshots.push(before);
    }

    fn send_all(&mut self) {
        for _ in 0..2 {
            for from in 0..REPLICAS {
                for to in 0..REPLICAS {
                    self.seq += 1;
                    self.send(from, to, false);
                }
            }
        }
    }
}

fn insert(state: &mut RecordState, stamp: Stamp, field: u32, value: i64, seq: u64) {
    let after = state.life.dead.map(|dead| dead.stamp).or(state.life.after);
    let old = std::mem::take(state);
    state.life = Life { after, born: Some(stamp), dead: None };
    let same = after == old.life.after;
    let cell = Cell::write(stamp, old.cell(field).filter(|_| same), register(value), seq);
    if same {
        state.cells = old.cells;
    }
    state.put(field, cell);
}

fn edited(state: &RecordState, stamp: Stamp, field: u32, op: &Op) -> Option<Content> {
    let old = state.cell(field);
    let base = old.map(|cell| cell.stamp).max(state.life.floor());
    match (op, old.map(|cell| &cell.content)) {
        // Assignments of every kind.
        (Op::Write(_, value), _) if value % 5 == 0 => {
            Some(Content::Counter(Counter::assigned(*value, stamp)))
        }
        (Op::Write(_, value), _) if value % 5 == 1 => {
            Some(Content::Set(Set::assigned([element(value % 4)], stamp)))
        }
        (Op::Write(_, value), _) => Some(register(*value)),
        (Op::Unset(_), _) => Some(Content::Absent),
        (Op::Increment(_, amount), None | Some(Content::Absent)) => {
            let mut counter = Counter { base, ..Counter::default() };
            counter.add(stamp, *amount);
            Some(Content::Counter(counter))
        }
        (Op::Increment(_, amount), Some(Content::Counter(counter))) => {
            let mut counter = counter.clone();
            counter.add(stamp, *amount);
            Some(Content::Counter(counter))
        }
        (Op::SetEdit(_, add, remove), None | Some(Content::Absent)) => {
            let mut set = Set { base, ..Set::default() };
            set.edit([element(*add)], [element(*remove)], stamp);
            Some(Content::Set(set))
        }
        (Op::SetEdit(_, add, remove), Some(Content::Set(set))) => {
            let mut set = set.clone();
            set.edit([element(*add)], [element(*remove)], stamp);
            Some(Content::Set(set))
        }
        _ => None,
    }
}

pub(crate) fn reencode(state: &RecordState, row_seq: Option<u64>) -> RecordState {
    let (mut history, mut body) = (Vec::new(), Vec::new());
    let mut number = |writer: ReplicaId| u32::from(writer.as_bytes()[0]);
    HistoryWriter { writer_no: &mut number, row_seq }.state(state, |_| true, &mut history);
    encode_body(state, |_| true, &mut RecordBuilder::new(), &mut body).unwrap();
    let writer = |number: u32| Some(ReplicaId::from_bytes([u8::try_from(number).ok()?; 16]));
    let mut reader = Reader::new(&history);
    let decoded = HistoryReader { writer: &writer, row_seq }.state(&mut reader, &body).unwrap();
    reader.finish().unwrap();
    decoded
}

fn over_the_wire(state: &RecordState) -> RecordState {
    let arrived = reencode(state, None);
    assert_eq!(arrived, plain(state));
    arrived
}

/// The merged state: without local sequences.
pub(crate) fn plain(state: &RecordState) -> RecordState {
    let mut state = state.clone();
    state.cells.iter_mut().for_each(|(_, cell)| cell.seq = 0);
    state
}

pub(crate) fn joined(a: &RecordState, b: &RecordState) -> RecordState {
    let mut a = a.clone();
    a.merge(b.clone(), 0);
    plain(&a)
}

fn history_hash(state: &RecordState) -> version::Hash {
    let names = ["b", "a", "c"];
    version::history(RecordId::v7(1, [0; 10]), state, |no| names[no as usize])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn merging_is_commutative_associative_and_idempotent(script in script(), picks: [prop::sample::Index; 3]) {
        let snapshots = Replicas::run(&script).snapshots;
        let [a, b, c] = picks.map(|pick| plain(&snapshots[pick.index(snapshots.len())]));
        prop_assert_eq!(joined(&a, &b), joined(&b, &a));
        prop_assert_eq!(joined(&joined(&a, &b), &c), joined(&a, &joined(&b, &c)));
        prop_assert_eq!(joined(&a, &a), a.clone());
        let mut ab = joined(&a, &b);
        prop_assert!(!ab.merge(b, 9).changed);
        prop_assert!(!ab.merge(a, 9).changed);
    }

    /// Changed fields only, in any order, over any path: all replicas end up with the same state and hash.
    #[test]
    fn replicas_that_heard_of_everything_agree(script in script()) {
        let mut replicas = Replicas::run(&script);
        replicas.send_all();
        let first = plain(&replicas.states[0]);
        for state in &replicas.states {
            prop_assert_eq!(&plain(state), &first);
            prop_assert_eq!(history_hash(state), history_hash(&first));
        }
    }

    #[test]
    fn histories_round_trip_on_disk_and_on_the_wire(script in script()) {
        let replicas = Replicas::run(&script);
        for state in &replicas.snapshots {
            prop_assert_eq!(&reencode(state, Some(replicas.seq)), state);
            prop_assert_eq!(reencode(state, None), plain(state));
        }
    }

    #[test]
    fn equal_history_hashes_are_equal_states(script in script()) {
        let mut known: BTreeMap<version::Hash, RecordState> = BTreeMap::new();
        for state in Replicas::run(&script).snapshots {
            let state = plain(&state);
            let other = known.entry(history_hash(&state)).or_insert_with(|| state.clone());
            prop_assert_eq!(other, &state);
        }
    }

    /// A deletion ends its incarnation for good; only an insert that knew of it, or knew nothing of it, remains.
    #[test]
    fn a_delete_wins_over_every_update_of_its_incarnation(
        before in vec((0..REPLICAS, 0..FIELDS, 2i64..4), 0..12), late in vec((1..REPLICAS, 0..FIELDS, 2i64..4), 1..12),
    ) {
        let mut replicas = Replicas::new();
        replicas.step(0, &Op::Insert(0, 7));
        replicas.send_all();
        for (at, field, value) in before {
            replicas.step(at, &Op::Write(field, value));
        }
        replicas.step(0, &Op::Delete);
        for (at, field, value) in late {
            replicas.step(at, &Op::Write(field, value));
        }
        // The rest of the world knows more and later than the one that deleted.
        replicas.send_all();
        prop_assert!(replicas.states.iter().all(|state| !state.life.is_alive()));
        prop_assert!(replicas.displaced.iter().any(|lost| lost.kind == ConflictKind::Deleted));
        let logged: BTreeSet<Stamp> = replicas.displaced.iter().map(|lost| lost.cell.stamp).collect();
        prop_assert!(logged.iter().all(|stamp| stamp.writer != id(0)), "the deleter knew its own");
        // Coming back is a new incarnation, without anything of the old one.
        replicas.step(2, &Op::Insert(1, 42));
        replicas.send_all();
        for state in &replicas.states {
            prop_assert!(state.life.is_alive());
            prop_assert_eq!(state.cells.len(), 1);
        }
    }

    /// One writer at a time, each with everything the others wrote, however it came to it.
    #[test]
    fn sequential_writes_never_log_a_conflict(
        turns in vec((0..REPLICAS, vec(op(), 1..4), vec((0..REPLICAS, 0..REPLICAS, any::<bool>()), 0..6)), 1..12),
    ) {
        let mut replicas = Replicas::new();
        let mut last = 0;
        for (at, ops, gossip) in turns {
            replicas.seq += 1;
            replicas.send(last, at, false);
            for op in ops.iter().filter(|op| !matches!(op, Op::Send(..))) {
                replicas.step(at, op);
            }
            last = at;
            for (from, to, whole) in gossip {
                replicas.step(from, &Op::Send(to, whole));
            }
        }
        replicas.send_all();
        prop_assert_eq!(&replicas.displaced, &Vec::new());
    }

    /// A write loses as a conflict if, and only if, the winner does not descend from it.
    #[test]
    fn concurrent_writes_always_log_a_conflict_and_others_never(
        script in vec((0..REPLICAS, prop_oneof![
            (0..FIELDS).prop_map(|field| Op::Write(field, 0)),
            (0..REPLICAS, any::<bool>()).prop_map(|(to, whole)| Op::Send(to, whole)),
        ]), 1..60),
    ) {
        let mut replicas = Replicas::new();
        let mut ancestors: BTreeMap<Stamp, BTreeSet<Stamp>> = BTreeMap::new();
        let mut value = 2;
        for (at, op) in script {
            let Op::Write(field, _) = op else {
                let Op::Send(to, whole) = op else { continue };
                let before = replicas.states[to].clone();
                replicas.displaced.clear();
                let source = replicas.states[at].clone();
                replicas.step(at, &Op::Send(to, whole));
                if at == to || !whole {
                    continue;
                }
                let logged: BTreeSet<_> = replicas.displaced.iter().map(|lost| (lost.field, lost.cell.stamp)).collect();
                let mut expected = BTreeSet::new();
                for field in 0..FIELDS {
                    let (Some(a), Some(b)) = (before.cell(field), source.cell(field)) else { continue };
                    let (loser, winner) = (a.stamp.min(b.stamp), a.stamp.max(b.stamp));
                    // A writer knows all that it wrote itself before.
                    let knows = |past: &Stamp| past.writer == loser.writer && *past >= loser;
                    if !knows(&winner) && !ancestors[&winner].iter().any(knows) {
                        expected.insert((field, loser));
                    }
                }
                prop_assert_eq!(logged, expected);
                continue;
            };
            // A value of its own, and a register: equal contents are no conflict.
            value += 5;
            if replicas.states[at].life.born.is_none() {
                replicas.states[at].life.born = Some(Stamp::new(Hlc(1), id(0)));
            }
            let old = replicas.states[at].cell(field).map(|cell| cell.stamp);
            replicas.step(at, &Op::Write(field, value));
            let mut past = old.map(|old| ancestors[&old].clone()).unwrap_or_default();
            past.extend(old);
            ancestors.insert(replicas.states[at].cell(field).unwrap().stamp, past);
        }
    }

    #[test]
    fn a_counter_is_the_sum_of_everything_that_was_added(
        script in vec((0..REPLICAS, prop_oneof![
            (-9i64..9).prop_map(|amount| Op::Increment(0, amount)),
            (0..REPLICAS, any::<bool>()).prop_map(|(to, whole)| Op::Send(to, whole)),
        ]), 1..40),
    ) {
        let mut replicas = Replicas::new();
        replicas.step(0, &Op::Insert(1, 2));
        replicas.send_all();
        let mut sum = 0;
        for (at, op) in script {
            sum += if let Op::Increment(_, amount) = op { amount } else { 0 };
            replicas.step(at, &op);
        }
        replicas.send_all();
        for state in &replicas.states {
            let value = state.cell(0).map_or(0, |cell| match &cell.content {
                Content::Counter(counter) => counter.value(),
                other => panic!("{other:?}"),
            });
            prop_assert_eq!(value, sum);
        }
        prop_assert!(replicas.displaced.is_empty());
    }

    #[test]
    fn random_bytes_are_no_history_and_no_panic(
        history in vec(any::<u8>(), 0..80), body in vec(any::<u8>(), 0..40), row_seq: Option<u64>,
    ) {
        let writer = |number: u32| (number < 8).then(|| id(number as usize));
        let reader = HistoryReader { writer: &writer, row_seq };
        let _ = reader.state(&mut Reader::new(&history), &body);
        let _ = reader.head(&mut Reader::new(&history));
    }
}

pub(crate) fn stamp(time: u64, writer: usize) -> Stamp {
    Stamp::new(Hlc(time), id(writer))
}

fn cell(stamp: Stamp, value: i64) -> Cell {
    Cell::write(stamp, None, register(value), 0)
}

fn content(state: &RecordState, field: u32) -> &Content {
    &state.cell(field).unwrap().content
}

#[test]
fn an_element_added_on_one_side_survives_its_removal_on_the_other() {
    let set = Set::assigned([element(1), element(2)], stamp(1, 0));
    let base = Cell::write(stamp(1, 0), None, Content::Set(set.clone()), 0);
    let (mut adds, mut removes) = (set.clone(), set);
    adds.edit([element(1)], [], stamp(2, 1));
    removes.edit([], [element(1), element(2)], stamp(3, 2));
    let adds = Cell::write(stamp(2, 1), Some(&base), Content::Set(adds), 0);
    let removes = Cell::write(stamp(3, 2), Some(&base), Content::Set(removes), 0);
    let mut both = adds.clone();
    both.join(&removes);
    let Content::Set(set) = &both.content else { panic!() };
    assert_eq!(set.elements.keys().collect::<Vec<_>>(), [&element(1)]);
    // Both last writes are known to whoever writes next.
    assert!(both.has_seen(stamp(2, 1)) && both.has_seen(stamp(3, 2)) && both.has_seen(stamp(1, 0)));
    assert!(!both.has_seen(stamp(4, 1)));
}

#[test]
fn removing_a_field_is_a_write_and_leaving_it_out_is_not() {
    let born = Life { born: Some(stamp(1, 0)), ..Life::default() };
    let mut state =
        RecordState { life: born, cells: vec![(0, cell(stamp(1, 0), 1)), (1, cell(stamp(1, 0), 2))] };
    // A peer that never had field 1 says nothing of it.
    let partial = RecordState { life: born, cells: vec![(0, cell(stamp(2, 1), 3))] };
    state.merge(partial, 0);
    assert_eq!((content(&state, 0), content(&state, 1)), (&register(3), &register(2)));
    let removal = Cell::write(stamp(3, 1), state.cell(1), Content::Absent, 0);
    state.merge(RecordState { life: born, cells: vec![(1, removal)] }, 0);
    assert_eq!(content(&state, 1), &Content::Absent);
    // An older write does not bring it back.
    state.merge(RecordState { life: born, cells: vec![(1, cell(stamp(2, 2), 9))] }, 0);
    assert_eq!(content(&state, 1), &Content::Absent);
}

#[test]
fn a_deletion_tells_a_write_that_it_had_not_seen_even_an_old_one() {
    let born = Life { born: Some(stamp(1, 0)), ..Life::default() };
    let mut here = RecordState { life: born, cells: vec![(0, cell(stamp(1, 0), 1))] };
    let mut there = here.clone();
    here.put(0, Cell::write(stamp(5, 1), here.cell(0), register(2), 0));
    // The deleter wrote later than that, to another field, and never saw it.
    there.put(1, cell(stamp(8, 2), 3));
    let dead = Some(Tombstone::new(stamp(9, 2), &there));
    let deleted = RecordState { life: Life { dead, ..born }, cells: Vec::new() };
    let report = here.merge(deleted.clone(), 0);
    assert_eq!(report.displaced.len(), 1);
    assert_eq!(
        (report.displaced[0].cell.stamp, report.displaced[0].kind),
        (stamp(5, 1), ConflictKind::Deleted)
    );
    assert!(here.merge(deleted, 0).displaced.is_empty(), "once");
}

#[test]
fn a_counter_begun_after_a_deletion_that_an_insert_outlived_is_kept() {
    let life = Life {
        after: None,
        born: Some(stamp(7, 1)),
        dead: Some(Tombstone::new(stamp(5, 0), &RecordState::default())),
    };
    let mut state = RecordState { life, cells: Vec::new() };
    assert!(state.life.is_alive());
    let counter = edited(&state, stamp(8, 1), 0, &Op::Increment(0, 4)).unwrap();
    state.put(0, Cell::write(stamp(8, 1), None, counter.clone(), 0));
    state.merge(RecordState { life, cells: Vec::new() }, 0);
    assert_eq!(content(&state, 0), &counter);
}

#[test]
fn a_content_hash_does_not_depend_on_the_numbering_of_fields() {
    let counters = [3, 4].map(|value| Content::Counter(Counter::assigned(value, stamp(value as u64, 0))));
    let record = RecordId::v7(1, [0; 10]);
    let one: [u8; 1] = [1];
    let here = version::content(record, vec![("a", &one, 1), ("b", &[], 2)], &[&counters[0], &counters[1]]);
    let there = version::content(record, vec![("b", &[], 2), ("a", &one, 1)], &[&counters[1], &counters[0]]);
    assert_eq!(here, there);
    assert_ne!(here, version::content(record, vec![("a", &one, 1), ("b", &[], 2)], &[&counters[0]]));
}

#[test]
fn a_new_incarnation_comes_without_what_lies_below_its_floor() {
    let life = Life {
        after: Some(stamp(5, 0)),
        born: Some(stamp(6, 0)),
        dead: Some(Tombstone::new(stamp(9, 0), &RecordState::default())),
    };
    let incoming = RecordState { life, cells: vec![(0, cell(stamp(6, 0), 1))] };
    let mut state = RecordState::default();
    state.merge(incoming.clone(), 1);
    assert!(state.cells.is_empty());
    assert!(!state.merge(incoming, 2).changed);
}

#[test]
fn a_merge_says_what_became_of_a_deletion() {
    let record = RecordState {
        life: Life { born: Some(stamp(1, 0)), ..Life::default() },
        cells: vec![(0, cell(stamp(1, 0), 1))],
    };
    let deleted = |time, writer| {
        let dead = Some(Tombstone::new(stamp(time, writer), &record));
        RecordState { life: Life { dead, ..record.life }, cells: Vec::new() }
    };
    let (mine, theirs) = (deleted(5, 1), deleted(6, 2));
    let (mut here, mut there) = (mine.clone(), theirs.clone());
    assert_eq!(here.merge(theirs.clone(), 0).outdone, Some(stamp(5, 1)));
    let report = there.merge(mine.clone(), 0);
    assert_eq!((report.outdone, report.overruled), (None, None), "it stands itself");
    assert_eq!(here.merge(theirs, 0).outdone, None, "once");
    // An authority goes on with the record as it was.
    let life = Life { after: Some(stamp(9, 3)), born: Some(stamp(8, 3)), dead: None };
    let again = RecordState { life, cells: vec![(0, cell(stamp(8, 3), 1))] };
    let report = here.merge(again.clone(), 0);
    assert_eq!((report.outdone, report.overruled), (None, Some(stamp(6, 2))));
    assert_eq!(here.merge(again, 0).overruled, None, "once");
    // Who inserts the record anew undoes nothing.
    let life = Life { after: Some(stamp(5, 1)), born: Some(stamp(7, 2)), dead: None };
    let anew = RecordState { life, cells: vec![(0, cell(stamp(7, 2), 1))] };
    assert_eq!(mine.clone().merge(anew, 0).overruled, None);
}
