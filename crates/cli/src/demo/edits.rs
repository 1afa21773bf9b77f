//! Who edits what: a bug tracker's day, on every device at once.

use std::collections::BTreeMap;

use blazedb::{Database, FieldEdit, RecordId, StoreError, Value, record};

use super::world::{World, failed};
use crate::output::CliError;

const STATES: [&str; 4] = ["open", "triaged", "fixed", "closed"];
const WORDS: [&str; 8] = ["crash", "login", "sync", "typo", "dark mode", "slow", "export", "battery"];

/// Makes edits, one at a time, and counts them.
pub(crate) struct Editor {
    edits: u64,
    random: u64,
    bugs: Vec<RecordId>,
    /// The last bug written on the first device, for measuring how long it takes to be seen elsewhere.
    last: Option<RecordId>,
}

impl Editor {
    pub(crate) const fn new() -> Self {
        Self { edits: 0, random: 0x9E37_79B9_7F4A_7C15, bugs: Vec::new(), last: None }
    }

    pub(crate) const fn edits(&self) -> u64 {
        self.edits
    }

    /// The bug that the last step inserted on the first device, if it did that.
    pub(crate) const fn take_last(&mut self) -> Option<RecordId> {
        self.last.take()
    }

    /// One edit, somewhere.
    pub(crate) fn step(&mut self, world: &World) -> Result<(), CliError> {
        self.edits += 1;
        let turn = self.edits;
        let writers: Vec<_> = world.devices().iter().filter(|device| device.writes_bugs).collect();
        let Some(device) = writers.get(self.pick(writers.len())) else { return Ok(()) };
        let done = match turn % 10 {
            0 => device.database("metrics").map(|metrics| self.measure(&metrics)),
            5 => device.database("drafts").map(|drafts| self.draft(&drafts)),
            7 => world.hub().database("users").map(|users| self.hire(&users)),
            1 | 4 => writers.first().and_then(|first| first.database("bugs")).map(|bugs| self.report(&bugs)),
            _ => device.database("bugs").map(|bugs| self.edit(&bugs)),
        };
        done.unwrap_or(Ok(())).map_err(failed)
    }

    fn measure(&mut self, metrics: &Database) -> Result<(), StoreError> {
        let value = i64::try_from(self.pick(100)).unwrap_or_default();
        metrics.insert(record! { "name" => "battery", "value" => value }).map(drop)
    }

    fn draft(&mut self, drafts: &Database) -> Result<(), StoreError> {
        drafts.insert(record! { "text" => "nobody else sees this" }).map(drop)
    }

    fn hire(&mut self, users: &Database) -> Result<(), StoreError> {
        users.insert(record! { "handle" => format!("user-{}", self.edits) }).map(drop)
    }

    fn report(&mut self, bugs: &Database) -> Result<(), StoreError> {
        let priority = i64::try_from(self.pick(10)).unwrap_or_default();
        let word = WORDS.get(self.pick(WORDS.len())).copied().unwrap_or_default();
        let fields = record! {
            "title" => format!("{word} #{}", self.edits),
            "status" => "open",
            "priority" => priority,
            "seen" => Value::Counter(1),
        };
        let id = bugs.insert(fields)?;
        self.bugs.push(id);
        self.last = Some(id);
        Ok(())
    }

    /// An update, a count, a removal or a deletion, as far as the record has arrived here.
    fn edit(&mut self, bugs: &Database) -> Result<(), StoreError> {
        let at = self.pick(self.bugs.len());
        let Some(id) = self.bugs.get(at).copied() else { return Ok(()) };
        let state = STATES.get(self.pick(STATES.len())).copied().unwrap_or_default();
        let edit = |name: &str, edit: FieldEdit| bugs.edit(id, &BTreeMap::from([(name.to_owned(), edit)]));
        let done = match self.pick(20) {
            0 => bugs.delete(id),
            1 => edit("priority", FieldEdit::Unset),
            2..=6 => edit("seen", FieldEdit::Increment(1)),
            _ => edit("status", FieldEdit::Set(Value::from(state))),
        };
        match done {
            Err(StoreError::NoRecord(_)) => Ok(()),
            other => other,
        }
    }

    /// A number below `count` (0 if that is 0): xorshift64 (G. Marsaglia, 2003).
    fn pick(&mut self, count: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        usize::try_from(self.random % (count.max(1) as u64)).unwrap_or_default()
    }
}
