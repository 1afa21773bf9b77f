//! The expression that a filter is.
//!
//! Invariants of an expression inside a [`Filter`](super::Filter), kept by its parser and builder: `And` and `Or`
//! have at least two members, none of which is of the same kind; a `Not` holds no `Not`; literals are
//! normal (a counter is its int, a set and a vector are arrays, NaN is null). So texts that
//! differ in layout and redundant parentheses alone are equal expressions.

use std::collections::BTreeMap;

use crate::value::{Timestamp, Value};

/// A condition: true, false or unknown.
#[derive(Clone, PartialEq, Debug)]
pub enum Expr {
    /// `true` or `false`.
    Literal(bool),
    /// A name on its own: the field holds `true` (or `false`; anything else is unknown).
    Truth(Path),
    /// `has(path)`: the field is there. Never unknown.
    Has(Path),
    /// `left op right`.
    Compare {
        /// The operator.
        op: CompareOp,
        /// Its left side.
        left: Operand,
        /// Its right side.
        right: Operand,
    },
    /// `item in list`, where the list is a literal or a field that holds an array or a set.
    In {
        /// What is looked for.
        item: Operand,
        /// Where.
        list: Operand,
    },
    /// `contains(subject, argument)`, `startsWith(..)`, `endsWith(..)`.
    Call {
        /// Which of them.
        function: Function,
        /// The string (for `contains` also the array or set) that is looked into.
        subject: Operand,
        /// What is looked for.
        argument: Operand,
    },
    /// `!condition`.
    Not(Box<Expr>),
    /// All of them.
    And(Vec<Expr>),
    /// Any of them.
    Or(Vec<Expr>),
}

/// A value that a condition looks at.
#[derive(Clone, PartialEq, Debug)]
pub enum Operand {
    /// A field, or a value inside of one.
    Path(Path),
    /// A value written in the filter. Of the composite types only [`Value::Array`] and [`Value::Map`] occur.
    Literal(Value),
    /// `now`, moved by so many microseconds. [`i64::MIN`] does not occur.
    Now(i64),
}

/// Where a value is found.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Path {
    /// In what.
    pub root: Root,
    /// The field, then the keys of the maps inside of it. Never empty.
    pub segments: Vec<String>,
}

/// What a [`Path`] starts from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Root {
    /// The record at hand; for an update, its new state.
    Record,
    /// The record before the update (access rules only).
    Old,
    /// Who asks (access rules only).
    User,
}

/// The comparisons.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum CompareOp {
    /// `==`
    Eq,
    /// `!=`
    Ne,
    /// `<`
    Lt,
    /// `<=`
    Le,
    /// `>`
    Gt,
    /// `>=`
    Ge,
}

/// The tests that are written as calls.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Function {
    /// A part of a string; an element of an array or a set.
    Contains,
    /// The beginning of a string.
    StartsWith,
    /// The end of a string.
    EndsWith,
}

impl CompareOp {
    /// The operator that is true exactly where this one is false.
    #[must_use]
    pub const fn negated(self) -> Self {
        match self {
            Self::Eq => Self::Ne,
            Self::Ne => Self::Eq,
            Self::Lt => Self::Ge,
            Self::Le => Self::Gt,
            Self::Gt => Self::Le,
            Self::Ge => Self::Lt,
        }
    }

    /// The operator that says the same with the sides exchanged.
    #[must_use]
    pub const fn flipped(self) -> Self {
        match self {
            Self::Eq | Self::Ne => self,
            Self::Lt => Self::Gt,
            Self::Le => Self::Ge,
            Self::Gt => Self::Lt,
            Self::Ge => Self::Le,
        }
    }

    /// How it is written, here and in SQLite.
    #[must_use]
    pub const fn symbol(self) -> &'static str {
        match self {
            Self::Eq => "==",
            Self::Ne => "!=",
            Self::Lt => "<",
            Self::Le => "<=",
            Self::Gt => ">",
            Self::Ge => ">=",
        }
    }
}

