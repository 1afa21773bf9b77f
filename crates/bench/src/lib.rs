//! What BlazeDB costs, each figure beside a raw reference of the same run.
//!
//! Invariants: a reference does the same work on the same bytes with the parts that BlazeDB is made of (plain
//! `rusqlite` with the same key, a bare WebSocket, bare AES-GCM); ours and the reference take turns, so that what
//! disturbs the machine disturbs both; a target is a ratio, never a time.
//!
//! Nodes whose memory or processor time is measured are processes of their own: this program starts itself again
//! with [`NODE_ARGUMENT`].

mod bulk;
mod encode;
mod error;
mod fanout;
mod idle;
mod join;
mod latency;
mod local;
mod node;
mod process;
mod protobuf;
mod raw;
mod reconnect;
mod records;
mod report;
mod seal;
mod sustained;
mod usage;
mod views;
mod watch;

use std::process::ExitCode;

pub use error::BenchError;
pub use node::serve as serve_node;
pub use report::{Measure, Target, to_json, to_table};

/// The argument with which this program starts itself again as a node.
pub const NODE_ARGUMENT: &str = "bench-node";

/// What can be measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Workload {
    /// Inserts, reads and queries of one database.
    Local,
    /// BlazeBinary beside other encodings.
    Encode,
    /// Sealing and opening records.
    Seal,
    /// The first sync of many records: device, hub, device.
    Bulk,
    /// From a commit on one device to its sight on another.
    Latency,
    /// Single durable writes while they are synced.
    Sustained,
    /// A hub with many subscribers.
    Fanout,
    /// Many subscribers with filters of their own.
    Views,
    /// A device returns when 1 % has changed.
    Reconnect,
    /// Memory of idle connections and databases.
    Idle,
    /// Joins of two databases, live queries and live joins.
    Join,
    /// Open pages on a hub under load.
    Watch,
}

impl Workload {
    /// Every workload, in the order in which they run.
    pub const ALL: [Self; 12] = [
        Self::Local,
        Self::Encode,
        Self::Seal,
        Self::Bulk,
        Self::Latency,
        Self::Sustained,
        Self::Fanout,
        Self::Views,
        Self::Reconnect,
        Self::Idle,
        Self::Join,
        Self::Watch,
    ];

    /// Its word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Encode => "encode",
            Self::Seal => "seal",
            Self::Bulk => "bulk",
            Self::Latency => "latency",
            Self::Sustained => "sustained",
            Self::Fanout => "fanout",
            Self::Views => "views",
            Self::Reconnect => "reconnect",
            Self::Idle => "idle",
            Self::Join => "join",
            Self::Watch => "watch",
        }
    }

    /// The workload with this word.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|workload| workload.name() == name)
    }

    /// Measures it. `records` is the size of the bulk sync; the other workloads have sizes of their own that are
    /// no larger.
    ///
    /// Blocks for seconds to minutes; must not be called inside an asynchronous runtime.
    ///
    /// # Errors
    /// [`BenchError`] if something fails that should work.
    pub fn run(self, records: u64) -> Result<Vec<Measure>, BenchError> {
        match self {
            Self::Local => local::run(records),
            Self::Encode => encode::run(),
            Self::Seal => seal::run(),
            Self::Bulk => bulk::run(records),
            Self::Latency => latency::run(),
            Self::Sustained => sustained::run(),
            Self::Fanout => fanout::run(),
            Self::Views => views::run(),
            Self::Reconnect => reconnect::run(records),
            Self::Idle => idle::run(),
            Self::Join => join::run(records),
            Self::Watch => watch::run(),
        }
    }
}

/// The whole of a program that measures one workload: the targets of `benches/`.
#[must_use]
pub fn main_of(workload: Workload) -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some(NODE_ARGUMENT) {
        return match serve_node() {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    let records = std::env::var("BLAZEDB_BENCH_RECORDS").ok().and_then(|text| text.parse().ok());
    match workload.run(records.unwrap_or(100_000)) {
        Ok(measures) => {
            report::print(&to_table(&measures));
            ExitCode::SUCCESS
        }
        Err(error) => {
            report::print(&format!("error: {error}\n"));
            ExitCode::FAILURE
        }
    }
}
