//! Both sides bring each other's keyring up to date, ahead of what is sealed with its keys.
//!
//! A client says how far its keyring goes right after its hello, a server right after its welcome; whoever is ahead
//! sends what the other lacks. Nothing is said if neither side has a keyring.

use std::sync::Arc;

use super::{Abort, Frame, Output, Outputs, violation};
use crate::keyring::{Keyring, KeyringHead};
use crate::limits::MAX_MESSAGE_BYTES;
use crate::wire::{KeyringMessage, Message};

/// The keyring of this side and how far the other side's goes.
#[derive(Debug)]
pub(super) struct Ring {
    side: Side,
    own: Option<Arc<Keyring>>,
    /// What the peer has, as far as it has said or been sent.
    peer: Option<KeyringHead>,
    /// The peer may be told.
    open: bool,
    told: Option<KeyringHead>,
    /// What the peer had when statements were last sent to it.
    sent_to: Option<KeyringHead>,
}

/// Who gives way if both sides' keyrings went different ways.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Side {
    /// This one, as far as the other has not heard of it.
    Client,
    /// The other one.
    Server,
}

impl Ring {
    pub(super) const fn new(side: Side) -> Self {
        Self { side, own: None, peer: None, open: false, told: None, sent_to: None }
    }

    fn head(&self) -> KeyringHead {
        self.own.as_ref().map(|own| own.head()).unwrap_or_default()
    }

    /// From now on the peer may be told.
    pub(super) fn open(&mut self, outputs: &mut Outputs) -> Result<(), Abort> {
        self.open = true;
        self.tell(outputs)
    }

    /// The keyring here is this one now.
    pub(super) fn set(&mut self, own: Option<Arc<Keyring>>, outputs: &mut Outputs) -> Result<(), Abort> {
        self.own = own;
        self.tell(outputs)
    }

    /// The peer has spoken.
    pub(super) fn on_message(&mut self, message: KeyringMessage, outputs: &mut Outputs) -> Result<(), Abort> {
        if !self.open && !message.statements.is_empty() {
            return Err(violation("a keyring ahead of the welcome"));
        }
        self.peer = Some(message.head);
        if !message.statements.is_empty() {
            outputs.push_back(Output::ExtendKeyring(message.statements));
            // What is known then tells what the peer lacks.
            return Ok(());
        }
        self.tell(outputs)
    }

    fn tell(&mut self, outputs: &mut Outputs) -> Result<(), Abort> {
        let own = self.head();
        if !self.open || (own.count == 0 && self.peer.unwrap_or_default().count == 0) {
            return Ok(());
        }
        let Some(peer) = self.peer else {
            // A client speaks first and does not know what the server has.
            self.say_head(own, outputs);
            return Ok(());
        };
        if own == peer {
            self.say_head(own, outputs);
            outputs.push_back(Output::KeyringAgreed(own));
            return Ok(());
        }
        if own.count < peer.count {
            // The peer sends the rest once it knows.
            self.say_head(own, outputs);
            return Ok(());
        }
        let Some(keyring) = self.own.clone() else { return Ok(()) };
        let from = if keyring.begins_with(&peer) {
            usize::try_from(peer.count).unwrap_or(usize::MAX)
        } else if self.side == Side::Client {
            // Somebody was faster: as if this side had none, to be sent the whole of the server's.
            self.send(KeyringHead::default(), Vec::new(), outputs);
            return Ok(());
        } else {
            0
        };
        let mut room = MAX_MESSAGE_BYTES / 2;
        let mut fits = |statement: &&Arc<[u8]>| {
            let fits = room >= statement.len();
            room = room.saturating_sub(statement.len());
            fits
        };
        let statements: Vec<Arc<[u8]>> =
            keyring.statements(from).iter().take_while(&mut fits).cloned().collect();
        if self.told != Some(own) || self.sent_to != Some(peer) {
            self.sent_to = Some(peer);
            self.send(own, statements, outputs);
        }
        Ok(())
    }

    fn say_head(&mut self, own: KeyringHead, outputs: &mut Outputs) {
        if self.told != Some(own) {
            self.send(own, Vec::new(), outputs);
        }
    }

    fn send(&mut self, head: KeyringHead, statements: Vec<Arc<[u8]>>, outputs: &mut Outputs) {
        self.told = Some(head);
        let message = Message::Keyring(KeyringMessage { head, statements });
        outputs.push_back(Output::Send(Frame::from(&message)));
    }
}
