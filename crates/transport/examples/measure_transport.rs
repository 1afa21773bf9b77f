//! Measures the transport on this machine: handshakes, throughput, memory of idle connections. Both ends run in
//! this process. The figures of `docs/decisions/0003-transport.md` come from here.
#![allow(clippy::unwrap_used)]

mod measuring;

use std::time::{Duration, Instant};

use blazedb_transport::noise::{Prologue, initiate, respond};
use blazedb_transport::{Connection, Identity};

use crate::measuring::{Ends, resident_kib};

#[tokio::main]
async fn main() {
    let hub = Ends::by_way_of(|address| address).await;
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

async fn connections(hub: &Ends) {
    let (begun, rounds) = (Instant::now(), 1_000);
    for _ in 0..rounds {
        hub.connection().await;
    }
    println!("connections, one after the other: {:.0}/s", f64::from(rounds) / begun.elapsed().as_secs_f64());
}

async fn throughput(hub: &Ends, length: usize, count: usize) {
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

async fn idle_memory(hub: &Ends, first: usize) -> Vec<(Connection, Connection)> {
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
