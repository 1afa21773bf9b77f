//! How a query is carried out.

use crate::error::StoreError;
use crate::names::NameTable;
use crate::query::{Query, select_sql};
use crate::sql_filter::SqlParam;
use crate::store::Store;

/// How a query is carried out, as SQLite's planner says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    /// Fields whose index is used; `id` for the index of ids.
    pub indexes: Vec<String>,
    /// Whether every record (or every entry of an index) is looked at.
    pub scan: bool,
    /// Whether what was found is sorted afterwards.
    pub sort: bool,
    /// The planner's own words, a step each.
    pub steps: Vec<String>,
}

impl Plan {
    pub(crate) fn of(steps: Vec<String>, names: &NameTable) -> Self {
        let mut plan = Self {
            scan: steps.iter().any(|step| step.starts_with("SCAN")),
            sort: steps.iter().any(|step| step.contains("TEMP B-TREE")),
            ..Self::default()
        };
        for step in &steps {
            let mut words = step.split_whitespace().skip_while(|word| *word != "INDEX");
            let index = words.nth(1).unwrap_or_default();
            let field = match index.strip_prefix("field_").and_then(|no| no.parse().ok()) {
                Some(no) => names.field(no).map(ToString::to_string),
                None => index.starts_with("sqlite_autoindex_records").then(|| "id".to_owned()),
            };
            plan.indexes.extend(field.filter(|field| !plan.indexes.contains(field)));
        }
        plan.steps = steps;
        plan
    }
}

impl Store {
    /// How a query would be carried out now.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn explain(&self, query: &Query) -> Result<Plan, StoreError> {
        let names = self.names();
        let (sql, params) = select_sql("id, body", query, &names);
        self.steps(&sql, &params).map(|steps| Plan::of(steps, &names))
    }

    fn steps(&self, sql: &str, params: &[SqlParam]) -> Result<Vec<String>, StoreError> {
        let mut steps = Vec::new();
        // In a snapshot: to explain reads nothing, and so would not notice a new index.
        self.read(|db| {
            self.each(db, &format!("EXPLAIN QUERY PLAN {sql}"), params, |row| {
                steps.push(row.get(3)?);
                Ok(true)
            })
        })?;
        Ok(steps)
    }
}
