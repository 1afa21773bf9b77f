//! A bug tracker on two devices and a hub: five databases in each application, and each syncs in its own way.
//!
//! `cargo run --release --example bug_tracker` starts everything in this process, over real loopback sockets, says what
//! it does, and cleans up. `crates/hub/tests/bug_tracker.rs` checks every line.
//!
//! | database | syncs |
//! |---|---|
//! | `bugs` | both ways, the team's only, end-to-end encrypted: the hub can read `teamId`, and nothing else |
//! | `users` | read-only: the hub hands them out |
//! | `comments` | both ways, the team's only, readable at the hub, which searches them for everybody |
//! | `drafts` | never |
//! | `metrics` | write-only, compressed: the hub collects them |
//!
//! The hub lets everybody on this machine in. A real one asks for tokens and has access rules: `docs/spec/access.md`.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use blazedb::{
    AccessRules, Database, Encryption, Identity, LiveEvent, LiveQuery, Password, Record, RecordId,
    RemoteNode, StoreError, SyncMode, SyncPolicy, Topology, field, record,
};
use blazedb_core::topology::ServeMode;
use blazedb_hub::auth::Authenticator;
use blazedb_hub::{Listener, ListenerOptions, Served};

type Outcome<T> = Result<T, Box<dyn Error>>;

const TEAM: &str = "ios";
/// How long anything may take to arrive.
const PATIENCE: Duration = Duration::from_secs(60);

/// The hub: four databases, each served in its way.
struct Hub {
    listener: Listener,
    databases: BTreeMap<&'static str, Database>,
}

impl Hub {
    async fn start(dir: &Path) -> Outcome<Self> {
        let (mut databases, mut served) = (BTreeMap::new(), BTreeMap::new());
        for (name, serve) in [
            ("bugs", ServeMode::Bidirectional),
            ("users", ServeMode::Broadcast),
            ("comments", ServeMode::Bidirectional),
            ("metrics", ServeMode::Aggregate),
        ] {
            let database = open(dir, "hub", name)?;
            let access = Arc::new(AccessRules::public());
            served.insert(name.to_owned(), Served { database: database.clone(), serve, access });
            databases.insert(name, database);
        }
        let options =
            ListenerOptions { auth: Arc::new(Authenticator::anonymous()), ..ListenerOptions::default() };
        let identity = Arc::new(Identity::generate()?);
        let listener = Listener::bind("127.0.0.1:0", identity, served, options).await?;
        let hub = Self { listener, databases };
        hub.database("comments")?.set_search_fields(["text"])?;
        for (id, name) in [(1, "Anna"), (2, "Ben")] {
            hub.database("users")?.insert_with_id(user(id), record! { "name" => name })?;
        }
        hub.database("comments")?.insert(comment("web", "the page starts slowly"))?;
        Ok(hub)
    }

    fn database(&self, name: &str) -> Outcome<&Database> {
        self.databases.get(name).ok_or_else(|| format!("no database {name}").into())
    }
}

/// The application on one device.
struct Tracker {
    author: RecordId,
    topology: Topology,
    bugs: Database,
    users: Database,
    comments: Database,
    drafts: Database,
    metrics: Database,
}

impl Tracker {
    /// Opens the five databases. `keys` makes or takes the keys of `bugs`, before anything is connected.
    async fn open(
        dir: &Path,
        hub: &Hub,
        (name, author): (&str, RecordId),
        keys: impl FnOnce(&Database) -> Result<(), StoreError>,
    ) -> Outcome<Self> {
        let database = |what: &str| open(dir, name, what);
        let tracker = Self {
            author,
            topology: Topology::new(Identity::generate()?.named(name)),
            bugs: database("bugs")?,
            users: database("users")?,
            comments: database("comments")?,
            drafts: database("drafts")?,
            metrics: database("metrics")?,
        };
        keys(&tracker.bugs)?;
        tracker.connect(&format!("ws://{}", hub.listener.address())).await?;
        Ok(tracker)
    }

