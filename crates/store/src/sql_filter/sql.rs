//! Pieces of SQL and how they are joined.

use super::SqlParam;

/// Members of one flat AND or OR. SQLite parses a chain into a tree as deep as it is long, so longer ones are halved.
const MAX_CHAIN: usize = 8;

/// A piece of SQL with its parameters.
pub(super) struct Sql {
    pub(super) sql: String,
    pub(super) params: Vec<SqlParam>,
    /// Whether it can stand beside AND and OR without parentheses.
    pub(super) atom: bool,
}

impl Sql {
    pub(super) const fn text(sql: String) -> Self {
        Self { sql, params: Vec::new(), atom: true }
    }

    pub(super) fn constant(value: bool) -> Self {
        Self::text(u8::from(value).to_string())
    }

    pub(super) fn all(members: Vec<Self>) -> Self {
        Self::join(members, " AND ", "1")
    }

    pub(super) fn any(members: Vec<Self>) -> Self {
        Self::join(members, " OR ", "0")
    }

    /// Joins the members; those that are `neutral` say nothing, and none at all is `neutral`.
    fn join(members: Vec<Self>, operator: &str, neutral: &str) -> Self {
        let mut members: Vec<Self> = members.into_iter().filter(|member| member.sql != neutral).collect();
        if members.len() > MAX_CHAIN {
            let second = members.split_off(members.len() / 2);
            members = vec![Self::join(members, operator, neutral), Self::join(second, operator, neutral)];
        }
        let mut joined = Self::text(String::new());
        let single = members.len() == 1;
        for member in members {
            if single {
                return member;
            }
            if !joined.sql.is_empty() {
                joined.sql.push_str(operator);
            }
            joined.sql.push_str(&if member.atom { member.sql } else { format!("({})", member.sql) });
            joined.params.extend(member.params);
            joined.atom = false;
        }
        if joined.sql.is_empty() { Self::text(neutral.to_owned()) } else { joined }
    }
}
