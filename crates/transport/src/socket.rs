//! The byte stream below a WebSocket, with or without TLS, and the budget of a peer that is not admitted yet.
//!
//! Invariant: before [`Admission::lift`] no more than [`UNADMITTED_BYTES`] (and one read) reach the WebSocket
//! layer, so a stranger can't make this process collect a long message.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use blazedb_core::limits::UNADMITTED_BYTES;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

const UNLIMITED: u64 = u64::MAX;

/// The bytes that the peer may still send.
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
        self.0.load(Ordering::Relaxed) == UNLIMITED
    }

    fn spend(&self, bytes: u64) -> io::Result<()> {
        let left = self.0.load(Ordering::Relaxed);
        if left == UNLIMITED {
            return Ok(());
        }
        let rest = left.checked_sub(bytes).ok_or_else(|| {
            io::Error::new(io::ErrorKind::QuotaExceeded, "the peer sent too much before it was admitted")
        })?;
        self.0.store(rest, Ordering::Relaxed);
        Ok(())
    }
}

/// A TCP connection, perhaps inside TLS.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: Stream,
    admission: Arc<Admission>,
}

#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Socket {
    pub(crate) fn plain(stream: TcpStream, admission: Arc<Admission>) -> Self {
        Self { stream: Stream::Plain(stream), admission }
    }

    pub(crate) fn tls(stream: impl Into<TlsStream<TcpStream>>, admission: Arc<Admission>) -> Self {
        Self { stream: Stream::Tls(Box::new(stream.into())), admission }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(match &mut this.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tls(stream) => Pin::new(stream.as_mut()).poll_read(cx, buf),
        })?;
        let bytes = buf.filled().len().saturating_sub(before);
        Poll::Ready(this.admission.spend(bytes as u64))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Tls(stream) => Pin::new(stream.as_mut()).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
        }
    }
}
