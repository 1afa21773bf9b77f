//! The laws of deciding, over a parent and children that write while they are apart.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::access::take_back::take_back;
use crate::{Hlc, ReplicaId};

const CHILDREN: usize = 3;
const PARENT: usize = 0;
const FIELDS: u32 = 2;

#[derive(Clone, Debug)]
enum Op {
    Write(usize, u32),
    Count(usize),
    Insert(usize),
    Delete(usize),
    /// Its writes go to the parent, and what the parent holds comes back, or does not.
    Sync(usize, bool),
    /// One child tells another, without the parent.
    Tell(usize, usize),
}

fn op() -> impl Strategy<Value = Op> {
    let any_one = || 0..=CHILDREN;
    let child = || 1..=CHILDREN;
    prop_oneof![
        6 => (any_one(), 0..FIELDS).prop_map(|(at, field)| Op::Write(at, field)),
        2 => any_one().prop_map(Op::Count),
        1 => any_one().prop_map(Op::Insert),
        1 => any_one().prop_map(Op::Delete),
        6 => (child(), any::<bool>()).prop_map(|(at, back)| Op::Sync(at, back)),
        2 => (child(), child()).prop_map(|(from, to)| Op::Tell(from, to)),
    ]
}

fn id(no: usize) -> ReplicaId {
    ReplicaId::from_bytes([no as u8 + 1; 16])
}

fn number(content: &Content) -> Option<i64> {
    match content {
        Content::Register(value) => match value.to_value() {
            Value::Int(number) => Some(number),
            _ => None,
        },
        _ => None,
    }
}

/// What the rule of a run says.
#[derive(Clone, Copy, Debug)]
enum Rule {
    Held,
    Came,
    Newest,
    Sum,
    Refuse,
    Mixed,
}

fn rule() -> impl Strategy<Value = Rule> {
    use Rule::{Came, Held, Mixed, Newest, Refuse, Sum};
    prop::sample::select(vec![Held, Came, Newest, Sum, Refuse, Mixed])
}

/// A parent and its children, one record, clocks that are apart.
struct Star {
    rule: Rule,
    states: Vec<RecordState>,
    clocks: Vec<u64>,
    seq: u64,
    /// Every number that was written: where.
    written: BTreeMap<i64, usize>,
    /// Numbers that their readers wrote over or deleted, or a rule took into a sum.
    seen_off: BTreeSet<i64>,
    /// What the parent's log tells of.
    lost: BTreeSet<(FieldNo, Stamp)>,
    /// Every deletion, in order,
    deleted: Vec<Stamp>,
    /// and whether the record was inserted over one.
    inserted: bool,
    /// By replica: a deletion of its own that another one has taken the place of.
    outdone: Vec<Option<Stamp>>,
    /// Deletions that their replicas know not to stand.
    undone: BTreeSet<Stamp>,
    /// By replica: what its logs tell of, conflicts and rejected writes.
    told: Vec<BTreeSet<i64>>,
}

impl Star {
    fn new(rule: Rule, ahead: [u64; CHILDREN + 1]) -> Self {
        let stamp = Stamp::new(Hlc(1), id(PARENT));
        let mut first =
            RecordState { life: Life { born: Some(stamp), ..Life::default() }, ..Default::default() };
        for field in 0..=FIELDS {
            let content = Content::Register(OwnedValue::from(&Value::Int(0)));
            first.put(field, Cell::write(stamp, None, content, 1));
        }
        Self {
            rule,
            states: std::vec![first; CHILDREN + 1],
            clocks: ahead.iter().map(|ahead| 2 + ahead).collect(),
            seq: 1,
            written: BTreeMap::new(),
            seen_off: BTreeSet::new(),
            lost: BTreeSet::new(),
            deleted: Vec::new(),
            inserted: false,
            outdone: std::vec![None; CHILDREN + 1],
            undone: BTreeSet::new(),
            told: std::vec![BTreeSet::new(); CHILDREN + 1],
        }
    }

    fn tick(&mut self, at: usize) -> Stamp {
        self.clocks[at] += 1;
        Stamp::new(Hlc(self.clocks[at]), id(at))
    }

    fn observe(&mut self, at: usize, state: &RecordState) {
        let newest = state.newest().map_or(0, |stamp| stamp.time.0);
        self.clocks[at] = self.clocks[at].max(newest);
    }

    fn step(&mut self, op: &Op) {
        self.seq += 1;
        match *op {
            Op::Write(at, field) => self.write(at, field),
            Op::Count(at) => self.count(at),
            Op::Insert(at) => self.insert(at),
            Op::Delete(at) => self.delete(at),
            Op::Sync(at, back) => self.sync(at, back),
            Op::Tell(from, to) => {
                let state = self.states[from].clone();
                self.merge(to, state);
            }
        }
    }

