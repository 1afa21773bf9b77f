//! A TCP relay in front of a node: counts what passes, and how often somebody came.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A relay; it runs until the process ends.
pub(crate) struct Proxy {
    pub(crate) address: String,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    up: AtomicU64,
    down: AtomicU64,
    connections: AtomicU64,
}

impl Proxy {
    pub(crate) fn before(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let counts = Arc::<Counts>::default();
        let (target, shared) = (target.to_owned(), Arc::clone(&counts));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                shared.connections.fetch_add(1, Ordering::SeqCst);
                let Ok(server) = TcpStream::connect(&target) else { continue };
                relay(&client, &server, &shared, |counts| &counts.up);
                relay(&server, &client, &shared, |counts| &counts.down);
            }
        });
        Self { address, counts }
    }

    /// Bytes to the node and from it since the last call.
    pub(crate) fn take(&self) -> (u64, u64) {
        (self.counts.up.swap(0, Ordering::SeqCst), self.counts.down.swap(0, Ordering::SeqCst))
    }

    /// Bytes both ways since the last call.
    pub(crate) fn total(&self) -> u64 {
        let (up, down) = self.take();
        up + down
    }

    pub(crate) fn connections(&self) -> u64 {
        self.counts.connections.load(Ordering::SeqCst)
    }
}

fn relay(from: &TcpStream, to: &TcpStream, counts: &Arc<Counts>, which: fn(&Counts) -> &AtomicU64) {
    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
    let counts = Arc::clone(counts);
    let _ = to.set_nodelay(true);
    std::thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            which(&counts).fetch_add(read as u64, Ordering::SeqCst);
            if to.write_all(&buffer[..read]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    });
}
