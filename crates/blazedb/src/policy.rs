//! What a link carries: which records and fields, which way, and what becomes of records that leave.

use blazedb_core::Filter;
use blazedb_core::filter::field;
use blazedb_core::topology::{EncryptionSpec, SyncMode};
use blazedb_core::turns::DEFAULT_PRIORITY;
use blazedb_core::view::ViewRequest;
use blazedb_store::{Removal, Removals};

/// How a link syncs.
///
/// The sender filters: what does not match is never sent, in either direction. A record that changes so that it
/// no longer matches is taken away from the side that connected, with the reason; one that was edited there is
/// sent once more first, so that no edit is lost.
///
/// ```
/// use blazedb::{SyncMode, SyncPolicy, field};
/// let policy = SyncPolicy::new()
///     .teams(["ios"])
///     .filter(field("status").ne("archived"))
///     .exclude(["largeAttachment"])
///     .mode(SyncMode::ReadOnly);
/// assert_eq!(policy.combined_filter().unwrap().to_string(), r#"teamId in ["ios"] && status != "archived""#);
/// ```
#[derive(Clone, PartialEq, Debug)]
pub struct SyncPolicy {
    pub(crate) mode: SyncMode,
    pub(crate) pattern: &'static str,
    pub(crate) compression: bool,
    pub(crate) removals: Removals,
    pub(crate) encryption: EncryptionSpec,
    pub(crate) release: bool,
    pub(crate) optional: bool,
    pub(crate) authority: bool,
    pub(crate) priority: i8,
    pub(crate) respect_rls: bool,
    teams: Vec<String>,
    filter: Option<Filter>,
    excluded: Vec<String>,
}

impl Default for SyncPolicy {
    fn default() -> Self {
        Self {
            mode: SyncMode::Bidirectional,
            pattern: "hub-and-spoke",
            compression: true,
            removals: Removals::default(),
            encryption: EncryptionSpec::SmartProxy,
            release: false,
            optional: false,
            authority: false,
            priority: DEFAULT_PRIORITY,
            respect_rls: true,
            teams: Vec::new(),
            filter: None,
            excluded: Vec::new(),
        }
    }
}

impl SyncPolicy {
    /// Everything, both ways, compressed where that helps.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Which ways changes go.
    #[must_use]
    pub const fn mode(mut self, mode: SyncMode) -> Self {
        self.mode = mode;
        self
    }

    /// The pattern that the link belongs to, for displays.
    #[must_use]
    pub const fn pattern(mut self, pattern: &'static str) -> Self {
        self.pattern = pattern;
        self
    }

    /// Whether batches are compressed if the other side can, and values before they are sealed.
    #[must_use]
    pub const fn compression(mut self, compression: bool) -> Self {
        self.compression = compression;
        self
    }

    /// What goes first where several links of a topology have something to do: that of the link with the higher
    /// priority, in both directions. One of a lower priority waits until nothing is under way there, and then goes on; a
    /// little of it goes once a second even so, so that nothing waits for ever. 0 if nobody says anything.
    #[must_use]
    pub const fn priority(mut self, priority: i8) -> Self {
        self.priority = priority;
        self
    }

    /// Whether a peer of a mesh that was found, not named, is shown over this link only what this node's own access rules
    /// let its user read ([`Doorman::shows`](crate::Doorman::shows)); true if nobody says anything. The other side's rules
    /// hold in any case.
    #[must_use]
    pub const fn respect_rls(mut self, respect: bool) -> Self {
        self.respect_rls = respect;
        self
    }

    /// What is sealed with keys that the other side need not have. It has to be what the database's keyring says:
    /// without the keys nothing is sent.
    #[must_use]
    pub fn encryption(mut self, encryption: EncryptionSpec) -> Self {
        self.encryption = encryption;
        self
    }

    /// Only records whose `teamId` is one of these. Replaces what was said before.
    #[must_use]
    pub fn teams<S: Into<String>>(mut self, teams: impl IntoIterator<Item = S>) -> Self {
        self.teams = teams.into_iter().map(Into::into).collect();
        self
    }

    /// Only records that match. Replaces what was said before.
    #[must_use]
    pub fn filter(mut self, filter: Filter) -> Self {
        self.filter = Some(filter);
        self
    }

    /// Fields that do not travel. Replaces what was said before.
    #[must_use]
    pub fn exclude<S: Into<String>>(mut self, fields: impl IntoIterator<Item = S>) -> Self {
        self.excluded = fields.into_iter().map(Into::into).collect();
        self
    }

    /// What becomes of a record here that no longer matches.
    #[must_use]
    pub const fn on_left_filter(mut self, removal: Removal) -> Self {
        self.removals.left_filter = removal;
        self
    }

    /// What becomes of a record here that the other side's access rules no longer show.
    #[must_use]
    pub const fn on_access_revoked(mut self, removal: Removal) -> Self {
        self.removals.access_revoked = removal;
        self
    }

    /// Whether records are dropped here once the other side has acknowledged them. For links that only push; what
    /// other links of the database have not sent by then is not sent by them.
    #[must_use]
    pub const fn release_after_ack(mut self, release: bool) -> Self {
        self.release = release;
        self
    }

    /// Whether it is no error if the other side can't be reached: the database is then as good as local. For meshes.
    #[must_use]
    pub const fn optional(mut self, optional: bool) -> Self {
        self.optional = optional;
        self
    }

    /// Whether the other side decides: what is written here is provisional until it has taken it, and where two wrote at
    /// once, its word stands. A node that does not decide refuses the link.
    #[must_use]
    pub const fn authority(mut self, authority: bool) -> Self {
        self.authority = authority;
        self
    }

    /// The one filter that teams and filter amount to; `None` if every record matches.
    #[must_use]
    pub fn combined_filter(&self) -> Option<Filter> {
        let teams =
            (!self.teams.is_empty()).then(|| field("teamId").is_in(self.teams.iter().map(String::as_str)));
        match (teams, self.filter.clone()) {
            (Some(teams), Some(filter)) => Some(teams.and(filter)),
            (one, other) => one.or(other),
        }
    }

    /// What is asked of the other side.
    pub(crate) fn request(&self) -> ViewRequest {
        ViewRequest {
            filter: self.combined_filter().map(|filter| filter.to_string()),
            excluded: self.excluded.clone(),
        }
    }
}
