//! Frames between a session and the connection.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use blazedb_core::limits::OUTBOX_BYTES;
use blazedb_core::session::Frame;
use blazedb_transport::{FrameSender, SendError};

/// Frames on their way from a session to its writer. Nobody is woken: the two are polled one after the other.
#[derive(Default)]
pub(super) struct Outbox {
    frames: Mutex<VecDeque<Frame>>,
    /// What those come to.
    bytes: AtomicUsize,
    closed: AtomicBool,
}

impl Outbox {
    pub(super) fn push(&self, frame: Frame) {
        self.bytes.fetch_add(cost(&frame), Ordering::Relaxed);
        self.frames.lock().unwrap_or_else(PoisonError::into_inner).push_back(frame);
    }

    /// Whether the other side takes less than it asks for.
    pub(super) fn is_full(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) >= OUTBOX_BYTES
    }

    /// Comes when it is not full any more. Whoever takes frames out wakes the task.
    pub(super) async fn room(&self) {
        poll_fn(|_| if self.is_full() { Poll::Pending } else { Poll::Ready(()) }).await;
    }

    /// No frame will come any more.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    fn pop(&self) -> Option<Frame> {
        let mut frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        let frame = frames.pop_front();
        self.bytes.fetch_sub(frame.as_ref().map_or(0, cost), Ordering::Relaxed);
        if frames.is_empty() {
            // An idle connection keeps nothing.
            *frames = VecDeque::new();
        }
        frame
    }

    /// The next frame; `None` when none will come.
    fn poll_pop(&self) -> Poll<Option<Frame>> {
        match self.pop() {
            Some(frame) => Poll::Ready(Some(frame)),
            None if self.closed.load(Ordering::Relaxed) => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

/// What a frame that waits comes to, in bytes.
fn cost(frame: &Frame) -> usize {
    size_of::<Frame>() + frame.head.len() + frame.shared.as_ref().map_or(0, |shared| shared.bytes().len())
}

/// Sends frames until none will come.
pub(super) async fn write_frames(mut sender: FrameSender, outbox: Arc<Outbox>) -> Result<(), SendError> {
    while let Some(frame) = poll_fn(|_| outbox.poll_pop()).await {
        let mut next = Some(frame);
        while let Some(frame) = next {
            sender.send(&frame.parts()).await?;
            next = outbox.pop();
        }
        sender.flush().await?;
    }
    sender.close().await
}
