//! What applications do: transactions on any node, on the same few records.

use std::collections::BTreeMap;

use blazedb_core::feed::Seq;
use blazedb_core::session::Input;
use blazedb_core::{FieldEdit, FieldEdits, Record, RecordId, Stamp, Value};
use blazedb_store::{Store, StoreError, Transaction};

use crate::Failure;
use crate::config::Switches;
use crate::ledger::{COUNT, Class, INSERT, Kind, Op, PAIR, SET, Subject, elements, shown};
use crate::network::{End, Event};
use crate::setup::draw_user;
use crate::world::World;

/// Registers of a record.
const FIELDS: [&str; 4] = ["f0", "f1", "f2", "f3"];
/// A field that is sealed in a sealed run, and what its values begin with: neither may ever be seen in the clear.
pub(crate) const MARKED: &str = "markedField";
pub(crate) const MARK: &str = "sim-mark-";
/// A field of many bytes.
const BULK: &str = "bulk";
/// Records of a run, at most.
const SUBJECTS: usize = 24;

/// What a transaction does to one record.
enum Action {
    Insert(RecordId, BTreeMap<String, Value>),
    Update(RecordId, FieldEdits),
    Delete(RecordId),
}

/// A transaction in the making.
#[derive(Default)]
struct Draft {
    actions: Vec<Action>,
    /// Subject and what is done to it, in the order of their numbers.
    writes: Vec<(usize, Kind)>,
    next: i64,
}

impl Draft {
    fn number(&mut self, subject: usize, kind: impl FnOnce(i64) -> Kind) -> Value {
        let number = self.next;
        self.next += 1;
        self.writes.push((subject, kind(number)));
        Value::Int(number)
    }

    fn write(&mut self, subject: usize, field: &'static str) -> Value {
        self.number(subject, |_| Kind::Write(field))
    }
}

impl World {
    pub(crate) fn on_work(&mut self) -> Result<(), Failure> {
        if self.steps_left == 0 {
            return Ok(());
        }
        self.steps_left -= 1;
        let delay = if self.rng.chance(15) { self.rng.below(4_000) } else { self.rng.below(120) };
        self.schedule(delay, Event::Work);
        if self.config.switches != Switches::None && self.rng.chance(25) {
            self.switch_one()?;
        }
        if self.config.rules && !self.config.fixed_users && self.rng.chance(12) {
            self.change_user();
        }
        if self.config.sealed && self.rng.chance(8) {
            self.change_keys()?;
        }
        let node = self.rng.index(self.config.nodes);
        if self.config.sealed && !self.may_write(node) {
            return Ok(());
        }
        match self.nodes.get(node).and_then(|node| node.store.clone()) {
            Some(store) => self.transact(node, &store),
            None => Ok(()),
        }
    }

    /// Where everything is sealed, who has no keys has nothing to say, and who was removed is heard by nobody.
    fn may_write(&self, node: usize) -> bool {
        self.nodes.get(node).is_some_and(|node| node.member) && !self.removed_at.contains_key(&node)
    }

    /// Somebody's teams and roles change.
    fn change_user(&mut self) {
        let node = 1 + self.rng.index(self.nodes.len().saturating_sub(1));
        let user = draw_user(node, &mut self.rng);
        self.note(|| format!("the user of node {node} is {user:?}"));
        self.counts.grants += 1;
        if let Some(node) = self.nodes.get_mut(node) {
            node.user = Some(user);
        }
        for place in self.places_of(node).into_iter().filter(|place| place.end == End::Client) {
            self.schedule(0, Event::Answer(place.other(), Input::UserChanged));
        }
    }

    fn transact(&mut self, node: usize, store: &Store) -> Result<(), Failure> {
        let mut draft = Draft { next: self.ledger.next_number(), ..Draft::default() };
        let mut used = Vec::new();
        for _ in 0..1 + self.rng.below(4) {
            let subject = self.pick_subject();
            if !used.contains(&subject) {
                used.push(subject);
                self.draft(subject, store, &mut draft)?;
            }
        }
        self.commit(node, store, draft)
    }

    /// Has a node insert one new record.
    pub(crate) fn write_one(&mut self, node: usize) -> Result<(), Failure> {
        let Some(store) = self.nodes.get(node).and_then(|node| node.store.clone()) else { return Ok(()) };
        let mut draft = Draft { next: self.ledger.next_number(), ..Draft::default() };
        let subject = self.add_subject();
        self.draft(subject, &store, &mut draft)?;
        self.commit(node, &store, draft)
    }

