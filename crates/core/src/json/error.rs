//! Why JSON is not a value, a record or an edit.

use crate::limits;

/// What is wrong, and where.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{}{}{kind}", .path, if .path.is_empty() { "" } else { ": " })]
pub struct JsonError {
    /// The field, and the way into it: `tags[2].name`. Empty for the whole.
    pub path: String,
    /// What is wrong there.
    pub kind: JsonErrorKind,
}

/// What is wrong with JSON.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JsonErrorKind {
    /// A record or edits are not an object.
    #[error("a record must be a JSON object of fields")]
    NotAnObject,
    /// An object's only key starts with `$` and is not known here.
    #[error("unknown type tag {0:?}")]
    UnknownTag(String),
    /// A tag's content is not what the tag wants.
    #[error("{tag} takes {expected}")]
    BadContent {
        /// The tag.
        tag: &'static str,
        /// What it wants.
        expected: &'static str,
    },
    /// An edit stands where only a value can.
    #[error("{0} changes a field and can't stand inside a value")]
    EditInValue(&'static str),
    /// A number that neither an int nor a float can hold.
    #[error("the number {0} does not fit a signed 64-bit integer")]
    NumberTooLarge(String),
    /// Values nest too deep.
    #[error("values nest deeper than {} levels", limits::MAX_DEPTH)]
    TooDeep,
    /// A set has too many elements.
    #[error("a set has more than {} elements", limits::MAX_SET_ELEMENTS)]
    SetTooLarge,
    /// A record has too many fields.
    #[error("a record has more than {} fields", limits::MAX_FIELDS)]
    TooManyFields,
    /// The id is not the text of a UUID.
    #[error("the id must be a UUID in a string")]
    BadId,
    /// An update names the id.
    #[error("\"id\" names the record and can't be changed")]
    ReservedId,
    /// A field's name is empty or too long.
    #[error("a field name must have 1 to {} bytes", limits::MAX_FIELD_NAME_BYTES)]
    FieldNameLength,
    /// A field's name starts with `$`.
    #[error("a field name must not start with '$'")]
    FieldNameDollar,
}

impl JsonError {
    pub(super) const fn new(kind: JsonErrorKind) -> Self {
        Self { path: String::new(), kind }
    }

    /// The same error, seen from the array around it.
    pub(super) fn at_index(mut self, index: usize) -> Self {
        let dot = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        self.path = format!("[{index}]{dot}{}", self.path);
        self
    }

    /// The same error, seen from the object around it.
    pub(super) fn at_key(mut self, key: &str) -> Self {
        let dot = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        self.path = format!("{key}{dot}{}", self.path);
        self
    }
}

impl From<JsonErrorKind> for JsonError {
    fn from(kind: JsonErrorKind) -> Self {
        Self::new(kind)
    }
}
