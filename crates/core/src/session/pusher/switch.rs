//! Another configuration for the sending half: it waits, is switched off, goes on, or goes on for another view.

use std::sync::Arc;

use super::{Gate, Pusher};
use crate::feed::Seq;
use crate::session::{Outputs, PeerInfo};
use crate::view::{Held, Lens, View};

impl Pusher {
    pub(in crate::session) fn is_off(&self) -> bool {
        self.gate == Gate::Off
    }

    /// Whether the reader's view may be replaced: what it holds is known.
    pub(in crate::session) const fn may_change_view(&self) -> bool {
        self.started && self.snapshot.is_none() && self.looking_up == 0
    }

    /// Sends nothing until the other side has agreed on how to go on.
    pub(in crate::session) const fn wait(&mut self) {
        self.gate = Gate::Waiting;
    }

    /// Sends nothing in this epoch.
    pub(in crate::session) const fn switch_off(&mut self) {
        self.gate = Gate::Off;
    }

    /// Goes on for this peer through this lens; after a comparison, if there is one.
    pub(in crate::session) fn change(&mut self, info: PeerInfo, lens: &Arc<Lens>, head: Seq, compares: bool) {
        self.info = info;
        // The other side was told of this end, and waits for it.
        self.head = self.head.max(head);
        self.head_moved = true;
        // While nothing was sent, what it holds may have become less.
        let lost = self.gate == Gate::Off && lens.held != Held::Same;
        self.gate = Gate::Open;
        self.draining = false;
        if compares {
            // What a comparison found before is found again.
            self.started = false;
            self.stale = self.reading;
            (self.rest, self.held_back, self.snapshot) = (None, None, None);
            self.wanted.clear();
        }
        if lens.view.id() == self.lens.view.id() && !lost {
            self.lens = Arc::new(Lens { packs: lens.packs, ..Lens::clone(&self.lens) });
            return;
        }
        // What the reader holds: what the store knows of, or at least what was sent in this session.
        let (own, upto) = match &self.lens.held {
            Held::Same => (vec![Arc::clone(&self.lens.view)], self.sent),
            Held::Under { views, upto } => (views.iter().chain([&self.lens.view]).cloned().collect(), *upto),
        };
        let views = match &lens.held {
            Held::Under { views, .. } => views.clone(),
            Held::Same => own,
        };
        self.lens = Arc::new(Lens { held: Held::Under { views, upto }, ..Lens::clone(lens) });
        self.stale = self.reading;
        self.sent = 0;
        self.tell_at = None;
        self.settled_with = None;
        self.held_complete = false;
        self.settles = false;
    }

    /// Whether the reader has all of its view, and nothing else is under way.
    pub(in crate::session) fn may_rebind(&self) -> bool {
        let done = self.in_flight.is_empty() && !self.reading && !self.held && self.settled_with.is_none();
        self.gate == Gate::Open && self.may_change_view() && done && !self.is_replacing()
    }

    /// Reads nothing more, so that the reader comes to have all that was sent, or reads on. Answers whether it does the first: not
    /// while its view is being worked out, which a reader can't draw out.
    pub(in crate::session) fn drain(&mut self, drains: bool, outputs: &mut Outputs) -> bool {
        let steady = self.gate == Gate::Open && self.may_change_view() && !self.is_replacing();
        self.draining = drains && steady && self.settled_with.is_none();
        self.read_on(outputs);
        self.draining
    }

    /// Goes on for the same peer with the view as it is at another time.
    pub(in crate::session) fn rebind(&mut self, view: Arc<View>, views: Vec<Arc<View>>) {
        let held = if views.is_empty() { Held::Same } else { Held::Under { views, upto: self.sent } };
        let lens = Arc::new(Lens { view, held, ..Lens::clone(&self.lens) });
        self.change(self.info, &lens, self.head, false);
    }

    /// Goes on where it stopped.
    pub(in crate::session) fn go_on(&mut self, has: Seq, outputs: &mut Outputs) {
        if let Some(batch) = self.held_back.take() {
            self.on_wanted(&batch, has, outputs);
        }
        self.send_rest(has, outputs);
        self.end_wanted_if_done(has, outputs);
        if self.is_replacing() && self.snapshot.is_none() {
            self.end_replacing_if_done(has, outputs);
        }
        self.read_on(outputs);
    }
}
