//! What a filter says of a record: true, false or unknown.
//!
//! Invariants: total, and a function of its arguments alone. Unknown (`None`) is never turned into true or false by
//! `!`, so a missing field or a type that does not compare can only make a filter match less.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeMap;

use crate::id::RecordId;
use crate::record::Record;
use crate::value::{Timestamp, Value};

use super::ast::{CompareOp, Expr, Function, Operand, Path, Root};
use super::literal::{parse_timestamp, parse_uuid};

/// Something that has an id and fields: a record, or the bytes of one.
pub trait Fields {
    /// The value of a top-level field; `None` if it is not there.
    fn field(&self, name: &str) -> Option<Cow<'_, Value>>;

    /// The record's id.
    fn id(&self) -> RecordId;
}

impl Fields for Record {
    fn field(&self, name: &str) -> Option<Cow<'_, Value>> {
        self.get(name).map(Cow::Borrowed)
    }

    fn id(&self) -> RecordId {
        self.id
    }
}

/// Who asks, as access rules see it.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct User {
    /// The subject: `user.id`.
    pub id: String,
    /// `user.teams`
    pub teams: Vec<String>,
    /// `user.roles`
    pub roles: Vec<String>,
    /// `user.claims.*`
    pub claims: BTreeMap<String, Value>,
}

/// All that a filter can look at. What is `None` is missing, so what looks at it is unknown.
#[derive(Clone, Copy)]
pub struct EvalContext<'a> {
    /// The record; for an update, its new state.
    pub record: &'a dyn Fields,
    /// The record before the update.
    pub old: Option<&'a dyn Fields>,
    /// Who asks.
    pub user: Option<&'a User>,
    /// What `now` means.
    pub now: Timestamp,
}

impl<'a> EvalContext<'a> {
    /// The context of a filter that is not an access rule.
    #[must_use]
    pub const fn new(record: &'a dyn Fields, now: Timestamp) -> Self {
        Self { record, old: None, user: None, now }
    }
}

/// A value and whether it was given by the filter or the user rather than read from a record. A constant string
/// stands for the UUID or time it names where it meets one; a string in a record is a string.
pub(super) struct Side<'a> {
    value: Cow<'a, Value>,
    constant: bool,
}

impl Expr {
    /// Whether the condition holds; `None` if that is unknown.
    #[must_use]
    pub fn eval(&self, context: &EvalContext<'_>) -> Option<bool> {
        match self {
            Self::Literal(value) => Some(*value),
            Self::Truth(path) => match *path.resolve(context)? {
                Value::Bool(value) => Some(value),
                _ => None,
            },
            Self::Has(path) => Some(path.resolve(context).is_some()),
            Self::Compare { op, left, right } => {
                compare(*op, &left.resolve(context)?, &right.resolve(context)?)
            }
            Self::In { item, list } => contained(item.resolve(context).as_ref(), &list.resolve(context)?),
            Self::Call { function, subject, argument } => {
                let (subject, argument) = (subject.resolve(context)?, argument.resolve(context)?);
                call(*function, &subject, &argument)
            }
            Self::Not(inner) => inner.eval(context).map(|value| !value),
            Self::And(members) => any(members.iter().map(|m| m.eval(context).map(|v| !v))).map(|v| !v),
            Self::Or(members) => any(members.iter().map(|m| m.eval(context))),
        }
    }
}

/// True if one is true, else unknown if one is unknown, else false.
fn any(members: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    let mut result = Some(false);
    for member in members {
        match member {
            Some(true) => return member,
            Some(false) => {}
            None => result = None,
        }
    }
    result
}

impl Operand {
    fn resolve<'a>(&'a self, context: &EvalContext<'a>) -> Option<Side<'a>> {
        match self {
            Self::Path(path) => {
                let constant = path.root == Root::User;
                path.resolve(context).map(|value| Side { value, constant })
            }
            Self::Literal(value) => Some(Side { value: Cow::Borrowed(value), constant: true }),
            Self::Now(offset) => {
                Some(Side { value: Cow::Owned(Self::time(context.now, *offset)), constant: true })
            }
        }
    }
}

