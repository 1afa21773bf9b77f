//! The sending half of a session.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{Frame, Output, Outputs, PeerInfo, SessionStatus, SharedPayload, violation};
use crate::feed::{FeedBatch, Seq, compress};
use crate::id::RecordId;
use crate::limits::{BATCH_BYTES, CHECKPOINT_PAUSE_MS, SEND_WINDOW_BYTES, WANTED_CHUNK};
use crate::session::Abort;
use crate::wire::{Changes, Message, NamesMessage};

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
    /// Records to send before the feed, and the sequence that the feed then goes on from.
    wanted: VecDeque<RecordId>,
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
            wanted: VecDeque::new(),
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

    /// Starts with what a reconciliation found the peer to lack; the feed goes on behind `snapshot`.
    pub(super) fn start_with(
        &mut self,
        now_ms: u64,
        records: Vec<RecordId>,
        snapshot: Seq,
        outputs: &mut Outputs,
    ) {
        self.started = true;
        self.wanted = records.into();
        self.snapshot = Some(snapshot);
        // The peer learns where it stands even if there is nothing to send.
        self.told_end = false;
        self.end_wanted_if_done(now_ms, outputs);
        self.read_on(outputs);
    }

    pub(super) fn on_advance(&mut self, head: Seq, outputs: &mut Outputs) {
        self.head = self.head.max(head);
        self.read_on(outputs);
    }

    pub(super) fn on_feed(&mut self, now_ms: u64, batch: &Arc<FeedBatch>, has: Seq, outputs: &mut Outputs) {
        self.reading = false;
        let in_feed = self.snapshot.is_none();
        self.head = self.head.max(batch.upto);
        if in_feed {
            self.sent = batch.upto;
        }
        let upto = in_feed.then_some(batch.upto);
        let all = batch.is_all_for(self.info.peer_no);
        let skipped = !all && batch.entries.iter().all(|entry| entry.origin == self.info.peer_no);
        if batch.entries.is_empty() || skipped {
            self.on_nothing_to_send(now_ms, has, outputs);
        } else {
            self.announce(batch, outputs);
            self.send_changes(batch, upto, has, all, outputs);
        }
        self.end_wanted_if_done(now_ms, outputs);
        self.read_on(outputs);
    }

    pub(super) fn on_ack(&mut self, _now_ms: u64, count: u64, outputs: &mut Outputs) -> Result<(), Abort> {
        if count < self.messages_acked || count - self.messages_acked > self.in_flight.len() as u64 {
            return Err(violation("an acknowledgement of what was not sent"));
        }
        while self.messages_acked < count {
            let Some((bytes, upto)) = self.in_flight.pop_front() else { break };
            self.messages_acked += 1;
            self.in_flight_bytes -= bytes;
            self.acked = upto.unwrap_or(self.acked);
        }
        self.read_on(outputs);
        Ok(())
    }

    pub(super) fn on_tick(&mut self, now_ms: u64, outputs: &mut Outputs) {
        if self.tell_at.is_some_and(|at| at <= now_ms) {
            self.tell(0, outputs);
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
        if !self.started || self.reading || self.in_flight_bytes >= SEND_WINDOW_BYTES {
            return;
        }
        if !self.wanted.is_empty() {
            let chunk = self.wanted.drain(..self.wanted.len().min(WANTED_CHUNK)).collect();
            self.reading = true;
            outputs.push_back(Output::ReadWanted(chunk));
        } else if self.snapshot.is_none() && self.sent < self.head {
            self.reading = true;
            outputs.push_back(Output::Read { after: self.sent, max_bytes: BATCH_BYTES });
        }
    }

    fn end_wanted_if_done(&mut self, now_ms: u64, outputs: &mut Outputs) {
        if self.wanted.is_empty()
            && !self.reading
            && let Some(snapshot) = self.snapshot.take()
        {
            self.sent = snapshot;
            self.told = 0;
            self.told_end = false;
            if self.sent >= self.head {
                self.on_nothing_to_send(now_ms, 0, outputs);
            } else {
                self.tell(0, outputs);
            }
        }
    }

    /// Part of the feed was nothing new to the peer: it is told where it stands, at once or after a pause.
    fn on_nothing_to_send(&mut self, now_ms: u64, has: Seq, outputs: &mut Outputs) {
        if self.snapshot.is_some() {
            return;
        }
        if self.sent >= self.head && !self.told_end {
            self.tell(has, outputs);
        } else if self.told < self.sent && self.tell_at.is_none() {
            self.tell_at = Some(now_ms.saturating_add(CHECKPOINT_PAUSE_MS));
        }
    }

    fn tell(&mut self, has: Seq, outputs: &mut Outputs) {
        let changes =
            Changes { upto: Some(self.sent), head: self.head, has, compressed: false, data: Vec::new() };
        self.sent_message(0, Some(self.sent));
        outputs.push_back(Output::Send(Frame { head: changes.encode_head(), shared: None }));
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

    fn send_changes(
        &mut self,
        batch: &Arc<FeedBatch>,
        upto: Option<Seq>,
        has: Seq,
        all: bool,
        outputs: &mut Outputs,
    ) {
        let own = if all { None } else { Some(batch.data_for(self.info.peer_no)) };
        let packed = match &own {
            None => self.info.compression && batch.compressed().is_some(),
            Some(_) => false,
        };
        let own_packed = own.as_deref().filter(|_| self.info.compression).and_then(compress);
        let changes = Changes {
            upto,
            head: self.head,
            has,
            compressed: packed || own_packed.is_some(),
            data: Vec::new(),
        };
        let mut head = changes.encode_head();
        let shared = if let Some(own) = own {
            head.extend_from_slice(own_packed.as_deref().unwrap_or(&own));
            None
        } else {
            Some(SharedPayload { batch: Arc::clone(batch), compressed: packed })
        };
        let frame = Frame { head, shared };
        let sent = batch.entries.iter().filter(|entry| all || entry.origin != self.info.peer_no).count();
        self.changes_sent += sent as u64;
        self.sent_message(frame.len(), upto);
        outputs.push_back(Output::Send(frame));
    }

    fn sent_message(&mut self, bytes: usize, upto: Option<Seq>) {
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
