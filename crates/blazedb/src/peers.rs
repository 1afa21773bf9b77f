//! Peers of meshes: found on the local network, kept once they are accepted, and linked once.
//!
//! Invariants: a link to a node that was found holds only while that node has the key that it announced; nothing is sent
//! to it nor taken from it before this node's own door has accepted it ([`Doorman::vouches_for`]), but this node's token, if that may
//! be shown ([`Doorman::may_show`]); and then it is sent
//! what its user may read ([`Doorman::shows`]) unless the policy says otherwise; of two nodes that
//! connect to each other the link of the one with the higher id rests, and only as long as the other's link does all of
//! its work.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use blazedb_core::limits::{FOUND_AGAIN_FIRST_MS, FOUND_AGAIN_MAX_MS};
use blazedb_core::topology::announce::Announcement;
use blazedb_core::topology::{DatabaseName, LinkTarget};
use blazedb_core::wire::Token;
use blazedb_core::{Filter, NodeId};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::lan::{Lan, LanError, Sighting};
use crate::link::{Link, Place, Terms};
use crate::policy::SyncPolicy;
use crate::registered::Registered;
use crate::remote_node::RemoteNode;
use crate::status::SessionReport;
use crate::token_source::TokenSource;
use crate::topology::{Core, DatabaseNode, LinkId, Origin, State, Topology, TopologyError};

/// How often links of meshes are looked at.
const LOOK: Duration = Duration::from_millis(250);
/// How long the first peers take to be heard, most of the time.
const SETTLING: Duration = Duration::from_secs(3);

/// What a node that listens knows of those who come to it.
pub trait Doorman: Send + Sync {
    /// Whether a node may be connected to without anybody having named it: it came here, to this database, and was let in
    /// as a full member.
    fn vouches_for(&self, node: NodeId, database: &str) -> bool;

    /// What the rules of a database let the user of a node read that it vouches for; `None`: everything.
    fn shows(&self, node: NodeId, database: &str) -> Option<Filter>;

    /// The public keys of issuers of tokens that are known to this node and those it belongs with: whoever announces itself proves
    /// to know one.
    fn issuers(&self) -> Vec<Vec<u8>>;

    /// Whether a token of this node may be shown to whoever announces itself so, before anything else is known of it.
    fn may_show(&self, token: &Token, to: &Announcement) -> bool;

    /// The open session of a node's database `from` with this node's `database`, if all that comes over it is taken.
    fn session(&self, node: NodeId, from: &str, database: &str) -> Option<Arc<SessionReport>>;
}

/// Databases that look for peers.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Seeker {
    pub(crate) node: DatabaseNode,
    pub(crate) remote: DatabaseName,
    pub(crate) policy: SyncPolicy,
}

/// A peer that is left alone for a while.
struct Shunned {
    until: Instant,
    pause: Duration,
}

#[derive(Default)]
struct Inner {
    seekers: Vec<Seeker>,
    lan: Option<Lan>,
    since: Option<Instant>,
    doorman: Option<Arc<dyn Doorman>>,
    /// What is said of this node, once it listens: where, and whether with TLS.
    place: Option<(SocketAddr, bool)>,
    /// Databases that are on offer.
    offers: Vec<String>,
    shunned: BTreeMap<(DatabaseNode, NodeId), Shunned>,
    running: bool,
}

/// The mesh side of a topology.
#[derive(Default)]
pub(crate) struct Peers {
    inner: Mutex<Inner>,
    news: Arc<Notify>,
}

impl Topology {
    /// Says that this node listens at `address`, and who answers for those who come. Links of meshes then rest while the
    /// peer's own link does their work, and nodes that are found are accepted by what the doorman says.
    pub fn listens(&self, address: SocketAddr, tls: bool, doorman: Arc<dyn Doorman>) {
        {
            let mut inner = self.peers.inner();
            inner.doorman = Some(doorman);
            inner.place = Some((address, tls));
        }
        self.keep_peers();
    }

