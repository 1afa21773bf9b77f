//! Answering beforehand what does not depend on the record: who asks, and what time it is.
//!
//! A bound filter says of every record what the original says in that context. It is what views, indexes and SQL
//! work on: `teamId in user.teams` becomes `teamId in ["ios"]`.

use crate::id::RecordId;
use crate::record::Record;
use crate::value::{Timestamp, Value};

use super::ast::{CompareOp, Expr, Operand, Path, Root, normal_literal};
use super::eval::{EvalContext, User};

/// What is known beforehand.
#[derive(Clone, Copy)]
pub(super) struct Known<'a> {
    /// `None`: stays as it is.
    pub(super) now: Option<Timestamp>,
    /// `None`: stays as it is; `Some(None)`: there is no user, so what looks at it is missing.
    pub(super) user: Option<Option<&'a User>>,
    /// Whether there is no former state of the record.
    pub(super) without_old: bool,
}

/// What an operand is once more is known.
enum Bound {
    Operand(Operand),
    Missing,
}

impl Expr {
    /// The same condition with what is known filled in and what follows from it worked out.
    pub(super) fn bind(&self, known: Known<'_>) -> Self {
        match self {
            Self::Not(inner) => match inner.bind(known) {
                Self::Literal(value) => Self::Literal(!value),
                other => other.negated(),
            },
            Self::And(members) => join(members.iter().map(|m| m.bind(known)), true, Self::and),
            Self::Or(members) => join(members.iter().map(|m| m.bind(known)), false, Self::or),
            leaf => settle(leaf.bind_leaf(known)),
        }
    }

    /// `None` if it looks at something that is missing, and so is unknown.
    fn bind_leaf(&self, known: Known<'_>) -> Option<Self> {
        let operand = |operand: &Operand| match bind_operand(operand, known) {
            Bound::Operand(bound) => Some(bound),
            Bound::Missing => None,
        };
        match self {
            Self::Truth(path) => match bind_path(path, known) {
                Bound::Missing | Bound::Operand(Operand::Now(_)) => None,
                Bound::Operand(Operand::Path(path)) => Some(Self::Truth(path)),
                Bound::Operand(Operand::Literal(Value::Bool(value))) => Some(Self::Literal(value)),
                Bound::Operand(Operand::Literal(_)) => None,
            },
            Self::Has(path) => Some(match bind_path(path, known) {
                Bound::Missing => Self::Literal(false),
                Bound::Operand(Operand::Path(path)) => Self::Has(path),
                Bound::Operand(_) => Self::Literal(true),
            }),
            Self::Compare { op, left, right } => {
                Some(Self::Compare { op: *op, left: operand(left)?, right: operand(right)? })
            }
            Self::In { item, list } => {
                let list = operand(list)?;
                match operand(item) {
                    Some(item) => Some(Self::In { item, list }),
                    // Nothing is among no elements, missing or not.
                    None => {
                        (list == Operand::Literal(Value::Array(Vec::new()))).then_some(Self::Literal(false))
                    }
                }
            }
            Self::Call { function, subject, argument } => {
                let (subject, argument) = (operand(subject)?, operand(argument)?);
                Some(Self::Call { function: *function, subject, argument })
            }
            other => Some(other.clone()),
        }
    }

    /// Whether there might be a record, and a time, for which it is known to be `wanted`. What looks at a record might be either.
    pub(super) fn might_be(&self, wanted: bool) -> bool {
        match self {
            Self::Literal(value) => *value == wanted,
            Self::Not(inner) => inner.might_be(!wanted),
            Self::And(members) if wanted => members.iter().all(|member| member.might_be(true)),
            Self::And(members) => members.iter().any(|member| member.might_be(false)),
            Self::Or(members) if wanted => members.iter().any(|member| member.might_be(true)),
            Self::Or(members) => members.iter().all(|member| member.might_be(false)),
            Self::In { list: Operand::Literal(Value::Array(none)), .. } if none.is_empty() => !wanted,
            leaf => {
                let mut looks = leaf.mentions_now();
                leaf.visit_paths(&mut |_| looks = true);
                let nothing = Record::new(RecordId::from_bytes([0; 16]));
                looks || leaf.eval(&EvalContext::new(&nothing, Timestamp(0))) == Some(wanted)
            }
        }
    }

    /// A condition that is always unknown.
    fn unknown() -> Self {
        let null = || Operand::Literal(Value::Null);
        Self::Compare { op: CompareOp::Lt, left: null(), right: null() }
    }

    fn is_constant(&self) -> bool {
        let constant = |operand: &Operand| matches!(operand, Operand::Literal(_));
        match self {
            Self::Literal(_) => true,
            Self::Compare { left, right, .. } => constant(left) && constant(right),
            Self::In { item, list } => constant(item) && constant(list),
            Self::Call { subject, argument, .. } => constant(subject) && constant(argument),
            _ => false,
        }
    }
}

/// A condition on literals alone becomes its answer.
fn settle(leaf: Option<Expr>) -> Expr {
    let Some(leaf) = leaf else { return Expr::unknown() };
    if !leaf.is_constant() {
        return leaf;
    }
    let nothing = Record::new(RecordId::from_bytes([0; 16]));
    let context = EvalContext::new(&nothing, Timestamp(0));
    leaf.eval(&context).map_or_else(Expr::unknown, Expr::Literal)
}

fn bind_operand(operand: &Operand, known: Known<'_>) -> Bound {
    match (operand, known.now) {
        (Operand::Path(path), _) => bind_path(path, known),
        (Operand::Now(offset), Some(now)) => Bound::Operand(Operand::Literal(Operand::time(now, *offset))),
        _ => Bound::Operand(operand.clone()),
    }
}

fn bind_path(path: &Path, known: Known<'_>) -> Bound {
    match (path.root, known.user) {
        (Root::User, Some(user)) => {
            user.and_then(|user| user.resolve(&path.segments)).map_or(Bound::Missing, |value| {
                Bound::Operand(Operand::Literal(normal_literal(value.into_owned())))
            })
        }
        (Root::Old, _) if known.without_old => Bound::Missing,
        _ => Bound::Operand(Operand::Path(path.clone())),
    }
}

/// Joins the members; `neutral` ones are dropped, and its opposite decides.
fn join(members: impl Iterator<Item = Expr>, neutral: bool, two: impl Fn(Expr, Expr) -> Expr) -> Expr {
    let mut joined: Option<Expr> = None;
    for member in members {
        match member {
            Expr::Literal(value) if value == neutral => {}
            Expr::Literal(value) => return Expr::Literal(value),
            other => {
                joined = Some(match joined {
                    None => other,
                    Some(before) => two(before, other),
                });
            }
        }
    }
    joined.unwrap_or(Expr::Literal(neutral))
}
