//! Fresh tokens on an open session, one decision at a time: a peer that sends many costs no more than one
//! that waits.

use std::collections::VecDeque;

use super::Output;
use crate::wire::Token;

/// The server's side: what was handed in and is not decided on.
#[derive(Debug, Default)]
pub(super) struct TokenDesk {
    deciding: bool,
    /// The newest that came meanwhile; those before it count for nothing.
    next: Option<Token>,
}

impl TokenDesk {
    pub(super) fn on_token(&mut self, token: Token, outputs: &mut VecDeque<Output>) {
        if self.deciding {
            self.next = Some(token);
        } else {
            self.deciding = true;
            outputs.push_back(Output::Token(token));
        }
    }

    /// The last one was accepted.
    pub(super) fn on_decision(&mut self, outputs: &mut VecDeque<Output>) {
        self.deciding = false;
        if let Some(token) = self.next.take() {
            self.on_token(token, outputs);
        }
    }
}
