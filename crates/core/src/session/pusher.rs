//! The sending half of a session.

use std::collections::VecDeque;
use std::sync::Arc;

use super::reconcile::Outcome;
use super::{Abort, Frame, Output, Outputs, PeerInfo, SessionStatus, SharedPayload, violation};
use crate::feed::{FeedBatch, Seq, compress};
use crate::id::RecordId;
use crate::limits::{BATCH_BYTES, CHECKPOINT_PAUSE_MS, MESSAGE_COST_BYTES, SEND_WINDOW_BYTES, WANTED_CHUNK};
use crate::wire::{Changes, Message, NamesMessage};

/// Records asked of the store the first time, when nothing is known of their size.
const FIRST_WANTED_CHUNK: usize = 64;

/// Reads the local feed and sends it, as far as the peer keeps up.
#[derive(Debug)]
pub(super) struct Pusher {
    info: PeerInfo,
    /// The feed has been handed to the transport up to here.
    sent: Seq,
    acked: Seq,
    head: Seq,
    started: bool,
    reading: bool,
    /// The feed has grown since the last read began.
    head_moved: bool,
    /// Records to send before the feed, and the sequence that the feed then goes on from.
    wanted: VecDeque<RecordId>,
    wanted_chunk: usize,
    /// An answer to a request for records of which part is sent, and how many entries that is.
    rest: Option<(Arc<FeedBatch>, usize)>,
    snapshot: Option<Seq>,
    /// Messages not acknowledged yet: their size and what the peer has with them.
    in_flight: VecDeque<(usize, Option<Seq>)>,
    in_flight_bytes: usize,
    messages_acked: u64,
    changes_sent: u64,
    /// The last sequence that the peer was told of.
    told: Seq,
    /// It has been told of the end of the feed once.
    told_end: bool,
    /// When to tell it of skipped changes.
    tell_at: Option<u64>,
    fields: NumberSet,
    writers: NumberSet,
}

impl Pusher {
    pub(super) fn new(info: PeerInfo, after: Seq, head: Seq) -> Self {
        Self {
            info,
            sent: after,
            acked: after,
            head,
            started: false,
            reading: false,
            head_moved: false,
            wanted: VecDeque::new(),
            wanted_chunk: FIRST_WANTED_CHUNK,
            rest: None,
            snapshot: None,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            messages_acked: 0,
            changes_sent: 0,
            told: after,
            told_end: after == head,
            tell_at: None,
            fields: NumberSet::default(),
            writers: NumberSet::default(),
        }
    }

    /// Starts with the feed.
    pub(super) fn start(&mut self, outputs: &mut Outputs) {
        self.started = true;
        self.read_on(outputs);
    }

    /// Starts with what a reconciliation found the peer to lack; the feed goes on behind its snapshot.
    pub(super) fn start_with(&mut self, outcome: Outcome, has: Seq, outputs: &mut Outputs) {
        self.started = true;
        self.wanted = outcome.to_send.into();
        self.snapshot = Some(outcome.snapshot);
        self.head = self.head.max(outcome.snapshot);
        self.end_wanted_if_done(has, outputs);
        self.read_on(outputs);
    }

    pub(super) fn on_advance(&mut self, head: Seq, outputs: &mut Outputs) {
        self.head = self.head.max(head);
        self.head_moved = true;
        self.read_on(outputs);
    }

    pub(super) fn on_feed(&mut self, now_ms: u64, batch: &Arc<FeedBatch>, has: Seq, outputs: &mut Outputs) {
        if !self.reading {
            return;
        }
        self.reading = false;
        if self.snapshot.is_some() {
            self.on_wanted(batch, has, outputs);
        } else {
            self.on_stretch(now_ms, batch, has, outputs);
        }
        self.end_wanted_if_done(has, outputs);
        self.read_on(outputs);
    }

