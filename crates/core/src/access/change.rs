//! What a peer's change amounts to: insert, update, delete.

use std::borrow::Cow;

use crate::blazebinary::FieldNo;
use crate::cell::Content;
use crate::filter::Fields;
use crate::id::RecordId;
use crate::merge::RecordState;
use crate::value::Value;

/// What was tried.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Operation {
    /// A record comes to be.
    Insert,
    /// A record changes.
    Update,
    /// A record goes.
    Delete,
    /// Writes of other replicas are brought.
    Relay,
}

impl Operation {
    /// Every operation with the byte that stands for it, on the wire and on disk.
    const ALL: [(u8, Self); 4] = [(1, Self::Insert), (2, Self::Update), (3, Self::Delete), (4, Self::Relay)];

    /// The byte that stands for it, on the wire and on disk.
    #[must_use]
    pub const fn byte(self) -> u8 {
        match self {
            Self::Insert => 1,
            Self::Update => 2,
            Self::Delete => 3,
            Self::Relay => 4,
        }
    }

    /// The operation that a byte stands for.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == byte).map(|(_, operation)| *operation)
    }

    /// The operation in one word: also the name of the rule about it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Delete => "delete",
            Self::Relay => "relay",
        }
    }
}

/// A change of one record, as rules see it.
#[derive(Clone, Copy)]
pub enum Change<'a> {
    /// It was not there, and is now.
    Insert {
        /// What it is now.
        after: &'a dyn Fields,
    },
    /// It was there and still is.
    Update {
        /// What it was.
        before: &'a dyn Fields,
        /// What it is now.
        after: &'a dyn Fields,
    },
    /// It was there and is not any more.
    Delete {
        /// What it was.
        before: &'a dyn Fields,
    },
    /// It was deleted and inserted again, both at once: needs the rights to both.
    Replace {
        /// What it was.
        before: &'a dyn Fields,
        /// What it is now.
        after: &'a dyn Fields,
    },
}

/// The fields of a [`RecordState`], whatever its life is.
#[derive(Clone, Copy)]
pub struct StateFields<'a> {
    /// The record.
    pub id: RecordId,
    /// What is known of it.
    pub state: &'a RecordState,
    /// The number of a field name.
    pub field_no: &'a dyn Fn(&str) -> Option<FieldNo>,
}

impl Fields for StateFields<'_> {
    fn field(&self, name: &str) -> Option<Cow<'_, Value>> {
        let cell = self.state.cell((self.field_no)(name)?)?;
        visible(&cell.content).map(Cow::Owned)
    }

    fn id(&self) -> RecordId {
        self.id
    }
}

/// What a cell shows; `None` for a removed field.
#[must_use]
pub fn visible(content: &Content) -> Option<Value> {
    match content {
        // What is sealed shows nothing: rules look at what is readable where they hold.
        Content::Absent | Content::Sealed(_) => None,
        Content::Register(value) => Some(value.to_value()),
        Content::Counter(counter) => Some(Value::Counter(counter.value())),
        Content::Set(set) => {
            Some(Value::Set(set.elements.keys().map(|element| element.to_value()).collect()))
        }
    }
}

/// Which change leads from one state of a record to another; `None` if neither shows anything.
#[must_use]
pub fn between<'a>(before: &'a StateFields<'a>, after: &'a StateFields<'a>) -> Option<Change<'a>> {
    let (old, new) = (before.state.life, after.state.life);
    match (old.is_alive(), new.is_alive()) {
        (false, false) => None,
        (false, true) => Some(Change::Insert { after }),
        (true, false) => Some(Change::Delete { before }),
        (true, true) if old.after != new.after || old.dead != new.dead => {
            Some(Change::Replace { before, after })
        }
        (true, true) => Some(Change::Update { before, after }),
    }
}
