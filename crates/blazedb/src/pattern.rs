//! How a database syncs, as an application says it: patterns with their modes and policies.

use blazedb_core::topology::{
    self as spec, Contradiction, DatabaseName, DatabaseSpec, LinkTarget, StarRole, SyncMode, SyncSpec,
};
use blazedb_transport::{Endpoint, Fingerprint};

use crate::policy::SyncPolicy;
use crate::remote_node::{RemoteNode, address};
use crate::topology::TopologyError;

/// What a database wants of other nodes: see [`Topology::configure`](crate::Topology::configure).
///
/// A pattern has the mode that belongs to it unless it is given another one, and everything travels unless a policy says
/// otherwise. [`Pattern::and`] makes a hybrid of several; what is said of mode, policy, remote name and key is about the
/// last one of them. Addresses are looked at when the pattern is put to work.
///
/// ```
/// use blazedb::{Pattern, SyncMode, SyncPolicy, field};
/// let pattern = Pattern::hub_and_spoke("wss://hub.example.com")
///     .policy(SyncPolicy::new().filter(field("status").ne("archived")))
///     .and(Pattern::mesh(["ws://ipad.local:7401"]).mode(SyncMode::ReadOnly));
/// # let _ = pattern;
/// ```
#[derive(Clone, Debug)]
pub struct Pattern {
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug)]
struct Piece {
    /// Or the address that is none, and why.
    pattern: Result<spec::Pattern, (String, String)>,
    mode: Option<SyncMode>,
    policy: SyncPolicy,
    remote: Option<String>,
    key: Option<Fingerprint>,
}

/// One link that a pattern asks for.
pub(crate) struct Wanted {
    pub(crate) remote: RemoteNode,
    pub(crate) policy: SyncPolicy,
}

/// A mesh that looks for peers on the local network.
#[derive(Clone, Debug)]
pub(crate) struct WantedPeers {
    pub(crate) remote: DatabaseName,
    pub(crate) policy: SyncPolicy,
}

impl Pattern {
    fn one(pattern: Result<spec::Pattern, (String, String)>) -> Self {
        let piece = Piece { pattern, mode: None, policy: SyncPolicy::new(), remote: None, key: None };
        Self { pieces: vec![piece] }
    }

    /// Both ways with the hub at `url`.
    #[must_use]
    pub fn hub_and_spoke(url: impl Into<String>) -> Self {
        Self::one(address(url.into()).map(|hub| spec::Pattern::HubAndSpoke { hub }))
    }

    /// Both ways with each of `peers`: a change reaches everybody that any of them is connected to.
    #[must_use]
    pub fn mesh<U: Into<String>>(peers: impl IntoIterator<Item = U>) -> Self {
        Self::one(all(peers).map(|peers| spec::Pattern::Mesh {
            peers,
            discover: false,
            fallback_to_local: true,
        }))
    }

    /// For a mesh: also with peers that are found on the local network. Only those are kept whose identity is accepted.
    #[must_use]
    pub fn discover(mut self) -> Self {
        if let Some(Ok(spec::Pattern::Mesh { discover, .. })) = self.last().map(|piece| &mut piece.pattern) {
            *discover = true;
        }
        self
    }

    /// For a mesh: whether a database whose peers can't be reached is as good as local (the default), or behind.
    #[must_use]
    pub fn fallback_to_local(mut self, local: bool) -> Self {
        let last = self.last().map(|piece| &mut piece.pattern);
        if let Some(Ok(spec::Pattern::Mesh { fallback_to_local, .. })) = last {
            *fallback_to_local = local;
        }
        self
    }

    /// A child of the node at `parent`, which decides.
    #[must_use]
    pub fn star(parent: impl Into<String>) -> Self {
        let child = |parent| spec::Pattern::Star { role: StarRole::Child { parent } };
        Self::one(address(parent.into()).map(child))
    }

    /// The parent of a star: its children come to it.
    #[must_use]
    pub fn star_parent() -> Self {
        Self::one(Ok(spec::Pattern::Star { role: StarRole::Parent }))
    }

