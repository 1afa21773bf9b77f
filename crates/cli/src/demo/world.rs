//! The nodes of the demo, each with a topology file of its own in a temporary directory.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use blazedb::{Database, LinkStatus};
use blazedb_core::topology::PasswordRule;
use blazedb_hub::api::{AdminServer, Reach, router};
use blazedb_hub::{Node, OpenMode};
use tempfile::TempDir;

use crate::load::load_topology;
use crate::output::{CliError, ErrorCode};

/// The devices: name, and how each takes part in `bugs`.
const DEVICES: [(&str, &str); 4] = [
    ("laptop", "bidirectional"),
    ("phone", "bidirectional"),
    ("tablet", "bidirectional"),
    ("kiosk", "read-only"),
];

/// The device that comes and goes.
const TRAVELLER: &str = "phone";

const HUB: &str = r#"[node]
name = "hub"
data = "hub"
listen = "127.0.0.1:0"

[auth]
anonymous = true

[databases.bugs]
password_file = "password"
indexes = ["priority"]
serve = "bidirectional"
[databases.bugs.access]
public = true

[databases.users]
password_file = "password"
serve = "broadcast"
[databases.users.access]
public = true

[databases.metrics]
password_file = "password"
serve = "aggregate"
[databases.metrics.access]
public = true
"#;

/// The nodes.
pub(crate) struct World {
    dir: TempDir,
    hub: Arc<Node>,
    admin: AdminServer,
    devices: Vec<Device>,
}

/// A device: a node that does not listen.
pub(crate) struct Device {
    pub(crate) name: &'static str,
    pub(crate) writes_bugs: bool,
    /// `None` only while it is being restarted.
    node: Option<Node>,
    online: bool,
}

impl Device {
    /// One of its databases.
    pub(crate) fn database(&self, name: &str) -> Option<Database> {
        self.node.as_ref()?.database(name)
    }

    fn links(&self) -> Vec<LinkStatus> {
        self.node.iter().flat_map(|node| node.links()).map(|(_, status)| status).collect()
    }
}

