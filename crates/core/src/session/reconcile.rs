//! Finding out what two replicas that already hold much of the same lack of each other.
//!
//! Two sets are possible: hashes of histories (exact) and hashes of contents (for replicas that were filled separately
//! from one source). A sketch of each, the 128 lowest hashes, tells which set has more in common, and about how much
//! (bottom-k sampling; A. Broder, 1997). Then the difference is found with coded symbols ([`super::coded`]); where that
//! does not serve, with range-based set reconciliation (A. Meyer, 2022) through the `negentropy` library.

use std::collections::{HashMap, HashSet};

use negentropy::{Id, Negentropy, NegentropyStorageVector};

use super::coded::{Coding, Progress, Proposal, first_symbols};
use super::{Abort, Frame, Output, Outputs, violation};
use crate::feed::Seq;
use crate::id::RecordId;
use crate::limits::{MAX_WANTED, RECONCILE_FRAME_BYTES, SKETCH_LEN};
use crate::version::Hash;
use crate::view::Side;
use crate::wire::{Coded, CodedSymbol, Message};

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
    /// (Client) what is here and not shown to the other side, and so not compared.
    pub unshown: Vec<RecordId>,
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
    /// The difference is looked for with coded symbols.
    Coding(Coding),
    /// (Client) the server is asked whether this is the difference.
    AwaitAgreement(Coding, Vec<RecordId>),
    /// Comparing range by range.
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