    /// Has a node insert one new record with this field. Answers its id.
    pub(crate) fn insert_one(&mut self, node: usize, field: (String, Value)) -> Result<RecordId, Failure> {
        let subject = self.add_subject();
        let id = self.ledger.id_of(subject).unwrap_or(RecordId::from_bytes([0; 16]));
        let Some(store) = self.nodes.get(node).and_then(|node| node.store.clone()) else { return Ok(id) };
        let mut draft = Draft { next: self.ledger.next_number(), ..Draft::default() };
        let fields = [field, (INSERT.to_owned(), draft.write(subject, INSERT))];
        draft.actions.push(Action::Insert(id, fields.into()));
        self.commit(node, &store, draft)?;
        Ok(id)
    }

    fn commit(&mut self, node: usize, store: &Store, draft: Draft) -> Result<(), Failure> {
        if draft.actions.is_empty() {
            return Ok(());
        }
        let time = store.transaction(|transaction| {
            draft.actions.iter().try_for_each(|action| perform(transaction, action))?;
            Ok(transaction.time())
        })?;
        let stamp = Stamp::new(time, store.replica());
        self.counts.transactions += 1;
        self.mark(&[5, node as u64, stamp.time.0, store.head()]);
        self.record(node, stamp, store.head(), draft.writes);
        self.after_commit(node)?;
        Ok(())
    }

    fn record(&mut self, node: usize, stamp: Stamp, seq: Seq, writes: Vec<(usize, Kind)>) {
        let (knew_removed, epoch) = (self.known_removed(node), self.epoch_of(node));
        for (subject, kind) in writes {
            let number = self.ledger.next_number();
            self.note(|| format!("node {node} write {number} on {subject}: {kind:?} {stamp:?} seq {seq}"));
            let knew_removed = knew_removed.clone();
            let doubtful = false;
            self.ledger.record(Op { number, node, subject, kind, stamp, seq, doubtful, knew_removed, epoch });
        }
    }

    fn pick_subject(&mut self) -> usize {
        let known = self.ledger.subjects.len();
        if known == 0 || (known < SUBJECTS && self.rng.chance(25)) {
            self.add_subject()
        } else {
            self.rng.index(known)
        }
    }

    fn add_subject(&mut self) -> usize {
        let classes =
            [Class::Register, Class::Mortal, Class::Mortal, Class::Counter, Class::Set, Class::Pair];
        // With views, half of a pair may be all that is seen: the other classes come first.
        let drawn = if self.config.views { self.rng.pick(&classes[..5]) } else { self.rng.pick(&classes) };
        let class = drawn.copied().unwrap_or(Class::Register);
        let mut random = [0; 10];
        random.iter_mut().for_each(|byte| *byte = (self.rng.next() & 0xff) as u8);
        let id = RecordId::v7(self.now(), random);
        let subject = self.ledger.subjects.len();
        self.note(|| format!("subject {subject} is {id}, a {class:?}"));
        self.ledger.add_subject(Subject { id, class });
        subject
    }

    fn draft(&mut self, subject: usize, store: &Store, draft: &mut Draft) -> Result<(), StoreError> {
        let Some(Subject { id, class }) = self.ledger.subjects.get(subject).copied() else { return Ok(()) };
        let record = store.get(id)?;
        if class == Class::Pair {
            draft_pair(subject, id, record.is_some(), draft);
            return Ok(());
        }
        let taken = || self.ledger.ops.iter().any(|op| op.subject == subject);
        if self.config.views && record.is_none() && taken() {
            // Somewhere it is, or was: who does not see it does not make it up.
            return Ok(());
        }
        let action = match record {
            None => self.draft_insert(subject, id, class, draft),
            Some(record) => match class {
                Class::Counter => {
                    let amount = i64::try_from(self.rng.range(1, 9)).unwrap_or(1);
                    draft.number(subject, |_| Kind::Count(amount));
                    update(id, [(COUNT, FieldEdit::Increment(amount))])
                }
                Class::Set => self.draft_set(subject, &record, draft),
                Class::Mortal if self.rng.chance(25) => {
                    let insert = shown(Some(&record), INSERT).unwrap_or(0);
                    draft.number(subject, |_| Kind::Delete(insert));
                    Action::Delete(id)
                }
                _ => self.draft_update(subject, &record, class, draft),
            },
        };
        draft.actions.push(action);
        Ok(())
    }

