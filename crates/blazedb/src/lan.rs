//! The local network: says that this node is there, and listens for others (multicast DNS, RFC 6762 and 6763).
//!
//! What is said is [`Announcement`]; whatever is heard is a hint where to knock, nothing more.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use blazedb_core::NodeId;
use blazedb_core::limits::{MAX_FOUND_PEERS, MAX_PEER_ADDRESSES};
use blazedb_core::topology::announce::{Announcement, SALT_BYTES};
use blazedb_transport::{Endpoint, Fingerprint};
use mdns_sd::{IfKind, ResolvedService, ServiceDaemon, ServiceEvent, ServiceInfo};
use tokio::sync::Notify;

/// The kind of service that nodes are.
const SERVICE: &str = "_blazedb._tcp.local.";
/// How often the addresses of this machine are looked at.
const LOOK_AT_ADDRESSES_S: u32 = 2;
/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_millis(500);

/// The local network can't be used.
#[derive(Debug, thiserror::Error)]
#[error("looking for peers on the local network: {0}")]
pub struct LanError(#[from] mdns_sd::Error);

/// A node that was heard of.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Sighting {
    pub(crate) key: Fingerprint,
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) announcement: Announcement,
}

/// Those that were heard of, by their keys' nodes.
type Heard = BTreeMap<NodeId, Sighting>;

/// This node's part in the local network.
pub(crate) struct Lan {
    daemon: ServiceDaemon,
    heard: Arc<Mutex<Heard>>,
    said: Mutex<Option<String>>,
    listener: tokio::task::JoinHandle<()>,
}

impl Lan {
    /// Listens for others from now on; `news` is told when there are any. This machine alone, if `only_here`.
    pub(crate) fn new(own: NodeId, only_here: bool, news: Arc<Notify>) -> Result<Self, LanError> {
        let daemon = ServiceDaemon::new()?;
        daemon.set_ip_check_interval(LOOK_AT_ADDRESSES_S)?;
        if only_here {
            daemon.disable_interface(IfKind::All)?;
            daemon.enable_interface(IfKind::LoopbackV4)?;
        }
        let events = daemon.browse(SERVICE)?;
        let heard = Arc::<Mutex<Heard>>::default();
        let notes = Arc::clone(&heard);
        let listener = tokio::spawn(async move {
            let mut names = HashMap::new();
            while let Ok(event) = events.recv_async().await {
                if note(&notes, &mut names, own, event) {
                    news.notify_one();
                }
            }
        });
        Ok(Self { daemon, heard, said: Mutex::default(), listener })
    }

    /// Says that this node serves `databases` at `address` and knows the keys of `issuers`, in place of what was said before.
    pub(crate) fn say<'n>(
        &self,
        key: Fingerprint,
        address: SocketAddr,
        tls: bool,
        databases: impl IntoIterator<Item = &'n str>,
        issuers: impl IntoIterator<Item = &'n [u8]>,
    ) -> Result<(), LanError> {
        let mut salt = [0; SALT_BYTES];
        // Without randomness names are told apart less well, and nothing else.
        let _ = aws_lc_rs::rand::fill(&mut salt);
        let said = Announcement::new(key.to_string(), tls, salt, databases, issuers);
        let instance = key.node_id().to_string();
        let host = format!("{instance}.local.");
        let properties: HashMap<String, String> = said.properties().into_iter().collect();
        let ip = if address.ip().is_unspecified() { String::new() } else { address.ip().to_string() };
        let mut service =
            ServiceInfo::new(SERVICE, &instance, &host, ip.as_str(), address.port(), properties)?;
        if address.ip().is_unspecified() {
            service = service.enable_addr_auto();
        }
        if address.ip().is_loopback() {
            service.set_interfaces(vec![IfKind::LoopbackV4]);
        }
        // The name holds the key's hash: nobody else has it by accident.
        service.set_requires_probe(false);
        *self.said() = Some(service.get_fullname().to_owned());
        Ok(self.daemon.register(service)?)
    }

    /// Says nothing any more.
    pub(crate) fn hush(&self) {
        if let Some(name) = self.said().take() {
            let told = self.daemon.unregister(&name);
            tracing::debug!(?told, "left the local network");
        }
    }

    /// Those that are there now.
    pub(crate) fn heard(&self) -> Heard {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn said(&self) -> MutexGuard<'_, Option<String>> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        self.listener.abort();
        let name = self.said().take();
        let told = name.and_then(|name| self.daemon.unregister(&name).ok());
        if let Some(told) = told {
            let _ = told.recv_timeout(GOODBYE);
        }
        let _ = self.daemon.shutdown();
    }
}

/// Takes note of an event. Answers whether anything has changed.
fn note(heard: &Mutex<Heard>, names: &mut HashMap<String, NodeId>, own: NodeId, event: ServiceEvent) -> bool {
    let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
    match event {
        ServiceEvent::ServiceResolved(service) => {
            let Some(sighting) = read(&service) else { return false };
            let node = sighting.key.node_id();
            if node == own || (heard.len() >= MAX_FOUND_PEERS && !heard.contains_key(&node)) {
                return false;
            }
            names.insert(service.fullname, node);
            heard.insert(node, sighting.clone()) != Some(sighting)
        }
        ServiceEvent::ServiceRemoved(_, name) => {
            names.remove(&name).is_some_and(|node| heard.remove(&node).is_some())
        }
        _ => false,
    }
}

fn read(service: &ResolvedService) -> Option<Sighting> {
    let announcement = Announcement::parse(|key| service.get_property_val_str(key))?;
    let key = announcement.key.parse().ok()?;
    let scheme = if announcement.tls { "wss" } else { "ws" };
    let mut addresses: Vec<IpAddr> = service.addresses.iter().map(|scoped| scoped.to_ip_addr()).collect();
    // Link-local ones need an interface's name to be reached.
    addresses.retain(|address| !matches!(address, IpAddr::V6(ip) if ip.is_unicast_link_local()));
    addresses.sort_unstable();
    let endpoint = |address: IpAddr| {
        let authority = SocketAddr::new(address, service.port);
        format!("{scheme}://{authority}").parse::<Endpoint>().ok()
    };
    let endpoints: Vec<Endpoint> =
        addresses.into_iter().filter_map(endpoint).take(MAX_PEER_ADDRESSES).collect();
    (!endpoints.is_empty()).then_some(Sighting { key, endpoints, announcement })
}