    fn write(&mut self, at: usize, field: u32) {
        if !self.states[at].life.is_alive() {
            return;
        }
        let (stamp, value) = (self.tick(at), i64::from(field) + i64::from(FIELDS) * self.seq as i64);
        let old = self.states[at].cell(field).cloned();
        self.see_off(old.as_ref());
        let content = Content::Register(OwnedValue::from(&Value::Int(value)));
        self.states[at].put(field, Cell::write(stamp, old.as_ref(), content, self.seq));
        self.written.insert(value, at);
    }

    /// The last field is a counter as soon as somebody counts.
    fn count(&mut self, at: usize) {
        if !self.states[at].life.is_alive() {
            return;
        }
        let stamp = self.tick(at);
        let old = self.states[at].cell(FIELDS).cloned();
        let mut counter = match old.as_ref().map(|cell| &cell.content) {
            Some(Content::Counter(counter)) => counter.clone(),
            _ => Counter::assigned(0, stamp),
        };
        counter.add(stamp, 1);
        let cell = Cell::write(stamp, old.as_ref(), Content::Counter(counter), self.seq);
        self.states[at].put(FIELDS, cell);
    }

    fn insert(&mut self, at: usize) {
        let life = self.states[at].life;
        if life.is_alive() {
            return;
        }
        let stamp = self.tick(at);
        let after = life.dead.map(|dead| dead.stamp).or(life.after);
        let life = Life { after, born: Some(stamp), dead: None };
        self.inserted = true;
        self.states[at] = RecordState { life, cells: Vec::new() };
        (0..FIELDS).for_each(|field| self.write(at, field));
    }

    fn delete(&mut self, at: usize) {
        if !self.states[at].life.is_alive() {
            return;
        }
        let stamp = self.tick(at);
        let old = self.states[at].clone();
        old.cells.iter().for_each(|(_, cell)| self.see_off(Some(cell)));
        let dead = Some(Tombstone::new(stamp, &old));
        self.deleted.push(stamp);
        self.states[at] = RecordState { life: Life { dead, ..old.life }, cells: Vec::new() };
    }

    fn see_off(&mut self, cell: Option<&Cell>) {
        self.seen_off.extend(cell.and_then(|cell| number(&cell.content)));
    }

    fn tell(&mut self, at: usize, displaced: &[Displaced]) {
        let numbers = displaced.iter().filter_map(|displaced| number(&displaced.cell.content));
        self.told[at].extend(numbers);
    }

    fn merge(&mut self, at: usize, came: RecordState) {
        self.observe(at, &came);
        let report = self.states[at].merge(came.clone(), self.seq);
        self.tell(at, &report.displaced);
        self.follow_deletion(at, &report);
        assert!(!self.states[at].merge(came, self.seq).changed);
    }

    /// As the store does.
    fn follow_deletion(&mut self, at: usize, report: &MergeReport) {
        let own = |deletion: &Stamp| deletion.writer == id(at);
        if let Some(deletion) = report.outdone.filter(own) {
            self.outdone[at] = Some(deletion);
        }
        if let Some(deletion) = report.overruled {
            self.undone.extend(Some(deletion).filter(own).or(self.outdone[at].take()));
        }
    }

    fn ruling(&mut self, matter: Matter<'_>) -> Ruling {
        let (held, came) = match matter {
            Matter::Field { held, came, .. } => (held, came),
            Matter::Deletion { deletion, .. } => match self.rule {
                Rule::Came => return Ruling::Came,
                Rule::Mixed if deletion.time.0 % 2 == 0 => return Ruling::Came,
                _ => return Ruling::Held,
            },
        };
        let sum = [held, came].iter().filter_map(|cell| number(&cell.content)).sum::<i64>();
        let rule = match (self.rule, sum % 4) {
            (Rule::Mixed, 0) => Rule::Held,
            (Rule::Mixed, 1) => Rule::Came,
            (Rule::Mixed, 2) => Rule::Sum,
            (Rule::Mixed, _) => Rule::Refuse,
            (rule, _) => rule,
        };
        match rule {
            Rule::Came => Ruling::Came,
            Rule::Newest if came.stamp > held.stamp => Ruling::Came,
            Rule::Sum => {
                self.see_off(Some(held));
                self.see_off(Some(came));
                Ruling::Value(Value::Int(-sum))
            }
            Rule::Refuse => Ruling::Refuse("no".into()),
            _ => Ruling::Held,
        }
    }