impl Path {
    fn resolve<'a>(&self, context: &EvalContext<'a>) -> Option<Cow<'a, Value>> {
        let (first, rest) = self.segments.split_first()?;
        match self.root {
            Root::Record => reach(read_field(context.record, first)?, rest),
            Root::Old => reach(read_field(context.old?, first)?, rest),
            Root::User => context.user?.resolve(&self.segments),
        }
    }
}

impl User {
    /// The value at a path that starts from the user.
    pub(super) fn resolve(&self, segments: &[String]) -> Option<Cow<'_, Value>> {
        let (first, rest) = segments.split_first()?;
        let list = |names: &[String]| Value::Array(names.iter().cloned().map(Value::String).collect());
        match (first.as_str(), rest) {
            ("id", _) => reach(Cow::Owned(Value::String(self.id.clone())), rest),
            ("teams", _) => reach(Cow::Owned(list(&self.teams)), rest),
            ("roles", _) => reach(Cow::Owned(list(&self.roles)), rest),
            ("claims", [claim, rest @ ..]) => reach(Cow::Borrowed(self.claims.get(claim)?), rest),
            ("claims", []) => Some(Cow::Owned(Value::Map(self.claims.clone()))),
            _ => None,
        }
    }
}

/// The id or a top-level field of a record.
pub(crate) fn read_field<'a>(record: &'a dyn Fields, name: &str) -> Option<Cow<'a, Value>> {
    if name == "id" { Some(Cow::Owned(record.id().into())) } else { record.field(name) }
}

/// Follows keys into maps.
fn reach<'a>(mut value: Cow<'a, Value>, keys: &[String]) -> Option<Cow<'a, Value>> {
    for key in keys {
        value = match value {
            Cow::Borrowed(Value::Map(entries)) => Cow::Borrowed(entries.get(key)?),
            Cow::Owned(Value::Map(mut entries)) => Cow::Owned(entries.remove(key)?),
            _ => return None,
        };
    }
    Some(value)
}

fn compare(op: CompareOp, left: &Side<'_>, right: &Side<'_>) -> Option<bool> {
    match op {
        CompareOp::Eq => side_equal(left, right),
        CompareOp::Ne => side_equal(left, right).map(|equal| !equal),
        CompareOp::Lt => side_order(left, right).map(Ordering::is_lt),
        CompareOp::Le => side_order(left, right).map(Ordering::is_le),
        CompareOp::Gt => side_order(left, right).map(Ordering::is_gt),
        CompareOp::Ge => side_order(left, right).map(Ordering::is_ge),
    }
}

fn side_order(left: &Side<'_>, right: &Side<'_>) -> Option<Ordering> {
    if let Some(meant) = meant(&left.value, left.constant, &right.value) {
        return order(&meant, &right.value);
    }
    match meant(&right.value, right.constant, &left.value) {
        Some(meant) => order(&left.value, &meant),
        None => order(&left.value, &right.value),
    }
}

fn side_equal(left: &Side<'_>, right: &Side<'_>) -> Option<bool> {
    equal_as(&left.value, left.constant, &right.value, right.constant)
}

fn equal_as(left: &Value, left_constant: bool, right: &Value, right_constant: bool) -> Option<bool> {
    if let Some(meant) = meant(left, left_constant, right) {
        return equal(&meant, right);
    }
    match meant(right, right_constant, left) {
        Some(meant) => equal(left, &meant),
        None => equal(left, right),
    }
}

/// The UUID or time that a constant string stands for next to `other`.
fn meant(value: &Value, constant: bool, other: &Value) -> Option<Value> {
    match (value, other) {
        (Value::String(text), Value::Uuid(_)) if constant => parse_uuid(text).map(Value::Uuid),
        (Value::String(text), Value::Timestamp(_)) if constant => parse_timestamp(text).map(Value::Timestamp),
        _ => None,
    }
}

