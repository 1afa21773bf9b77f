//! What meshes ask of a listener about nodes that nobody has named.
//!
//! Invariant: what is answered holds now, by the rules and rights of now; of a database that is not served, nobody is anything.

use std::sync::Arc;

use blazedb::{Doorman, Filter, NodeId, SessionReport, Timestamp, Token};
use blazedb_core::topology::announce::Announcement;

use super::{Served, Shared};
use crate::sessions::SessionKey;

/// Who came in, for meshes.
pub(super) struct AtTheDoor(pub(super) Arc<Shared>);

impl AtTheDoor {
    fn served(&self, database: &str) -> Option<Served> {
        self.0.served().get(database).map(|entry| entry.served.clone())
    }
}

impl Doorman for AtTheDoor {
    fn vouches_for(&self, node: NodeId, database: &str) -> bool {
        let Some(Served { database: held, access, .. }) = self.served(database) else { return false };
        let Some(user) = self.0.options.auth.member(node, database) else { return false };
        let now = Timestamp::from_millis(held.store().now_ms());
        // As it is now: what was granted when it came may have been withdrawn.
        let rights = access.for_user(user.as_deref());
        rights.may_connect(now) && (rights.is_public() || rights.may_relay(now))
    }

    fn shows(&self, node: NodeId, database: &str) -> Option<Filter> {
        let nothing = Filter::always(false);
        let Some(Served { access, .. }) = self.served(database) else { return Some(nothing) };
        if access.is_public() {
            return None;
        }
        let user = self.0.options.auth.member(node, database);
        Some(user.map_or(nothing, |user| access.for_user(user.as_deref()).read().clone()))
    }

    fn issuers(&self) -> Vec<Vec<u8>> {
        self.0.options.auth.issuers()
    }

    fn may_show(&self, token: &Token, to: &Announcement) -> bool {
        self.0.options.auth.may_show(token, self.0.identity.public_key(), to)
    }

    fn session(&self, node: NodeId, from: &str, database: &str) -> Option<Arc<SessionReport>> {
        // What it brings is judged where there are rules, and what a link of this node's own brings is not.
        self.served(database).filter(|served| served.access.is_public())?;
        let key = SessionKey { node, from: from.to_owned(), database: database.to_owned() };
        self.0.sessions.live(&key)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use blazedb::{AccessRules, Database, Identity, Password, RemoteNode, SyncPolicy, Topology};
    use blazedb_core::topology::{AccessSpec, FilterText, ServeMode};

    use super::*;
    use crate::auth::Authenticator;
    use crate::{Listener, ListenerOptions};

    fn served(database: &Database, access: &AccessSpec) -> Option<Served> {
        let access = Arc::new(AccessRules::compile(access).unwrap());
        Some(Served { database: database.clone(), serve: ServeMode::Bidirectional, access })
    }

    #[tokio::test]
    async fn who_is_vouched_for_and_what_is_shown_is_as_the_rules_are_now() {
        let dir = tempfile::tempdir().unwrap();
        let database = Database::open(dir.path().join("bugs"), Password::Plaintext).unwrap();
        let rule = |text: &str| Some(FilterText::new(text));
        let rules = AccessSpec {
            connect: rule("true"),
            read: rule("record.n == 1"),
            relay: rule("true"),
            ..AccessSpec::default()
        };
        let auth = Arc::new(Authenticator::anonymous());
        let options = ListenerOptions { auth, ..ListenerOptions::default() };
        let identity = Arc::new(Identity::generate().unwrap());
        let all = BTreeMap::from_iter(served(&database, &rules).map(|served| ("bugs".to_owned(), served)));
        let listener = Listener::bind("127.0.0.1:0", identity, all, options).await.unwrap();
        let (door, peer) = (listener.doorman(), Identity::generate().unwrap().node_id());
        let read = Filter::parse("record.n == 1").unwrap();
        assert!(door.vouches_for(peer, "bugs"));
        assert_eq!(door.shows(peer, "bugs"), Some(read));
        for withdrawn in
            [AccessSpec { relay: None, ..rules.clone() }, AccessSpec { connect: None, ..rules.clone() }]
        {
            listener.serve("bugs", served(&database, &withdrawn));
            assert!(!door.vouches_for(peer, "bugs"), "{withdrawn:?}");
        }
        listener.serve("bugs", served(&database, &AccessSpec { public: true, ..AccessSpec::default() }));
        assert!(door.vouches_for(peer, "bugs"));
        assert_eq!(door.shows(peer, "bugs"), None);
        listener.serve("bugs", None);
        assert!(!door.vouches_for(peer, "bugs"));
        assert_eq!(door.shows(peer, "bugs"), Some(Filter::always(false)));
    }

    /// What a client brings is judged where there are rules: a link of this node's own, whose peer is not, goes on beside it.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_session_that_rules_judge_does_not_do_the_work_of_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let open = |name: &str| Database::open(dir.path().join(name), Password::Plaintext).unwrap();
        let (hub, device) = (open("hub"), open("device"));
        let rule = || Some(FilterText::new("true"));
        let (insert, update, read) = (rule(), rule(), rule());
        let rules = AccessSpec { connect: rule(), read, insert, update, ..AccessSpec::default() };
        let auth = Arc::new(Authenticator::anonymous());
        let options = ListenerOptions { auth, ..ListenerOptions::default() };
        let public = AccessSpec { public: true, ..AccessSpec::default() };
        let all = BTreeMap::from_iter(served(&hub, &public).map(|served| ("bugs".to_owned(), served)));
        let identity = Arc::new(Identity::generate().unwrap());
        let listener = Listener::bind("127.0.0.1:0", identity, all, options).await.unwrap();
        let identity = Identity::generate().unwrap();
        let (node, door) = (identity.node_id(), listener.doorman());
        let topology = Topology::new(identity);
        topology.register(&device, "bugs").unwrap();
        let remote = RemoteNode::new(format!("ws://{}", listener.address()), "bugs");
        topology.connect_remote(&device, remote, SyncPolicy::new()).await.unwrap();
        let key = SessionKey { node, from: "bugs".to_owned(), database: "bugs".to_owned() };
        let synced = async || assert!(topology.sync(Duration::from_secs(20)).await.is_empty());
        synced().await;
        assert!(door.session(node, "bugs", "bugs").is_some());
        let before = listener.stats().accepted();
        listener.serve("bugs", served(&hub, &rules));
        while listener.stats().accepted() == before {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        synced().await;
        assert!(listener.sessions().live(&key).is_some());
        assert!(door.session(node, "bugs", "bugs").is_none());
        topology.shutdown().await;
    }
}
