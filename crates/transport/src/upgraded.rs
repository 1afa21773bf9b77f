//! A WebSocket after its upgrade: first the handshake's messages, then sealed frames.
//!
//! Invariants: one frame is one binary message, sent in fragments of at most [`FRAGMENT_BYTES`], so the buffers of
//! the WebSocket layer at both ends never grow beyond that, however long a frame is, and nothing is kept of a frame
//! after it was sent or received. A frame that was begun is sent to its end before another begins.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;

use blazedb_core::limits::{FRAGMENT_BYTES, MAX_HELLO_BYTES, MAX_MESSAGE_BYTES, SOCKET_BUFFER_BYTES};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{Sink, SinkExt, StreamExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::{Bytes, Error as WsError, Message};

use crate::counters::LinkCounters;
use crate::frames::{
    Connection, FrameReceiver, FrameSender, ReceiveError, ReceiverKind, SendError, SenderKind,
};
use crate::noise::{Opener, Sealer, SecureChannel, sealed_len};
use crate::socket::{Admission, Socket};

pub(crate) type WebSocket = WebSocketStream<Socket>;

pub(crate) fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(SOCKET_BUFFER_BYTES)
        .write_buffer_size(SOCKET_BUFFER_BYTES)
        .max_write_buffer_size(4 * FRAGMENT_BYTES)
        .max_message_size(Some(sealed_len(MAX_MESSAGE_BYTES)))
        .max_frame_size(Some(sealed_len(MAX_MESSAGE_BYTES)))
}

/// Why the other side's handshake message did not come.
#[derive(Debug)]
pub(crate) enum Silence {
    /// It closed, with this reason.
    Closed(String),
    /// It sent something else.
    NotBinary,
    /// The connection failed.
    Failed(WsError),
}

pub(crate) async fn send_handshake(socket: &mut WebSocket, message: Vec<u8>) -> Result<(), Silence> {
    socket.send(Message::binary(message)).await.map_err(Silence::Failed)
}

pub(crate) async fn recv_handshake(socket: &mut WebSocket) -> Result<Bytes, Silence> {
    loop {
        match socket.next().await {
            None | Some(Err(WsError::ConnectionClosed)) => return Err(Silence::Closed(String::new())),
            Some(Err(error)) => return Err(Silence::Failed(error)),
            Some(Ok(Message::Binary(message))) => return Ok(message),
            Some(Ok(Message::Close(frame))) => {
                let reason = frame.map(|frame| frame.reason.as_str().to_owned());
                return Err(Silence::Closed(reason.unwrap_or_default()));
            }
            Some(Ok(Message::Text(_))) => return Err(Silence::NotBinary),
            Some(Ok(_)) => {}
        }
    }
}

pub(crate) fn connection(socket: WebSocket, channel: SecureChannel, admission: Arc<Admission>) -> Connection {
    let counters = Arc::new(LinkCounters::default());
    let (sink, stream) = socket.split();
    let sender = WsSender {
        sink,
        sealer: channel.send,
        unsent: Bytes::new(),
        begun: false,
        counters: counters.clone(),
    };
    let receiver = WsReceiver { stream, opener: channel.recv, admission, counters: counters.clone() };
    Connection {
        remote: channel.remote,
        remote_name: channel.remote_name,
        handshake_hash: channel.handshake_hash,
        sender: FrameSender(SenderKind::WebSocket(Box::new(sender))),
        receiver: FrameReceiver(ReceiverKind::WebSocket(Box::new(receiver))),
        counters,
    }
}

/// The sending half.
#[derive(Debug)]
pub(crate) struct WsSender {
    sink: SplitSink<WebSocket, Message>,
    sealer: Sealer,
    /// The rest of a sealed frame.
    unsent: Bytes,
    /// Whether a fragment of that frame was sent.
    begun: bool,
    counters: Arc<LinkCounters>,
}

impl WsSender {
    pub(crate) async fn send(&mut self, parts: &[&[u8]]) -> Result<(), SendError> {
        self.drain().await?;
        let mut sealed = Vec::new();
        self.sealer.seal(parts, &mut sealed)?;
        self.counters.sent(sealed.len());
        self.unsent = Bytes::from(sealed);
        self.begun = false;
        self.drain().await
    }

    /// Feeds the fragments one by one. Between two of them it may be dropped and called again.
    async fn drain(&mut self) -> Result<(), SendError> {
        while !self.unsent.is_empty() {
            poll_fn(|cx| Pin::new(&mut self.sink).poll_ready(cx)).await?;
            let fragment = self.unsent.split_to(FRAGMENT_BYTES.min(self.unsent.len()));
            let data = if self.begun { Data::Continue } else { Data::Binary };
            self.begun = true;
            let frame = Frame::message(fragment, OpCode::Data(data), self.unsent.is_empty());
            Pin::new(&mut self.sink).start_send(Message::Frame(frame))?;
        }
        self.unsent = Bytes::new();
        Ok(())
    }

    pub(crate) async fn flush(&mut self) -> Result<(), SendError> {
        self.drain().await?;
        Ok(self.sink.flush().await?)
    }

    pub(crate) async fn close(mut self) -> Result<(), SendError> {
        self.flush().await?;
        Ok(self.sink.close().await?)
    }
}

/// The receiving half.
#[derive(Debug)]
pub(crate) struct WsReceiver {
    stream: SplitStream<WebSocket>,
    opener: Opener,
    admission: Arc<Admission>,
    counters: Arc<LinkCounters>,
}

impl WsReceiver {
    pub(crate) async fn recv(&mut self) -> Result<Option<Vec<u8>>, ReceiveError> {
        loop {
            let sealed = match self.stream.next().await {
                None
                | Some(Err(WsError::ConnectionClosed | WsError::AlreadyClosed) | Ok(Message::Close(_))) => {
                    return Ok(None);
                }
                Some(Err(error)) => return Err(error.into()),
                Some(Ok(Message::Text(_))) => return Err(ReceiveError::Text),
                Some(Ok(Message::Binary(sealed))) => sealed,
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
            };
            let bytes = sealed.len();
            if bytes > sealed_len(MAX_HELLO_BYTES) && !self.admission.is_granted() {
                return Err(ReceiveError::NotAdmitted { bytes });
            }
            let mut frame = Vec::new();
            self.opener.open(&sealed, &mut frame)?;
            self.counters.received(bytes);
            self.admission.take_arriving();
            return Ok(Some(frame));
        }
    }

    pub(crate) fn admit(&self) {
        self.admission.lift();
    }

    pub(crate) fn take_arriving(&self) -> bool {
        self.admission.take_arriving()
    }
}