    /// Has a database look for peers on the local network: nodes that offer a database called `remote`. Links to them have
    /// this policy, and are in [`Topology::links`] like all others. Called again for the same `remote`, it changes the
    /// policy, on the sessions that are open. Without a doorman ([`Topology::listens`]) that vouches for them, peers are
    /// found and nothing is exchanged.
    ///
    /// # Errors
    /// [`TopologyError::Unknown`], a bad name, or [`TopologyError::Lan`].
    pub fn seek_peers(
        &self,
        database: impl Registered,
        remote: &str,
        policy: SyncPolicy,
    ) -> Result<(), TopologyError> {
        let node = self.node_of(&database)?;
        let name = remote.parse::<DatabaseName>();
        let remote = name.map_err(|error| TopologyError::Name(remote.to_owned(), error.to_string()))?;
        let policy = policy.pattern("mesh").optional(true);
        let new = Seeker { node, remote, policy };
        let mut inner = self.peers.inner();
        inner.start_listening(&self.core, &self.peers.news)?;
        match inner.seekers.iter_mut().find(|seeker| seeker.node == node && seeker.remote == new.remote) {
            Some(seeker) => *seeker = new,
            None => inner.seekers.push(new),
        }
        drop(inner);
        self.peers.news.notify_one();
        self.keep_peers();
        Ok(())
    }

    /// Has a database look for peers no more; links to those that were found end.
    ///
    /// # Errors
    /// [`TopologyError::Unknown`].
    pub async fn leave_peers(&self, database: impl Registered) -> Result<(), TopologyError> {
        self.leave_peers_but(database, &[]).await
    }

    /// [`Topology::leave_peers`] but for those that offer a database of one of these names.
    ///
    /// # Errors
    /// [`TopologyError::Unknown`].
    pub async fn leave_peers_but(
        &self,
        database: impl Registered,
        remotes: &[&str],
    ) -> Result<(), TopologyError> {
        let node = self.node_of(&database)?;
        let stays = |remote: &str| remotes.contains(&remote);
        self.peers.inner().seekers.retain(|seeker| seeker.node != node || stays(seeker.remote.as_str()));
        let found: Vec<LinkId> = {
            let state = self.state();
            let own = state.links.iter().filter(|(_, held)| held.link.is_of(&node) && held.is_found());
            let found = own.filter(|(_, held)| !stays(&held.link.config.remote_database));
            found.map(|(id, _)| *id).collect()
        };
        for id in found {
            // It may have gone by itself.
            let _ = self.remove_connection(id).await;
        }
        Ok(())
    }

    /// Says on the local network that these databases are to be had here, in place of those that were said before. Names are
    /// not told, only tags that whoever knows a name recognises. Nothing is said without [`Topology::listens`].
    ///
    /// # Errors
    /// [`TopologyError::Lan`].
    pub fn announce(&self, databases: impl IntoIterator<Item = String>) -> Result<(), TopologyError> {
        let mut inner = self.peers.inner();
        inner.offers = databases.into_iter().collect();
        if !inner.offers.is_empty() {
            inner.start_listening(&self.core, &self.peers.news)?;
        }
        inner.say(&self.core).map_err(TopologyError::Lan)
    }

    /// Whether peers that are there had the time to be heard of; at once if nobody looks for any.
    #[must_use]
    pub fn peers_settled(&self) -> bool {
        let inner = self.peers.inner();
        inner.seekers.is_empty() || inner.since.is_none_or(|since| since.elapsed() >= SETTLING)
    }

    /// Looks after links of meshes from now on.
    fn keep_peers(&self) {
        if std::mem::replace(&mut self.peers.inner().running, true) {
            return;
        }
        let (peers, core) = (Arc::downgrade(&self.peers), self.core.clone());
        let news = Arc::clone(&self.peers.news);
        tokio::spawn(async move {
            loop {
                let _ = tokio::time::timeout(LOOK, news.notified()).await;
                let Some(peers) = Weak::upgrade(&peers) else { return };
                peers.look(&core);
            }
        });
    }
}

impl Peers {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A database is gone: it looks for nobody any more.
    pub(crate) fn forget(&self, node: DatabaseNode) {
        self.inner().seekers.retain(|seeker| seeker.node != node);
    }

    /// Has what a database looks for be as `change` says, also for those that are found from now on.
    pub(crate) fn reconfigure(
        &self,
        node: DatabaseNode,
        change: impl Fn(SyncPolicy) -> Result<SyncPolicy, TopologyError>,
    ) -> Result<(), TopologyError> {
        let mut inner = self.inner();
        let own = inner.seekers.iter_mut().filter(|seeker| seeker.node == node);
        let changed = own.map(|seeker| Ok((change(seeker.policy.clone())?, seeker)));
        let changed = changed.collect::<Result<Vec<_>, TopologyError>>()?;
        changed.into_iter().for_each(|(policy, seeker)| seeker.policy = policy);
        Ok(())
    }

    /// Leaves the local network.
    pub(crate) fn leave(&self) {
        let mut inner = self.inner();
        inner.seekers.clear();
        inner.lan = None;
    }

    fn look(&self, core: &Core) {
        let mut inner = self.inner();
        inner.look_for_peers(core);
        inner.look_after_links(core);
    }
}

