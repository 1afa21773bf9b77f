//! Why a measurement did not come about.

use std::time::Duration;

use blazedb::{LinkStatus, StoreError, TopologyError};

/// A measurement failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// A database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A link could not be declared.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// The plain database beside ours failed.
    #[error("reference database: {0}")]
    Reference(#[from] blazedb_sqlite::rusqlite::Error),
    /// The bare WebSocket beside ours failed.
    #[error("reference WebSocket: {0}")]
    WebSocket(Box<tokio_tungstenite::tungstenite::Error>),
    /// The system refused something.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A record or a message between processes is not what it should be.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// An encoding refused a record.
    #[error("{encoding}: {problem}")]
    Encoding {
        /// Its name.
        encoding: &'static str,
        /// Its words.
        problem: String,
    },
    /// The cryptographic library failed.
    #[error("the cryptographic library failed")]
    Crypto,
    /// Records that are sealed failed.
    #[error(transparent)]
    Seal(#[from] blazedb_core::seal::SealError),
    /// The made-up records have too little in common.
    #[error("no dictionary came of the records")]
    NoDictionary,
    /// A node's process reports a failure.
    #[error("a node's process: {0}")]
    Node(String),
    /// A node's process has ended.
    #[error("a node's process has ended early")]
    NodeGone,
    /// A link did not catch up.
    #[error("a link did not catch up within {} s: {}", .waited.as_secs(), describe(.link))]
    Behind {
        /// How long it had.
        waited: Duration,
        /// The link.
        link: Box<LinkStatus>,
    },
    /// Records did not arrive.
    #[error("{found} of {expected} records arrived within {} s", .waited.as_secs())]
    Missing {
        /// How many came.
        found: u64,
        /// How many should have.
        expected: u64,
        /// How long they had.
        waited: Duration,
    },
    /// Two ways to the same answer disagree, so their times mean nothing.
    #[error("{0}: ours and the reference give different answers")]
    Disagree(&'static str),
}

fn describe(link: &LinkStatus) -> String {
    let error = link.error.as_ref().map(ToString::to_string).unwrap_or_default();
    format!("{} is {} {error}", link.database, link.state.as_str())
}

impl From<tokio_tungstenite::tungstenite::Error> for BenchError {
    fn from(error: tokio_tungstenite::tungstenite::Error) -> Self {
        Self::WebSocket(Box::new(error))
    }
}

impl From<aws_lc_rs::error::Unspecified> for BenchError {
    fn from(_: aws_lc_rs::error::Unspecified) -> Self {
        Self::Crypto
    }
}