    async fn connect(&self, url: &str) -> Outcome<()> {
        let topology = &self.topology;
        let bugs = topology.register(&self.bugs, "bugs")?;
        let users = topology.register(&self.users, "users")?;
        let comments = topology.register(&self.comments, "comments")?;
        let metrics = topology.register(&self.metrics, "metrics")?;
        topology.register(&self.drafts, "drafts")?;
        topology.connect_local(bugs, users)?;
        topology.connect_local(bugs, comments)?;

        let team = || SyncPolicy::new().teams([TEAM]);
        let sealed = team().encryption(Encryption::e2e_only(["teamId"]));
        topology.connect_remote(&bugs, RemoteNode::new(url, "bugs"), sealed).await?;
        let read = SyncPolicy::new().mode(SyncMode::ReadOnly);
        topology.connect_remote(&users, RemoteNode::new(url, "users"), read).await?;
        topology.connect_remote(&comments, RemoteNode::new(url, "comments"), team()).await?;
        let report = SyncPolicy::new().mode(SyncMode::WriteOnly).compression(true);
        topology.connect_remote(&metrics, RemoteNode::new(url, "metrics"), report).await?;
        Ok(())
    }

    /// A bug, its first comment and a metric: all of them or none, whatever crashes when.
    fn create_bug(&self, title: &str, priority: i64, text: &str) -> Result<RecordId, StoreError> {
        let Self { bugs, comments, metrics, .. } = self;
        self.topology.transaction([bugs, comments, metrics], |tx| {
            let bug = record! {
                "teamId" => TEAM, "title" => title, "priority" => priority, "authorId" => self.author,
                "status" => "open",
            };
            let bug = tx.insert(bugs, bug)?;
            let mut first = comment(TEAM, text);
            first.insert("bugId".to_owned(), bug.into());
            tx.insert(comments, first)?;
            tx.insert(metrics, record! { "event" => "bug created" })?;
            Ok(bug)
        })
    }

    /// Every bug with its author's name: one moment of both databases.
    fn bugs_with_authors(&self) -> Result<Vec<String>, StoreError> {
        let pairs = self.bugs.join(&self.users).on("authorId", "id").order_by("title").all()?;
        let line =
            |title: &Record, author: &Record| format!("{} ({})", text(title, "title"), text(author, "name"));
        Ok(pairs.iter().filter_map(|pair| Some(line(&pair.left, pair.right.as_ref()?))).collect())
    }

    /// The urgent bugs that are open, and then what changes among them.
    fn urgent(&self) -> Result<LiveQuery, StoreError> {
        self.bugs.query().filter(field("priority").gt(5) & field("status").eq("open")).watch()
    }

    /// Waits until every link is caught up.
    async fn sync(&self) -> Outcome<()> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let behind = self.topology.sync(Duration::from_secs(1)).await;
            if behind.is_empty() {
                return Ok(());
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(format!("not caught up: {behind:?}").into());
            }
            self.topology.retry_now();
        }
    }
}

fn open(dir: &Path, node: &str, name: &str) -> Result<Database, StoreError> {
    // A real application asks its user, or the system's key store.
    Database::open(dir.join(format!("{node}-{name}.blazedb")), Password::from("an example"))
}

fn user(number: u8) -> RecordId {
    RecordId::from_bytes([number; 16])
}

fn comment(team: &str, text: &str) -> blazedb::Fields {
    record! { "teamId" => team, "text" => text }
}

fn text(record: &Record, field: &str) -> String {
    match record.fields.get(field) {
        Some(blazedb::Value::String(text)) => text.clone(),
        _ => "?".to_owned(),
    }
}

/// The next difference of a live list, in words.
async fn next(live: &mut LiveQuery, bugs: &Database) -> Outcome<String> {
    let event = tokio::time::timeout(PATIENCE, live.next()).await??;
    Ok(match event {
        Some(LiveEvent::Added(bug)) => format!("+ {}", text(&bug, "title")),
        Some(LiveEvent::Changed(bug)) => format!("* {}", text(&bug, "title")),
        Some(LiveEvent::Removed(id)) => {
            format!("- {}", bugs.get(id)?.map_or_else(|| "?".to_owned(), |bug| text(&bug, "title")))
        }
        None => "closed".to_owned(),
    })
}

