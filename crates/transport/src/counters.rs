//! What a connection has carried so far.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts of one connection, shared between its halves and whoever watches. Bytes are those of the messages'
/// payload, sealed where they are sealed: without the headers of WebSocket, TLS and TCP.
#[derive(Debug, Default)]
pub struct LinkCounters {
    bytes_sent: AtomicU64,
    bytes_received: AtomicU64,
    frames_sent: AtomicU64,
    frames_received: AtomicU64,
}

/// One reading of [`LinkCounters`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LinkTotals {
    /// Bytes handed to the connection.
    pub bytes_sent: u64,
    /// Bytes received whole.
    pub bytes_received: u64,
    /// Frames handed to the connection.
    pub frames_sent: u64,
    /// Frames received whole.
    pub frames_received: u64,
}

impl LinkCounters {
    /// The counts now; each is exact, together they may be of slightly different moments.
    #[must_use]
    pub fn totals(&self) -> LinkTotals {
        LinkTotals {
            bytes_sent: self.bytes_sent.load(Ordering::Relaxed),
            bytes_received: self.bytes_received.load(Ordering::Relaxed),
            frames_sent: self.frames_sent.load(Ordering::Relaxed),
            frames_received: self.frames_received.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn sent(&self, bytes: usize) {
        self.bytes_sent.fetch_add(bytes as u64, Ordering::Relaxed);
        self.frames_sent.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn received(&self, bytes: usize) {
        self.bytes_received.fetch_add(bytes as u64, Ordering::Relaxed);
        self.frames_received.fetch_add(1, Ordering::Relaxed);
    }
}
