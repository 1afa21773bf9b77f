//! Names of databases.
//!
//! Invariant: a [`DatabaseName`] is safe as a file name and as one segment of a URL's path.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use crate::limits::MAX_DATABASE_NAME_BYTES;

/// The name of a database: 1 to [`MAX_DATABASE_NAME_BYTES`] letters, digits, `-`, `_` and `.` of ASCII, not
/// beginning with a dot.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DatabaseName(String);

/// Why a text is not a database's name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatabaseNameError {
    /// Nothing there.
    #[error("a database's name can't be empty")]
    Empty,
    /// Longer than [`MAX_DATABASE_NAME_BYTES`].
    #[error("a database's name has at most {MAX_DATABASE_NAME_BYTES} bytes")]
    TooLong,
    /// Another character than the allowed ones.
    #[error("a database's name has letters, digits, '-', '_' and '.' of ASCII, not {0:?}")]
    Character(char),
    /// A name like `..` would lead out of its directory.
    #[error("a database's name can't begin with a dot")]
    LeadingDot,
}

impl DatabaseName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DatabaseName {
    type Err = DatabaseNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(DatabaseNameError::Empty);
        }
        if text.len() > MAX_DATABASE_NAME_BYTES {
            return Err(DatabaseNameError::TooLong);
        }
        let odd = |c: &char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
        if let Some(c) = text.chars().find(odd) {
            return Err(DatabaseNameError::Character(c));
        }
        if text.starts_with('.') {
            return Err(DatabaseNameError::LeadingDot);
        }
        Ok(Self(text.to_owned()))
    }
}

impl AsRef<str> for DatabaseName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for DatabaseName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DatabaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for DatabaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_leave_a_directory_or_a_path_segment_are_refused() {
        for good in ["a", "bugs", "Bugs_2", "a.b-c", &"x".repeat(MAX_DATABASE_NAME_BYTES)] {
            assert_eq!(good.parse::<DatabaseName>().unwrap().as_str(), good);
        }
        use DatabaseNameError as E;
        let long = "x".repeat(MAX_DATABASE_NAME_BYTES + 1);
        let bad = [
            ("", E::Empty),
            (long.as_str(), E::TooLong),
            ("a/b", E::Character('/')),
            ("a\\b", E::Character('\\')),
            ("a b", E::Character(' ')),
            ("é", E::Character('é')),
            ("a\0", E::Character('\0')),
            ("..", E::LeadingDot),
            (".a", E::LeadingDot),
        ];
        for (text, error) in bad {
            assert_eq!(text.parse::<DatabaseName>(), Err(error), "{text:?}");
        }
    }
}
