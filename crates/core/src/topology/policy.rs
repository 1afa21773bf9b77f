//! The policy of a link: which records, which fields, how sealed and compressed, and what a removal does.

use super::keyword::keyword;
use crate::turns::DEFAULT_PRIORITY;

/// The text of a filter and where it stands in its file.
///
/// Two filter texts are equal if their texts are: moving a line does not change a policy.
#[derive(Clone, Debug)]
pub struct FilterText {
    /// The filter, in the filter language.
    pub text: String,
    /// Line of its first character, from 1; 0 if it comes from no file.
    pub line: usize,
    /// Column of its first character, in characters from 1; 0 if it comes from no file.
    pub column: usize,
}

impl FilterText {
    /// A filter that comes from no file.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), line: 0, column: 0 }
    }
}

impl PartialEq for FilterText {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for FilterText {}

keyword! {
    /// Whether batches are compressed.
    pub Compression {
        /// When it pays.
        Auto = "auto",
        /// Every batch.
        Always = "always",
        /// No batch.
        Never = "never",
    }
}

keyword! {
    /// What happens to the local copy of a record that this node may no longer see.
    pub OnRemoval {
        /// It is removed.
        Remove = "remove",
        /// It stays as it was last seen.
        Keep = "keep",
        /// It is removed, and its bytes in the file are overwritten.
        Shred = "shred",
    }
}

/// Which fields are sealed with keys that the hub does not have.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum EncryptionSpec {
    /// None: the hub can query and search.
    #[default]
    SmartProxy,
    /// All but these.
    E2eOnly {
        /// Fields that stay readable, so that the hub can route by them and apply access rules to them.
        routing_fields: Vec<String>,
    },
    /// Just these.
    Seal(Vec<String>),
}

impl EncryptionSpec {
    /// Everything but these fields is sealed.
    pub fn e2e_only<F: Into<String>>(routing_fields: impl IntoIterator<Item = F>) -> Self {
        Self::E2eOnly { routing_fields: routing_fields.into_iter().map(Into::into).collect() }
    }

    /// Just these fields are sealed.
    pub fn seal<F: Into<String>>(fields: impl IntoIterator<Item = F>) -> Self {
        Self::Seal(fields.into_iter().map(Into::into).collect())
    }

    /// Whether this field is sealed.
    #[must_use]
    pub fn seals(&self, field: &str) -> bool {
        match self {
            Self::SmartProxy => false,
            Self::E2eOnly { routing_fields } => !routing_fields.iter().any(|open| open == field),
            Self::Seal(fields) => fields.iter().any(|sealed| sealed == field),
        }
    }
}

/// The policy of a link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PolicySpec {
    /// If not empty, only records whose `teamId` is one of these.
    pub teams: Vec<String>,
    /// Only records that match.
    pub filter: Option<FilterText>,
    /// Fields that do not travel.
    pub exclude_fields: Vec<String>,
    /// What is sealed.
    pub encryption: EncryptionSpec,
    /// Whether batches are compressed.
    pub compression: Compression,
    /// Whether a peer that was found is shown over this link only what this node's own rules let its user read; the other
    /// side always applies its own.
    pub respect_rls: bool,
    /// What happens here to a record that no longer matches.
    pub on_left_filter: OnRemoval,
    /// What happens here to a record that access rules no longer show.
    pub on_access_revoked: OnRemoval,
    /// Links with a higher one go first: see [`crate::turns`].
    pub priority: i8,
    /// Whether a record is dropped here once the sink has acknowledged it; for write-only links.
    pub release_after_ack: bool,
}

impl Default for PolicySpec {
    fn default() -> Self {
        Self {
            teams: Vec::new(),
            filter: None,
            exclude_fields: Vec::new(),
            encryption: EncryptionSpec::SmartProxy,
            compression: Compression::Auto,
            respect_rls: true,
            on_left_filter: OnRemoval::Remove,
            on_access_revoked: OnRemoval::Remove,
            priority: DEFAULT_PRIORITY,
            release_after_ack: false,
        }
    }
}

impl PolicySpec {
    /// The one filter that `teams` and `filter` amount to, in the filter language; `None` if every record matches.
    ///
    /// ```
    /// use blazedb_core::topology::{FilterText, PolicySpec};
    /// let policy = PolicySpec {
    ///     teams: vec!["ios".into()],
    ///     filter: Some(FilterText::new("priority > 5 || urgent")),
    ///     ..PolicySpec::default()
    /// };
    /// assert_eq!(policy.combined_filter().unwrap(), r#"teamId in ["ios"] && (priority > 5 || urgent)"#);
    /// ```
    #[must_use]
    pub fn combined_filter(&self) -> Option<String> {
        let teams = (!self.teams.is_empty()).then(|| {
            let list: Vec<String> = self.teams.iter().map(|team| quoted(team)).collect();
            format!("teamId in [{}]", list.join(", "))
        });
        match (teams, &self.filter) {
            (Some(teams), Some(filter)) => Some(format!("{teams} && ({})", filter.text)),
            (Some(teams), None) => Some(teams),
            (None, Some(filter)) => Some(filter.text.clone()),
            (None, None) => None,
        }
    }
}

/// A string literal of the filter language. Teams hold no control characters: the reader refuses them.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_team_cannot_break_out_of_its_literal() {
        let policy = PolicySpec { teams: vec!["a\"] || true //\\".into()], ..PolicySpec::default() };
        assert_eq!(policy.combined_filter().unwrap(), r#"teamId in ["a\"] || true //\\"]"#);
        assert_eq!(PolicySpec::default().combined_filter(), None);
    }

    #[test]
    fn a_filter_that_moved_in_its_file_is_the_same_filter() {
        let here = FilterText { text: "a == 1".into(), line: 3, column: 9 };
        assert_eq!(here, FilterText::new("a == 1"));
        assert_ne!(here, FilterText::new("a == 2"));
    }
}
