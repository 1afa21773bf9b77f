//! The sending half of a session.

mod switch;
mod unshown;
mod wanted;

pub(super) use wanted::Awaited;

use std::collections::VecDeque;
use std::sync::Arc;

use super::{Abort, Frame, Output, Outputs, PeerInfo, SessionStatus, SharedPayload, violation};
use crate::feed::{FeedBatch, Seq, compress};
use crate::id::RecordId;
use crate::limits::{BATCH_BYTES, CHECKPOINT_PAUSE_MS, MESSAGE_COST_BYTES, SEND_WINDOW_BYTES};
use crate::numbers::NumberSet;
use crate::view::{Held, Lens, View};
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
    /// Nothing is read for now.
    held: bool,
    /// Nothing more is read through this lens.
    draining: bool,
    /// The feed has grown since the last read began.
    head_moved: bool,
    /// Records to send before the feed, and the sequence that the feed then goes on from.
    wanted: VecDeque<RecordId>,
    wanted_chunk: usize,
    /// An answer to a request for records of which part is sent, and how many entries that is.
    rest: Option<(Arc<FeedBatch>, usize)>,
    snapshot: Option<Seq>,
    /// The snapshot is not told before this is here.
    awaited: Awaited,
    /// The peer was told that the records it lacked are all sent.
    part_ended: bool,
    /// Messages not acknowledged yet: their size and what the peer has with them.
    in_flight: VecDeque<(usize, Option<Seq>)>,
    in_flight_bytes: usize,
    messages_acked: u64,
    changes_sent: u64,
    /// The last sequence that the peer was told of.
    told: Seq,
    /// It has been told of the end of the feed once.
    told_end: bool,
    /// The peer has no checkpoint yet, and gets one before there is anything to send.
    introduces: bool,
    /// When to tell it of skipped changes.
    tell_at: Option<u64>,
    fields: NumberSet,
    writers: NumberSet,
    lens: Arc<Lens>,
    /// With so many messages acknowledged, the peer has its view and nothing but it.
    settled_with: Option<u64>,
    /// The client has named all that it holds.
    held_complete: bool,
    /// With the end of a comparison, the peer has its view and nothing but it.
    settles: bool,
    gate: Gate,
    /// What is being read was asked for under a view that has been replaced.
    stale: bool,
    /// Records that were read while the gate was closed.
    held_back: Option<Arc<FeedBatch>>,
    /// Questions of the client's list that are not answered.
    looking_up: usize,
}

/// A place in the local feed that the peer's answer is waited for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Mark {
    /// Everything up to here,
    behind: Seq,
    /// which was sent with this many messages,
    sent_with: Option<u64>,
    /// and all of them are acknowledged.
    pub(super) passed: bool,
}

/// Whether anything is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Gate {
    Open,
    /// Not until the server has answered.
    Waiting,
    /// Not in this epoch.
    Off,
}

impl Pusher {
    pub(super) fn new(info: PeerInfo, after: Seq, head: Seq, lens: Arc<Lens>) -> Self {
        // A view that was replaced is compared with the one before over the whole feed.
        let sent = if lens.held == Held::Same { after } else { 0 };
        Self {
            info,
            sent,
            acked: after,
            head,
            started: false,
            reading: false,
            held: false,
            draining: false,
            head_moved: false,
            wanted: VecDeque::new(),
            wanted_chunk: FIRST_WANTED_CHUNK,
            rest: None,
            snapshot: None,
            awaited: Awaited::default(),
            part_ended: false,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            messages_acked: 0,
            changes_sent: 0,
            told: after,
            told_end: after == head,
            introduces: false,
            tell_at: None,
            fields: NumberSet::default(),
            writers: NumberSet::default(),
            lens,
            settled_with: None,
            held_complete: false,
            settles: false,
            gate: Gate::Open,
            stale: false,
            held_back: None,
            looking_up: 0,
        }
    }

    pub(super) const fn acked(&self) -> Seq {
        self.acked
    }

    /// So many messages are acknowledged.
    pub(super) const fn messages_acked(&self) -> u64 {
        self.messages_acked
    }

    pub(super) fn view(&self) -> &View {
        &self.lens.view
    }

    fn is_replacing(&self) -> bool {
        self.lens.held != Held::Same
    }

    /// The peer knows nothing of this feed. It is told where it stands even if the feed is empty: what it brings may be
    /// all that there is, and it may leave before it hears of that.
    pub(super) const fn introduce(&mut self) {
        self.introduces = true;
    }

    /// Starts with the feed.
    pub(super) fn start(&mut self, has: Seq, outputs: &mut Outputs) {
        self.started = true;
        if self.is_replacing() {
            self.end_replacing_if_done(has, outputs);
        } else if self.introduces && self.sent >= self.head {
            self.tell(has, outputs);
        }
        self.read_on(outputs);
    }

    /// The end of the feed as it is known.
    pub(super) fn mark(&self) -> Mark {
        Mark { behind: self.head, ..Mark::default() }
    }

    /// Whether the peer has acknowledged every change up to a mark, as far as it gets them at all. A half that sends
    /// nothing, or not before the other side has agreed on how, keeps nobody waiting.
    pub(super) fn is_past(&self, mark: &mut Mark) -> bool {
        if self.gate != Gate::Open {
            return true;
        }
        if !self.started || self.snapshot.is_some() || self.sent < mark.behind {
            return false;
        }
        let all = self.messages_acked + self.in_flight.len() as u64;
        let count = mark.sent_with.get_or_insert(all).saturating_sub(self.messages_acked);
        let mut before = self.in_flight.iter().take(usize::try_from(count).unwrap_or(usize::MAX));
        before.all(|(bytes, _)| *bytes <= MESSAGE_COST_BYTES)
    }

