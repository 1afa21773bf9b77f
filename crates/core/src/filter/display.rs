//! The canonical text: it parses to an equal expression, and equal expressions have equal texts.

use std::fmt::{self, Write as _};

use super::ast::{Expr, Operand, Path, Root};
use super::literal::{write_offset, write_string, write_value};
use super::token::is_name;

/// Names that mean something else when they stand alone (or, for `old` and `user`, mean it in access rules).
const RESERVED: [&str; 8] = ["true", "false", "null", "now", "in", "record", "old", "user"];

/// The length of the canonical text, in bytes.
pub(super) fn canonical_len(expr: &Expr) -> usize {
    struct Count(usize);
    impl fmt::Write for Count {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0 += text.len();
            Ok(())
        }
    }
    let mut count = Count(0);
    // Counting does not fail.
    let _ = write!(count, "{expr}");
    count.0
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal(value) => write!(f, "{value}"),
            Self::Truth(path) => path.fmt(f),
            Self::Has(path) => write!(f, "has({path})"),
            Self::Compare { op, left, right } => write!(f, "{left} {} {right}", op.symbol()),
            Self::In { item, list } => write!(f, "{item} in {list}"),
            Self::Call { function, subject, argument } => {
                write!(f, "{}({subject}, {argument})", function.name())
            }
            Self::Not(inner) if matches!(**inner, Self::Compare { .. } | Self::In { .. }) => {
                write!(f, "!({inner})")
            }
            Self::Not(inner) => {
                f.write_char('!')?;
                inner.write_member(f, Power::Unary)
            }
            Self::And(members) => write_joined(f, members, " && ", Power::And),
            Self::Or(members) => write_joined(f, members, " || ", Power::Or),
        }
    }
}

#[derive(Clone, Copy, PartialEq, PartialOrd)]
enum Power {
    Or,
    And,
    Unary,
}

impl Expr {
    /// In parentheses if it binds no tighter than what it stands in.
    fn write_member(&self, f: &mut fmt::Formatter<'_>, outer: Power) -> fmt::Result {
        let own = match self {
            Self::Or(_) => Power::Or,
            Self::And(_) => Power::And,
            _ => return write!(f, "{self}"),
        };
        if own > outer { write!(f, "{self}") } else { write!(f, "({self})") }
    }
}

fn write_joined(f: &mut fmt::Formatter<'_>, members: &[Expr], operator: &str, power: Power) -> fmt::Result {
    for (nth, member) in members.iter().enumerate() {
        f.write_str(if nth == 0 { "" } else { operator })?;
        member.write_member(f, power)?;
    }
    Ok(())
}

impl fmt::Display for Operand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.fmt(f),
            Self::Literal(value) => write_value(f, value),
            Self::Now(offset) => {
                f.write_str("now")?;
                write_offset(f, *offset)
            }
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut segments = self.segments.as_slice();
        if let (Root::Record, [first, rest @ ..]) = (self.root, segments)
            && is_name(first)
            && !RESERVED.contains(&first.as_str())
        {
            f.write_str(first)?;
            segments = rest;
        } else {
            f.write_str(self.root.name())?;
        }
        for segment in segments {
            if is_name(segment) {
                write!(f, ".{segment}")?;
            } else {
                f.write_char('[')?;
                write_string(f, segment)?;
                f.write_char(']')?;
            }
        }
        Ok(())
    }
}
