//! How a database is served to nodes that connect, and what that grants them.
//!
//! Invariant: a grant never holds a direction that was not asked for, nor one that the serve mode forbids.

pub use crate::wire::Direction;
use std::fmt;

use super::keyword::keyword;

keyword! {
    /// How a node that listens serves a database. Access rules cut further.
    pub ServeMode {
        /// Not at all.
        None = "none",
        /// Clients read and write.
        Bidirectional = "bidirectional",
        /// Clients only read.
        Broadcast = "broadcast",
        /// Clients only write.
        Aggregate = "aggregate",
    }
}

/// What a serving node allows a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Granted {
    /// The directions that were asked for and are allowed.
    pub direction: Direction,
    /// Why something that was asked for is missing, to tell the peer.
    pub notice: Option<GrantNotice>,
}

/// Why a peer is granted less than it asked for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum GrantNotice {
    /// The database has `serve = "none"`.
    NotServed,
    /// The database has `serve = "broadcast"` and the peer asked to push.
    ReadOnlyHere,
    /// The database has `serve = "aggregate"` and the peer asked to pull.
    WriteOnlyHere,
}

impl fmt::Display for GrantNotice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotServed => "the database is not served here",
            Self::ReadOnlyHere => {
                "the database is broadcast here: clients only read, so nothing is taken from this one"
            }
            Self::WriteOnlyHere => {
                "the database is aggregated here: clients only write, so nothing is sent to this one"
            }
        })
    }
}

/// Cuts what a peer asks for to what the database's serve mode allows.
#[must_use]
pub const fn grant(serve: ServeMode, asked: Direction) -> Granted {
    let (push, pull, reason) = match serve {
        ServeMode::None => (false, false, Some(GrantNotice::NotServed)),
        ServeMode::Bidirectional => (true, true, None),
        ServeMode::Broadcast => (false, true, Some(GrantNotice::ReadOnlyHere)),
        ServeMode::Aggregate => (true, false, Some(GrantNotice::WriteOnlyHere)),
    };
    let direction = Direction { push: asked.push && push, pull: asked.pull && pull };
    let cut = direction.push != asked.push || direction.pull != asked.pull;
    Granted { direction, notice: if cut { reason } else { None } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_full_table() {
        use GrantNotice::{NotServed, ReadOnlyHere, WriteOnlyHere};
        use ServeMode::{Aggregate, Bidirectional, Broadcast, None as Nothing};
        // serve, asked (push, pull), granted (push, pull), notice
        for (serve, asked, granted, notice) in [
            (Nothing, (true, true), (false, false), Some(NotServed)),
            (Nothing, (true, false), (false, false), Some(NotServed)),
            (Nothing, (false, true), (false, false), Some(NotServed)),
            (Nothing, (false, false), (false, false), None),
            (Bidirectional, (true, true), (true, true), None),
            (Bidirectional, (true, false), (true, false), None),
            (Bidirectional, (false, true), (false, true), None),
            (Bidirectional, (false, false), (false, false), None),
            (Broadcast, (true, true), (false, true), Some(ReadOnlyHere)),
            (Broadcast, (true, false), (false, false), Some(ReadOnlyHere)),
            (Broadcast, (false, true), (false, true), None),
            (Broadcast, (false, false), (false, false), None),
            (Aggregate, (true, true), (true, false), Some(WriteOnlyHere)),
            (Aggregate, (true, false), (true, false), None),
            (Aggregate, (false, true), (false, false), Some(WriteOnlyHere)),
            (Aggregate, (false, false), (false, false), None),
        ] {
            let of = |(push, pull)| Direction { push, pull };
            let expected = Granted { direction: of(granted), notice };
            assert_eq!(grant(serve, of(asked)), expected, "{serve} asked {asked:?}");
        }
    }
}