    /// What is being read of the feed is thrown away and read again.
    pub(super) const fn read_again(&mut self) {
        self.stale |= self.reading && self.snapshot.is_none();
    }

    /// Reads nothing more from now on. Answers whether nothing is being read any more.
    pub(super) const fn hold(&mut self) -> bool {
        self.held = true;
        !self.reading
    }

    /// Reads on.
    pub(super) fn release(&mut self, outputs: &mut Outputs) {
        self.held = false;
        self.read_on(outputs);
    }

    pub(super) fn on_advance(&mut self, head: Seq, outputs: &mut Outputs) {
        self.head = self.head.max(head);
        self.head_moved = true;
        self.read_on(outputs);
    }

    /// The peer asks for the end of the feed, which is here, and is told as soon as it has everything up to there.
    pub(super) fn on_probe(&mut self, head: Seq, has: Seq, outputs: &mut Outputs) {
        self.told_end = false;
        self.on_advance(head, outputs);
        // What is being read, or on its way from a comparison, tells it in the end.
        let rests =
            self.started && self.gate == Gate::Open && self.snapshot.is_none() && !self.is_replacing();
        if rests && !self.reading && self.told < self.sent && self.sent >= self.head {
            self.tell(has, outputs);
        }
    }

    pub(super) fn on_feed(&mut self, now_ms: u64, batch: &Arc<FeedBatch>, has: Seq, outputs: &mut Outputs) {
        if !self.reading {
            return;
        }
        self.reading = false;
        if std::mem::take(&mut self.stale) {
            // The same is read again, through the lens that holds now.
        } else if self.gate != Gate::Open {
            self.held_back = self.snapshot.is_some().then(|| Arc::clone(batch));
        } else if self.snapshot.is_some() {
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
        let none = batch.entries.iter().all(|entry| !entry.is_for(self.info.peer_no));
        if !none {
            self.announce(batch, outputs);
            self.send_stretch(batch, has, outputs);
        }
        if self.is_replacing() {
            self.end_replacing_if_done(has, outputs);
        } else if none {
            self.on_nothing_to_send(now_ms, has, outputs);
        }
    }

    /// The whole feed was read for the view that replaces the one before: from here on the peer has the new one.
    fn end_replacing_if_done(&mut self, has: Seq, outputs: &mut Outputs) {
        if self.sent >= self.head {
            self.lens = Arc::new(Lens { held: Held::Same, ..Lens::clone(&self.lens) });
            self.tell(has, outputs);
            self.settled_with = Some(self.messages_acked + self.in_flight.len() as u64);
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
        self.settle_if_acked(outputs);
        self.send_rest(has, outputs);
        self.end_wanted_if_done(has, outputs);
        self.read_on(outputs);
        Ok(())
    }

    pub(super) fn on_tick(&mut self, now_ms: u64, has: Seq, outputs: &mut Outputs) {
        if self.gate == Gate::Open && self.tell_at.is_some_and(|at| at <= now_ms) {
            self.tell(has, outputs);
        }
    }

    pub(super) fn wake_at(&self) -> Option<u64> {
        self.tell_at.filter(|_| self.gate == Gate::Open)
    }

    pub(super) fn report(&self, status: &mut SessionStatus) {
        status.pushed = self.acked;
        status.head = self.head;
        status.changes_sent = self.changes_sent;
        status.in_flight_bytes = self.in_flight_bytes;
        status.pushed_all = self.is_done();
    }

    /// Whether the peer has acknowledged everything that is for it.
    pub(super) fn is_done(&self) -> bool {
        if self.gate == Gate::Off {
            return self.in_flight.is_empty();
        }
        let sent = match self.snapshot {
            Some(_) => !self.awaited.is_here() && self.is_wanted_sent(),
            None => self.sent >= self.head && !self.reading,
        };
        self.started && self.gate == Gate::Open && sent && !self.is_replacing() && self.in_flight.is_empty()
    }

    fn read_on(&mut self, outputs: &mut Outputs) {
        if self.gate != Gate::Open
            || !self.started
            || self.held
            || self.draining
            || self.reading
            || self.rest.is_some()
            || self.in_flight_bytes >= SEND_WINDOW_BYTES
        {
            return;
        }
        if !self.wanted.is_empty() {
            let chunk = self.wanted.drain(..self.wanted.len().min(self.wanted_chunk)).collect();
            self.reading = true;
            outputs.push_back(Output::ReadWanted(chunk, Arc::clone(&self.lens)));
        } else if self.snapshot.is_none() && self.sent < self.head {
            self.reading = true;
            self.head_moved = false;
            let lens = Arc::clone(&self.lens);
            outputs.push_back(Output::Read { after: self.sent, max_bytes: BATCH_BYTES, lens });
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
        // While a view is being replaced, the peer's checkpoint stays where it was earned under the old one.
        let upto = (!self.is_replacing()).then_some(batch.upto);
        if upto.is_some() && !batch.bonds.is_empty() {
            outputs.push_back(Output::Send(Frame::from(&Message::Bonds(batch.bonds.clone()))));
        }
        if !batch.is_all_for(self.info.peer_no) {
            let count = batch.entries.iter().filter(|entry| entry.is_for(self.info.peer_no)).count();
            let own = batch.data_for(self.info.peer_no);
            return self.send_own(&own, count, upto, has, outputs);
        }
        let compressed = self.info.compression && batch.compressed().is_some();
        let head = self.changes(upto, has, compressed).encode_head();
        let shared = Some(SharedPayload::new(Arc::clone(batch), compressed));
        self.changes_sent += batch.entries.len() as u64;
        self.sent_message(batch.data.len(), upto);
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
