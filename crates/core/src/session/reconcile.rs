//! Finding out what two replicas that already hold much of the same lack of each other.
//!
//! Range-based set reconciliation (A. Meyer, 2022) through the `negentropy` library. Two sets are possible:
//! hashes of histories (exact; recent differences are cheap because items are ordered by their newest stamp)
//! and hashes of contents (for replicas that were filled separately from one source). A sketch of each, the
//! 128 lowest hashes, tells which set has more in common (bottom-k sampling; A. Broder, 1997).

use std::collections::{HashMap, HashSet};

use negentropy::{Id, Negentropy, NegentropyStorageVector};

use super::{Abort, Frame, Output, Outputs, violation};
use crate::feed::Seq;
use crate::id::RecordId;
use crate::limits::{MAX_WANTED, RECONCILE_FRAME_BYTES, SKETCH_LEN};
use crate::version::Hash;
use crate::wire::Message;

/// One record in a set to compare.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReconcileItem {
    /// What items are ordered by: recent differences end up close together.
    pub order: u64,
    /// The hash that stands for the record's state.
    pub hash: Hash,
    /// The record.
    pub id: RecordId,
}

/// What a replica holds, at one moment.
#[derive(Clone, Debug, Default)]
pub struct ReconcileSet {
    /// The end of the feed at that moment.
    pub snapshot: Seq,
    /// By history, ordered by newest stamp.
    pub history: Vec<ReconcileItem>,
    /// By content, ordered by the time in the record's id.
    pub content: Vec<ReconcileItem>,
}

/// Which side of the session this is. The client leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Side {
    Client,
    Server,
}

/// What came out: the records to send, and where the feed goes on afterwards.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) to_send: Vec<RecordId>,
    pub(super) snapshot: Seq,
}

enum Step {
    /// The local set is being listed; the peer's sketch may come first.
    Listing { sketch: Option<(Vec<u64>, Vec<u64>)> },
    /// (Client) the sketch is sent.
    AwaitChoice(ReconcileSet),
    /// Comparing.
    Comparing(Comparison),
    /// Done; taken by the session.
    Done(Option<Outcome>),
}

struct Comparison {
    negentropy: Negentropy<'static, NegentropyStorageVector>,
    ids: HashMap<Hash, RecordId>,
    snapshot: Seq,
    have: Vec<Id>,
    need: Vec<Id>,
    to_send: Vec<RecordId>,
}

/// A reconciliation in progress.
pub(super) struct Reconciliation {
    side: Side,
    step: Step,
}

impl Reconciliation {
    pub(super) const fn new(side: Side) -> Self {
        Self { side, step: Step::Listing { sketch: None } }
    }

    /// The outcome, once there is one.
    pub(super) fn take_outcome(&mut self) -> Option<Outcome> {
        if let Step::Done(outcome) = &mut self.step { outcome.take() } else { None }
    }

    pub(super) fn on_set(&mut self, set: ReconcileSet, outputs: &mut Outputs) -> Result<(), Abort> {
        let Step::Listing { sketch } = &mut self.step else { return Ok(()) };
        match (self.side, sketch.take()) {
            (Side::Client, _) => {
                let (content, history) = (sketch_of(&set.content), sketch_of(&set.history));
                send(&Message::Sketch { content, history }, outputs);
                self.step = Step::AwaitChoice(set);
            }
            (Side::Server, Some(theirs)) => self.choose(set, &theirs, outputs)?,
            // The list waits for the sketch under the same name as the client's waits for the choice.
            (Side::Server, None) => self.step = Step::AwaitChoice(set),
        }
        Ok(())
    }

    pub(super) fn on_message(&mut self, message: Message, outputs: &mut Outputs) -> Result<(), Abort> {
        match (self.side, std::mem::replace(&mut self.step, Step::Done(None)), message) {
            (Side::Server, Step::Listing { sketch: None }, Message::Sketch { content, history }) => {
                self.step = Step::Listing { sketch: Some((content, history)) };
                Ok(())
            }
            (Side::Server, Step::AwaitChoice(set), Message::Sketch { content, history }) => {
                self.choose(set, &(content, history), outputs)
            }
            (Side::Client, Step::AwaitChoice(set), Message::CompareBy { content }) => {
                let mut comparison = Comparison::new(set, content)?;
                let first = comparison.negentropy.initiate().map_err(|e| damaged(&e))?;
                send(&Message::Reconcile(first), outputs);
                self.step = Step::Comparing(comparison);
                Ok(())
            }
            (Side::Client, Step::Comparing(comparison), Message::Reconcile(bytes)) => {
                self.step = comparison.lead(&bytes, outputs)?;
                Ok(())
            }
            (Side::Server, Step::Comparing(mut comparison), Message::Reconcile(bytes)) => {
                let answer = comparison.negentropy.reconcile(&bytes).map_err(|e| damaged(&e))?;
                send(&Message::Reconcile(answer), outputs);
                self.step = Step::Comparing(comparison);
                Ok(())
            }
            (Side::Server, Step::Comparing(mut comparison), Message::Want { hashes, last }) => {
                comparison.take_wanted(&hashes);
                self.step = if last { comparison.done() } else { Step::Comparing(comparison) };
                Ok(())
            }
            _ => Err(violation("a step of reconciliation out of order")),
        }
    }

