//! Plans: carried out they give what was wanted, and they touch nothing else.

use std::collections::BTreeMap;

use proptest::collection::btree_map;
use proptest::prelude::*;

use super::*;

fn endpoint() -> impl Strategy<Value = Endpoint> {
    (0..4_u8).prop_map(|host| format!("ws://h{host}:1").parse().unwrap())
}

fn pattern() -> impl Strategy<Value = Pattern> {
    let mesh = proptest::collection::btree_set(0..4_u8, 1..4).prop_map(|peers| Pattern::Mesh {
        peers: peers.iter().map(|host| format!("ws://h{host}:1").parse().unwrap()).collect(),
        discover: false,
        fallback_to_local: true,
    });
    let edges = (endpoint(), endpoint())
        .prop_map(|(master, edge)| Pattern::Hierarchical { master: Some(master), edges: vec![edge] });
    prop_oneof![
        Just(Pattern::LocalOnly),
        endpoint().prop_map(|hub| Pattern::HubAndSpoke { hub }),
        endpoint().prop_map(|upstream| Pattern::Chain { upstream }),
        endpoint().prop_map(|source| Pattern::Broadcast { source }),
        endpoint().prop_map(|sink| Pattern::Aggregation { sink }),
        endpoint().prop_map(|parent| Pattern::Star { role: StarRole::Child { parent } }),
        mesh,
        edges,
    ]
}

prop_compose! {
    fn policy()(
        filter in proptest::option::of(0..3_u8),
        excluded in any::<bool>(),
        compression in prop_oneof![Just(Compression::Auto), Just(Compression::Never)],
        keep in any::<bool>(),
        sealed in any::<bool>(),
    ) -> PolicySpec {
        PolicySpec {
            filter: filter.map(|level| FilterText::new(format!("level > {level}"))),
            exclude_fields: if excluded { vec!["big".into()] } else { Vec::new() },
            compression,
            on_left_filter: if keep { OnRemoval::Keep } else { OnRemoval::Remove },
            encryption: if sealed { EncryptionSpec::Seal(vec!["s".into()]) } else { EncryptionSpec::SmartProxy },
            ..PolicySpec::default()
        }
    }
}

prop_compose! {
    fn sync()(pattern in pattern(), policy in policy(), read_only in any::<bool>()) -> SyncSpec {
        let mut sync = SyncSpec::new(pattern, "db".parse().unwrap());
        if read_only && sync.pattern.kind().allows(SyncMode::ReadOnly) {
            sync.mode = SyncMode::ReadOnly;
        }
        sync.policy = policy;
        sync
    }
}

prop_compose! {
    fn database()(
        sync in sync(),
        further in proptest::collection::vec(sync(), 0..2),
        served in any::<bool>(),
        public in any::<bool>(),
        moved in any::<bool>(),
        indexed in any::<bool>(),
    ) -> DatabaseSpec {
        let mut database = DatabaseSpec::local(&"db".parse().unwrap());
        database.sync = sync;
        database.links = further;
        if expand(&database).is_err() {
            database.links.clear();
        }
        database.serve = if served { ServeMode::Bidirectional } else { ServeMode::None };
        database.access.public = public;
        if moved {
            database.file = "other.blazedb".into();
        }
        if indexed {
            database.indexes = vec!["level".into()];
        }
        database
    }
}

fn topology() -> impl Strategy<Value = TopologySpec> {
    let name = (0..3_u8).prop_map(|n| format!("d{n}").parse().unwrap());
    btree_map(name, database(), 0..4).prop_map(|databases: BTreeMap<DatabaseName, _>| TopologySpec {
        databases,
        ..TopologySpec::default()
    })
}

proptest! {
    #[test]
    fn carried_out_a_plan_gives_what_was_wanted(from in topology(), to in topology()) {
        let mut actual = Actual::of(&from).unwrap();
        let todo = plan(&to, &actual).unwrap();
        for action in &todo.actions {
            // Every action is possible where it stands.
            let before = actual.clone();
            let has = |database| before.databases.contains_key(database);
            match action {
                Action::OpenDatabase(name, _) => prop_assert!(!has(name)),
                Action::CloseDatabase(name) => prop_assert!(before.databases[name].links.is_empty()),
                Action::Index(name, _) | Action::Serve(name, ..) => prop_assert!(has(name)),
                Action::CloseLink { database, link } => {
                    prop_assert!(before.databases[database].links.contains(link));
                }
                Action::ChangeLink { database, from, .. } => {
                    prop_assert!(before.databases[database].links.contains(from));
                }
                Action::OpenLink { database, .. } => prop_assert!(has(database)),
                Action::Seek(database, _) => prop_assert!(has(database)),
            }
            actual.done(action);
            prop_assert_ne!(&before, &actual, "an action that does nothing: {}", action);
        }
        prop_assert_eq!(&actual, &Actual::of(&to).unwrap());
        prop_assert_eq!(plan(&to, &actual).unwrap(), Plan::default());
    }

    #[test]
    fn links_that_stay_are_in_no_action(from in topology(), to in topology()) {
        let (actual, wanted) = (Actual::of(&from).unwrap(), Actual::of(&to).unwrap());
        let todo = plan(&to, &actual).unwrap();
        for (name, database) in &actual.databases {
            let Some(wanted) = wanted.databases.get(name).filter(|wanted| wanted.file == database.file) else {
                continue;
            };
            for link in database.links.iter().filter(|link| wanted.links.contains(link)) {
                let touches = |action: &&Action| match action {
                    Action::CloseLink { database, link: it } | Action::OpenLink { database, link: it } => {
                        database == name && it.target == link.target
                    }
                    Action::ChangeLink { database, from, .. } => database == name && from.target == link.target,
                    _ => false,
                };
                prop_assert_eq!(todo.actions.iter().find(touches), None);
            }
        }
    }
}

#[test]
fn what_is_fixed_is_named() {
    let actual = Actual::of(&TopologySpec::default()).unwrap();
    let mut changed = TopologySpec::default();
    changed.node.listen = Some("127.0.0.1:7".parse().unwrap());
    let error = plan(&changed, &actual).unwrap_err();
    assert_eq!(error, PlanError::Fixed { key: "node.listen" });
    assert!(error.to_string().starts_with("node.listen: "));
}

#[test]
fn a_link_that_another_pattern_asks_for_is_the_same_link() {
    let spec = |pattern| {
        let name: DatabaseName = "bugs".parse().unwrap();
        let mut database = DatabaseSpec::local(&name);
        database.sync = SyncSpec::new(pattern, name.clone());
        TopologySpec { databases: [(name, database)].into(), ..TopologySpec::default() }
    };
    let at: Endpoint = "ws://a:1".parse().unwrap();
    let actual = Actual::of(&spec(Pattern::HubAndSpoke { hub: at.clone() })).unwrap();
    let todo = plan(&spec(Pattern::Broadcast { source: at }), &actual).unwrap();
    let lines: Vec<String> = todo.actions.iter().map(ToString::to_string).collect();
    let expected = "change link bugs -> ws://a:1/bugs (broadcast, read-only): \
                    pattern hub-and-spoke -> broadcast, mode bidirectional -> read-only";
    assert_eq!(lines, [expected]);
}
