//! Two ends in one process, for databases of the same node and for tests: the same halves, without encryption.
//!
//! Bounded in frames and in bytes: a sender waits until the other end has taken what it sent before.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::counters::LinkCounters;
use crate::frames::{FrameReceiver, FrameSender, ReceiverKind, SendError, SenderKind, join};

/// One end of a connection inside a process.
#[derive(Debug)]
pub struct MemoryEnd {
    /// The half that sends.
    pub sender: FrameSender,
    /// The half that receives.
    pub receiver: FrameReceiver,
    /// What this end has sent and received.
    pub counters: Arc<LinkCounters>,
}

/// Two connected ends. Each direction holds at most `frames` frames (at least one) and about `bytes` bytes; a frame
/// longer than `bytes` travels alone.
#[must_use]
pub fn pair(frames: usize, bytes: u32) -> (MemoryEnd, MemoryEnd) {
    let (left, right) = (Arc::new(LinkCounters::default()), Arc::new(LinkCounters::default()));
    let (to_right, from_left) = direction(frames, bytes, &left, &right);
    let (to_left, from_right) = direction(frames, bytes, &right, &left);
    (
        MemoryEnd { sender: to_right, receiver: from_right, counters: left },
        MemoryEnd { sender: to_left, receiver: from_left, counters: right },
    )
}

fn direction(
    frames: usize,
    bytes: u32,
    source: &Arc<LinkCounters>,
    target: &Arc<LinkCounters>,
) -> (FrameSender, FrameReceiver) {
    let (queue, waiting) = mpsc::channel(frames.max(1));
    let capacity = bytes.max(1);
    let room = Arc::new(Semaphore::new(capacity as usize));
    (
        FrameSender(SenderKind::Memory(MemorySender { queue, room, capacity, counters: source.clone() })),
        FrameReceiver(ReceiverKind::Memory(MemoryReceiver { waiting, counters: target.clone() })),
    )
}

type Parcel = (Vec<u8>, OwnedSemaphorePermit);

/// The sending half.
#[derive(Debug)]
pub(crate) struct MemorySender {
    queue: mpsc::Sender<Parcel>,
    room: Arc<Semaphore>,
    capacity: u32,
    counters: Arc<LinkCounters>,
}

impl MemorySender {
    pub(crate) async fn send(&mut self, parts: &[&[u8]]) -> Result<(), SendError> {
        let frame = join(parts)?;
        let bytes = frame.len();
        let needed = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.capacity);
        // A receiver that goes away drops what waits for it, which makes room: neither wait outlives it.
        let room = self.room.clone().acquire_many_owned(needed).await.map_err(|_| SendError::Closed)?;
        let slot = self.queue.reserve().await.map_err(|_| SendError::Closed)?;
        slot.send((frame, room));
        self.counters.sent(bytes);
        Ok(())
    }
}

/// The receiving half.
#[derive(Debug)]
pub(crate) struct MemoryReceiver {
    waiting: mpsc::Receiver<Parcel>,
    counters: Arc<LinkCounters>,
}

impl MemoryReceiver {
    pub(crate) async fn recv(&mut self) -> Option<Vec<u8>> {
        let (frame, _room) = self.waiting.recv().await?;
        self.counters.received(frame.len());
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use blazedb_core::limits::MAX_MESSAGE_BYTES;
    use tokio::time::timeout;

    use super::*;
    use crate::noise::ChannelError;

    const SOON: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn carries_frames_both_ways_until_an_end_is_dropped() {
        let (mut left, mut right) = pair(4, 1_000);
        left.sender.send(&[b"he", b"llo"]).await.unwrap();
        right.sender.send(&[b""]).await.unwrap();
        assert_eq!(right.receiver.recv().await.unwrap().unwrap(), b"hello");
        assert_eq!(left.receiver.recv().await.unwrap().unwrap(), b"");
        let totals = (left.counters.totals(), right.counters.totals());
        assert_eq!((totals.0.bytes_sent, totals.1.bytes_received, totals.0.frames_received), (5, 5, 1));
        left.sender.close().await.unwrap();
        assert_eq!(right.receiver.recv().await.unwrap(), None);
        drop(left.receiver);
        assert!(matches!(right.sender.send(&[b"x"]).await, Err(SendError::Closed)));
    }

    #[tokio::test]
    async fn a_full_direction_waits_in_frames_and_in_bytes() {
        for (frames, bytes) in [(2, 1_000), (100, 20)] {
            let (mut left, mut right) = pair(frames, bytes);
            for _ in 0..2 {
                timeout(SOON, left.sender.send(&[&[7; 10]])).await.unwrap().unwrap();
            }
            assert!(timeout(SOON, left.sender.send(&[&[7; 10]])).await.is_err(), "{frames} {bytes}");
            right.receiver.recv().await.unwrap();
            timeout(SOON, left.sender.send(&[&[7; 10]])).await.unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn a_long_frame_travels_alone_and_a_longer_one_not_at_all() {
        let (mut left, mut right) = pair(4, 10);
        left.sender.send(&[&[1; 100]]).await.unwrap();
        assert!(timeout(SOON, left.sender.send(&[b"x"])).await.is_err());
        assert_eq!(right.receiver.recv().await.unwrap().unwrap(), [1; 100]);
        let long = vec![0; MAX_MESSAGE_BYTES + 1];
        assert!(matches!(
            left.sender.send(&[&long]).await,
            Err(SendError::Channel(ChannelError::TooLarge { .. }))
        ));
    }

    #[tokio::test]
    async fn a_waiting_sender_learns_that_the_receiver_is_gone() {
        let (mut left, right) = pair(4, 10);
        left.sender.send(&[&[1; 10]]).await.unwrap();
        let waiting = tokio::spawn(async move { left.sender.send(&[b"x"]).await });
        tokio::time::sleep(SOON).await;
        drop(right);
        assert!(matches!(timeout(SOON, waiting).await.unwrap().unwrap(), Err(SendError::Closed)));
    }
}
