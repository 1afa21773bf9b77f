//! Why a text is not a filter.

use crate::limits;

/// A text is not a filter. The message is one line and starts with the column.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("column {column}: {kind}")]
pub struct FilterError {
    /// Where, counted in characters from 1.
    pub column: usize,
    /// What is wrong there.
    pub kind: FilterErrorKind,
}

/// What is wrong with the text of a filter.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FilterErrorKind {
    /// Something else should stand here.
    #[error("expected {expected}, found {found}")]
    Expected {
        /// What may stand here.
        expected: &'static str,
        /// What stands here, shortened.
        found: String,
    },
    /// A string has no closing quote.
    #[error("the string that starts here has no closing quote")]
    UnterminatedString,
    /// A call of a function that the language does not have.
    #[error(
        "there is no function `{name}`; there are has, contains, startsWith, endsWith, uuid, timestamp, \
         duration, bytes and float"
    )]
    UnknownFunction {
        /// The name, shortened.
        name: String,
    },
    /// `old` or `user` in a filter that is not an access rule.
    #[error("`{root}` exists in access rules only; a field of that name is `record.{root}`")]
    RuleOnly {
        /// `old` or `user`.
        root: &'static str,
    },
    /// A condition was used as a value, as in `a == b == c` or `!a == b`.
    #[error("a condition is not a value that can be compared; write `!(a == b)`, or join with && and ||")]
    ConditionAsValue,
    /// A sum or difference that is not one of a time and a duration.
    #[error("+ and - take `now` or `timestamp(..)` and a duration; keep a field alone on its side")]
    NotATime,
    /// The result of + or - cannot be held: more than 290,000 years.
    #[error("this time is out of range")]
    TimeOutOfRange,
    /// The text, or the canonical text of what it says, is longer than
    /// [`MAX_FILTER_BYTES`](limits::MAX_FILTER_BYTES).
    #[error("the filter has {bytes} bytes, over the limit of {}", limits::MAX_FILTER_BYTES)]
    TooLong {
        /// Length, in bytes.
        bytes: usize,
    },
    /// Parentheses, `!`, calls and lists nest deeper than [`MAX_FILTER_DEPTH`](limits::MAX_FILTER_DEPTH), or a
    /// literal deeper than [`MAX_DEPTH`](limits::MAX_DEPTH).
    #[error("the filter nests deeper than {} levels", limits::MAX_FILTER_DEPTH)]
    TooDeep,
}

impl FilterErrorKind {
    pub(super) const fn at(self, column: usize) -> FilterError {
        FilterError { column, kind: self }
    }

    pub(super) fn expected(expected: &'static str, found: impl Into<String>) -> Self {
        Self::Expected { expected, found: found.into() }
    }
}

/// A piece of the filter's text for a message: one line, at most 40 characters.
pub(super) fn quote(text: &str) -> String {
    let mut short: String = text.chars().take(40).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    format!("`{}`", short.escape_debug())
}