    /// A stretch of the feed was read.
    fn on_stretch(&mut self, now_ms: u64, batch: &Arc<FeedBatch>, has: Seq, outputs: &mut Outputs) {
        if batch.upto <= self.sent && !self.head_moved {
            // There is nothing where something was announced. Reading again would go on for ever.
            self.head = self.sent;
        }
        self.sent = self.sent.max(batch.upto);
        self.head = self.head.max(self.sent);
        if batch.entries.iter().all(|entry| self.info.peer_no != 0 && entry.origin == self.info.peer_no) {
            self.on_nothing_to_send(now_ms, has, outputs);
        } else {
            self.announce(batch, outputs);
            self.send_stretch(batch, has, outputs);
        }
    }

    /// Records that the peer was found to lack were read. They are sent whoever brought them: the peer may have
    /// brought and lost them.
    fn on_wanted(&mut self, batch: &Arc<FeedBatch>, has: Seq, outputs: &mut Outputs) {
        let each = batch.data.len() / batch.entries.len().max(1);
        self.wanted_chunk = (BATCH_BYTES / each.max(1)).clamp(1, WANTED_CHUNK);
        self.announce(batch, outputs);
        self.rest = Some((Arc::clone(batch), 0));
        self.send_rest(has, outputs);
    }

    /// Sends pieces of about a batch's size as long as the window is open.
    fn send_rest(&mut self, has: Seq, outputs: &mut Outputs) {
        while self.in_flight_bytes < SEND_WINDOW_BYTES
            && let Some((batch, done)) = self.rest.take()
        {
            let start =
                done.checked_sub(1).and_then(|last| batch.entries.get(last)).map_or(0, |e| e.end as usize);
            let rest = batch.entries.get(done..).unwrap_or_default();
            let fitting = rest.iter().take_while(|entry| entry.end as usize - start <= BATCH_BYTES).count();
            let count = fitting.max(1).min(rest.len());
            let Some(last) = count.checked_sub(1).and_then(|last| rest.get(last)) else { return };
            let piece = batch.data.get(start..last.end as usize).unwrap_or_default();
            self.send_own(piece, count, None, has, outputs);
            if count < rest.len() {
                self.rest = Some((batch, done + count));
            }
        }
    }

    pub(super) fn on_ack(&mut self, count: u64, has: Seq, outputs: &mut Outputs) -> Result<(), Abort> {
        if count < self.messages_acked || count - self.messages_acked > self.in_flight.len() as u64 {
            return Err(violation("an acknowledgement of what was not sent"));
        }
        while self.messages_acked < count {
            let Some((bytes, upto)) = self.in_flight.pop_front() else { break };
            self.messages_acked += 1;
            self.in_flight_bytes -= bytes;
            self.acked = upto.unwrap_or(self.acked);
        }
        self.send_rest(has, outputs);
        self.end_wanted_if_done(has, outputs);
        self.read_on(outputs);
        Ok(())
    }

    pub(super) fn on_tick(&mut self, now_ms: u64, has: Seq, outputs: &mut Outputs) {
        if self.tell_at.is_some_and(|at| at <= now_ms) {
            self.tell(has, outputs);
        }
    }

    pub(super) const fn wake_at(&self) -> Option<u64> {
        self.tell_at
    }

    pub(super) fn report(&self, status: &mut SessionStatus) {
        status.pushed = self.acked;
        status.head = self.head;
        status.changes_sent = self.changes_sent;
        status.in_flight_bytes = self.in_flight_bytes;
        status.pushed_all = self.started
            && self.snapshot.is_none()
            && self.in_flight.is_empty()
            && self.sent >= self.head
            && !self.reading;
    }

    fn read_on(&mut self, outputs: &mut Outputs) {
        if !self.started || self.reading || self.rest.is_some() || self.in_flight_bytes >= SEND_WINDOW_BYTES {
            return;
        }
        if !self.wanted.is_empty() {
            let chunk = self.wanted.drain(..self.wanted.len().min(self.wanted_chunk)).collect();
            self.reading = true;
            outputs.push_back(Output::ReadWanted(chunk));
        } else if self.snapshot.is_none() && self.sent < self.head {
            self.reading = true;
            self.head_moved = false;
            outputs.push_back(Output::Read { after: self.sent, max_bytes: BATCH_BYTES });
        }
    }