impl Inner {
    fn start_listening(&mut self, core: &Core, news: &Arc<Notify>) -> Result<(), TopologyError> {
        if self.lan.is_none() {
            let only_here = self.place.is_some_and(|(address, _)| address.ip().is_loopback());
            let own = core.identity().node_id();
            self.lan = Some(Lan::new(own, only_here, Arc::clone(news)).map_err(TopologyError::Lan)?);
            self.since = Some(Instant::now());
        }
        Ok(())
    }

    fn say(&self, core: &Core) -> Result<(), LanError> {
        let Some(lan) = &self.lan else { return Ok(()) };
        match self.place {
            Some((address, tls)) if !self.offers.is_empty() => {
                let issuers = self.doorman.as_ref().map(|doorman| doorman.issuers()).unwrap_or_default();
                let offers = self.offers.iter().map(String::as_str);
                let issuers = issuers.iter().map(Vec::as_slice);
                lan.say(core.identity().fingerprint(), address, tls, offers, issuers)
            }
            _ => {
                lan.hush();
                Ok(())
            }
        }
    }

    /// Links databases to those that were found, and drops links to those that are gone or do not accept this node.
    fn look_for_peers(&mut self, core: &Core) {
        let heard = self.lan.as_ref().map(Lan::heard).unwrap_or_default();
        let now = Instant::now();
        for seeker in &self.seekers {
            for (peer, sighting) in &heard {
                if !sighting.announcement.offers(seeker.remote.as_str()) {
                    continue;
                }
                let place = (seeker.node, *peer);
                let shunned = self.shunned.get(&place).is_some_and(|shunned| shunned.until > now);
                if !shunned {
                    link_up(core, seeker, (*peer, sighting), self.doorman.as_ref());
                }
            }
        }
        let mut state = core.state();
        let gone: Vec<LinkId> = state
            .links
            .iter()
            .filter_map(|(id, held)| held.found().map(|peer| (*id, held, peer)))
            .filter(|(_, held, peer)| {
                let refused = held.link.is_refused();
                if refused {
                    let shunned = self.shunned.entry((held.link.node(), *peer)).or_insert(Shunned {
                        until: now,
                        pause: Duration::from_millis(FOUND_AGAIN_FIRST_MS),
                    });
                    shunned.until = now + shunned.pause;
                    shunned.pause = (shunned.pause * 2).min(Duration::from_millis(FOUND_AGAIN_MAX_MS));
                }
                refused || (!heard.contains_key(peer) && !held.link.works())
            })
            .map(|(id, ..)| id)
            .collect();
        for id in gone {
            state.links.remove(&id).into_iter().for_each(|held| held.link.stop());
        }
    }

    /// Accepts peers that the doorman vouches for, and has links rest that the other side's link makes needless.
    fn look_after_links(&mut self, core: &Core) {
        let own = core.identity().node_id();
        let state = core.state();
        for held in state.links.values().filter(|held| held.link.is_mesh()) {
            let link = &held.link;
            let Some(peer) = held.found().or_else(|| link.met()) else { continue };
            let doorman = self.doorman.as_ref();
            if held.is_found() {
                let database = &link.config.database_name;
                let vouched = doorman.is_some_and(|doorman| doorman.vouches_for(peer, database));
                let shown = doorman.and_then(|doorman| doorman.shows(peer, database));
                link.set_accepted(vouched, shown);
                if vouched {
                    self.shunned.remove(&(link.node(), peer));
                }
            }
            let doubled = doubled(&state, link, held.is_found(), peer);
            let session = doorman.and_then(|doorman| {
                doorman.session(peer, &link.config.remote_database, &link.config.database_name)
            });
            let covered = session.filter(|session| own > peer && link.may_rest() && does_everything(session));
            link.rest(covered, doubled);
        }
    }
}

/// Whether a link to the same node, which was named, does what this one would, which was found.
fn doubled(state: &State, link: &Link, is_found: bool, peer: NodeId) -> bool {
    is_found
        && state.links.values().any(|other| {
            !other.is_found()
                && other.link.is_of(&link.node())
                && other.link.config.remote_database == link.config.remote_database
                && other.link.met() == Some(peer)
                && other.link.works()
                && carries(&other.link, link)
        })
}

/// Whether a link's open session carries what another link of the same database to the same node asks for.
fn carries(one: &Link, other: &Link) -> bool {
    let (wanted, there) = (other.terms().policy.clone(), one.terms().policy.clone());
    let ways = wanted.mode.direction();
    let agreed = one.report.agreed().is_some_and(|agreed| agreed.direction.and(ways) == ways);
    agreed && there.request() == wanted.request()
}

