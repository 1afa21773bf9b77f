//! Who may do what: access rules, and what they come down to for one user.
//!
//! [`AccessRules`] are compiled once from what a topology file says; [`Rights`] are rules with a user bound in. What
//! they decide about one record is in [`change`], whose writes an entry brings is in [`news`]. Meaning:
//! `docs/spec/access.md`.
//!
//! Invariants: a rule that is not there denies; what is unknown (a missing field, a missing claim) never grants;
//! the same rights, record states and time give the same answer everywhere.

pub mod change;
pub mod news;
pub mod take_back;
#[cfg(test)]
mod tests;

pub use change::{Change, Operation};

use crate::filter::{EvalContext, Fields, Filter, FilterError, User};
use crate::id::RecordId;
use crate::record::Record;
use crate::topology::{AccessSpec, FilterText};
use crate::value::Timestamp;

/// The access rules of a database.
#[derive(Clone, PartialEq, Debug)]
pub struct AccessRules {
    public: bool,
    connect: Filter,
    read: Filter,
    insert: Filter,
    update: Filter,
    delete: Filter,
    relay: Filter,
    keys: Option<Filter>,
}

/// A rule is not a text of the filter language.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[error("access rule `{rule}`: {error}")]
pub struct RuleError {
    /// The rule's name.
    pub rule: &'static str,
    /// What is wrong with it.
    pub error: FilterError,
}

impl AccessRules {
    /// Everybody who connects may do everything.
    #[must_use]
    pub fn public() -> Self {
        Self::all(true)
    }

    /// Nobody may do anything.
    #[must_use]
    pub fn nothing() -> Self {
        Self::all(false)
    }

    fn all(public: bool) -> Self {
        let rule = || Filter::always(public);
        Self {
            public,
            connect: rule(),
            read: rule(),
            insert: rule(),
            update: rule(),
            delete: rule(),
            relay: rule(),
            keys: None,
        }
    }

    /// The rules that a topology file declares. A missing one denies.
    ///
    /// # Errors
    /// [`RuleError`] for the first rule that is none.
    pub fn compile(spec: &AccessSpec) -> Result<Self, RuleError> {
        if spec.public {
            return Ok(Self::public());
        }
        Ok(Self {
            public: false,
            connect: compiled("connect", spec.connect.as_ref())?,
            read: compiled("read", spec.read.as_ref())?,
            insert: compiled("insert", spec.insert.as_ref())?,
            update: compiled("update", spec.update.as_ref())?,
            delete: compiled("delete", spec.delete.as_ref())?,
            relay: compiled("relay", spec.relay.as_ref())?,
            keys: spec.keys.as_ref().map(|text| compiled("keys", Some(text))).transpose()?,
        })
    }

    /// Whether there are no rules, and everything is allowed.
    #[must_use]
    pub const fn is_public(&self) -> bool {
        self.public
    }

    /// The rule about reading. Policies are cut by it.
    #[must_use]
    pub const fn read_rule(&self) -> &Filter {
        &self.read
    }

    /// What the rules come down to for `user`; `None`: nobody in particular, of whom nothing is known.
    #[must_use]
    pub fn for_user(&self, user: Option<&User>) -> Rights {
        let bound = |rule: &Filter| user.map_or_else(|| rule.for_nobody(), |user| rule.for_user(user));
        Rights {
            public: self.public,
            connect: bound(&self.connect),
            read: bound(&self.read),
            insert: bound(&self.insert),
            update: bound(&self.update),
            delete: bound(&self.delete),
            relay: bound(&self.relay),
            keys: self.keys.as_ref().map(bound),
        }
    }
}

fn compiled(rule: &'static str, text: Option<&FilterText>) -> Result<Filter, RuleError> {
    let Some(text) = text else { return Ok(Filter::always(false)) };
    Filter::parse_rule(&text.text).map_err(|error| RuleError { rule, error })
}

/// What one user may do with a database.
#[derive(Clone, PartialEq, Debug)]
pub struct Rights {
    public: bool,
    connect: Filter,
    read: Filter,
    insert: Filter,
    update: Filter,
    delete: Filter,
    relay: Filter,
    keys: Option<Filter>,
}

impl Rights {
    /// Whether everything is allowed, so that nothing needs to be asked.
    #[must_use]
    pub const fn is_public(&self) -> bool {
        self.public
    }

    /// Whether the user may connect at all.
    #[must_use]
    pub fn may_connect(&self, now: Timestamp) -> bool {
        about_nothing(&self.connect, now)
    }

    /// Whether [`Rights::may_connect`] may be answered in another way at another time.
    #[must_use]
    pub fn connects_by_time(&self) -> bool {
        self.connect.depends_on_time()
    }

    /// Whether the user's node may bring writes of replicas that are not its own.
    #[must_use]
    pub fn may_relay(&self, now: Timestamp) -> bool {
        about_nothing(&self.relay, now)
    }

    /// Whether the user's node may begin the keyring of a database that has none. Without a rule about that, whoever may
    /// insert and update something may.
    #[must_use]
    pub fn may_begin_keyring(&self, now: Timestamp) -> bool {
        let writes = || self.insert.might_match() && self.update.might_match();
        self.keys.as_ref().map_or_else(writes, |rule| about_nothing(rule, now))
    }

    /// Which records the user may read: a filter without `user`.
    #[must_use]
    pub const fn read(&self) -> &Filter {
        &self.read
    }

    /// Whether the user may read a record.
    #[must_use]
    pub fn may_read(&self, record: &dyn Fields, now: Timestamp) -> bool {
        self.read.matches(&EvalContext::new(record, now))
    }

    /// Whether the user may make a change.
    ///
    /// # Errors
    /// The operation that is not allowed.
    pub fn check(&self, change: &Change<'_>, now: Timestamp) -> Result<(), Operation> {
        let context = EvalContext::new;
        let (allowed, operation) = match *change {
            Change::Insert { after } => (self.insert.matches(&context(after, now)), Operation::Insert),
            Change::Update { before, after } => {
                let context = EvalContext { old: Some(before), ..context(after, now) };
                (self.update.matches(&context), Operation::Update)
            }
            Change::Delete { before } => (self.delete.matches(&context(before, now)), Operation::Delete),
            Change::Replace { before, after } => {
                self.check(&Change::Delete { before }, now)?;
                (self.insert.matches(&context(after, now)), Operation::Insert)
            }
        };
        if allowed { Ok(()) } else { Err(operation) }
    }
}

/// Whether a rule holds that looks at no record; one that does grants nothing.
fn about_nothing(rule: &Filter, now: Timestamp) -> bool {
    let nothing = Record::new(RecordId::from_bytes([0; 16]));
    rule.for_records(now).fields().is_empty() && rule.matches(&EvalContext::new(&nothing, now))
}
