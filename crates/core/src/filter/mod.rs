//! The filter language: one text, one expression, one meaning, for queries, policies, access rules and the CLI.
//!
//! A [`Filter`] is parsed ([`Filter::parse`], [`Filter::parse_rule`]) or built ([`field`]), evaluated in memory here
//! and compiled to SQL by the store. Its [`Display`](std::fmt::Display) is canonical and parses back to an equal
//! filter; that text is what nodes send each other. Specified in `docs/spec/filter.md`.
//!
//! ```
//! use blazedb_core::filter::{EvalContext, Filter};
//! use blazedb_core::{Record, RecordId, Timestamp};
//!
//! let filter = Filter::parse(r#"priority > 5 && status != "archived""#)?;
//! let mut bug = Record::new(RecordId::from_bytes([1; 16]));
//! bug.fields.insert("priority".into(), 8.into());
//! let now = Timestamp(0);
//! assert_eq!(filter.eval(&EvalContext::new(&bug, now)), None, "a missing status is unknown");
//! bug.fields.insert("status".into(), "open".into());
//! assert!(filter.matches(&EvalContext::new(&bug, now)));
//! # Ok::<(), blazedb_core::filter::FilterError>(())
//! ```

pub mod ast;
mod bind;
mod build;
mod display;
mod error;
mod eval;
mod join;
mod literal;
mod parse;
#[cfg(test)]
mod tests;
mod token;

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

use crate::limits::{MAX_DEPTH, MAX_FILTER_BYTES, MAX_FILTER_DEPTH};
use crate::value::{Timestamp, Value};

use self::ast::{CompareOp, Expr, Operand, Root};
use self::bind::Known;

pub use self::build::{Field, field, field_at};
pub use self::error::{FilterError, FilterErrorKind};
pub(crate) use self::eval::read_field;
pub use self::eval::{EvalContext, Fields, User};
pub use self::join::split_sided;

/// A condition on a record.
#[derive(Clone, PartialEq, Debug)]
pub struct Filter {
    expr: Expr,
}

impl Filter {
    /// Parses a filter over a record.
    ///
    /// # Errors
    /// [`FilterError`] with the column, for anything that is not such a filter, `old.x` and `user.x` among it.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        Self::bounded(parse::parse(text, false)?)
    }

    /// Parses an access rule, in which `old.x` and `user.{id,teams,roles,claims}` exist too.
    ///
    /// # Errors
    /// [`FilterError`] with the column, for anything that is not an access rule.
    pub fn parse_rule(text: &str) -> Result<Self, FilterError> {
        Self::bounded(parse::parse(text, true)?)
    }

    /// The canonical text can be longer than what was parsed, and must be accepted wherever it is sent.
    fn bounded(expr: Expr) -> Result<Self, FilterError> {
        let bytes = display::canonical_len(&expr);
        if bytes > MAX_FILTER_BYTES {
            return Err(FilterErrorKind::TooLong { bytes }.at(1));
        }
        Ok(Self { expr })
    }

    /// Matches every record (`true`) or none (`false`).
    #[must_use]
    pub const fn always(matches: bool) -> Self {
        Self { expr: Expr::Literal(matches) }
    }

    /// The expression.
    #[must_use]
    pub const fn expr(&self) -> &Expr {
        &self.expr
    }

    /// Whether the condition holds; `None` if that is unknown.
    #[must_use]
    pub fn eval(&self, context: &EvalContext<'_>) -> Option<bool> {
        self.expr.eval(context)
    }

    /// Whether the condition is known to hold.
    #[must_use]
    pub fn matches(&self, context: &EvalContext<'_>) -> bool {
        self.eval(context) == Some(true)
    }

    /// Checks that the canonical text of a filter is within the limits of one that is parsed. Only a filter that was
    /// built or bound can fail.
    ///
    /// # Errors
    /// [`FilterErrorKind::TooDeep`] or [`FilterErrorKind::TooLong`], with the column in the canonical text (1 for
    /// what is much too deep).
    pub fn check(&self) -> Result<(), FilterError> {
        if !self.expr.nests_within(2 * MAX_FILTER_DEPTH) {
            return Err(FilterErrorKind::TooDeep.at(1));
        }
        Self::parse_rule(&self.to_string()).map(drop)
    }

    /// What this rule says when `user` asks: a filter without `user`. Conditions that do not depend on the record
    /// are worked out, so that a rule that grants everything to admins becomes `true` for them.
    #[must_use]
    pub fn for_user(&self, user: &User) -> Self {
        let known = Known { now: None, user: Some(Some(user)), without_old: false };
        Self { expr: self.expr.bind(known) }
    }

    /// What this rule says when nobody in particular asks: whatever it looks at of the user is missing.
    #[must_use]
    pub fn for_nobody(&self) -> Self {
        let known = Known { now: None, user: Some(None), without_old: false };
        Self { expr: self.expr.bind(known) }
    }

    /// What this filter says of records alone, at a time: `now` becomes that time, and what looks at a user or at a
    /// former state that nobody gave is missing.
    #[must_use]
    pub fn for_records(&self, now: Timestamp) -> Self {
        Self { expr: self.expr.bind(Known { now: Some(now), user: Some(None), without_old: true }) }
    }

    /// Whether there might be a record that matches, at some time. A rule with a user bound in that grants nothing, whatever
    /// the record, says no.
    #[must_use]
    pub fn might_match(&self) -> bool {
        self.expr.might_be(true)
    }

    /// Whether the answer for one record changes with time.
    #[must_use]
    pub fn depends_on_time(&self) -> bool {
        self.expr.mentions_now()
    }

    /// The top-level fields of the record that the filter looks at. The id is not a field; nor is what `old.x` looks
    /// at counted.
    #[must_use]
    pub fn fields(&self) -> BTreeSet<&str> {
        let mut fields = BTreeSet::new();
        self.expr.visit_paths(&mut |path| {
            if let (Root::Record, Some(name)) = (path.root, path.segments.first())
                && name != "id"
            {
                fields.insert(name.as_str());
            }
        });
        fields
    }

    /// The `field == literal` conditions that every match meets, with `id` among the fields and a bare `field` as
    /// `field == true`. A string literal also equals the UUID or time that it names.
    #[must_use]
    pub fn equalities(&self) -> Vec<(&str, &Value)> {
        match &self.expr {
            Expr::And(members) => members.iter().filter_map(Expr::equality).collect(),
            one => one.equality().into_iter().collect(),
        }
    }
}

