//! A node in a process of its own: what [`crate::process`] talks to.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use blazedb::{
    AccessRules, Database, Durability, Encryption, Identity, Password, RecordId, RemoteNode, StoreOptions,
    SyncPolicy, Topology, record,
};
use blazedb_core::topology::{PasswordRule, ServeMode};
use blazedb_hub::api::{AdminServer, admin_routes, read_topology};
use blazedb_hub::auth::Authenticator;
use blazedb_hub::{Listener, ListenerOptions, OpenMode, Served};

use crate::error::BenchError;
use crate::process::{Answer, Ask};
use crate::{records, usage};

/// The password of every database of a measurement.
const PASSPHRASE: &str = "benchmark of members";
/// The password of every encrypted file of a benchmark.
pub(crate) const PASSWORD: &str = "correct horse battery staple";

/// Runs a node that does what its stdin says until it ends.
///
/// # Errors
/// [`BenchError`] if stdin or stdout fail. What fails in the node is an answer.
pub fn serve() -> Result<(), BenchError> {
    usage::raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_keep_alive(blazedb_hub::SPARE_THREAD)
        .enable_all()
        .build()?;
    let mut node = NodeState::default();
    for line in std::io::stdin().lock().lines() {
        let ask: Ask = serde_json::from_str(&line?)?;
        let stop = matches!(ask, Ask::Stop);
        let begin = Instant::now();
        let answer = match runtime.block_on(node.carry_out(ask)) {
            Ok(answer) => Answer { seconds: begin.elapsed().as_secs_f64(), ..answer },
            Err(error) => Answer { error: error.to_string(), ..Answer::default() },
        };
        let mut line = serde_json::to_string(&answer)?;
        line.push('\n');
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(line.as_bytes())?;
        stdout.flush()?;
        if stop {
            break;
        }
    }
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(())
}

#[derive(Default)]
struct NodeState {
    databases: BTreeMap<String, Database>,
    topologies: Vec<Topology>,
    listener: Option<Listener>,
    whole: Option<(Arc<blazedb_hub::Node>, AdminServer)>,
}

impl NodeState {
    async fn carry_out(&mut self, ask: Ask) -> Result<Answer, BenchError> {
        let mut answer = Answer::default();
        match ask {
            Ask::Open { dir, names, keyed, durable } => {
                for name in names {
                    let database = open(&dir, &name, keyed, durable)?;
                    self.databases.insert(name, database);
                }
            }
            Ask::Insert { name, from, count, batch } => insert(self.database(&name)?, from, count, batch)?,
            Ask::Change { name, every } => change(self.database(&name)?, every)?,
            Ask::Listen => answer.address = self.listen().await?,
            Ask::Serve { dir, names } => (answer.address, answer.admin) = self.serve(&dir, &names).await?,
            Ask::Link { name, remote, url, compression, times } => {
                for _ in 0..times {
                    self.link(&name, &remote, &url, compression).await?;
                }
            }
            Ask::Unlink => {
                for topology in std::mem::take(&mut self.topologies) {
                    topology.shutdown().await;
                }
            }
            Ask::Seal { name, create } => {
                let store = self.database(&name)?.store();
                if create {
                    let rule = Encryption::e2e_only(["product"]);
                    store.create_keyring(&name, rule, Some(PASSPHRASE))?;
                } else {
                    store.join_keyring(PASSPHRASE, &name)?;
                }
            }
            Ask::Sync { seconds } => self.sync(Duration::from_secs(seconds)).await?,
            Ask::Reach { head, seconds } => self.reach(head, Duration::from_secs(seconds)).await?,
            Ask::ReachOne { name, head, seconds } => {
                reach(self.database(&name)?, head, Duration::from_secs(seconds)).await?;
            }
            Ask::Usage { name } => self.usage(&name, &mut answer)?,
            Ask::Stop => {}
        }
        Ok(answer)
    }

    fn database(&self, name: &str) -> Result<&Database, BenchError> {
        self.databases.get(name).ok_or_else(|| BenchError::Node(format!("database {name} is not open")))
    }

    async fn listen(&mut self) -> Result<String, BenchError> {
        let serve = |database: &Database| Served {
            database: database.clone(),
            serve: ServeMode::Bidirectional,
            access: Arc::new(AccessRules::public()),
        };
        let served = self.databases.iter().map(|(name, database)| (name.clone(), serve(database)));
        let options =
            ListenerOptions { auth: Arc::new(Authenticator::anonymous()), ..ListenerOptions::default() };
        let identity = Arc::new(identity()?);
        let listener = Listener::bind("127.0.0.1:0", identity, served.collect(), options).await?;
        let address = listener.address().to_string();
        self.listener = Some(listener);
        Ok(address)
    }

