//! From a pattern to links.
//!
//! Invariants: the same specification gives the same links with the same names, in any process; no two links of a
//! database have the same name; a database whose mode is local-only has none.

use std::fmt;

use super::address::Endpoint;
use super::error::Contradiction;
use super::name::DatabaseName;
use super::pattern::{Pattern, PatternKind, StarRole, SyncMode};
use super::policy::PolicySpec;
use super::spec::{DatabaseSpec, SyncSpec};

/// One link that a database asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinkSpec {
    /// Names the link within its database: `hub`, `parent`, `upstream`, `source`, `sink`, `master`, `edge`, `peer:ADDRESS`;
    /// a
    /// further link of a hybrid has its address in its name.
    pub name: String,
    /// The pattern that asked for it.
    pub pattern: PatternKind,
    /// Whom to connect to.
    pub target: LinkTarget,
    /// The database's name over there.
    pub remote: DatabaseName,
    /// The fingerprint that the remote's key must have, as it was written.
    pub remote_key: Option<String>,
    /// Which ways; never local-only.
    pub mode: SyncMode,
    /// Which records and fields, and how.
    pub policy: PolicySpec,
    /// Whether the other end decides: writes here are provisional until it has taken them.
    pub remote_is_authority: bool,
    /// Whether it is no error if the other end can't be reached: a mesh falls back to local.
    pub optional: bool,
}

/// Whom a link connects to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LinkTarget {
    /// This address.
    Address(Endpoint),
    /// The edge that answers fastest; the master while no edge answers.
    Nearest {
        /// At least one.
        edges: Vec<Endpoint>,
        /// Where to turn when no edge answers.
        master: Option<Endpoint>,
    },
}

impl fmt::Display for LinkTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(endpoint) => write!(f, "{endpoint}"),
            Self::Nearest { edges, master } => {
                let all: Vec<String> = edges.iter().chain(master).map(Endpoint::to_string).collect();
                f.write_str(&all.join(" or "))
            }
        }
    }
}

/// The links that a database asks for: its pattern's, then those of its further links. Peers that a mesh may find on
/// the local network are not among them; see [`peer_link`].
///
/// # Errors
/// [`Contradiction`] if a pattern's promise rules out what goes with it, or two links would be the same one.
pub fn expand(database: &DatabaseSpec) -> Result<Vec<LinkSpec>, Contradiction> {
    let mut links = Vec::new();
    let further = database.links.iter().map(|sync| (sync, true));
    for (sync, is_further) in std::iter::once((&database.sync, false)).chain(further) {
        if is_further && !sync.pattern.has_links() {
            return Err(Contradiction::LinkToNowhere);
        }
        sync.check()?;
        for (role, target) in targets(sync) {
            let link = link(sync, name(role, &target, is_further), target);
            if links.iter().any(|other: &LinkSpec| is_same(&link, other)) {
                return Err(Contradiction::SameLink { name: link.name });
            }
            links.push(link);
        }
    }
    Ok(links)
}

/// The meshes of a database that look for peers on the local network.
pub fn seekers(database: &DatabaseSpec) -> impl Iterator<Item = &SyncSpec> {
    std::iter::once(&database.sync).chain(&database.links).filter(|sync| sync.seeks_peers())
}

/// The link to a peer of a mesh that was found rather than named. It has the name that it would have if it were
/// named; `None` if `sync` is no mesh that looks for peers, or its mode is local-only.
#[must_use]
pub fn peer_link(sync: &SyncSpec, peer: Endpoint) -> Option<LinkSpec> {
    if !sync.seeks_peers() {
        return None;
    }
    let target = LinkTarget::Address(peer);
    Some(link(sync, name("peer", &target, true), target))
}

/// Two links with one name, or from one database to the same one at the same place, would do the same work twice.
fn is_same(a: &LinkSpec, b: &LinkSpec) -> bool {
    a.name == b.name || (a.target == b.target && a.remote == b.remote)
}

