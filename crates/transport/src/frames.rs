//! What a session gets: two halves that carry frames, whatever is underneath.

use std::io;
use std::sync::Arc;

use blazedb_core::NodeId;
use blazedb_core::limits::{MAX_HELLO_BYTES, MAX_MESSAGE_BYTES};
use tokio_tungstenite::tungstenite;

use crate::counters::LinkCounters;
use crate::fingerprint::{Fingerprint, PublicKey};
use crate::memory::{MemoryReceiver, MemorySender};
use crate::noise::ChannelError;
use crate::upgraded::{WsReceiver, WsSender};

/// A connection with a node whose key is proven.
#[derive(Debug)]
pub struct Connection {
    /// The other node's key.
    pub remote: PublicKey,
    /// What the other node calls itself; empty if it did not say. At most `MAX_NODE_NAME_BYTES`, printable.
    pub remote_name: String,
    /// Names this connection alone; equal at both ends. For binding further proofs to it.
    pub handshake_hash: [u8; 32],
    /// The half that sends.
    pub sender: FrameSender,
    /// The half that receives.
    pub receiver: FrameReceiver,
    /// What it has carried.
    pub counters: Arc<LinkCounters>,
}

impl Connection {
    /// The other node's fingerprint.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.remote.fingerprint()
    }

    /// The other node.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        self.remote.node_id()
    }
}

/// Sends frames, in order.
#[derive(Debug)]
pub struct FrameSender(pub(crate) SenderKind);

#[derive(Debug)]
pub(crate) enum SenderKind {
    WebSocket(Box<WsSender>),
    Memory(MemorySender),
}

impl FrameSender {
    /// Feeds one frame whose content is `parts`, one after the other. It may stay in a small buffer until
    /// [`FrameSender::flush`]: feed what there is, flush when idle. Waits while the connection is full. A call that
    /// is dropped while it waits has sent the frame or will send its rest first, next time; or, in a process, has
    /// sent nothing.
    ///
    /// # Errors
    /// [`SendError`].
    pub async fn send(&mut self, parts: &[&[u8]]) -> Result<(), SendError> {
        match &mut self.0 {
            SenderKind::WebSocket(sender) => sender.send(parts).await,
            SenderKind::Memory(sender) => sender.send(parts).await,
        }
    }

    /// Hands everything that was fed to the system.
    ///
    /// # Errors
    /// [`SendError`].
    pub async fn flush(&mut self) -> Result<(), SendError> {
        match &mut self.0 {
            SenderKind::WebSocket(sender) => sender.flush().await,
            SenderKind::Memory(_) => Ok(()),
        }
    }

    /// Flushes, and tells the other side that nothing more comes. It does not wait for an answer.
    ///
    /// # Errors
    /// [`SendError`] if what was fed could not be sent.
    pub async fn close(self) -> Result<(), SendError> {
        match self.0 {
            SenderKind::WebSocket(sender) => sender.close().await,
            SenderKind::Memory(_) => Ok(()),
        }
    }
}

/// Receives frames, in order.
#[derive(Debug)]
pub struct FrameReceiver(pub(crate) ReceiverKind);

#[derive(Debug)]
pub(crate) enum ReceiverKind {
    WebSocket(Box<WsReceiver>),
    Memory(MemoryReceiver),
}

impl FrameReceiver {
    /// The next frame; `None` when the other side has closed. Safe to drop while it waits: nothing is lost.
    ///
    /// # Errors
    /// [`ReceiveError`]; the connection is over after any of them.
    pub async fn recv(&mut self) -> Result<Option<Vec<u8>>, ReceiveError> {
        match &mut self.0 {
            ReceiverKind::WebSocket(receiver) => receiver.recv().await,
            ReceiverKind::Memory(receiver) => Ok(receiver.recv().await),
        }
    }

    /// Admits the peer: from now on it may send frames of full length. An accepted connection starts unadmitted;
    /// one that this node opened, to a key that it trusts, starts admitted.
    pub fn admit(&mut self) {
        match &mut self.0 {
            ReceiverKind::WebSocket(receiver) => receiver.admit(),
            ReceiverKind::Memory(_) => {}
        }
    }

    /// Whether anything of the peer has arrived behind the last frame, be it half a one. Asking again answers for what has come since.
    pub fn take_arriving(&mut self) -> bool {
        match &mut self.0 {
            ReceiverKind::WebSocket(receiver) => receiver.take_arriving(),
            ReceiverKind::Memory(_) => false,
        }
    }
}

/// A fault of the WebSocket below a connection.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct WebSocketFault(Box<tungstenite::Error>);

impl WebSocketFault {
    pub(crate) fn new(error: tungstenite::Error) -> Self {
        Self(Box::new(error))
    }
}

/// Why a frame was not sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The other side has closed, or this side did.
    #[error("the connection is closed")]
    Closed,
    /// The network failed.
    #[error("the connection was lost: {0}")]
    Lost(#[source] io::Error),
    /// The WebSocket layer failed.
    #[error("the connection failed: {0}")]
    WebSocket(#[source] WebSocketFault),
    /// The frame could not be sealed.
    #[error(transparent)]
    Channel(#[from] ChannelError),
}

impl From<tungstenite::Error> for SendError {
    fn from(error: tungstenite::Error) -> Self {
        use tungstenite::Error::{AlreadyClosed, ConnectionClosed, Io, Protocol};
        use tungstenite::error::ProtocolError::SendAfterClosing;
        match error {
            ConnectionClosed | AlreadyClosed | Protocol(SendAfterClosing) => Self::Closed,
            Io(source) => Self::Lost(source),
            other => Self::WebSocket(WebSocketFault::new(other)),
        }
    }
}

/// Why no frame was received.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiveError {
    /// The network failed, or the peer vanished without closing.
    #[error("the connection was lost: {0}")]
    Lost(#[source] io::Error),
    /// The peer broke the rules of WebSockets, or a limit of length.
    #[error("the peer broke the protocol: {0}")]
    WebSocket(#[source] WebSocketFault),
    /// The peer sent text; frames are binary.
    #[error("the peer sent a text message where only binary ones are allowed")]
    Text,
    /// The peer sent more than a peer may before it is admitted.
    #[error("the peer sent {bytes} bytes at once before it was admitted; {MAX_HELLO_BYTES} are allowed")]
    NotAdmitted {
        /// Length of its message, in bytes.
        bytes: usize,
    },
    /// The frame did not open.
    #[error(transparent)]
    Channel(#[from] ChannelError),
}

impl From<tungstenite::Error> for ReceiveError {
    fn from(error: tungstenite::Error) -> Self {
        use tungstenite::Error::{Io, Protocol};
        use tungstenite::error::ProtocolError::ResetWithoutClosingHandshake;
        match error {
            Io(source) => Self::Lost(source),
            Protocol(ResetWithoutClosingHandshake) => Self::Lost(io::ErrorKind::UnexpectedEof.into()),
            other => Self::WebSocket(WebSocketFault::new(other)),
        }
    }
}

/// Joins `parts`, unless they are longer than a frame may be.
pub(crate) fn join(parts: &[&[u8]]) -> Result<Vec<u8>, ChannelError> {
    let bytes = parts.iter().map(|part| part.len()).fold(0, usize::saturating_add);
    if bytes > MAX_MESSAGE_BYTES { Err(ChannelError::TooLarge { bytes }) } else { Ok(parts.concat()) }
}