    /// Opens a node as `blazedb up` does.
    async fn serve(&mut self, dir: &Path, names: &[String]) -> Result<(String, String), BenchError> {
        let failed = |error: &dyn std::fmt::Display| BenchError::Node(error.to_string());
        std::fs::create_dir_all(dir)?;
        let mut text =
            "[node]\nname = 'hub'\ndata = 'data'\nlisten = '127.0.0.1:0'\n[auth]\nanonymous = true\n"
                .to_owned();
        for name in names {
            text += &format!(
                "[databases.{name}]\nplaintext = true\nserve = 'bidirectional'\naccess = {{ public = true }}\n"
            );
        }
        let spec = read_topology(&text, "hub", PasswordRule::Required).map_err(|error| failed(&error))?;
        let node = blazedb_hub::Node::open(spec, &dir.join("blazedb.toml"), OpenMode::Serve, None).await;
        let node = Arc::new(node.map_err(|error| failed(&error))?);
        let routes = admin_routes(Arc::clone(&node), OpenMode::Serve);
        let admin = AdminServer::start("127.0.0.1:0", None, routes).await.map_err(|error| failed(&error))?;
        let address = node.listener().map(|listener| listener.address().to_string()).unwrap_or_default();
        self.databases.extend(node.databases());
        let addresses = (address, admin.address().to_string());
        self.whole = Some((node, admin));
        Ok(addresses)
    }

    async fn link(
        &mut self,
        name: &str,
        remote: &str,
        url: &str,
        compression: bool,
    ) -> Result<(), BenchError> {
        let topology = link(self.database(name)?, name, remote, url, compression).await?;
        self.topologies.push(topology);
        Ok(())
    }

    async fn sync(&self, wait: Duration) -> Result<(), BenchError> {
        for topology in &self.topologies {
            caught_up(topology, wait).await?;
        }
        Ok(())
    }

    async fn reach(&self, head: u64, wait: Duration) -> Result<(), BenchError> {
        for database in self.databases.values() {
            reach(database, head, wait).await?;
        }
        Ok(())
    }

    fn usage(&self, name: &str, answer: &mut Answer) -> Result<(), BenchError> {
        (answer.rss_kib, answer.peak_kib) = usage::memory_kib()?;
        answer.cpu_seconds = usage::process_cpu().as_secs_f64();
        for (_, link) in self.topologies.iter().flat_map(Topology::links) {
            answer.wire_bytes += link.traffic.bytes_sent + link.traffic.bytes_received;
        }
        if let Some(database) = self.databases.get(name) {
            answer.head = database.store().head();
            answer.encoded = database.batches_encoded();
        }
        answer.open = self.listener.as_ref().map_or(0, |listener| listener.stats().open());
        Ok(())
    }
}

pub(crate) fn identity() -> Result<Identity, BenchError> {
    Identity::generate().map_err(|error| BenchError::Node(error.to_string()))
}

pub(crate) fn open(dir: &Path, name: &str, keyed: bool, durable: bool) -> Result<Database, BenchError> {
    let password = if keyed { Password::from(PASSWORD) } else { Password::Plaintext };
    let durability = if durable { Durability::Full } else { Durability::Normal };
    let options = StoreOptions { durability, ..StoreOptions::default() };
    Ok(Database::open_with(dir.join(format!("{name}.blazedb")), &password, options)?)
}

/// A new node that links `database` with `remote` at `url`.
pub(crate) async fn link(
    database: &Database,
    name: &str,
    remote: &str,
    url: &str,
    compression: bool,
) -> Result<Topology, BenchError> {
    let topology = Topology::new(identity()?);
    let node = topology.register(database, name)?;
    let store = database.store();
    let sealed = store.keyring().is_some() || store.waits_to_join()?;
    let encryption = if sealed { Encryption::e2e_only(["product"]) } else { Encryption::SmartProxy };
    let policy = SyncPolicy::new().compression(compression).encryption(encryption);
    topology.connect_remote(node, RemoteNode::new(url, remote), policy).await?;
    Ok(topology)
}

pub(crate) async fn caught_up(topology: &Topology, wait: Duration) -> Result<(), BenchError> {
    match topology.sync(wait).await.into_iter().next() {
        Some(link) => Err(BenchError::Behind { waited: wait, link: Box::new(link) }),
        None => Ok(()),
    }
}

/// Waits until the feed of `database` has come to `head`.
pub(crate) async fn reach(database: &Database, head: u64, wait: Duration) -> Result<(), BenchError> {
    let mut heads = database.watch_head();
    let arrived = tokio::time::timeout(wait, heads.wait_for(|now| *now >= head)).await;
    match arrived {
        Ok(_) => Ok(()),
        Err(_) => Err(BenchError::Missing { found: database.store().head(), expected: head, waited: wait }),
    }
}

pub(crate) fn insert(database: &Database, from: u64, count: u64, batch: u64) -> Result<(), BenchError> {
    let end = from + count;
    let mut next = from;
    while next < end {
        let here = batch.max(1).min(end - next);
        database.insert_many(records::records(next, here))?;
        next += here;
    }
    Ok(())
}

fn change(database: &Database, every: usize) -> Result<(), BenchError> {
    let mut ids: Vec<RecordId> = Vec::new();
    let mut seen = 0;
    database.store().export(|record| {
        if seen % every.max(1) == 0 {
            ids.push(record.id);
        }
        seen += 1;
        true
    })?;
    for id in ids {
        database.update(id, record! { "status" => "Reopened", "mod_count" => 99 })?;
    }
    Ok(())
}

/// A hub in this process with one database, encrypted and durable; answers its listener and its address.
pub(crate) async fn hub(dir: &Path) -> Result<(Listener, String), BenchError> {
    let mut node = NodeState::default();
    node.databases.insert("hub".to_owned(), open(dir, "hub", true, true)?);
    let address = node.listen().await?;
    node.listener.map(|listener| (listener, format!("ws://{address}"))).ok_or(BenchError::NodeGone)
}