/// Whether a client's session carries all that there is, both ways.
fn does_everything(session: &SessionReport) -> bool {
    let both = session.agreed().is_some_and(|agreed| agreed.direction.push && agreed.direction.pull);
    both && session.view().is_some_and(|view| view.is_all())
}

impl Core {
    /// Links a database to a node that was found, which is shown such tokens of this node as it may be.
    fn connect_found(
        &self,
        node: DatabaseNode,
        remote: RemoteNode,
        policy: SyncPolicy,
        peer: NodeId,
        may_show: impl Fn(&Token) -> bool + Send + Sync + 'static,
    ) -> Result<LinkId, TopologyError> {
        let target = remote.target.map_err(|(url, problem)| TopologyError::Address(url, problem))?;
        let terms = Terms { policy, pins: self.pins(remote.key) };
        let tokens = TokenSource::shown_to(Arc::clone(&self.tokens), may_show);
        self.hold(node, (Place::Remote(target), remote.database), terms, (Origin::Found(peer), tokens))
    }
}

/// Links a database to a node that was found, or has the link that there is know its addresses and policy.
fn link_up(
    core: &Core,
    seeker: &Seeker,
    (peer, sighting): (NodeId, &Sighting),
    doorman: Option<&Arc<dyn Doorman>>,
) {
    let there = {
        let state = core.state();
        let mut own = state.links.iter().filter(|(_, held)| held.link.is_of(&seeker.node));
        own.find(|(_, held)| {
            held.found() == Some(peer) && held.link.config.remote_database == seeker.remote.as_str()
        })
        .map(|(id, held)| (*id, held.link.clone()))
    };
    match there {
        Some((id, link)) => {
            link.route.lead_to(&sighting.endpoints);
            if link.terms().policy != seeker.policy {
                let terms = Terms { policy: seeker.policy.clone(), pins: core.pins(Some(sighting.key)) };
                let changed = core.change(id, terms);
                tracing::debug!(?changed, %peer, "a found peer's link has another policy");
            }
        }
        None => {
            let target = LinkTarget::Nearest { edges: sighting.endpoints.clone(), master: None };
            let remote = RemoteNode::at(target, seeker.remote.as_str()).key(sighting.key);
            let (doorman, announcement) = (doorman.cloned(), sighting.announcement.clone());
            let may_show = move |token: &Token| {
                doorman.as_ref().is_some_and(|doorman| doorman.may_show(token, &announcement))
            };
            let linked = core.connect_found(seeker.node, remote, seeker.policy.clone(), peer, may_show);
            tracing::info!(database = seeker.node.name(), %peer, ?linked, "peer found on the local network");
        }
    }
}

#[cfg(test)]
mod tests {
    use blazedb_core::filter::field;
    use blazedb_store::Password;
    use blazedb_transport::Identity;

    use super::*;
    use crate::{Database, record};

    /// Two databases of one process.
    struct Two {
        ours: Database,
        theirs: Database,
        topology: Topology,
        here: DatabaseNode,
        there: DatabaseNode,
    }

    impl Two {
        fn new(dir: &std::path::Path) -> Self {
            let open = |name: &str| Database::open(dir.join(name), Password::Plaintext).unwrap();
            let (ours, theirs) = (open("ours"), open("theirs"));
            let topology = Topology::new(Identity::generate().unwrap());
            let there = topology.register(&theirs, "theirs").unwrap();
            let here = topology.register(&ours, "ours").unwrap();
            Self { ours, theirs, topology, here, there }
        }
    }

    /// Vouches for everybody, and lets them read what matches.
    struct Fake(Mutex<Option<Filter>>);

    impl Doorman for Fake {
        fn vouches_for(&self, _: NodeId, _: &str) -> bool {
            true
        }

        fn shows(&self, _: NodeId, _: &str) -> Option<Filter> {
            self.0.lock().unwrap().clone()
        }

        fn issuers(&self) -> Vec<Vec<u8>> {
            Vec::new()
        }

        fn may_show(&self, _: &Token, _: &Announcement) -> bool {
            false
        }

