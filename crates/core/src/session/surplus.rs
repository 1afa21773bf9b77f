//! What a client turns out to hold that the server does not show it.
//!
//! A comparison in a restricted view finds records that only the client holds. It pushes those that it may push; what
//! the server is still not showing then, it has to take back: the client names the records that it held more of, and
//! the server answers with removals. The stamp of a record's birth proves that the client holds it, so that nobody
//! learns by guessing names what there is.

use super::pusher::Pusher;
use super::{Frame, Output, Outputs};
use crate::id::RecordId;
use crate::limits::MAX_WANTED;
use crate::stamp::Stamp;
use crate::wire::Message;

/// The client's list, on its way.
#[derive(Debug, Default)]
pub(super) struct Surplus {
    /// Whether the server is to be told.
    told: bool,
    ids: Vec<RecordId>,
    /// The list is being looked up.
    looking_up: bool,
    /// The comparison is over.
    complete: bool,
}

impl Surplus {
    pub(super) const fn new(told: bool) -> Self {
        Self { told, ids: Vec::new(), looking_up: false, complete: false }
    }

    /// Whether the server has been told all that it is to be told.
    pub(super) const fn is_told(&self) -> bool {
        !self.told && !self.looking_up
    }

    /// Only this side holds these, or another state of them.
    pub(super) fn found(&mut self, ids: &[RecordId]) {
        if self.told {
            self.ids.extend_from_slice(ids);
        }
    }

    /// There will be no more of them.
    pub(super) const fn complete(&mut self) {
        self.complete = true;
    }

    /// Looks them up once all that is pushed of them has been acknowledged.
    pub(super) fn look_up_if_pushed(&mut self, pusher: Option<&Pusher>, outputs: &mut Outputs) {
        if self.told && self.complete && pusher.is_none_or(Pusher::is_past_wanted) {
            self.told = false;
            self.looking_up = true;
            outputs.push_back(Output::ReadBirths(std::mem::take(&mut self.ids)));
        }
    }

    /// Names them to the server; a list shorter than the limit is the last one.
    pub(super) fn name(&mut self, held: &[(RecordId, Stamp)], outputs: &mut Outputs) {
        self.looking_up = false;
        let mut last = MAX_WANTED;
        for chunk in held.chunks(MAX_WANTED) {
            last = chunk.len();
            outputs.push_back(Output::Send(Frame::from(&Message::Held(chunk.to_vec()))));
        }
        if last == MAX_WANTED {
            outputs.push_back(Output::Send(Frame::from(&Message::Held(Vec::new()))));
        }
    }
}
