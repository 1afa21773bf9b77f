//! Filters over two records that are joined.
//!
//! In the text, `users.name` is a field of the record that goes by the name `users`, and a bare name is one of the
//! left record. In the expression, the left record is [`Root::Record`] and the right one [`Root::Old`].

use super::Filter;
use super::ast::{Expr, Operand, Path, Root};
use super::bind::Known;
use crate::value::Timestamp;

impl Filter {
    /// This filter over the pair of a record `left` and a record `right`, at a time.
    #[must_use]
    pub fn for_join(&self, left: &str, right: &str, now: Timestamp) -> Self {
        let expr = self.expr.map_paths(&|path| sided(path, left, right));
        Self { expr: expr.bind(Known { now: Some(now), user: Some(None), without_old: false }) }
    }
}

/// The side that a dotted name belongs to, and what is left of it.
#[must_use]
pub fn split_sided<'a>(name: &'a str, left: &str, right: &str) -> (Root, &'a str) {
    match name.split_once('.') {
        Some((side, rest)) if side == right => (Root::Old, rest),
        Some((side, rest)) if side == left => (Root::Record, rest),
        _ => (Root::Record, name),
    }
}

fn sided(path: &Path, left: &str, right: &str) -> Path {
    let root = match (path.root, path.segments.as_slice()) {
        (Root::Record, [side, _, ..]) if side == right => Root::Old,
        (Root::Record, [side, _, ..]) if side == left => Root::Record,
        _ => return path.clone(),
    };
    Path { root, segments: path.segments.iter().skip(1).cloned().collect() }
}

impl Expr {
    /// The same condition over other paths.
    fn map_paths(&self, map: &impl Fn(&Path) -> Path) -> Self {
        let operand = |operand: &Operand| match operand {
            Operand::Path(path) => Operand::Path(map(path)),
            other => other.clone(),
        };
        match self {
            Self::Literal(value) => Self::Literal(*value),
            Self::Truth(path) => Self::Truth(map(path)),
            Self::Has(path) => Self::Has(map(path)),
            Self::Compare { op, left, right } => {
                Self::Compare { op: *op, left: operand(left), right: operand(right) }
            }
            Self::In { item, list } => Self::In { item: operand(item), list: operand(list) },
            Self::Call { function, subject, argument } => {
                Self::Call { function: *function, subject: operand(subject), argument: operand(argument) }
            }
            Self::Not(inner) => Self::Not(Box::new(inner.map_paths(map))),
            Self::And(members) => Self::And(members.iter().map(|m| m.map_paths(map)).collect()),
            Self::Or(members) => Self::Or(members.iter().map(|m| m.map_paths(map)).collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_their_side() {
        let filter =
            Filter::parse(r#"priority > 5 && users.name == "x" || !has(bugs.a.b) && c.d in [1]"#).unwrap();
        let joined = filter.for_join("bugs", "users", Timestamp(0));
        let text = r#"priority > 5 && old.name == "x" || !has(a.b) && c.d in [1]"#;
        assert_eq!(joined.to_string(), Filter::parse_rule(text).unwrap().to_string());
        assert_eq!(split_sided("users.name", "bugs", "users"), (Root::Old, "name"));
        assert_eq!(split_sided("users", "bugs", "users"), (Root::Record, "users"));
    }
}
