//! Questions to a hub over real sockets: what is answered, to whom, and that nothing else shows.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "helpers of tests fail as tests do"
)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use blazedb::{
    AccessRules, AskCode, AskError, Database, DatabaseNode, Encryption, Fields, Identity, Measure, Password,
    RemoteDatabase, RemoteNode, Row, SearchHit, SyncMode, SyncPolicy, Topology, TopologyError, Value, field,
    record,
};
use blazedb_core::topology::{AccessSpec, AuthSpec, FilterText, IssuerKey, IssuerSpec, ServeMode};
use blazedb_hub::auth::{Authenticator, TokenRequest, own_issuer};
use blazedb_hub::{Listener, ListenerOptions, Served};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);

fn rules() -> AccessSpec {
    let rule = |text: &str| Some(FilterText::new(text));
    AccessSpec {
        public: false,
        connect: rule(r#"!("banned" in user.roles)"#),
        read: rule("record.teamId in user.teams"),
        insert: rule("true"),
        update: rule("true"),
        delete: None,
        relay: rule(r#""relay" in user.roles"#),
        keys: None,
    }
}

struct Hub {
    dir: TempDir,
    bugs: Database,
    listener: Listener,
    auth: AuthSpec,
}

impl Hub {
    async fn start(serve: ServeMode) -> Self {
        Self::with(serve, ListenerOptions::default().ask_time).await
    }

    async fn with(serve: ServeMode, ask_time: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bugs = Database::open(dir.path().join("hub"), Password::Plaintext).unwrap();
        let access = Arc::new(AccessRules::compile(&rules()).unwrap());
        let served = Served { database: bugs.clone(), serve, access };
        let key = IssuerKey::KeyFile(PathBuf::from("issuer.pub"));
        let issuers = vec![IssuerSpec { name: "self".to_owned(), key, audience: None }];
        let auth = AuthSpec { issuers, ..AuthSpec::default() };
        let authenticator = Arc::new(Authenticator::new(&auth, dir.path(), dir.path()).unwrap());
        let options = ListenerOptions { auth: authenticator, ask_time, ..ListenerOptions::default() };
        let identity = Arc::new(Identity::generate().unwrap());
        let served = BTreeMap::from([("bugs".to_owned(), served)]);
        let listener = Listener::bind("127.0.0.1:0", identity, served, options).await.unwrap();
        Self { dir, bugs, listener, auth }
    }

    /// A device of a user with one team and perhaps a role.
    fn device(&self, user: &str, team: &str, role: Option<&str>) -> Device {
        let topology = Topology::new(Identity::generate().unwrap());
        let bugs = Database::open(self.dir.path().join(user), Password::Plaintext).unwrap();
        let node = topology.register(&bugs, "bugs").unwrap();
        let (issuer, name, _) = own_issuer(&self.auth, self.dir.path(), self.dir.path()).unwrap();
        let request = TokenRequest {
            user: user.to_owned(),
            teams: vec![team.to_owned()],
            roles: role.iter().map(|role| (*role).to_owned()).collect(),
            ttl_s: 3_600,
            ..TokenRequest::default()
        };
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        topology.set_token(Some(issuer.issue(&name, &request, None, now).unwrap()));
        Device { topology, bugs, node, url: format!("ws://{}", self.listener.address()) }
    }
}

struct Device {
    topology: Topology,
    bugs: Database,
    node: DatabaseNode,
    url: String,
}

impl Device {
    fn hub(&self) -> RemoteDatabase {
        self.hub_as(&SyncPolicy::new())
    }

    fn hub_as(&self, policy: &SyncPolicy) -> RemoteDatabase {
        self.topology.remote_at(&self.node, RemoteNode::new(&self.url, "bugs"), policy).unwrap()
    }
}

fn bug(team: &str, title: &str, priority: i64) -> Fields {
    record! { "teamId" => team, "title" => title, "priority" => priority }
}

fn refused<T>(answer: Result<T, AskError>) -> (AskCode, String) {
    match answer.err().unwrap() {
        AskError::Refused { code, reason, .. } => (code, reason),
        other => panic!("{other}"),
    }
}

async fn titles(search: blazedb::RemoteSearch) -> Vec<String> {
    let hits = search.all().await.unwrap();
    hits.into_iter().map(|hit| hit.record.fields["title"].to_string()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_not_be_read_shows_in_no_answer() {
    let hub = Hub::start(ServeMode::Bidirectional).await;
    hub.bugs.set_search_fields(["title".to_owned()].to_vec()).unwrap();
    for (title, priority) in [("crash on start", 3), ("slow start", 5), ("crash, crash and a long tale", 4)] {
        hub.bugs.insert(bug("ios", title, priority)).unwrap();
    }
    let before = everything(&hub.device("anna", "ios", None).hub()).await;
    // What others have: the same words, other words, higher and lower numbers, a field of their own.
    hub.bugs.insert_many((0..200).map(|n| bug("web", "crash crash start secretword", 100 + n))).unwrap();
    hub.bugs
        .insert(record! { "teamId" => "web", "title" => "tale", "priority" => -1, "salary" => 7 })
        .unwrap();
    hub.bugs.insert(record! { "title" => "crash of nobody", "priority" => 50 }).unwrap();

    let anna = hub.device("anne", "ios", None).hub();
    let after = everything(&anna).await;
    assert_eq!(before, after, "the answers are those of a database that holds nothing else");
    assert!(before.contains("\"crash on start\"") && before.contains("count: 3"), "{before}");

    assert_eq!(anna.query().filter(field("priority").gt(60)).count().await.unwrap(), 0);
    assert_eq!(anna.query().filter(field("teamId").eq("web")).count().await.unwrap(), 0);
    let highest = anna.query().order_by_desc("priority").limit(1).all().await.unwrap();
    assert_eq!(highest[0].fields["priority"], Value::Int(5));
    assert_eq!(titles(anna.search("secretword")).await, Vec::<String>::new());
    assert_eq!(titles(anna.search("nobody OR tale")).await.len(), 1);

    // And who may read it, finds it.
    let bert = hub.device("bert", "web", None).hub();
    assert_eq!(bert.query().filter(field("priority").gt(60)).count().await.unwrap(), 200);
    assert_eq!(titles(bert.search("secretword").limit(300)).await.len(), 200);
}

/// The answers to one question of every kind, as text.
async fn everything(hub: &RemoteDatabase) -> String {
    let mut all = format!("count: {}\n", hub.query().count().await.unwrap());
    let groups = hub.query().group_by(["teamId"]).count().sum("priority").avg("priority");
    let groups = groups.measure(&Measure::Max("priority".into())).measure(&Measure::Min("priority".into()));
    let groups =
        groups.measure(&Measure::CountOf("salary".into())).measure(&Measure::Distinct("title".into()));
    all += &format!("{:?}\n", groups.all().await.unwrap());
    all += &format!("{:?}\n", hub.query().aggregate().measure(&Measure::Count).all().await.unwrap());
    all += &format!("{:?}\n", hub.query().order_by("priority").offset(1).all().await.unwrap());
    all += &format!("{:?}\n", hub.query().select(["salary", "title"]).all().await.unwrap());
    for text in
        ["crash", "start OR crash", "\"crash on\" OR tale", "sta*", "crash -tale", "secretword OR crash"]
    {
        let hits: Vec<SearchHit> = hub.search(text).all().await.unwrap();
        all += &format!("{text}: {hits:?}\n");
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_takes_too_long_is_given_up() {
    let hub = Hub::with(ServeMode::Bidirectional, Duration::ZERO).await;
    hub.bugs.set_search_fields(["title"]).unwrap();
    hub.bugs.insert_many((0..20_000).map(|n| bug("ios", "crash on start", n))).unwrap();
    let anna = hub.device("anna", "ios", None).hub();
    for answer in [
        anna.query().filter(field("title").contains("nothing")).count().await.map(drop),
        anna.query().order_by("title").all().await.map(drop),
        anna.query().group_by(["title"]).sum("priority").all().await.map(drop),
        anna.search("crash").all().await.map(drop),
    ] {
        let (code, reason) = refused(answer);
        assert!(matches!(code, AskCode::TooSlow | AskCode::Busy), "{reason}");
    }
    // What is given up gives the file and the turn back.
    assert_eq!(hub.bugs.query().count().unwrap(), 20_000);
    hub.bugs.insert(bug("ios", "new", 0)).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_on_a_device_has_only_what_it_may_read() {
    let hub = Hub::start(ServeMode::Bidirectional).await;
    let secret = hub.bugs.insert(bug("web", "secret", 9)).unwrap();
    for (duplicate, title) in [(secret, "of a secret one"), (secret, "of it as well")] {
        let mut fields = bug("ios", title, 1);
        fields.insert("duplicateOf".to_owned(), duplicate.into());
        hub.bugs.insert(fields).unwrap();
    }
    let anna = hub.device("anna", "ios", None);
    anna.topology
        .connect_remote(anna.node, RemoteNode::new(&anna.url, "bugs"), SyncPolicy::new())
        .await
        .unwrap();
    assert!(anna.topology.sync(PATIENCE).await.is_empty());
    let joined = anna.bugs.join(&anna.bugs).names("bugs", "first").on("duplicateOf", "id").left();
    let pairs = joined.all().unwrap();
    assert_eq!(pairs.len(), 2);
    assert!(pairs.iter().all(|pair| pair.right.is_none()), "{pairs:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_ask_is_told_so() {
    let hub = Hub::start(ServeMode::Bidirectional).await;
    let anna = hub.device("anna", "ios", None);
    assert_eq!(anna.hub().query().count().await.unwrap(), 0);
    let (code, reason) = refused(anna.hub().search("crash").all().await);
    assert!(code == AskCode::Invalid && reason.contains("no fields to search"), "{reason}");
    let (code, reason) = refused(anna.hub().query().aggregate().sum("a").order_by("b").all().await);
    assert!(code == AskCode::Invalid && reason.contains("\"b\""), "{reason}");

    let carl = hub.device("carl", "ios", Some("banned"));
    let (code, reason) = refused(carl.hub().query().count().await);
    assert!(code == AskCode::Forbidden && reason.contains("`connect`"), "{reason}");
    carl.topology.set_token(None);
    assert_eq!(refused(carl.hub().query().all().await).0, AskCode::Unauthenticated);
    carl.topology.set_token(Some("not.a.token".parse().unwrap()));
    assert_eq!(refused(carl.hub().query().all().await).0, AskCode::Unauthenticated);
    // The hub's operator sees it.
    let kinds = || hub.listener.sessions().refusals().iter().map(|refusal| refusal.kind).collect::<Vec<_>>();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while kinds().len() < 3 {
        assert!(tokio::time::Instant::now() < deadline, "{:?}", kinds());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut kinds = kinds();
    kinds.sort_unstable();
    assert_eq!(kinds, ["access", "identity", "identity"]);

    // Who only writes is not answered.
    let sink = Hub::start(ServeMode::Aggregate).await;
    let device = sink.device("dora", "ios", None);
    let (code, reason) = refused(device.hub().query().count().await);
    assert!(code == AskCode::Forbidden && reason.contains("clients only write"), "{reason}");
    let elsewhere = RemoteNode::new(&device.url, "wages");
    let wages = device.topology.remote_at(&device.node, elsewhere, &SyncPolicy::new()).unwrap();
    assert!(matches!(wages.query().count().await, Err(AskError::Connect(_))));

    // A database that stays here has nobody to ask.
    let nobody = |device: &Device| device.topology.remote(&device.bugs).err().unwrap();
    assert!(matches!(nobody(&device), TopologyError::NobodyToAsk(_)));
    let remote = RemoteNode::new(&device.url, "bugs");
    let local = SyncPolicy::new().mode(SyncMode::LocalOnly);
    device.topology.connect_remote(device.node, remote, local).await.unwrap();
    assert!(matches!(nobody(&device), TopologyError::NobodyToAsk(_)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sealed_for_the_hub_is_not_asked_about() {
    let hub = Hub::start(ServeMode::Bidirectional).await;
    hub.bugs.insert(record! { "teamId" => "ios" }).unwrap();
    let anna = hub.device("anna", "ios", None);
    let sealed = |answer: Result<(), AskError>| match answer.err().unwrap() {
        error @ AskError::Sealed { .. } => error.to_string(),
        other => panic!("{other}"),
    };
    let e2e = anna.hub_as(&SyncPolicy::new().encryption(Encryption::e2e_only(["teamId"])));
    let text = sealed(e2e.search("crash").all().await.map(drop));
    assert_eq!(
        text,
        "database bugs: its text is sealed for the other side, which can't be asked about it, only about teamId"
    );
    sealed(e2e.query().all().await.map(drop));
    sealed(e2e.query().filter(field("title").eq("x")).count().await.map(drop));
    sealed(e2e.query().select(["teamId"]).order_by("title").all().await.map(drop));
    sealed(e2e.query().group_by(["teamId"]).sum("priority").all().await.map(drop));
    let groups =
        e2e.query().filter(field("teamId").eq("ios")).group_by(["teamId"]).count().all().await.unwrap();
    assert_eq!(groups[0]["count"], Value::Int(1));
    assert_eq!(e2e.query().select(["teamId"]).all().await.unwrap().len(), 1);
    let wages = anna.hub_as(&SyncPolicy::new().encryption(Encryption::seal(["salary"])));
    sealed(wages.query().filter(field("salary").gt(1)).count().await.map(drop));
    assert_eq!(wages.query().all().await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_answer_is_streamed_and_holds_nothing_up() {
    const RECORDS: i64 = 12_000;
    let hub = Hub::start(ServeMode::Bidirectional).await;
    let text = "x".repeat(600);
    hub.bugs.insert_many((0..RECORDS).map(|n| bug("ios", &text, n))).unwrap();
    let anna = hub.device("anna", "ios", None);
    let policy = SyncPolicy::new().filter(field("priority").lt(0));
    anna.topology.connect_remote(anna.node, RemoteNode::new(&anna.url, "bugs"), policy).await.unwrap();
    assert!(anna.topology.sync(PATIENCE).await.is_empty());
    let remote = anna.topology.remote(&anna.bugs).unwrap();
    let mut rows = remote.query().order_by("priority").rows().await.unwrap();
    assert!(rows.next().await.unwrap().is_some());
    // The reader has stopped; the session of the same database and other questions go on, and the hub writes.
    hub.bugs.insert(bug("ios", "new", -1)).unwrap();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while anna.bugs.query().count().unwrap() == 0 {
        assert!(tokio::time::Instant::now() < deadline, "the session waits for the question");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(remote.query().count().await.unwrap(), RECORDS as u64 + 1);
    let mut last = 0;
    while let Some(row) = rows.next().await.unwrap() {
        let Row::Record(record) = row else { panic!("no record: {row:?}") };
        last += 1;
        assert_eq!(record.fields["priority"], Value::Int(last));
    }
    assert_eq!(last, RECORDS - 1);
    let page = remote.query().order_by("priority").offset(9_000).limit(2_000).select(["priority"]);
    let page = page.all().await.unwrap();
    assert_eq!((page.len(), &page[0].fields["priority"]), (2_000, &Value::Int(8_999)));

    // More questions at once than there are turns; those that are given up make room.
    let abandoned = futures_of(&remote, 12).await;
    drop(abandoned);
    assert_eq!(remote.query().limit(3).all().await.unwrap().len(), 3);
}

/// Answers that were begun and are not read.
async fn futures_of(remote: &RemoteDatabase, count: usize) -> Vec<tokio::task::JoinHandle<()>> {
    let mut begun = Vec::new();
    for _ in 0..count {
        let remote = remote.clone();
        begun.push(tokio::spawn(async move {
            let mut rows = remote.query().rows().await.unwrap();
            rows.next().await.unwrap();
        }));
    }
    for task in &mut begun {
        task.await.unwrap();
    }
    begun
}

/// What a mesh asks this node about those who came here: whom it may link to by itself, and what their users may read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_came_in_is_vouched_for_and_shown_what_its_user_may_read() {
    let hub = Hub::start(ServeMode::Bidirectional).await;
    let (member, guest) = (hub.device("rita", "ios", Some("relay")), hub.device("gus", "ios", None));
    for device in [&member, &guest] {
        let remote = RemoteNode::new(&device.url, "bugs");
        device.topology.connect_remote(device.node, remote, SyncPolicy::new()).await.unwrap();
        assert!(device.topology.sync(PATIENCE).await.is_empty());
    }
    let doorman = hub.listener.doorman();
    let asked = |device: &Device| {
        let node = device.topology.identity().node_id();
        let shown =
            doorman.shows(node, "bugs").map(|filter| hub.bugs.query().filter(filter).count().unwrap());
        (doorman.vouches_for(node, "bugs"), shown)
    };
    hub.bugs.insert(bug("ios", "own", 1)).unwrap();
    hub.bugs.insert(bug("web", "of others", 1)).unwrap();
    assert_eq!(asked(&member), (true, Some(1)));
    assert_eq!(asked(&guest), (false, Some(0)), "who may not relay is nobody to a mesh");
}