    /// The last record that the peer lacked is sent: it learns from where on it has the feed, even if there was
    /// none to send.
    fn end_wanted_if_done(&mut self, has: Seq, outputs: &mut Outputs) {
        if self.wanted.is_empty()
            && self.rest.is_none()
            && !self.reading
            && let Some(snapshot) = self.snapshot.take()
        {
            self.sent = snapshot;
            self.tell(has, outputs);
        }
    }

    /// Part of the feed was nothing new to the peer: it is told where it stands, at once or after a pause.
    fn on_nothing_to_send(&mut self, now_ms: u64, has: Seq, outputs: &mut Outputs) {
        if self.sent >= self.head && !self.told_end {
            self.tell(has, outputs);
        } else if self.told < self.sent && self.tell_at.is_none() {
            self.tell_at = Some(now_ms.saturating_add(CHECKPOINT_PAUSE_MS));
        }
    }

    fn tell(&mut self, has: Seq, outputs: &mut Outputs) {
        let head = self.changes(Some(self.sent), has, false).encode_head();
        self.sent_message(0, Some(self.sent));
        outputs.push_back(Output::Send(Frame { head, shared: None }));
    }

    fn announce(&mut self, batch: &FeedBatch, outputs: &mut Outputs) {
        let fields: Vec<_> =
            batch.names.fields.iter().filter(|(number, _)| self.fields.insert(*number)).cloned().collect();
        let writers: Vec<_> =
            batch.names.writers.iter().filter(|(number, _)| self.writers.insert(*number)).copied().collect();
        if !fields.is_empty() || !writers.is_empty() {
            let message = Message::Names(NamesMessage { fields, writers });
            outputs.push_back(Output::Send(Frame::from(&message)));
        }
    }

    /// Sends what the peer does not have of a stretch of the feed.
    fn send_stretch(&mut self, batch: &Arc<FeedBatch>, has: Seq, outputs: &mut Outputs) {
        if !batch.is_all_for(self.info.peer_no) {
            let count = batch.entries.iter().filter(|entry| entry.origin != self.info.peer_no).count();
            let own = batch.data_for(self.info.peer_no);
            return self.send_own(&own, count, Some(batch.upto), has, outputs);
        }
        let compressed = self.info.compression && batch.compressed().is_some();
        let head = self.changes(Some(batch.upto), has, compressed).encode_head();
        let shared = Some(SharedPayload::new(Arc::clone(batch), compressed));
        self.changes_sent += batch.entries.len() as u64;
        self.sent_message(batch.data.len(), Some(batch.upto));
        outputs.push_back(Output::Send(Frame { head, shared }));
    }

    /// Sends changes that no other session sends.
    fn send_own(&mut self, data: &[u8], count: usize, upto: Option<Seq>, has: Seq, outputs: &mut Outputs) {
        let packed = if self.info.compression { compress(data) } else { None };
        let mut head = self.changes(upto, has, packed.is_some()).encode_head();
        head.extend_from_slice(packed.as_deref().unwrap_or(data));
        self.changes_sent += count as u64;
        self.sent_message(data.len(), upto);
        outputs.push_back(Output::Send(Frame { head, shared: None }));
    }

    const fn changes(&self, upto: Option<Seq>, has: Seq, compressed: bool) -> Changes {
        Changes { upto, head: self.head, has, compressed, data: Vec::new() }
    }

    /// Takes note of a message of so many bytes of changes, as they were before compression.
    fn sent_message(&mut self, bytes: usize, upto: Option<Seq>) {
        let bytes = bytes + MESSAGE_COST_BYTES;
        self.in_flight.push_back((bytes, upto));
        self.in_flight_bytes += bytes;
        if let Some(upto) = upto {
            self.told = upto;
            self.told_end |= upto >= self.head;
            self.tell_at = None;
        }
    }
}

/// A set of small numbers.
#[derive(Debug, Default)]
struct NumberSet(Vec<u64>);

impl NumberSet {
    /// Adds a number; answers whether it is new.
    fn insert(&mut self, number: u32) -> bool {
        let (word, bit) = ((number / 64) as usize, 1u64 << (number % 64));
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        let Some(slot) = self.0.get_mut(word) else { return false };
        let new = *slot & bit == 0;
        *slot |= bit;
        new
    }
}