    fn draft_insert(&mut self, subject: usize, id: RecordId, class: Class, draft: &mut Draft) -> Action {
        let mut fields = BTreeMap::new();
        fields.insert(INSERT.to_owned(), draft.write(subject, INSERT));
        fields.extend(self.draw_attributes(70));
        if self.config.sealed {
            fields.insert(MARKED.to_owned(), Value::from(format!("{MARK}{subject}").as_str()));
        }
        if matches!(class, Class::Register | Class::Mortal) {
            for field in FIELDS {
                if self.rng.chance(40) {
                    fields.insert(field.to_owned(), draft.write(subject, field));
                }
            }
        }
        Action::Insert(id, fields)
    }

    fn draft_update(&mut self, subject: usize, record: &Record, class: Class, draft: &mut Draft) -> Action {
        let mut edits = FieldEdits::new();
        for _ in 0..=self.rng.below(2) {
            let field = self.rng.pick(&FIELDS).copied().unwrap_or("f0");
            if edits.contains_key(field) {
                continue;
            }
            let edit = if record.get(field).is_some() && self.rng.chance(20) {
                draft.number(subject, |_| Kind::Unset(field));
                FieldEdit::Unset
            } else {
                FieldEdit::Set(draft.write(subject, field))
            };
            edits.insert(field.to_owned(), edit);
        }
        let drawn = self.draw_attributes(35).into_iter();
        edits.extend(drawn.map(|(field, value)| (field, FieldEdit::Set(value))));
        if class == Class::Mortal && self.rng.chance(25) {
            edits.insert(COUNT.to_owned(), FieldEdit::Increment(1));
        }
        if self.config.bulk && class == Class::Register {
            let (len, byte) = (self.rng.range(20_000, 300_000), self.rng.next() as u8);
            let mut noise = crate::rng::Rng::new(u64::from(byte));
            let bytes = (0..len).map(|_| (noise.next() & 0xff) as u8).collect();
            edits.insert(BULK.to_owned(), FieldEdit::Set(Value::Bytes(bytes)));
        }
        Action::Update(record.id, edits)
    }

    /// Values of what policies tell records apart by, for so many percent of the records.
    fn draw_attributes(&mut self, percent: u64) -> Vec<(String, Value)> {
        let mut drawn = Vec::new();
        for (field, values) in &self.attributes {
            if self.rng.chance(percent)
                && let Some(value) = self.rng.pick(values)
            {
                drawn.push((field.clone(), value.clone()));
            }
        }
        drawn
    }

    fn draft_set(&mut self, subject: usize, record: &Record, draft: &mut Draft) -> Action {
        let (mut add, mut remove) = (Vec::new(), Vec::new());
        match self.rng.below(3) {
            0 => add.push(draft.number(subject, Kind::Add)),
            1 => {
                let shared = -i64::try_from(self.rng.range(1, 4)).unwrap_or(1);
                draft.number(subject, |_| Kind::Add(shared));
                add.push(Value::Int(shared));
            }
            _ => {
                if let Some(element) = self.rng.pick(&elements(Some(record))).copied() {
                    draft.number(subject, |_| Kind::Remove(element));
                    remove.push(Value::Int(element));
                }
            }
        }
        update(record.id, [(SET, FieldEdit::SetEdit { add, remove })])
    }
}

/// The id of the second record of a pair.
pub(crate) fn second_of(id: RecordId) -> RecordId {
    let mut bytes = *id.as_bytes();
    if let Some(last) = bytes.last_mut() {
        *last ^= 1;
    }
    RecordId::from_bytes(bytes)
}

fn draft_pair(subject: usize, id: RecordId, there: bool, draft: &mut Draft) {
    let value = draft.write(subject, PAIR);
    for id in [id, second_of(id)] {
        draft.actions.push(if there {
            update(id, [(PAIR, FieldEdit::Set(value.clone()))])
        } else {
            Action::Insert(id, BTreeMap::from([(PAIR.to_owned(), value.clone())]))
        });
    }
}

fn update<const N: usize>(id: RecordId, edits: [(&str, FieldEdit); N]) -> Action {
    Action::Update(id, edits.into_iter().map(|(field, edit)| (field.to_owned(), edit)).collect())
}

fn perform(transaction: &mut Transaction<'_>, action: &Action) -> Result<(), StoreError> {
    match action {
        Action::Insert(id, fields) => transaction.insert(*id, fields),
        Action::Update(id, edits) => transaction.update(*id, edits),
        Action::Delete(id) => transaction.delete(*id),
    }
}