    /// With the nearest of `edges` that answers, by measured latency; with `master` while none does.
    #[must_use]
    pub fn hierarchical<U: Into<String>>(
        master: impl Into<String>,
        edges: impl IntoIterator<Item = U>,
    ) -> Self {
        let both = address(master.into()).and_then(|master| Ok((master, all(edges)?)));
        Self::one(both.map(|(master, edges)| spec::Pattern::Hierarchical { master: Some(master), edges }))
    }

    /// With the next node upstream.
    #[must_use]
    pub fn chain(upstream: impl Into<String>) -> Self {
        Self::one(address(upstream.into()).map(|upstream| spec::Pattern::Chain { upstream }))
    }

    /// Receives from the node at `source` and sends nothing.
    #[must_use]
    pub fn broadcast(source: impl Into<String>) -> Self {
        Self::one(address(source.into()).map(|source| spec::Pattern::Broadcast { source }))
    }

    /// Sends to the node at `sink` and receives nothing.
    #[must_use]
    pub fn aggregation(sink: impl Into<String>) -> Self {
        Self::one(address(sink.into()).map(|sink| spec::Pattern::Aggregation { sink }))
    }

    /// No links.
    #[must_use]
    pub fn local_only() -> Self {
        Self::one(Ok(spec::Pattern::LocalOnly))
    }

    /// This one and another one at once.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.pieces.extend(other.pieces);
        self
    }

    /// Which ways changes go.
    #[must_use]
    pub fn mode(mut self, mode: SyncMode) -> Self {
        self.last().into_iter().for_each(|piece| piece.mode = Some(mode));
        self
    }

    /// Which records and fields, and how. Its mode counts only if it is not the default one.
    #[must_use]
    pub fn policy(mut self, policy: SyncPolicy) -> Self {
        self.last().into_iter().for_each(|piece| piece.policy = policy.clone());
        self
    }

    /// The database's name over there, if it is not the one here.
    #[must_use]
    pub fn remote(mut self, database: impl Into<String>) -> Self {
        let name = database.into();
        self.last().into_iter().for_each(|piece| piece.remote = Some(name.clone()));
        self
    }

    /// Only a node with this key will do.
    #[must_use]
    pub fn key(mut self, key: Fingerprint) -> Self {
        self.last().into_iter().for_each(|piece| piece.key = Some(key));
        self
    }

    fn last(&mut self) -> Option<&mut Piece> {
        self.pieces.last_mut()
    }

    /// The links that a database of this name wants by this, and the peers that it looks for.
    pub(crate) fn expand(self, name: &str) -> Result<(Vec<Wanted>, Vec<WantedPeers>), TopologyError> {
        let contradiction = |problem| TopologyError::Contradiction(name.to_owned(), problem);
        let named: DatabaseName = parse_name(name)?;
        let mut whole = DatabaseSpec::local(&named);
        let (mut wanted, mut peers) = (Vec::new(), Vec::new());
        for (at, piece) in self.pieces.into_iter().enumerate() {
            let sync = piece.spec(&named)?;
            let mut policy = piece.policy.mode(sync.mode).pattern(sync.pattern.kind().as_str());
            if let spec::Pattern::Mesh { fallback_to_local, .. } = sync.pattern {
                policy = policy.optional(fallback_to_local);
            }
            if sync.pattern.kind() == spec::PatternKind::LocalOnly {
                policy = policy.mode(SyncMode::LocalOnly);
            }
            let mut single = DatabaseSpec::local(&named);
            single.sync = sync.clone();
            for link in spec::expand(&single).map_err(contradiction)? {
                let mut remote = RemoteNode::at(link.target, link.remote.as_str());
                if let Some(key) = piece.key {
                    remote = remote.key(key);
                }
                let policy = policy.clone().authority(link.remote_is_authority);
                wanted.push(Wanted { remote, policy });
            }
            if sync.seeks_peers() {
                peers.push(WantedPeers { remote: sync.remote.clone(), policy });
            }
            match at {
                0 => whole.sync = sync,
                _ => whole.links.push(sync),
            }
        }
        // What each of them allows may be the same thing twice.
        spec::expand(&whole).map_err(contradiction)?;
        Ok((wanted, peers))
    }
}

