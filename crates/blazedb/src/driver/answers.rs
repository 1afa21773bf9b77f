//! What a driver is answered by its store and its node.

use std::sync::Arc;

use blazedb_core::session::{Input, LocalReplica, PeerReplica, Refusal};
use tokio::sync::mpsc;

use super::Driver;
use super::comparing::Listed;
use super::rebind::{Looked, Timed};
use crate::applier::ApplyError;
use crate::guard::Admitted;

/// Answers from the store, on their way back to the session. The channel keeps room for some of them as long as the
/// connection lives, so they are small.
pub(super) enum Answer {
    Input(Box<Input>),
    Peer(Box<PeerReplica>),
    Admitted(Box<Result<Admitted, Refusal>>),
    Applied,
    Looked(Box<Looked>),
    Listed(Box<Listed>),
    Ask(Box<Asked>),
}

/// What a client asks for instead, on the open session.
pub(super) struct Asked {
    /// How many asks there were before.
    pub(super) number: u64,
    pub(super) local: LocalReplica,
    pub(super) timed: Option<Timed>,
    /// It lets go of what the peer has.
    pub(super) release: bool,
    pub(super) stranger: bool,
}

const _: () = assert!(size_of::<Answer>() <= 16);

pub(super) fn failed(error: &ApplyError) -> Answer {
    Answer::Input(Box::new(Input::ApplyFailed(error.code, error.message.clone())))
}

impl Driver {
    /// Hands over every answer that is there; acknowledgements of a group become one.
    pub(super) fn on_answers(&mut self, first: Answer, answers: &mut mpsc::UnboundedReceiver<Answer>) {
        let mut applied = 0;
        let mut next = Some(first);
        while let Some(answer) = next {
            match answer {
                Answer::Applied => applied += 1,
                // Of what was asked for meanwhile only the last counts.
                Answer::Ask(asked) => {
                    let Asked { number, local, timed, release, stranger } = *asked;
                    if number == self.asks {
                        self.meets(stranger);
                        self.told = Some(Arc::clone(&local.view));
                        self.timed = timed;
                        self.release = release.then(|| Arc::clone(&local.view));
                        self.feed(Input::Reconfigure(Box::new(local)));
                    }
                }
                Answer::Input(input) => {
                    if let Input::Refusals(refusals, _) = &*input {
                        self.refusals_told = self.refusals_told.max(refusals.last());
                    }
                    self.feed(*input);
                }
                Answer::Listed(listed) => self.on_listed(*listed),
                Answer::Looked(looked) => self.on_looked(*looked),
                Answer::Admitted(decision) => {
                    let decision = (*decision).map(|Admitted { admission, gate, rebind, begins_keyring }| {
                        self.gate = gate;
                        self.begins_keyring = begins_keyring;
                        self.timed = rebind.map(|bind| Timed::new(bind, &admission.view));
                        self.shown = Some(Arc::clone(&admission.view));
                        self.admitted = true;
                        admission
                    });
                    self.feed(Input::Admitted(decision));
                }
                Answer::Peer(peer) => {
                    if let Some(source) = &mut self.source {
                        source.peer_no = peer.peer_no;
                    }
                    self.context.report.knows_peer(peer.peer_no);
                    self.feed(Input::Peer(*peer));
                }
            }
            next = answers.try_recv().ok();
        }
        if applied > 0 {
            self.feed(Input::Applied(applied));
        }
    }
}
