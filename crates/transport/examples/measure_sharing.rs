//! One connection for each pair of databases, or one for all pairs of two nodes? Measures what either costs on this machine, over
//! a line of 10 MB/s: sockets, memory, and how long a small change of one database waits while another one sends a lot.
//! The figures of `docs/decisions/0016-live-links.md` come from here.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a measurement that can't go on stops where it stands"
)]

mod measuring;

use std::sync::Arc;
use std::time::{Duration, Instant};

use blazedb_transport::{Connection, FrameSender};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, mpsc};

use crate::measuring::{Ends, resident_kib};

/// What the line carries in a second, all connections together, in bytes.
const LINE: f64 = 10e6;
/// Pieces of the large messages, where they are cut for the sake of the small ones.
const PIECE: usize = 16 << 10;
const LARGE: usize = 1 << 20;
const LARGE_COUNT: usize = 32;
const SMALL: usize = 300;
const SMALL_COUNT: usize = 400;

#[tokio::main]
async fn main() {
    let world = at_the_line().await;
    costs(&world).await;
    for (name, sharing) in [
        ("one connection each", Sharing::No),
        ("one connection, messages in turn", Sharing::Whole),
        ("one connection, messages cut into pieces", Sharing::Pieces),
    ] {
        let mut waits = waits(&world, sharing).await;
        waits.sort_unstable();
        let at = |share: usize| waits[(waits.len() - 1) * share / 100].as_secs_f64() * 1e3;
        println!(
            "{name}: a small change waits {:.1} ms (median), {:.1} ms (99 %), {:.1} ms at most",
            at(50),
            at(99),
            at(100)
        );
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sharing {
    No,
    Whole,
    Pieces,
}

/// Two ends with the line between them.
async fn at_the_line() -> Ends {
    let line = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = line.local_addr().unwrap();
    Ends::by_way_of(|far| {
        tokio::spawn(relay(line, far));
        near
    })
    .await
}

/// Both directions of every connection over one line of limited speed.
async fn relay(line: TcpListener, to: std::net::SocketAddr) {
    let free_at = Arc::new(Mutex::new(tokio::time::Instant::now()));
    loop {
        let (near, _) = line.accept().await.unwrap();
        let far = TcpStream::connect(to).await.unwrap();
        for stream in [&near, &far] {
            stream.set_nodelay(true).unwrap();
        }
        let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
        for (mut read, mut write) in [(near_read, far_write), (far_read, near_write)] {
            let free_at = Arc::clone(&free_at);
            tokio::spawn(async move {
                let mut piece = vec![0; PIECE];
                while let Ok(length) = read.read(&mut piece).await {
                    if length == 0 {
                        break;
                    }
                    {
                        // The line is a queue: whoever comes next waits until it is free.
                        let mut free = free_at.lock().await;
                        tokio::time::sleep_until(*free).await;
                        *free = tokio::time::Instant::now() + Duration::from_secs_f64(length as f64 / LINE);
                    }
                    if write.write_all(&piece[..length]).await.is_err() {
                        break;
                    }
                }
            });
        }
    }
}

async fn costs(world: &Ends) {
    let (before, count) = (resident_kib(), 400);
    let begun = Instant::now();
    let mut kept = Vec::new();
    for _ in 0..count {
        kept.push(world.connection().await);
    }
    let each = begun.elapsed().as_secs_f64() * 1e3 / f64::from(count);
    println!(
        "a connection: 1 socket and {:.1} KiB at each end (this relay's share included), {each:.1} ms to open",
        (resident_kib() - before) as f64 / f64::from(count) / 2.0
    );
}

/// How long each small message took, sent every few milliseconds while large ones are under way.
async fn waits(world: &Ends, sharing: Sharing) -> Vec<Duration> {
    let begun = Instant::now();
    let (large_end, mut large_far) = world.connection().await;
    let (small_tx, small_rx) = mpsc::unbounded_channel::<Vec<u8>>();
    let (told, mut heard) = mpsc::unbounded_channel::<Duration>();
    let receive = move |mut connection: Connection, told: mpsc::UnboundedSender<Duration>| async move {
        while let Ok(Some(frame)) = connection.receiver.recv().await {
            if frame.len() == SMALL {
                let sent = u64::from_le_bytes(frame[..8].try_into().unwrap());
                let _ = told.send(begun.elapsed() - Duration::from_nanos(sent));
            }
        }
    };
    if sharing == Sharing::No {
        let (small_end, small_far) = world.connection().await;
        tokio::spawn(receive(small_far, told.clone()));
        tokio::spawn(send_all(small_end, small_rx, 0, LARGE));
        let (_, none) = mpsc::unbounded_channel();
        tokio::spawn(send_all(large_end, none, LARGE_COUNT, LARGE));
        tokio::spawn(async move { while let Ok(Some(_)) = large_far.receiver.recv().await {} });
    } else {
        tokio::spawn(receive(large_far, told.clone()));
        let cut = if sharing == Sharing::Whole { LARGE } else { PIECE };
        tokio::spawn(send_all(large_end, small_rx, LARGE_COUNT * LARGE / cut, cut));
    }
    for _ in 0..SMALL_COUNT {
        let mut small = vec![0; SMALL];
        let now = u64::try_from(begun.elapsed().as_nanos()).unwrap();
        small[..8].copy_from_slice(&now.to_le_bytes());
        small_tx.send(small).unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut waits = Vec::new();
    while waits.len() < SMALL_COUNT {
        waits.push(heard.recv().await.unwrap());
    }
    waits
}

/// Sends what is there of the small ones, then one of the large ones, and so on.
async fn send_all(
    connection: Connection,
    mut small: mpsc::UnboundedReceiver<Vec<u8>>,
    large: usize,
    length: usize,
) {
    let Connection { mut sender, receiver: _receiver, .. } = connection;
    let body = vec![7; length];
    for _ in 0..large {
        while let Ok(frame) = small.try_recv() {
            send(&mut sender, &frame).await;
        }
        send(&mut sender, &body).await;
    }
    while let Some(frame) = small.recv().await {
        send(&mut sender, &frame).await;
    }
    std::future::pending::<()>().await;
}

async fn send(sender: &mut FrameSender, frame: &[u8]) {
    if sender.send(&[frame]).await.is_ok() {
        let _ = sender.flush().await;
    }
}