/// A reconciliation in progress. The side that connected leads.
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
            (Side::Deliver, _) => {
                let (content, history) = (sketch_of(&set.content), sketch_of(&set.history));
                send(&Message::Sketch { content, history }, outputs);
                self.step = Step::AwaitChoice(set);
            }
            (Side::Serve, Some(theirs)) => self.choose(set, &theirs, outputs)?,
            // The list waits for the sketch under the same name as the client's waits for the choice.
            (Side::Serve, None) => self.step = Step::AwaitChoice(set),
        }
        Ok(())
    }

    pub(super) fn on_message(&mut self, message: Message, outputs: &mut Outputs) -> Result<(), Abort> {
        match (self.side, std::mem::replace(&mut self.step, Step::Done(None)), message) {
            (Side::Serve, Step::Listing { sketch: None }, Message::Sketch { content, history }) => {
                self.step = Step::Listing { sketch: Some((content, history)) };
                Ok(())
            }
            (Side::Serve, Step::AwaitChoice(set), Message::Sketch { content, history }) => {
                self.choose(set, &(content, history), outputs)
            }
            (Side::Deliver, Step::AwaitChoice(set), Message::CompareBy { content }) => {
                self.step = Step::Coding(coding_of(set, content));
                Ok(())
            }
            (Side::Deliver, Step::Coding(coding), Message::Coded(Coded::Symbols(symbols))) => {
                self.step = on_symbols(coding, &symbols, outputs)?;
                Ok(())
            }
            (Side::Deliver, Step::AwaitAgreement(coding, to_send), Message::Coded(Coded::Agreed(agreed))) => {
                self.step = match agreed {
                    true => done(to_send, coding.snapshot()),
                    false => compare_ranges(coding, outputs)?,
                };
                Ok(())
            }
            (Side::Serve, Step::Coding(coding), Message::Coded(message)) => {
                self.step = serve_coded(coding, &message, outputs)?;
                Ok(())
            }
            (Side::Serve, Step::Coding(coding), message @ Message::Reconcile(_)) => {
                let (items, snapshot) = coding.into_set();
                self.step = Step::Comparing(Comparison::new(items, snapshot)?);
                self.on_message(message, outputs)
            }
            (Side::Deliver, Step::Comparing(comparison), Message::Reconcile(bytes)) => {
                self.step = comparison.lead(&bytes, outputs)?;
                Ok(())
            }
            (Side::Serve, Step::Comparing(mut comparison), Message::Reconcile(bytes)) => {
                let answer = comparison.negentropy.reconcile(&bytes).map_err(|e| damaged(&e))?;
                send(&Message::Reconcile(answer), outputs);
                self.step = Step::Comparing(comparison);
                Ok(())
            }
            (Side::Serve, Step::Comparing(mut comparison), Message::Want { hashes, last }) => {
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
        let mut coding = coding_of(set, content);
        let first = first_symbols(coding.estimated(by_content.max(by_history)));
        send(&Message::Coded(Coded::Symbols(coding.next_symbols(first))), outputs);
        self.step = Step::Coding(coding);
        Ok(())
    }
}

fn coding_of(set: ReconcileSet, content: bool) -> Coding {
    Coding::new(if content { set.content } else { set.history }, set.snapshot)
}

/// The client's next step.
fn on_symbols(mut coding: Coding, symbols: &[CodedSymbol], outputs: &mut Outputs) -> Result<Step, Abort> {
    Ok(match coding.on_symbols(symbols) {
        Progress::More(upto) => {
            send(&Message::Coded(Coded::More(upto)), outputs);
            Step::Coding(coding)
        }
        Progress::Found(Proposal { wanted, to_send, common }) => {
            send(&Message::Coded(Coded::Difference { wanted, common }), outputs);
            Step::AwaitAgreement(coding, to_send)
        }
        Progress::GaveUp => compare_ranges(coding, outputs)?,
    })
}

/// The client goes on in the other way.
fn compare_ranges(coding: Coding, outputs: &mut Outputs) -> Result<Step, Abort> {
    let (items, snapshot) = coding.into_set();
    let mut comparison = Comparison::new(items, snapshot)?;
    let first = comparison.negentropy.initiate().map_err(|e| damaged(&e))?;
    send(&Message::Reconcile(first), outputs);
    Ok(Step::Comparing(comparison))
}

/// The server's next step.
fn serve_coded(mut coding: Coding, message: &Coded, outputs: &mut Outputs) -> Result<Step, Abort> {
    match message {
        Coded::More(upto) => {
            let more = coding.up_to(*upto);
            let symbols = more.ok_or_else(|| violation("a wish for too few or too many coded symbols"))?;
            send(&Message::Coded(Coded::Symbols(symbols)), outputs);
            Ok(Step::Coding(coding))
        }
        Coded::Difference { wanted, common } => {
            let agreed = coding.agree(wanted, common);
            send(&Message::Coded(Coded::Agreed(agreed.is_some())), outputs);
            Ok(match agreed {
                Some(to_send) => done(to_send, coding.snapshot()),
                None => Step::Coding(coding),
            })
        }
        Coded::Symbols(_) | Coded::Agreed(_) => {
            Err(violation("a server's step of reconciliation from a client"))
        }
    }
}

/// The end, with what is to be sent.
fn done(mut to_send: Vec<RecordId>, snapshot: Seq) -> Step {
    // In the order of ids, which is the order of time: that is what the receiver's tables take fastest.
    to_send.sort_unstable();
    Step::Done(Some(Outcome { to_send, snapshot }))
}

impl Comparison {
    fn new(items: Vec<ReconcileItem>, snapshot: Seq) -> Result<Self, Abort> {
        let mut storage = NegentropyStorageVector::with_capacity(items.len());
        let mut ids = HashMap::with_capacity(items.len());
        for item in items {
            storage.insert(item.order, Id::from_byte_array(item.hash)).map_err(|e| damaged(&e))?;
            ids.insert(item.hash, item.id);
        }
        storage.seal().map_err(|e| damaged(&e))?;
        let negentropy = Negentropy::owned(storage, RECONCILE_FRAME_BYTES).map_err(|e| damaged(&e))?;
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

    fn done(self) -> Step {
        done(self.to_send, self.snapshot)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Records whose hashes agree in the first 8 bytes if `no` and whose rest is `rest`.
    fn set(records: impl Iterator<Item = (u64, u8)>) -> ReconcileSet {
        let item = |(no, rest): (u64, u8)| {
            let mut hash = [rest; 32];
            hash[..8].copy_from_slice(&(no + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
            ReconcileItem { order: no, hash, id: RecordId::from_bytes(u128::from(no).to_be_bytes()) }
        };
        let history: Vec<ReconcileItem> = records.map(item).collect();
        ReconcileSet { snapshot: 7, content: history.clone(), history, unshown: Vec::new() }
    }

    /// What the client and the server are to send, by number, and the kinds of what was said.
    fn compare(client: ReconcileSet, server: ReconcileSet) -> (Vec<u64>, Vec<u64>, String) {
        let mut sides = [Reconciliation::new(Side::Deliver), Reconciliation::new(Side::Serve)];
        let mut said = String::new();
        let mut waiting = Outputs::new();
        sides[0].on_set(client, &mut waiting).unwrap();
        let mut from_client: Vec<Output> = waiting.drain(..).collect();
        sides[1].on_set(server, &mut waiting).unwrap();
        assert!(waiting.is_empty());
        let mut speaker = 0;
        while !from_client.is_empty() {
            let listener = 1 - speaker;
            for output in std::mem::take(&mut from_client) {
                let Output::Send(frame) = output else { panic!() };
                let message = Message::decode(&frame.parts().concat()).unwrap();
                said += match &message {
                    Message::Coded(_) => "c",
                    Message::Reconcile(_) => "r",
                    _ => ".",
                };
                sides[listener].on_message(message, &mut waiting).unwrap();
            }
            from_client = waiting.drain(..).collect();
            speaker = listener;
        }
        let [client, server] = sides.map(|mut side| side.take_outcome().unwrap());
        assert_eq!((client.snapshot, server.snapshot), (7, 7));
        let numbers = |ids: Vec<RecordId>| {
            let number = |id: &RecordId| u128::from_be_bytes(*id.as_bytes()) as u64;
            ids.iter().map(number).collect::<Vec<_>>()
        };
        (numbers(client.to_send), numbers(server.to_send), said)
    }

    #[test]
    fn differences_are_found_with_symbols_alone() {
        let here = set((0..500).map(|no| (no, 0)));
        let there = set((3..520).map(|no| (if no == 77 { 1_000 } else { no }, 0)));
        let (client, server, said) = compare(here, there);
        assert_eq!(client, [0, 1, 2, 77]);
        assert_eq!(server, (500..520).chain([1_000]).collect::<Vec<_>>());
        assert!(!said.contains('r'), "{said}");
        let (client, server, said) = compare(set((0..9).map(|no| (no, 0))), set((0..9).map(|no| (no, 0))));
        assert_eq!((client, server, said.as_str()), (vec![], vec![], "..ccc"));
    }

    #[test]
    fn what_symbols_can_not_find_ranges_do() {
        // Record 77 differs, but not in what stands for it in symbols.
        let here = set((0..500).map(|no| (no, 0)));
        let there = set((0..500).map(|no| (no, u8::from(no == 77))));
        let (client, server, said) = compare(here, there);
        assert_eq!((client, server), (vec![77], vec![77]));
        assert!(said.contains('c') && said.contains('r'), "{said}");
        // Far more differs than symbols are made for.
        let (client, server, said) =
            compare(set((0..2).map(|no| (no, 0))), set((9..70_000).map(|no| (no, 0))));
        assert_eq!((client.len(), server.len()), (2, 69_991));
        assert!(said.contains('r'), "{said}");
    }
}