/// Whether `item` is among the elements: true if one is equal, else unknown if one does not compare, else false.
fn contained(item: Option<&Side<'_>>, list: &Side<'_>) -> Option<bool> {
    let (Value::Array(elements) | Value::Set(elements)) = &*list.value else { return None };
    any(elements.iter().map(|element| {
        let item = item?;
        equal_as(&item.value, item.constant, element, list.constant)
    }))
}

fn call(function: Function, subject: &Side<'_>, argument: &Side<'_>) -> Option<bool> {
    match (function, &*subject.value, &*argument.value) {
        (Function::Contains, Value::Array(_) | Value::Set(_), _) => contained(Some(argument), subject),
        (Function::Contains, Value::String(text), Value::String(part)) => Some(text.contains(part.as_str())),
        (Function::StartsWith, Value::String(text), Value::String(part)) => {
            Some(text.starts_with(part.as_str()))
        }
        (Function::EndsWith, Value::String(text), Value::String(part)) => Some(text.ends_with(part.as_str())),
        _ => None,
    }
}

/// Equality of values. Null equals null and nothing else; composite values of the same type compare by their elements.
fn equal(left: &Value, right: &Value) -> Option<bool> {
    match (left, right) {
        (Value::Null, other) | (other, Value::Null) => Some(*other == Value::Null),
        (Value::Bool(left), Value::Bool(right)) => Some(left == right),
        (Value::Vector(left), Value::Vector(right)) => Some(left == right),
        (Value::Array(left), Value::Array(right)) | (Value::Set(left), Value::Set(right)) => {
            all_equal(left.len() == right.len(), left.iter().zip(right))
        }
        (Value::Vector(floats), Value::Array(elements)) | (Value::Array(elements), Value::Vector(floats)) => {
            let floats: Vec<Value> = floats.iter().map(|float| Value::from(f64::from(*float))).collect();
            all_equal(floats.len() == elements.len(), floats.iter().zip(elements))
        }
        (Value::Map(left), Value::Map(right)) => {
            all_equal(left.keys().eq(right.keys()), left.values().zip(right.values()))
        }
        _ => order(left, right).map(Ordering::is_eq),
    }
}

fn all_equal<'a>(same_shape: bool, pairs: impl Iterator<Item = (&'a Value, &'a Value)>) -> Option<bool> {
    if !same_shape {
        return Some(false);
    }
    any(pairs.map(|(left, right)| equal(left, right).map(|equal| !equal))).map(|differs| !differs)
}

/// The order of two values of a kind that has one; `None` if they have none in common.
fn order(left: &Value, right: &Value) -> Option<Ordering> {
    match (left, right) {
        (Value::Int(left) | Value::Counter(left), Value::Int(right) | Value::Counter(right)) => {
            Some(left.cmp(right))
        }
        (Value::Int(left) | Value::Counter(left), Value::Float(right)) => order_mixed(*left, *right),
        (Value::Float(left), Value::Int(right) | Value::Counter(right)) => {
            order_mixed(*right, *left).map(Ordering::reverse)
        }
        (Value::Float(left), Value::Float(right)) => left.partial_cmp(right),
        (Value::String(left), Value::String(right)) => Some(left.cmp(right)),
        (Value::Bytes(left), Value::Bytes(right)) => Some(left.cmp(right)),
        (Value::Uuid(left), Value::Uuid(right)) => Some(left.cmp(right)),
        (Value::Timestamp(left), Value::Timestamp(right)) => Some(left.cmp(right)),
        _ => None,
    }
}

/// An integer against a float, exactly: neither is rounded to the type of the other.
fn order_mixed(int: i64, float: f64) -> Option<Ordering> {
    const BOUND: f64 = 9_223_372_036_854_775_808.0;
    if float.is_nan() {
        return None;
    }
    if float >= BOUND {
        return Some(Ordering::Less);
    }
    if float < -BOUND {
        return Some(Ordering::Greater);
    }
    let whole = float.trunc();
    Some(int.cmp(&(whole as i64)).then_with(|| 0.0_f64.total_cmp(&(float - whole + 0.0))))
}
