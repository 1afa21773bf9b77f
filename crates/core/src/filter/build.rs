//! Filters from Rust: `field("priority").gt(5) & field("status").ne("archived")`.

use std::ops::{BitAnd, BitOr, Not};

use crate::value::Value;

use super::Filter;
use super::ast::{CompareOp, Expr, Function, Operand, Path, Root, normal_literal};

/// Starts a condition on a field. Dots reach into maps: `field("address.city")`.
///
/// ```
/// use blazedb_core::filter::field;
/// let filter = field("priority").gt(5) & !field("status").eq("archived");
/// assert_eq!(filter.to_string(), r#"priority > 5 && !(status == "archived")"#);
/// ```
pub fn field(path: &str) -> Field {
    field_at(path.split('.'))
}

/// Starts a condition on a field whose name, or a key on the way to it, has a dot in it. Without any segment this is
/// the field whose name is empty.
pub fn field_at<S: Into<String>>(segments: impl IntoIterator<Item = S>) -> Field {
    let mut segments: Vec<String> = segments.into_iter().map(Into::into).collect();
    if segments.is_empty() {
        segments.push(String::new());
    }
    Field(Path { root: Root::Record, segments })
}

/// A field that a condition is to be made of.
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use = "a field is not yet a filter"]
pub struct Field(Path);

impl Field {
    /// The field equals the value.
    pub fn eq(self, value: impl Into<Value>) -> Filter {
        self.compare(CompareOp::Eq, value)
    }

    /// The field holds something that compares with the value and differs from it.
    pub fn ne(self, value: impl Into<Value>) -> Filter {
        self.compare(CompareOp::Ne, value)
    }

    /// The field is less than the value.
    pub fn lt(self, value: impl Into<Value>) -> Filter {
        self.compare(CompareOp::Lt, value)
    }

    /// The field is at most the value.
    pub fn le(self, value: impl Into<Value>) -> Filter {
        self.compare(CompareOp::Le, value)
    }

    /// The field is greater than the value.
    pub fn gt(self, value: impl Into<Value>) -> Filter {
        self.compare(CompareOp::Gt, value)
    }

    /// The field is at least the value.
    pub fn ge(self, value: impl Into<Value>) -> Filter {
        self.compare(CompareOp::Ge, value)
    }

    /// The field compares so with the value.
    pub fn compare(self, op: CompareOp, value: impl Into<Value>) -> Filter {
        Filter { expr: Expr::Compare { op, left: Operand::Path(self.0), right: literal(value) } }
    }

    /// The field equals one of the values.
    pub fn is_in<V: Into<Value>>(self, values: impl IntoIterator<Item = V>) -> Filter {
        let values: Vec<Value> = values.into_iter().map(Into::into).collect();
        Filter { expr: Expr::In { item: Operand::Path(self.0), list: literal(values) } }
    }

    /// The field is a string that has this part, or an array or a set that has this element.
    pub fn contains(self, part: impl Into<Value>) -> Filter {
        self.call(Function::Contains, part)
    }

    /// The field is a string that begins so.
    pub fn starts_with(self, part: impl Into<Value>) -> Filter {
        self.call(Function::StartsWith, part)
    }

    /// The field is a string that ends so.
    pub fn ends_with(self, part: impl Into<Value>) -> Filter {
        self.call(Function::EndsWith, part)
    }

    /// The field is there, whatever it holds.
    pub fn exists(self) -> Filter {
        Filter { expr: Expr::Has(self.0) }
    }

    /// The field holds `true`.
    pub fn is_true(self) -> Filter {
        Filter { expr: Expr::Truth(self.0) }
    }

    fn call(self, function: Function, argument: impl Into<Value>) -> Filter {
        let subject = Operand::Path(self.0);
        Filter { expr: Expr::Call { function, subject, argument: literal(argument) } }
    }
}

fn literal(value: impl Into<Value>) -> Operand {
    Operand::Literal(normal_literal(value.into()))
}

impl Filter {
    /// Matches what both match.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { expr: self.expr.and(other.expr) }
    }

    /// Matches what either matches.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self { expr: self.expr.or(other.expr) }
    }
}

impl BitAnd for Filter {
    type Output = Self;

    fn bitand(self, other: Self) -> Self {
        self.and(other)
    }
}

impl BitOr for Filter {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        self.or(other)
    }
}

impl Not for Filter {
    type Output = Self;

    /// Matches where the filter is false; not where it is unknown.
    fn not(self) -> Self {
        Self { expr: self.expr.negated() }
    }
}