    /// The server decides which set has more in common with the client's.
    fn choose(
        &mut self,
        set: ReconcileSet,
        theirs: &(Vec<u64>, Vec<u64>),
        outputs: &mut Outputs,
    ) -> Result<(), Abort> {
        let by_content = similarity(&theirs.0, &sketch_of(&set.content));
        let by_history = similarity(&theirs.1, &sketch_of(&set.history));
        let content = by_content > by_history;
        send(&Message::CompareBy { content }, outputs);
        self.step = Step::Comparing(Comparison::new(set, content)?);
        Ok(())
    }
}

impl Comparison {
    fn new(set: ReconcileSet, content: bool) -> Result<Self, Abort> {
        let items = if content { set.content } else { set.history };
        let mut storage = NegentropyStorageVector::with_capacity(items.len());
        let mut ids = HashMap::with_capacity(items.len());
        for item in items {
            storage.insert(item.order, Id::from_byte_array(item.hash)).map_err(|e| damaged(&e))?;
            ids.insert(item.hash, item.id);
        }
        storage.seal().map_err(|e| damaged(&e))?;
        let negentropy = Negentropy::owned(storage, RECONCILE_FRAME_BYTES).map_err(|e| damaged(&e))?;
        let snapshot = set.snapshot;
        Ok(Self { negentropy, ids, snapshot, have: Vec::new(), need: Vec::new(), to_send: Vec::new() })
    }

    /// The client's next step.
    fn lead(mut self, bytes: &[u8], outputs: &mut Outputs) -> Result<Step, Abort> {
        let next = self.negentropy.reconcile_with_ids(bytes, &mut self.have, &mut self.need);
        if let Some(message) = next.map_err(|e| damaged(&e))? {
            send(&Message::Reconcile(message), outputs);
            return Ok(Step::Comparing(self));
        }
        let mut need: Vec<Hash> = std::mem::take(&mut self.need).iter().map(|id| id.to_bytes()).collect();
        // The library collects them in hash tables, whose order differs from run to run.
        need.sort_unstable();
        let mut chunks = need.chunks(MAX_WANTED).peekable();
        if chunks.peek().is_none() {
            send(&Message::Want { hashes: Vec::new(), last: true }, outputs);
        }
        while let Some(chunk) = chunks.next() {
            let last = chunks.peek().is_none();
            send(&Message::Want { hashes: chunk.to_vec(), last }, outputs);
        }
        let have: Vec<Hash> = std::mem::take(&mut self.have).iter().map(|id| id.to_bytes()).collect();
        self.take_wanted(&have);
        Ok(self.done())
    }

    fn take_wanted(&mut self, hashes: &[Hash]) {
        self.to_send.extend(hashes.iter().filter_map(|hash| self.ids.remove(hash)));
    }

    fn done(mut self) -> Step {
        // In the order of ids, which is the order of time: that is what the receiver's tables take fastest.
        self.to_send.sort_unstable();
        Step::Done(Some(Outcome { to_send: self.to_send, snapshot: self.snapshot }))
    }
}

fn send(message: &Message, outputs: &mut Outputs) {
    outputs.push_back(Output::Send(Frame::from(message)));
}

fn damaged(error: &negentropy::Error) -> Abort {
    violation(&format!("reconciliation failed: {error}"))
}

fn sketch_of(items: &[ReconcileItem]) -> Vec<u64> {
    let short = |item: &ReconcileItem| {
        let [a, b, c, d, e, f, g, h, ..] = item.hash;
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    };
    let mut lowest: std::collections::BinaryHeap<u64> = std::collections::BinaryHeap::new();
    for hash in items.iter().map(short) {
        if lowest.len() < SKETCH_LEN {
            lowest.push(hash);
        } else if lowest.peek().is_some_and(|highest| hash < *highest) {
            lowest.pop();
            lowest.push(hash);
        }
    }
    lowest.into_sorted_vec()
}

/// How many of the lowest hashes of the union are in both.
fn similarity(a: &[u64], b: &[u64]) -> usize {
    let (a, b): (HashSet<u64>, HashSet<u64>) = (a.iter().copied().collect(), b.iter().copied().collect());
    let mut union: Vec<u64> = a.union(&b).copied().collect();
    union.sort_unstable();
    union.iter().take(SKETCH_LEN).filter(|hash| a.contains(hash) && b.contains(hash)).count()
}
