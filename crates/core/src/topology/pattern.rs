//! Patterns and modes: what set of links a database wants, and in which directions.

use super::address::Endpoint;
use super::keyword::keyword;
use super::serve::Direction;

keyword! {
    /// Which way changes travel over a link, seen from this side.
    pub SyncMode {
        /// Push and pull.
        Bidirectional = "bidirectional",
        /// Pull only.
        ReadOnly = "read-only",
        /// Push only.
        WriteOnly = "write-only",
        /// Neither: the link is not opened.
        LocalOnly = "local-only",
    }
}

impl SyncMode {
    /// The directions that a link of this mode asks for.
    #[must_use]
    pub const fn direction(self) -> Direction {
        match self {
            Self::Bidirectional => Direction { push: true, pull: true },
            Self::ReadOnly => Direction { push: false, pull: true },
            Self::WriteOnly => Direction { push: true, pull: false },
            Self::LocalOnly => Direction { push: false, pull: false },
        }
    }
}

keyword! {
    /// The name of a pattern.
    pub PatternKind {
        /// Links to one hub.
        HubAndSpoke = "hub-and-spoke",
        /// Links to every peer.
        Mesh = "mesh",
        /// A child's link to its parent, which is the authority.
        Star = "star",
        /// A device's link to the nearest edge, or to the master.
        Hierarchical = "hierarchical",
        /// A link to the next node upstream.
        Chain = "chain",
        /// A receiver's link to its source.
        Broadcast = "broadcast",
        /// A sender's link to its sink.
        Aggregation = "aggregation",
        /// No links.
        LocalOnly = "local-only",
    }
}

impl PatternKind {
    /// The mode of the pattern's links where the file gives none.
    #[must_use]
    pub const fn default_mode(self) -> SyncMode {
        match self {
            Self::Broadcast => SyncMode::ReadOnly,
            Self::Aggregation => SyncMode::WriteOnly,
            Self::LocalOnly => SyncMode::LocalOnly,
            Self::HubAndSpoke | Self::Mesh | Self::Star | Self::Hierarchical | Self::Chain => {
                SyncMode::Bidirectional
            }
        }
    }

    /// Whether the pattern's promise allows links of this mode. Every pattern allows `local-only`, which opens none.
    #[must_use]
    pub fn allows(self, mode: SyncMode) -> bool {
        match self {
            Self::Broadcast | Self::Aggregation | Self::LocalOnly => {
                mode == SyncMode::LocalOnly || mode == self.default_mode()
            }
            Self::HubAndSpoke | Self::Mesh | Self::Star | Self::Hierarchical | Self::Chain => true,
        }
    }
}

/// What a node is in a star.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StarRole {
    /// Links to its parent, whose decisions stand.
    Child {
        /// Where the parent listens.
        parent: Endpoint,
    },
    /// Decides; its children come to it.
    Parent,
}

/// A pattern with the addresses that it needs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Pattern {
    /// Links to one hub.
    HubAndSpoke {
        /// Where the hub listens.
        hub: Endpoint,
    },
    /// Links to every peer: any connected subset converges.
    Mesh {
        /// Peers with known addresses.
        peers: Vec<Endpoint>,
        /// Whether to look for peers on the local network.
        discover: bool,
        /// Whether a database without any peer counts as local rather than disconnected.
        fallback_to_local: bool,
    },
    /// A parent that is the authority, and its children.
    Star {
        /// This node's place.
        role: StarRole,
    },
    /// A link to the nearest edge that answers, otherwise to the master. The upstream is the authority.
    Hierarchical {
        /// Where the master listens, if this node may reach it itself.
        master: Option<Endpoint>,
        /// Edges to choose from by measured latency. An edge itself has none and links to the master.
        edges: Vec<Endpoint>,
    },
    /// A link to the next node upstream.
    Chain {
        /// Where the next node listens.
        upstream: Endpoint,
    },
    /// Receives from a source and can't write.
    Broadcast {
        /// Where the source listens.
        source: Endpoint,
    },
    /// Sends to a sink and does not receive.
    Aggregation {
        /// Where the sink listens.
        sink: Endpoint,
    },
    /// No links: nothing leaves the process.
    #[default]
    LocalOnly,
}

impl Pattern {
    /// The pattern's name.
    #[must_use]
    pub const fn kind(&self) -> PatternKind {
        match self {
            Self::HubAndSpoke { .. } => PatternKind::HubAndSpoke,
            Self::Mesh { .. } => PatternKind::Mesh,
            Self::Star { .. } => PatternKind::Star,
            Self::Hierarchical { .. } => PatternKind::Hierarchical,
            Self::Chain { .. } => PatternKind::Chain,
            Self::Broadcast { .. } => PatternKind::Broadcast,
            Self::Aggregation { .. } => PatternKind::Aggregation,
            Self::LocalOnly => PatternKind::LocalOnly,
        }
    }

    /// Whether this node opens links for the pattern. One that does not may still be connected to.
    #[must_use]
    pub const fn has_links(&self) -> bool {
        !matches!(self, Self::LocalOnly | Self::Star { role: StarRole::Parent })
    }

    /// Whether it is a mesh without any peer to connect to.
    pub(super) fn is_lonely_mesh(&self) -> bool {
        matches!(self, Self::Mesh { peers, discover: false, .. } if peers.is_empty())
    }
}