    fn sync(&mut self, at: usize, back: bool) {
        let came = self.states[at].clone();
        self.observe(PARENT, &came);
        let before = self.states[PARENT].clone();
        let mut after = before.clone();
        let report = after.merge(came.clone(), self.seq);
        self.follow_deletion(PARENT, &report);
        let merged = Merged { before, came: came.clone(), after: after.clone(), report };
        let mut clock = self.clocks[PARENT];
        let mut tick = || {
            clock += 1;
            Stamp::new(Hlc(clock), id(PARENT))
        };
        let known = self.lost.clone();
        let judged = Judge {
            seq: self.seq,
            clock: &mut tick,
            rule: &mut |matter| self.ruling(matter),
            lost: &|field, stamp| known.contains(&(field, stamp)),
        }
        .judge(merged);
        self.lost.extend(judged.displaced.iter().map(|displaced| (displaced.field, displaced.cell.stamp)));
        self.clocks[PARENT] = clock;
        let mut again = judged.state.clone();
        let changed = again.merge(came.clone(), self.seq).changed;
        assert!(!changed, "what is decided contains what it decides about:\n{came:?}\n{:?}", judged.state);
        self.states[PARENT] = judged.state;
        self.tell(PARENT, &judged.displaced);
        if judged.refused.is_some() {
            // The refusal comes before anything else, and its sender gives way.
            let refused = came.newest().unwrap();
            let taken = take_back(&self.states[at], Some(&self.states[PARENT]), refused);
            self.told[at].extend(taken.lost.iter().filter_map(|(_, cell)| number(&cell.content)));
            if taken.deletion {
                self.undone.extend(self.states[at].life.dead.map(|dead| dead.stamp));
                self.undone.extend(self.outdone[at].take());
            }
            let state = taken.state.clone();
            self.observe(at, &state);
            self.states[at] = state;
        }
        if back {
            let state = self.states[PARENT].clone();
            self.merge(at, state);
        }
    }
}

fn plain(state: &RecordState) -> RecordState {
    let mut state = state.clone();
    state.cells.iter_mut().for_each(|(_, cell)| cell.seq = 0);
    state
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever is written where, and whoever tells whom: once every child has been to the parent and back, all hold what
    /// the parent holds, and whoever wrote what nobody shows finds it in a log of its own.
    #[test]
    fn the_parents_word_is_everybodys_and_nothing_is_lost_silently(
        rule in rule(),
        ahead: [u8; CHILDREN + 1],
        ops in vec(op(), 1..40),
    ) {
        let mut star = Star::new(rule, ahead.map(u64::from));
        ops.iter().for_each(|op| star.step(op));
        for _ in 0..2 {
            (1..=CHILDREN).for_each(|at| star.step(&Op::Sync(at, true)));
        }
        let parent = plain(&star.states[PARENT]);
        for child in &star.states {
            prop_assert_eq!(plain(child), parent.clone());
        }
        // Having been told everything, nobody has anything new to say.
        for at in 1..=CHILDREN {
            star.step(&Op::Sync(at, true));
            prop_assert!(is_same_state(&star.states[PARENT], &parent));
        }
        let shown: BTreeSet<i64> = parent.cells.iter().filter_map(|(_, cell)| number(&cell.content)).collect();
        for (value, at) in &star.written {
            let mut known =
                shown.contains(value) || star.seen_off.contains(value) || star.told[*at].contains(value);
            // What a decision gives up that an earlier one had taken is in the parent's log only; what whoever deleted the
            // record had seen lose, in its own.
            let elsewhere = !star.deleted.is_empty() || matches!(rule, Rule::Came | Rule::Mixed);
            known |= elsewhere && star.told.iter().any(|told| told.contains(value));
            // What a deletion had seen can't be told any more once the record is inserted again (docs/spec/authority.md).
            known |= star.inserted;
            prop_assert!(known, "{value}, written by {at}, is nowhere: {:?}", star.told);
        }
        // Whoever deleted a record that is there knows that the deletion does not stand.
        let silent = star.deleted.iter().find(|deletion| !star.undone.contains(deletion));
        let stands = !parent.life.is_alive() || star.inserted;
        prop_assert!(stands || silent.is_none(), "{silent:?} was undone without a word");
    }
}

fn write(time: u64, writer: usize, old: Option<&Cell>) -> Cell {
    let content = Content::Register(OwnedValue::from(&Value::Int(time as i64)));
    Cell::write(Stamp::new(Hlc(time), id(writer)), old, content, 0)
}

fn record(cells: Vec<(FieldNo, Cell)>) -> RecordState {
    let born = Some(Stamp::new(Hlc(1), id(PARENT)));
    RecordState { life: Life { born, ..Life::default() }, cells }
}

/// Judges by the default rule, with decisions stamped 100.
fn judged(before: &RecordState, came: &RecordState) -> Judged {
    let mut after = before.clone();
    let report = after.merge(came.clone(), 7);
    let merged = Merged { before: before.clone(), came: came.clone(), after, report };
    let mut time = 99;
    let mut clock = || {
        time += 1;
        Stamp::new(Hlc(time), id(PARENT))
    };
    Judge { seq: 7, clock: &mut clock, rule: &mut |_| Ruling::Held, lost: &|_, _| false }.judge(merged)
}