/// Runs the story and tells it line by line.
pub(crate) async fn run(dir: &Path, out: &mut impl Write) -> Outcome<()> {
    let hub = Hub::start(dir).await?;
    writeln!(out, "hub: serves {}", hub.databases.keys().copied().collect::<Vec<_>>().join(", "))?;
    let sealed = Encryption::e2e_only(["teamId"]);
    let own = |bugs: &Database| bugs.store().create_keyring("anna", sealed, None);
    let anna = Tracker::open(dir, &hub, ("anna", user(1)), own).await?;
    writeln!(out, "anna: made the keys of bugs, and connected five databases")?;

    let crash = anna.create_bug("crash on start", 8, "starts, then crashes")?;
    anna.create_bug("slow search", 3, "takes a second")?;
    anna.drafts.insert(record! { "title" => "not sure yet" })?;
    anna.sync().await?;
    writeln!(out, "anna: created 2 bugs, each with a comment and a metric in one transaction")?;
    writeln!(out, "anna: {}", anna.bugs_with_authors()?.join(", "))?;
    let readable = hub.database("bugs")?.query().all()?;
    let fields: Vec<&str> = readable.iter().flat_map(|bug| bug.fields.keys().map(String::as_str)).collect();
    writeln!(out, "hub: holds {} bugs, and can read of them: {}", readable.len(), fields.join(", "))?;

    let code = anna.bugs.store().invite_member("ben", true)?;
    anna.sync().await?;
    let join = |bugs: &Database| bugs.store().join_keyring(&code, "ben").map(drop);
    let ben = Tracker::open(dir, &hub, ("ben", user(2)), join).await?;
    ben.sync().await?;
    writeln!(out, "ben: joined by anna's invitation: {}", ben.bugs_with_authors()?.join(", "))?;

    let mut live = ben.urgent()?;
    writeln!(out, "ben: live list: {}", next(&mut live, &ben.bugs).await?)?;
    anna.create_bug("battery drain", 9, "drains over night")?;
    writeln!(out, "ben: live list: {}", next(&mut live, &ben.bugs).await?)?;
    anna.bugs.update(crash, record! { "status" => "closed" })?;
    writeln!(out, "ben: live list: {}", next(&mut live, &ben.bugs).await?)?;
    ben.create_bug("typo in menu", 2, "says Flie")?;
    for tracker in [&ben, &anna] {
        tracker.sync().await?;
    }
    writeln!(out, "anna: {}", anna.bugs_with_authors()?.join(", "))?;

    let (here, there) = (ben.comments.query().count()?, ben.topology.remote(&ben.comments)?);
    writeln!(out, "ben: has {here} comments of his team; the hub has {}", there.query().count().await?)?;
    for hit in there.search("start*").all().await? {
        writeln!(out, "ben: the hub found in comments of {}: {}", text(&hit.record, "teamId"), hit.snippet)?;
    }
    for group in there.query().group_by(["teamId"]).count().order_by("teamId").all().await? {
        let column = |name: &str| group.get(name).map_or_else(String::new, ToString::to_string);
        writeln!(out, "ben: the hub counted comments of {}: {}", column("teamId"), column("count"))?;
    }
    let refused = ben.topology.remote(&ben.bugs)?.search("crash").all().await;
    writeln!(
        out,
        "ben: {}",
        refused.err().map_or_else(|| "found sealed bugs?".to_owned(), |no| no.to_string())
    )?;

    let collected = hub.database("metrics")?.query().count()?;
    writeln!(out, "hub: collected {collected} metrics; ben has {} of his own", ben.metrics.query().count()?)?;
    let drafts = [&anna, &ben].map(|tracker| tracker.drafts.query().count());
    let [of_anna, of_ben] = drafts;
    writeln!(out, "drafts: {} on anna's device, {} on ben's, none at the hub", of_anna?, of_ben?)?;

    anna.topology.shutdown().await;
    ben.topology.shutdown().await;
    hub.listener.stop().await;
    Ok(())
}

/// A directory of its own, removed when this is dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> std::io::Result<Self> {
        let path = std::env::temp_dir().join(format!("blazedb-bug-tracker-{}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let scratch = Scratch::new()?;
    run(&scratch.0, &mut std::io::stdout()).await
}