fn targets(sync: &SyncSpec) -> Vec<(&'static str, LinkTarget)> {
    if sync.mode == SyncMode::LocalOnly {
        return Vec::new();
    }
    let one = |role, endpoint: &Endpoint| vec![(role, LinkTarget::Address(endpoint.clone()))];
    match &sync.pattern {
        Pattern::HubAndSpoke { hub } => one("hub", hub),
        Pattern::Star { role: StarRole::Child { parent } } => one("parent", parent),
        Pattern::Star { role: StarRole::Parent } | Pattern::LocalOnly => Vec::new(),
        Pattern::Chain { upstream } => one("upstream", upstream),
        Pattern::Broadcast { source } => one("source", source),
        Pattern::Aggregation { sink } => one("sink", sink),
        Pattern::Mesh { peers, .. } => peers.iter().flat_map(|peer| one("peer", peer)).collect(),
        Pattern::Hierarchical { master: Some(master), edges } if edges.is_empty() => one("master", master),
        Pattern::Hierarchical { master, edges } => {
            vec![("edge", LinkTarget::Nearest { edges: edges.clone(), master: master.clone() })]
        }
    }
}

fn name(role: &'static str, target: &LinkTarget, is_further: bool) -> String {
    match target {
        LinkTarget::Address(endpoint) if is_further || role == "peer" => format!("{role}:{endpoint}"),
        LinkTarget::Nearest { edges, .. } if is_further => {
            let edges: Vec<String> = edges.iter().map(Endpoint::to_string).collect();
            format!("{role}:{}", edges.join(","))
        }
        LinkTarget::Address(_) | LinkTarget::Nearest { .. } => role.to_owned(),
    }
}

