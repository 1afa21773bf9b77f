//! Why a session is over that ended on no message of its peer.

use blazedb_core::limits;
use blazedb_core::session::Closed;
use blazedb_core::wire::CloseCode;
use blazedb_transport::ReceiveError;

use super::Driver;

impl Driver {
    pub(super) fn never_opened(&self) -> Closed {
        if self.told.is_some() {
            return Closed::Silent;
        }
        let seconds = limits::HANDSHAKE_MS / 1_000;
        Closed::Here(CloseCode::Protocol, format!("no hello that opens a session within {seconds} s"))
    }

    /// A server tells a client that broke the rules from one that was lost. For a client both are a reason to come
    /// again soon: whoever spoilt the frame need not be the server.
    pub(super) fn broken_off(&self, error: &ReceiveError) -> Closed {
        let server = self.told.is_none();
        match error {
            ReceiveError::Lost(_) => Closed::ByPeer(CloseCode::GoingAway, error.to_string()),
            _ if server => Closed::Here(CloseCode::Protocol, error.to_string()),
            _ => Closed::ByPeer(CloseCode::GoingAway, error.to_string()),
        }
    }
}
