//! A record as an application sees it, and the edits that change one.

use std::collections::BTreeMap;

use crate::id::RecordId;
use crate::value::Value;

/// An id and named fields, without their history.
#[derive(Clone, PartialEq, Debug)]
pub struct Record {
    /// Which record this is.
    pub id: RecordId,
    /// The fields, by name.
    pub fields: BTreeMap<String, Value>,
}

impl Record {
    /// A record without fields.
    #[must_use]
    pub const fn new(id: RecordId) -> Self {
        Self { id, fields: BTreeMap::new() }
    }

    /// The value of a field; `None` if the record does not have it.
    #[must_use]
    pub fn get(&self, field: &str) -> Option<&Value> {
        self.fields.get(field)
    }
}

/// What an update does to one field.
#[derive(Clone, PartialEq, Debug)]
pub enum FieldEdit {
    /// Write a value, whatever was there.
    Set(Value),
    /// Remove the field.
    Unset,
    /// Add to a counter (an absent field becomes one). The amount may be negative.
    Increment(i64),
    /// Add elements to and remove elements from a set (an absent field becomes one).
    SetEdit {
        /// Elements to add.
        add: Vec<Value>,
        /// Elements to remove; an element in both lists is added.
        remove: Vec<Value>,
    },
}

/// Edits by field name: the argument of an insert or an update.
pub type FieldEdits = BTreeMap<String, FieldEdit>;