fn link(sync: &SyncSpec, name: String, target: LinkTarget) -> LinkSpec {
    LinkSpec {
        name,
        pattern: sync.pattern.kind(),
        target,
        remote: sync.remote.clone(),
        remote_key: sync.remote_key.clone(),
        mode: sync.mode,
        policy: sync.policy.clone(),
        remote_is_authority: sync.remote_is_authority(),
        optional: matches!(sync.pattern, Pattern::Mesh { fallback_to_local: true, .. }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database(pattern: Pattern) -> DatabaseSpec {
        let name: DatabaseName = "bugs".parse().unwrap();
        let mut database = DatabaseSpec::local(&name);
        database.sync = SyncSpec::new(pattern, name);
        database
    }

    fn at(text: &str) -> Endpoint {
        text.parse().unwrap()
    }

    fn mesh(peers: &[&str]) -> Pattern {
        Pattern::Mesh {
            peers: peers.iter().map(|p| at(p)).collect(),
            discover: false,
            fallback_to_local: true,
        }
    }

    #[test]
    fn each_pattern_asks_for_its_links() {
        let a = || at("ws://a:1");
        let edges = vec![at("ws://b:1"), at("ws://c:1")];
        for (pattern, expected) in [
            (Pattern::LocalOnly, vec![]),
            (Pattern::HubAndSpoke { hub: a() }, vec![("hub", SyncMode::Bidirectional, false)]),
            (
                Pattern::Star { role: StarRole::Child { parent: a() } },
                vec![("parent", SyncMode::Bidirectional, true)],
            ),
            (Pattern::Star { role: StarRole::Parent }, vec![]),
            (Pattern::Chain { upstream: a() }, vec![("upstream", SyncMode::Bidirectional, false)]),
            (Pattern::Broadcast { source: a() }, vec![("source", SyncMode::ReadOnly, false)]),
            (Pattern::Aggregation { sink: a() }, vec![("sink", SyncMode::WriteOnly, false)]),
            (
                mesh(&["ws://a:1", "ws://b:1"]),
                vec![
                    ("peer:ws://a:1", SyncMode::Bidirectional, false),
                    ("peer:ws://b:1", SyncMode::Bidirectional, false),
                ],
            ),
            (
                Pattern::Hierarchical { master: Some(a()), edges: vec![] },
                vec![("master", SyncMode::Bidirectional, true)],
            ),
            (
                Pattern::Hierarchical { master: Some(a()), edges },
                vec![("edge", SyncMode::Bidirectional, true)],
            ),
        ] {
            let links = expand(&database(pattern.clone())).unwrap();
            let seen: Vec<_> =
                links.iter().map(|l| (l.name.as_str(), l.mode, l.remote_is_authority)).collect();
            assert_eq!(seen, expected, "{pattern:?}");
        }
    }

    #[test]
    fn a_mode_of_local_only_opens_no_link_of_any_pattern() {
        let mut spec = database(Pattern::Broadcast { source: at("ws://a:1") });
        spec.sync.mode = SyncMode::LocalOnly;
        assert_eq!(expand(&spec), Ok(vec![]));
    }

    #[test]
    fn a_hybrid_has_its_patterns_links_and_its_further_ones() {
        let mut spec = database(Pattern::HubAndSpoke { hub: at("ws://hub:1") });
        spec.links.push(SyncSpec::new(mesh(&["ws://a:1"]), spec.sync.remote.clone()));
        spec.links
            .push(SyncSpec::new(Pattern::HubAndSpoke { hub: at("ws://hub2:1") }, spec.sync.remote.clone()));
        let names: Vec<_> = expand(&spec).unwrap().into_iter().map(|link| link.name).collect();
        assert_eq!(names, ["hub", "peer:ws://a:1", "hub:ws://hub2:1"]);
    }

    #[test]
    fn contradictions_are_errors() {
        let mut writer = database(Pattern::Broadcast { source: at("ws://a:1") });
        writer.sync.mode = SyncMode::WriteOnly;
        let expected = Contradiction::Mode { pattern: PatternKind::Broadcast, mode: SyncMode::WriteOnly };
        assert_eq!(expand(&writer), Err(expected));

        let mut reader = database(Pattern::Aggregation { sink: at("ws://a:1") });
        reader.sync.mode = SyncMode::Bidirectional;
        assert!(matches!(expand(&reader), Err(Contradiction::Mode { .. })));

        let twice = database(mesh(&["ws://a:80", "ws://A"]));
        assert_eq!(expand(&twice), Err(Contradiction::SameLink { name: "peer:ws://a".into() }));

        let mut same = database(Pattern::HubAndSpoke { hub: at("ws://hub:1") });
        same.links.push(SyncSpec::new(mesh(&["ws://hub:1"]), same.sync.remote.clone()));
        assert!(matches!(expand(&same), Err(Contradiction::SameLink { .. })));
        same.links[0].remote = "other".parse().unwrap();
        assert!(expand(&same).is_ok(), "another database at the same place is another link");

        let mut nowhere = database(Pattern::LocalOnly);
        nowhere.links.push(SyncSpec::new(Pattern::LocalOnly, nowhere.sync.remote.clone()));
        assert_eq!(expand(&nowhere), Err(Contradiction::LinkToNowhere));

        let mut keyed = database(mesh(&["ws://a:1", "ws://b:1"]));
        keyed.sync.remote_key = Some("k".into());
        assert!(matches!(expand(&keyed), Err(Contradiction::OneKeyForMany { .. })));

        let mut release = database(Pattern::HubAndSpoke { hub: at("ws://a:1") });
        release.sync.policy.release_after_ack = true;
        assert!(matches!(expand(&release), Err(Contradiction::ReleaseOfReader { .. })));
        release.sync.mode = SyncMode::WriteOnly;
        assert!(expand(&release).is_ok());
    }

    #[test]
    fn a_found_peer_is_named_like_a_given_one() {
        let mut spec = database(mesh(&["ws://a:1"]));
        assert_eq!(peer_link(&spec.sync, at("ws://a:1")), None, "it does not look for peers");
        spec.sync.pattern =
            Pattern::Mesh { peers: vec![at("ws://a:1")], discover: true, fallback_to_local: true };
        assert_eq!(peer_link(&spec.sync, at("ws://a:1")), expand(&spec).unwrap().pop());
    }
}