#[test]
fn a_write_that_saw_what_is_held_is_taken_as_it_is() {
    let held = write(5, 2, None);
    let came = write(9, 1, Some(&held));
    let judged = judged(&record(vec![(0, held)]), &record(vec![(0, came.clone())]));
    assert!(!judged.decided && judged.displaced.is_empty());
    assert_eq!(judged.state.cell(0).unwrap().content, came.content);
}

#[test]
fn of_two_that_did_not_see_each_other_the_held_one_stands_by_a_newer_stamp() {
    let (first, second) = (write(5, 1, None), write(9, 2, None));
    let judged = judged(&record(vec![(0, first.clone())]), &record(vec![(0, second.clone())]));
    let cell = judged.state.cell(0).unwrap();
    assert!(judged.decided);
    assert_eq!((&cell.content, cell.stamp.time), (&first.content, Hlc(100)));
    assert!(cell.has_seen(first.stamp) && !cell.has_seen(second.stamp));
    let lost = Displaced { field: 0, cell: second, winner: cell.stamp, kind: ConflictKind::Decided };
    assert_eq!(judged.displaced, [lost]);
}

#[test]
fn a_deletion_that_missed_a_write_is_overruled_and_the_record_lives_on_everywhere() {
    let old = write(2, PARENT, None);
    let seen = record(vec![(0, old.clone())]);
    let dead = Some(Tombstone::new(Stamp::new(Hlc(9), id(2)), &seen));
    let deleted = RecordState { life: Life { dead, ..seen.life }, cells: Vec::new() };
    let before = record(vec![(0, write(5, 1, Some(&old)))]);
    let judged = judged(&before, &deleted);
    assert!(judged.refused.as_ref().unwrap().deletion && judged.state.life.is_alive());
    for start in [deleted, seen, before.clone()] {
        let mut other = start;
        other.merge(judged.state.clone(), 8);
        assert!(is_same_state(&other, &judged.state));
    }
    // A write to what was there before is told of, although it is older than the decision.
    let mut late = record(vec![(0, write(6, 3, Some(&old)))]);
    let report = late.merge(judged.state.clone(), 9);
    assert_eq!(report.displaced.len(), 1);
    assert_eq!(before.cell(0).unwrap().content, late.cell(0).unwrap().content);
}

#[test]
fn a_deletion_of_a_record_whose_earlier_deletion_was_overruled_is_refused_in_words() {
    let old = write(2, PARENT, None);
    let seen = record(vec![(0, old.clone())]);
    let deleted = |time, writer| {
        let dead = Some(Tombstone::new(Stamp::new(Hlc(time), id(writer)), &seen));
        RecordState { life: Life { dead, ..seen.life }, cells: Vec::new() }
    };
    let first = judged(&record(vec![(0, write(5, 1, Some(&old)))]), &deleted(9, 2));
    let second = judged(&first.state, &deleted(10, 3));
    let refused = second.refused.unwrap();
    assert!(refused.deletion && !refused.reason.is_empty());
    assert!(!second.decided && is_same_state(&second.state, &first.state), "it has been decided");
    // Where the record was inserted anew, both have what they wanted.
    let after = Some(Stamp::new(Hlc(9), id(2)));
    let life = Life { after, born: Some(Stamp::new(Hlc(11), id(2))), dead: None };
    let anew = RecordState { life, cells: vec![(0, write(11, 2, None))] };
    assert_eq!(judged(&anew, &deleted(10, 3)).refused, None);
}

#[test]
fn what_was_taken_back_unjudged_is_outranked_wherever_it_has_gone() {
    let old = write(2, PARENT, None);
    let base = record(vec![(0, old.clone()), (1, old.clone())]);
    let clock = || {
        let mut time = 99;
        move || {
            time += 1;
            Stamp::new(Hlc(time), id(2))
        }
    };
    let edited = record(vec![(0, write(5, 1, Some(&old)))]);
    let dead = Some(Tombstone::new(Stamp::new(Hlc(9), id(1)), &base));
    let deleted = RecordState { life: Life { dead, ..base.life }, cells: Vec::new() };
    for taken_back in [edited, deleted] {
        let state = outrank(&base, &taken_back, 7, &mut clock()).unwrap();
        let mut elsewhere = base.clone();
        elsewhere.merge(taken_back.clone(), 8);
        elsewhere.merge(state.clone(), 9);
        assert!(is_same_state(&elsewhere, &state));
        assert_eq!(elsewhere.cell(0).unwrap().content, old.content);
        assert_eq!(outrank(&state, &taken_back, 7, &mut clock()), None, "it does already");
    }
}