        fn session(&self, _: NodeId, _: &str, _: &str) -> Option<Arc<SessionReport>> {
            None
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_found_peer_is_shown_what_its_user_may_read_unless_the_policy_says_otherwise() {
        let dir = tempfile::tempdir().unwrap();
        let Two { ours, theirs, topology, here, there } = Two::new(dir.path());
        let team = |team: &str| field("team").eq(team);
        let doorman = Arc::new(Fake(Mutex::new(Some(team("ios")))));
        topology.peers.inner().doorman = Some(Arc::clone(&doorman) as Arc<dyn Doorman>);
        for name in ["ios", "web", "core"] {
            ours.insert(record! { "team" => name }).unwrap();
        }
        theirs.insert(record! { "team" => "theirs" }).unwrap();
        let terms = Terms {
            policy: SyncPolicy::new().pattern("mesh").optional(true),
            pins: topology.core.pins(None),
        };
        let place = (Place::Local(there, theirs.clone()), "theirs".to_owned());
        let peer = Identity::generate().unwrap().node_id();
        let tokens = Arc::default();
        topology.core.hold(here, place, terms, (Origin::Found(peer), tokens)).unwrap();
        let until = async |teams: &[&str]| {
            let holds = || {
                teams.iter().all(|name| theirs.query().filter(team(name)).count().unwrap() == 1)
                    && theirs.query().count().unwrap() == teams.len() as u64
            };
            let deadline = Instant::now() + Duration::from_secs(60);
            while !holds() {
                assert!(Instant::now() < deadline, "{teams:?}");
                topology.peers.inner().look_after_links(&topology.core);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        until(&["theirs", "ios"]).await;
        ours.insert(record! { "team" => "never shown" }).unwrap();
        // Its user is in another team as well from now on.
        *doorman.0.lock().unwrap() = Some(team("ios").or(team("web")));
        until(&["theirs", "ios", "web"]).await;
        assert_eq!(ours.query().count().unwrap(), 5, "what it has itself is taken all the while");
        topology.update_policy(&ours, |policy| policy.respect_rls(false)).await.unwrap();
        until(&["theirs", "ios", "web", "core", "never shown"]).await;
        topology.shutdown().await;
    }

    /// What is found from now on, and each look at what was found, goes by what is looked for.
    #[tokio::test]
    async fn what_is_reconfigured_holds_for_peers_that_are_found_later_and_who_is_gone_looks_for_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let bugs = Database::open(dir.path().join("bugs"), Password::Plaintext).unwrap();
        let topology = Topology::new(Identity::generate().unwrap());
        let node = topology.register(&bugs, "bugs").unwrap();
        let policy = SyncPolicy::new().pattern("mesh").optional(true);
        let looks = |remote: &str| Seeker { node, remote: remote.parse().unwrap(), policy: policy.clone() };
        topology.peers.inner().seekers = vec![looks("bugs"), looks("former")];
        let sought = || topology.peers.inner().seekers.clone();
        topology.update_policy(&bugs, |policy| policy.exclude(["salary"])).await.unwrap();
        assert!(sought().iter().all(|seeker| seeker.policy == policy.clone().exclude(["salary"])));
        let broken = topology.reconfigure(&bugs, |policy| policy.release_after_ack(true)).await;
        assert!(matches!(broken, Err(TopologyError::Contradiction(..))), "{broken:?}");
        assert!(sought().iter().all(|seeker| seeker.policy == policy.clone().exclude(["salary"])));
        topology.leave_peers_but(&bugs, &["bugs"]).await.unwrap();
        assert_eq!(sought().iter().map(|seeker| seeker.remote.as_str()).collect::<Vec<_>>(), ["bugs"]);
        topology.unregister(&bugs).await.unwrap();
        assert!(sought().is_empty());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_found_link_rests_only_where_the_named_one_carries_as_much() {
        let dir = tempfile::tempdir().unwrap();
        let Two { ours: _ours, theirs, topology, here, there } = Two::new(dir.path());
        let link = |policy: SyncPolicy, origin: Origin| {
            let place = (Place::Local(there, theirs.clone()), "theirs".to_owned());
            let terms = Terms { policy, pins: topology.core.pins(None) };
            let id = topology.core.hold(here, place, terms, (origin, Arc::default())).unwrap();
            Arc::clone(&topology.state().links[&id].link)
        };
        let peer = Identity::generate().unwrap().node_id();
        let found = link(SyncPolicy::new().pattern("mesh"), Origin::Found(peer));
        let filter = || Filter::parse("n > 1").unwrap();
        for (policy, enough) in [
            (SyncPolicy::new().mode(blazedb_core::topology::SyncMode::ReadOnly), false),
            (SyncPolicy::new().filter(filter()), false),
            (SyncPolicy::new(), true),
        ] {
            let named = link(policy.clone(), Origin::Asked);
            let deadline = Instant::now() + Duration::from_secs(20);
            while !named.works() {
                assert!(Instant::now() < deadline);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            assert_eq!(carries(&named, &found), enough, "{policy:?}");
        }
        topology.shutdown().await;
    }
}