impl Expr {
    fn equality(&self) -> Option<(&str, &Value)> {
        match self {
            Self::Truth(path) => Some((path.top_level()?, &Value::Bool(true))),
            Self::Compare {
                op: CompareOp::Eq,
                left: Operand::Path(path),
                right: Operand::Literal(value),
            }
            | Self::Compare {
                op: CompareOp::Eq,
                left: Operand::Literal(value),
                right: Operand::Path(path),
            } => Some((path.top_level()?, value)),
            _ => None,
        }
    }

    fn mentions_now(&self) -> bool {
        let now = |operand: &Operand| matches!(operand, Operand::Now(_));
        match self {
            Self::Literal(_) | Self::Truth(_) | Self::Has(_) => false,
            Self::Compare { left, right, .. } => now(left) || now(right),
            Self::In { item, list } => now(item) || now(list),
            Self::Call { subject, argument, .. } => now(subject) || now(argument),
            Self::Not(inner) => inner.mentions_now(),
            Self::And(members) | Self::Or(members) => members.iter().any(Self::mentions_now),
        }
    }

    /// Whether conditions nest at most `levels` deep, and literals at most [`MAX_DEPTH`].
    fn nests_within(&self, levels: usize) -> bool {
        let shallow = |operand: &Operand| match operand {
            Operand::Literal(value) => value_nests_within(value, MAX_DEPTH),
            Operand::Path(_) | Operand::Now(_) => true,
        };
        match self {
            Self::Literal(_) | Self::Truth(_) | Self::Has(_) => true,
            Self::Compare { left, right, .. } => shallow(left) && shallow(right),
            Self::In { item, list } => shallow(item) && shallow(list),
            Self::Call { subject, argument, .. } => shallow(subject) && shallow(argument),
            Self::Not(inner) => levels > 0 && inner.nests_within(levels - 1),
            Self::And(members) | Self::Or(members) => {
                levels > 0 && members.iter().all(|member| member.nests_within(levels - 1))
            }
        }
    }
}

fn value_nests_within(value: &Value, levels: usize) -> bool {
    match value {
        Value::Array(elements) | Value::Set(elements) => {
            levels > 0 && elements.iter().all(|element| value_nests_within(element, levels - 1))
        }
        Value::Map(entries) => {
            levels > 0 && entries.values().all(|entry| value_nests_within(entry, levels - 1))
        }
        _ => true,
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.expr.fmt(f)
    }
}

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

/// The UUID that a string literal stands for next to a UUID field.
#[must_use]
pub fn string_as_uuid(text: &str) -> Option<Uuid> {
    literal::parse_uuid(text)
}

/// The time that a string literal stands for next to a timestamp field: RFC 3339.
#[must_use]
pub fn string_as_timestamp(text: &str) -> Option<Timestamp> {
    literal::parse_timestamp(text)
}
