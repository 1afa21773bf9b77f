//! What the end of a connection means for its link.

use blazedb_core::session::Closed;
use blazedb_core::wire::CloseCode;
use blazedb_transport::ws::ConnectError;

use crate::status::{LinkError, is_refusal};

pub(crate) fn temporary(message: String) -> LinkError {
    LinkError { temporary: true, refused: false, stranger: false, message }
}

pub(crate) fn refused(message: String) -> LinkError {
    LinkError { temporary: false, refused: true, stranger: false, message }
}

pub(crate) fn stranger(message: String) -> LinkError {
    LinkError { stranger: true, ..refused(message) }
}

pub(crate) fn connect_failed(error: &ConnectError) -> LinkError {
    let message = error.to_string();
    match error {
        ConnectError::KeyChanged { .. } => stranger(message),
        ConnectError::Name(_) | ConnectError::Pins(_) | ConnectError::Refused { status: 400..=499, .. } => {
            refused(message)
        }
        _ => temporary(message),
    }
}

pub(crate) fn session_ended(endpoint: &str, closed: Closed) -> LinkError {
    match closed {
        Closed::ByPeer(CloseCode::Unauthenticated, text) => stranger(format!("{endpoint}: refused: {text}")),
        Closed::ByPeer(CloseCode::Refused, text) => refused(format!("{endpoint}: refused: {text}")),
        // Time passes: what is ahead of a clock now will not be for ever.
        Closed::ByPeer(CloseCode::ClockDrift, text) | Closed::Here(CloseCode::ClockDrift, text) => {
            LinkError { temporary: true, ..refused(format!("{endpoint}: {text}")) }
        }
        Closed::ByPeer(code, text) | Closed::Here(code, text) if is_refusal(code) => {
            refused(format!("{endpoint}: {text}"))
        }
        Closed::ByPeer(_, text) | Closed::Here(_, text) => temporary(format!("{endpoint}: {text}")),
        Closed::Silent => temporary(format!("{endpoint}: the other side has gone silent")),
    }
}
