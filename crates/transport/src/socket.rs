//! The byte stream below a WebSocket, with or without TLS, and the budget of a peer that is not admitted yet.
//!
//! The WebSocket layer keeps its buffers as long as the connection lives, so they are small. What makes long frames
//! cheap is here: the system is read from and written to in large pieces, and their memory is given back as soon as
//! they are empty.
//!
//! Invariants: before [`Admission::lift`] no more than [`UNADMITTED_BYTES`] (and one read) reach the WebSocket
//! layer, so a stranger can't make this process collect a long message. After a flush nothing is held back.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use blazedb_core::limits::{FRAGMENT_BYTES, SOCKET_PIECE_BYTES, UNADMITTED_BYTES};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

const UNLIMITED: u64 = u64::MAX;
/// No limit, and bytes of the peer have come since somebody last asked.
const ARRIVING: u64 = UNLIMITED - 1;

/// The bytes that the peer may still send, and whether some have come.
#[derive(Debug)]
pub(crate) struct Admission(AtomicU64);

impl Admission {
    pub(crate) fn pending() -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(UNADMITTED_BYTES)))
    }

    pub(crate) fn granted() -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(UNLIMITED)))
    }

    pub(crate) fn lift(&self) {
        self.0.store(UNLIMITED, Ordering::Relaxed);
    }

    pub(crate) fn is_granted(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= ARRIVING
    }

    /// Whether an admitted peer has sent anything since this was last asked.
    pub(crate) fn take_arriving(&self) -> bool {
        self.0.compare_exchange(ARRIVING, UNLIMITED, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    fn spend(&self, bytes: u64) -> io::Result<()> {
        let left = self.0.load(Ordering::Relaxed);
        if left >= ARRIVING {
            if left == UNLIMITED {
                self.0.store(ARRIVING, Ordering::Relaxed);
            }
            return Ok(());
        }
        let rest = left.checked_sub(bytes).ok_or_else(|| {
            io::Error::new(io::ErrorKind::QuotaExceeded, "the peer sent too much before it was admitted")
        })?;
        self.0.store(rest, Ordering::Relaxed);
        Ok(())
    }
}

thread_local! {
    /// Where a read of this thread goes first.
    static PIECE: RefCell<Box<[u8]>> = RefCell::new(vec![0; SOCKET_PIECE_BYTES].into());
}

/// A TCP connection, perhaps inside TLS.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: Stream,
    admission: Arc<Admission>,
    /// Read, and not asked for yet; from `taken` on.
    ahead: Vec<u8>,
    taken: usize,
    /// Written, and not handed to the system yet.
    behind: Vec<u8>,
}

#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Socket {
    pub(crate) fn plain(stream: TcpStream, admission: Arc<Admission>) -> Self {
        Self::new(Stream::Plain(stream), admission)
    }

    pub(crate) fn tls(stream: impl Into<TlsStream<TcpStream>>, admission: Arc<Admission>) -> Self {
        Self::new(Stream::Tls(Box::new(stream.into())), admission)
    }

    const fn new(stream: Stream, admission: Arc<Admission>) -> Self {
        Self { stream, admission, ahead: Vec::new(), taken: 0, behind: Vec::new() }
    }

    /// Gives `buf` what was read ahead. Answers whether there was anything.
    fn take_ahead(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let left = self.ahead.get(self.taken..).unwrap_or_default();
        let now = left.get(..buf.remaining()).unwrap_or(left);
        buf.put_slice(now);
        self.taken += now.len();
        let any = !now.is_empty();
        if self.taken == self.ahead.len() && any {
            (self.ahead, self.taken) = (Vec::new(), 0);
        }
        any
    }

    /// Hands what was held back to the system.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.behind.is_empty() {
            let written = ready!(self.stream.poll_write(cx, &self.behind))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            if written == self.behind.len() {
                self.behind = Vec::new();
            } else {
                self.behind.drain(..written);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Stream {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_read(cx, buf),
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_write(cx, bytes),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.take_ahead(buf) {
            return Poll::Ready(Ok(()));
        }
        if !this.admission.is_granted() {
            let before = buf.filled().len();
            ready!(this.stream.poll_read(cx, buf))?;
            let bytes = buf.filled().len().saturating_sub(before);
            return Poll::Ready(this.admission.spend(bytes as u64));
        }
        PIECE.with_borrow_mut(|piece| {
            let mut piece = ReadBuf::new(piece);
            ready!(this.stream.poll_read(cx, &mut piece))?;
            let read = piece.filled();
            let (now, later) = read.split_at(read.len().min(buf.remaining()));
            buf.put_slice(now);
            if !later.is_empty() {
                this.ahead = later.to_vec();
            }
            Poll::Ready(Ok(()))
        })
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        // A short message goes out by itself; what is longer than a fragment is a piece of a frame.
        if this.behind.is_empty() && bytes.len() < FRAGMENT_BYTES {
            return this.stream.poll_write(cx, bytes);
        }
        if this.behind.len() + bytes.len() > SOCKET_PIECE_BYTES {
            ready!(this.poll_drain(cx))?;
        }
        if this.behind.capacity() == 0 {
            this.behind.reserve_exact(SOCKET_PIECE_BYTES);
        }
        this.behind.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        match &mut this.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        match &mut this.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
        }
    }
}
