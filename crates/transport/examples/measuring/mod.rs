//! What measurements of connections have in common: two ends in this process, and how much memory that has.

use std::net::SocketAddr;
use std::sync::Arc;

use blazedb_transport::server::{AcceptOptions, accept};
use blazedb_transport::ws::{ConnectOptions, connect};
use blazedb_transport::{Connection, Endpoint, Identity, KnownNodes, PinPolicy};
use tokio::net::TcpListener;

/// A node that listens, and another one that connects to it.
pub(crate) struct Ends {
    endpoint: Endpoint,
    listener: TcpListener,
    identity: Arc<Identity>,
    device: Identity,
    pins: PinPolicy,
}

impl Ends {
    /// Connections are led over what `way` answers for the listener's address.
    pub(crate) async fn by_way_of(way: impl FnOnce(SocketAddr) -> SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = way(listener.local_addr().unwrap());
        Self {
            endpoint: format!("ws://{address}").parse().unwrap(),
            listener,
            identity: Arc::new(Identity::generate().unwrap()),
            device: Identity::generate().unwrap(),
            pins: PinPolicy::FirstUse(Arc::new(KnownNodes::in_memory())),
        }
    }

    pub(crate) async fn connection(&self) -> (Connection, Connection) {
        let options = ConnectOptions::default();
        let dialling = connect(&self.endpoint, "bugs", "bugs", &self.device, &self.pins, &options);
        let accepting = async {
            let (stream, _) = self.listener.accept().await.unwrap();
            accept(stream, &self.identity, &AcceptOptions::default(), |_| Ok(())).await.unwrap()
        };
        let (device, accepted) = tokio::join!(dialling, accepting);
        let mut accepted = accepted.connection;
        accepted.receiver.admit();
        (device.unwrap(), accepted)
    }
}

pub(crate) fn resident_kib() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    line.and_then(|line| line.split_whitespace().nth(1)).and_then(|kib| kib.parse().ok()).unwrap_or(0)
}