impl World {
    pub(crate) async fn start() -> Result<Self, CliError> {
        let dir = tempfile::tempdir().map_err(|error| CliError::io("temporary directory", &error))?;
        write(dir.path(), "password", &uuid_text(dir.path()))?;
        write(dir.path(), "hub.toml", HUB)?;
        let hub = open(&dir.path().join("hub.toml"), OpenMode::Serve).await?;
        let address = address_of(&hub)?;
        let hub = Arc::new(hub);
        let api = router(Arc::clone(&hub), OpenMode::Serve, Reach::Admin);
        let admin = AdminServer::start("127.0.0.1:0", None, api)
            .await
            .map_err(|error| CliError::new(ErrorCode::Failed, format!("demo: {error}")))?;
        let mut world = Self { dir, hub, admin, devices: Vec::new() };
        for (name, mode) in DEVICES {
            write(world.dir.path(), &format!("{name}.toml"), &device_file(name, mode, address))?;
            let node = Some(open(&world.file(name), OpenMode::Links).await?);
            world.devices.push(Device { name, writes_bugs: mode == "bidirectional", node, online: true });
        }
        Ok(world)
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn hub(&self) -> &Node {
        &self.hub
    }

    /// Where the hub can be looked at.
    pub(crate) const fn admin(&self) -> SocketAddr {
        self.admin.address()
    }

    pub(crate) fn devices(&self) -> &[Device] {
        &self.devices
    }

    /// The nodes and what they do, a line each.
    pub(crate) fn describe(&self) -> Vec<String> {
        let listen = self.hub.listener().map_or_else(String::new, |listener| listener.address().to_string());
        let mut lines = vec![format!(
            "hub       listens on {listen}: bugs (both ways), users (clients read), metrics (clients write)"
        )];
        for device in &self.devices {
            let links = device.links();
            let of = |name: &str| {
                links
                    .iter()
                    .find(|link| link.database == name)
                    .map_or("local-only", |link| link.mode.as_str())
            };
            lines.push(format!(
                "{:<9} bugs {}, users {}, metrics {}, drafts {}",
                device.name,
                of("bugs"),
                of("users"),
                of("metrics"),
                of("drafts")
            ));
        }
        lines
    }

    /// Takes the travelling device offline, or back online; it is edited while it is away.
    pub(crate) async fn toggle_outage(&mut self) -> Result<(), CliError> {
        let file = self.file(TRAVELLER);
        let Some(device) = self.devices.iter_mut().find(|device| device.name == TRAVELLER) else {
            return Ok(());
        };
        if let Some(node) = device.node.take() {
            node.shutdown().await;
        }
        device.online = !device.online;
        let mode = if device.online { OpenMode::Links } else { OpenMode::FilesOnly };
        device.node = Some(open(&file, mode).await?);
        Ok(())
    }

    /// Brings everybody online.
    pub(crate) async fn end_outage(&mut self) -> Result<(), CliError> {
        if self.devices.iter().all(|device| device.online) { Ok(()) } else { self.toggle_outage().await }
    }

    /// Waits until every database that is shared is the same everywhere, as far as the modes say so.
    pub(crate) async fn converge(&self, patience: Duration) -> Result<bool, CliError> {
        let deadline = Instant::now() + patience;
        loop {
            if self.has_converged()? {
                return Ok(true);
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn has_converged(&self) -> Result<bool, CliError> {
        for name in ["bugs", "users"] {
            let Some(hub) = self.hub.database(name) else { return Ok(false) };
            let hub = export(&hub)?;
            for device in &self.devices {
                let Some(database) = device.database(name) else { return Ok(false) };
                if export(&database)? != hub {
                    return Ok(false);
                }
            }
        }
        Ok(self.devices.iter().all(|device| device.links().iter().all(|link| link.pending == 0)))
    }

    /// Every link of every device.
    pub(crate) fn links(&self) -> Vec<LinkStatus> {
        self.devices.iter().flat_map(Device::links).collect()
    }

    /// Devices that are online.
    pub(crate) fn online(&self) -> usize {
        self.devices.iter().filter(|device| device.online).count()
    }

    pub(crate) async fn shutdown(self) {
        for device in &self.devices {
            if let Some(node) = &device.node {
                node.shutdown().await;
            }
        }
        self.hub.shutdown().await;
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.toml"))
    }
}

fn device_file(name: &str, bugs_mode: &str, hub: SocketAddr) -> String {
    format!(
        r#"[node]
name = "{name}"
data = "{name}"

[databases.bugs]
password_file = "password"
indexes = ["priority"]
pattern = "hub-and-spoke"
hub = "ws://{hub}"
mode = "{bugs_mode}"

[databases.users]
password_file = "password"
pattern = "broadcast"
source = "ws://{hub}"

[databases.metrics]
password_file = "password"
durability = "normal"
pattern = "aggregation"
sink = "ws://{hub}"
[databases.metrics.policy]
compression = "always"

[databases.drafts]
password_file = "password"
"#
    )
}

async fn open(file: &Path, mode: OpenMode) -> Result<Node, CliError> {
    let spec = load_topology(file, PasswordRule::Required)?;
    let node = Node::open(spec, file, mode, None).await;
    node.map_err(|error| CliError::new(ErrorCode::Failed, format!("demo: {error}")))
}

fn address_of(hub: &Node) -> Result<SocketAddr, CliError> {
    let listener = hub.listener();
    let listener =
        listener.ok_or_else(|| CliError::new(ErrorCode::Failed, "the hub of the demo does not listen"))?;
    Ok(listener.address())
}

fn write(dir: &Path, name: &str, text: &str) -> Result<(), CliError> {
    std::fs::write(dir.join(name), text).map_err(|error| CliError::io(name, &error))
}

/// A password for files that are gone when the demo ends: the random name of their directory.
fn uuid_text(dir: &Path) -> String {
    dir.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

/// The whole content of a database as text.
fn export(database: &Database) -> Result<String, CliError> {
    let mut text = String::new();
    let exported = database.store().export(|record| {
        blazedb_core::json::record_to_json_line(&record, &mut text);
        text.push('\n');
        true
    });
    exported.map_err(failed)?;
    Ok(text)
}

/// A database error inside the demo.
pub(crate) fn failed(error: blazedb::StoreError) -> CliError {
    CliError::new(ErrorCode::Failed, format!("demo: {error}"))
}