impl Piece {
    fn spec(&self, name: &DatabaseName) -> Result<SyncSpec, TopologyError> {
        let pattern = self.pattern.clone().map_err(|(url, problem)| TopologyError::Address(url, problem))?;
        let remote = self.remote.as_deref().map(parse_name).transpose()?;
        let mut sync = SyncSpec::new(pattern, remote.unwrap_or_else(|| name.clone()));
        sync.remote_key = self.key.map(|key| key.to_string());
        sync.policy.release_after_ack = self.policy.release;
        let own = (self.policy.mode != SyncMode::Bidirectional).then_some(self.policy.mode);
        if let Some(mode) = self.mode.or(own) {
            sync.mode = mode;
        }
        sync.check()
            .map_err(|problem: Contradiction| TopologyError::Contradiction(name.to_string(), problem))?;
        Ok(sync)
    }
}

fn parse_name(name: &str) -> Result<DatabaseName, TopologyError> {
    name.parse::<DatabaseName>().map_err(|error| TopologyError::Name(name.to_owned(), error.to_string()))
}

fn all<U: Into<String>>(urls: impl IntoIterator<Item = U>) -> Result<Vec<Endpoint>, (String, String)> {
    urls.into_iter().map(|url| address(url.into())).collect()
}

/// Whether two links lead to the same place.
pub(crate) fn is_same(target: &LinkTarget, database: &str, other: &RemoteNode) -> bool {
    other.target.as_ref() == Ok(target) && other.database == database
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links(pattern: Pattern) -> Vec<(String, SyncMode)> {
        let (wanted, _) = pattern.expand("bugs").unwrap();
        wanted.into_iter().map(|w| (w.remote.target.unwrap().to_string(), w.policy.mode)).collect()
    }

    #[test]
    fn each_pattern_asks_for_its_links_in_its_mode() {
        let of = |pattern, expected: &[(&str, SyncMode)]| {
            let expected: Vec<_> = expected.iter().map(|(url, mode)| ((*url).to_owned(), *mode)).collect();
            assert_eq!(links(pattern), expected);
        };
        use SyncMode::{Bidirectional, ReadOnly, WriteOnly};
        of(Pattern::hub_and_spoke("ws://a:1"), &[("ws://a:1", Bidirectional)]);
        of(
            Pattern::mesh(["ws://a:1", "ws://b:1"]),
            &[("ws://a:1", Bidirectional), ("ws://b:1", Bidirectional)],
        );
        of(Pattern::star("ws://a:1"), &[("ws://a:1", Bidirectional)]);
        of(Pattern::star_parent(), &[]);
        of(
            Pattern::hierarchical("ws://m:1", ["ws://a:1", "ws://b:1"]),
            &[("ws://a:1 or ws://b:1 or ws://m:1", Bidirectional)],
        );
        of(Pattern::hierarchical("ws://m:1", [""; 0]), &[("ws://m:1", Bidirectional)]);
        of(Pattern::chain("ws://a:1").mode(ReadOnly), &[("ws://a:1", ReadOnly)]);
        of(Pattern::broadcast("ws://a:1"), &[("ws://a:1", ReadOnly)]);
        of(
            Pattern::aggregation("ws://a:1").policy(SyncPolicy::new().release_after_ack(true)),
            &[("ws://a:1", WriteOnly)],
        );
        of(Pattern::local_only(), &[]);
        of(
            Pattern::hub_and_spoke("ws://a:1").and(Pattern::mesh(["ws://b:1"])),
            &[("ws://a:1", Bidirectional), ("ws://b:1", Bidirectional)],
        );
        of(Pattern::hub_and_spoke("ws://a:1").mode(SyncMode::LocalOnly), &[]);
    }

    #[test]
    fn what_a_pattern_rules_out_is_an_error() {
        let refused = |pattern: Pattern| pattern.expand("bugs").err().unwrap();
        let wrong = refused(Pattern::broadcast("ws://a:1").mode(SyncMode::WriteOnly));
        assert!(matches!(wrong, TopologyError::Contradiction(_, Contradiction::Mode { .. })), "{wrong}");
        assert!(matches!(refused(Pattern::chain("a:1")), TopologyError::Address(..)));
        let twice = refused(Pattern::hub_and_spoke("ws://a:1").and(Pattern::mesh(["ws://a:1"])));
        assert!(matches!(twice, TopologyError::Contradiction(_, Contradiction::SameLink { .. })), "{twice}");
        assert!(matches!(refused(Pattern::chain("ws://a:1").remote("..")), TopologyError::Name(..)));
    }
}
