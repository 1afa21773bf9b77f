//! Measures the transport on this machine: handshakes, throughput, memory of idle connections. Both ends run in
//! this process. The figures of `docs/decisions/0003-transport.md` come from here.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use blazedb_transport::noise::{Prologue, initiate, respond};
use blazedb_transport::server::{AcceptOptions, accept};
use blazedb_transport::ws::{ConnectOptions, connect};
use blazedb_transport::{Connection, Endpoint, Identity, KnownNodes, PinPolicy};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() {
    let hub = Hub::start().await;
    // First of all, while no freed memory of another measurement hides what is taken.
    let idle = idle_memory(&hub, 0).await;
    let used = idle_memory(&hub, 1 << 20).await;
    drop((idle, used));
    handshakes();
    connections(&hub).await;
    for (length, count) in [(100, 500_000), (4 << 10, 200_000), (256 << 10, 8_000), (8 << 20, 200)] {
        throughput(&hub, length, count).await;
    }
}

fn handshakes() {
    let (left, right) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let prologue = Prologue::new("bugs", "bugs");
    let (begun, rounds) = (Instant::now(), 2_000);
    for _ in 0..rounds {
        let (reply, first) = initiate(&left, &prologue).unwrap();
        let (last, second) = respond(&right, &prologue, &first).unwrap();
        let (_, third) = reply.read(&second).unwrap().finish().unwrap();
        last.read(&third).unwrap();
    }
    println!("handshakes, both ends on one core: {:.0}/s", f64::from(rounds) / begun.elapsed().as_secs_f64());
}

struct Hub {
    endpoint: Endpoint,
    listener: TcpListener,
    identity: Arc<Identity>,
    device: Identity,
    pins: PinPolicy,
}

impl Hub {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self {
            endpoint: format!("ws://{}", listener.local_addr().unwrap()).parse().unwrap(),
            listener,
            identity: Arc::new(Identity::generate().unwrap()),
            device: Identity::generate().unwrap(),
            pins: PinPolicy::FirstUse(Arc::new(KnownNodes::in_memory())),
        }
    }

    async fn connection(&self) -> (Connection, Connection) {
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

async fn connections(hub: &Hub) {
    let (begun, rounds) = (Instant::now(), 1_000);
    for _ in 0..rounds {
        hub.connection().await;
    }
    println!("connections, one after the other: {:.0}/s", f64::from(rounds) / begun.elapsed().as_secs_f64());
}

async fn throughput(hub: &Hub, length: usize, count: usize) {
    let (mut device, mut accepted) = hub.connection().await;
    let begun = Instant::now();
    let sending = tokio::spawn(async move {
        let body = vec![7; length];
        for _ in 0..count {
            device.sender.send(&[&body]).await.unwrap();
        }
        device.sender.flush().await.unwrap();
        device
    });
    for _ in 0..count {
        accepted.receiver.recv().await.unwrap().unwrap();
    }
    let seconds = begun.elapsed().as_secs_f64();
    sending.await.unwrap();
    let (rate, megabytes) = (count as f64 / seconds, (count * length) as f64 / 1e6 / seconds);
    println!("frames of {length} bytes, one way: {rate:.0}/s, {megabytes:.0} MB/s");
}

async fn idle_memory(hub: &Hub, first: usize) -> Vec<(Connection, Connection)> {
    let (before, count) = (resident_kib(), 1_500);
    let mut kept = Vec::new();
    for _ in 0..count {
        let (mut device, mut accepted) = hub.connection().await;
        let body = vec![7; first];
        let (sent, received) = tokio::join!(
            async {
                device.sender.send(&[&body]).await.unwrap();
                device.sender.flush().await
            },
            accepted.receiver.recv()
        );
        sent.unwrap();
        received.unwrap();
        kept.push((device, accepted));
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let each = (resident_kib() - before) / (count * 2);
    println!("idle end of a connection that carried one frame of {first} bytes: {each} KiB resident");
    kept
}

fn resident_kib() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    line.and_then(|line| line.split_whitespace().nth(1)).and_then(|kib| kib.parse().ok()).unwrap_or(0)
}