impl Function {
    /// How it is written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Contains => "contains",
            Self::StartsWith => "startsWith",
            Self::EndsWith => "endsWith",
        }
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        [Self::Contains, Self::StartsWith, Self::EndsWith].into_iter().find(|f| f.name() == name)
    }
}

impl Root {
    /// How it is written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Record => "record",
            Self::Old => "old",
            Self::User => "user",
        }
    }
}

impl Path {
    /// A top-level field of the record.
    #[must_use]
    pub fn field(name: impl Into<String>) -> Self {
        Self { root: Root::Record, segments: vec![name.into()] }
    }

    /// The name, if this is the record's id or one of its top-level fields.
    #[must_use]
    pub fn top_level(&self) -> Option<&str> {
        match (self.root, self.segments.as_slice()) {
            (Root::Record, [name]) => Some(name),
            _ => None,
        }
    }
}

impl Operand {
    /// The time `now` moved by `offset`, at `now`; a literal that is too far away is the furthest there is.
    pub(super) const fn time(now: Timestamp, offset: i64) -> Value {
        Value::Timestamp(Timestamp(now.0.saturating_add(offset)))
    }
}

impl Expr {
    /// The negation: undone if there is one already.
    pub(super) fn negated(self) -> Self {
        match self {
            Self::Not(inner) => *inner,
            other => Self::Not(Box::new(other)),
        }
    }

    /// Both.
    pub(super) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::And(mut all), Self::And(more)) => {
                all.extend(more);
                Self::And(all)
            }
            (Self::And(mut all), one) => {
                all.push(one);
                Self::And(all)
            }
            (one, Self::And(more)) => Self::And(std::iter::once(one).chain(more).collect()),
            (one, two) => Self::And(vec![one, two]),
        }
    }

    /// Either.
    pub(super) fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Or(mut any), Self::Or(more)) => {
                any.extend(more);
                Self::Or(any)
            }
            (Self::Or(mut any), one) => {
                any.push(one);
                Self::Or(any)
            }
            (one, Self::Or(more)) => Self::Or(std::iter::once(one).chain(more).collect()),
            (one, two) => Self::Or(vec![one, two]),
        }
    }

    /// Calls `visit` with every path in the expression, in order.
    pub fn visit_paths<'a>(&'a self, visit: &mut impl FnMut(&'a Path)) {
        let mut operand = |operand: &'a Operand| {
            if let Operand::Path(path) = operand {
                visit(path);
            }
        };
        match self {
            Self::Literal(_) => {}
            Self::Truth(path) | Self::Has(path) => visit(path),
            Self::Compare { left, right, .. } => [left, right].into_iter().for_each(&mut operand),
            Self::In { item, list } => [item, list].into_iter().for_each(&mut operand),
            Self::Call { subject, argument, .. } => [subject, argument].into_iter().for_each(&mut operand),
            Self::Not(inner) => inner.visit_paths(visit),
            Self::And(members) | Self::Or(members) => members.iter().for_each(|m| m.visit_paths(visit)),
        }
    }
}

/// The literal that compares as `value` does: a counter is its int, a set and a vector are arrays, NaN is null.
pub(super) fn normal_literal(value: Value) -> Value {
    match value {
        Value::Counter(sum) => Value::Int(sum),
        Value::Float(float) => Value::from(float),
        Value::Vector(floats) => {
            Value::Array(floats.into_iter().map(|f| Value::from(f64::from(f))).collect())
        }
        Value::Array(elements) | Value::Set(elements) => {
            Value::Array(elements.into_iter().map(normal_literal).collect())
        }
        Value::Map(entries) => {
            let entries = entries.into_iter().map(|(key, value)| (key, normal_literal(value)));
            Value::Map(entries.collect::<BTreeMap<_, _>>())
        }
        scalar => scalar,
    }
}
