//! `blazedb query` and `watch`: the records that match a filter.

use std::convert::Infallible;
use std::str::FromStr;

use blazedb_core::topology::DatabaseName;
use clap::Args;

/// Arguments of `query`.
#[derive(Args, Debug)]
pub struct QueryArgs {
    /// Database
    pub db: DatabaseName,
    /// Only records that match, such as 'status == "open" && priority > 5'
    pub filter: Option<String>,
    /// Only these fields
    #[arg(long, value_name = "FIELD,..", value_delimiter = ',')]
    pub select: Vec<String>,
    /// In this order, such as priority:desc,title
    #[arg(long, value_name = "FIELD[:desc],..", value_delimiter = ',')]
    pub order_by: Vec<OrderKey>,
    /// At most this many records
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
    /// Without the first so many
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub offset: u64,
    /// Print only how many match
    #[arg(long, conflicts_with_all = ["select", "order_by"])]
    pub count: bool,
}

/// Arguments of `watch`.
#[derive(Args, Debug)]
pub struct WatchArgs {
    /// Database
    pub db: DatabaseName,
    /// Only records that match
    pub filter: Option<String>,
}

/// A field to sort by.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OrderKey {
    /// The field.
    pub field: String,
    /// Whether the largest comes first.
    pub descending: bool,
}

impl FromStr for OrderKey {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (field, descending) = match text.rsplit_once(':') {
            Some((field, "desc")) => (field, true),
            Some((field, "asc")) => (field, false),
            _ => (text, false),
        };
        Ok(Self { field: field.to_owned(), descending })
    }
}

#[cfg(test)]
mod tests {
    use crate::args::{Cli, Command};
    use clap::Parser as _;

    #[test]
    fn lists_are_separated_by_commas() {
        let line = ["blazedb", "query", "bugs", "--select", "a,b", "--order-by", "p:desc,a:b,t:asc"];
        let Command::Query(args) = Cli::try_parse_from(line).unwrap().command else { panic!("not a query") };
        assert_eq!(args.select, ["a", "b"]);
        let keys: Vec<_> = args.order_by.iter().map(|key| (key.field.as_str(), key.descending)).collect();
        assert_eq!(keys, [("p", true), ("a:b", false), ("t", false)]);
    }
}
