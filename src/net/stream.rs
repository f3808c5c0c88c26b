//! The kinds of byte stream that a connection may run over.

use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsStream;

use super::tls::Replay;

/// A connected socket, with or without TLS.
#[derive(Debug)]
pub enum Stream {
    /// Plain TCP.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
    /// TLS over TCP, either side. Boxed: its state is kilobytes, and most connections have none.
    Tls(Box<TlsStream<Replay>>),
}

impl Stream {
    /// Sets what every TCP socket of ours has: no delay (messages are written whole), and keepalive, so that a peer
    /// that vanished without a word is noticed.
    pub fn tune(&self) {
        let configure = |socket: SockRef<'_>| {
            let keepalive = TcpKeepalive::new()
                .with_time(Duration::from_secs(60))
                .with_interval(Duration::from_secs(15))
                .with_retries(4);
            // Failing to tune a socket that works is no reason to refuse it.
            let _ = socket.set_tcp_nodelay(true);
            let _ = socket.set_tcp_keepalive(&keepalive);
        };
        match self {
            Self::Tcp(tcp) => configure(SockRef::from(&tcp.as_fd())),
            Self::Tls(tls) => configure(SockRef::from(&tls.get_ref().0.tcp().as_fd())),
            Self::Unix(_) => {}
        }
    }

    /// Waits until a read may find something. TLS may hold what it has decrypted already, so there a read must tell.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(tcp) => tcp.poll_read_ready(cx),
            Self::Unix(unix) => unix.poll_read_ready(cx),
            Self::Tls(_) => Poll::Ready(Ok(())),
        }
    }

    /// Whether what is sent is encrypted.
    pub fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// Whether the peer is on this machine by a Unix socket.
    pub fn is_unix(&self) -> bool {
        matches!(self, Self::Unix(_))
    }
}

/// A plain socket on its way from one event loop to another.
#[derive(Debug)]
pub enum Detached {
    /// TCP.
    Tcp(std::net::TcpStream),
    /// Unix.
    Unix(std::os::unix::net::UnixStream),
}

impl Stream {
    /// Takes the socket off this event loop; only for sockets without TLS.
    pub fn detach(self) -> io::Result<Detached> {
        match self {
            Self::Tcp(tcp) => Ok(Detached::Tcp(tcp.into_std()?)),
            Self::Unix(unix) => Ok(Detached::Unix(unix.into_std()?)),
            Self::Tls(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

impl Detached {
    /// Puts the socket on the current event loop.
    pub fn attach(self) -> io::Result<Stream> {
        match self {
            Self::Tcp(tcp) => Ok(Stream::Tcp(TcpStream::from_std(tcp)?)),
            Self::Unix(unix) => Ok(Stream::Unix(UnixStream::from_std(unix)?)),
        }
    }
}

impl AsyncRead for Stream {
    #[inline]
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_write(cx, buf),
        }
    }

    #[inline]
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            // The kernel has what was written; only TLS keeps records back.
            Self::Tcp(_) | Self::Unix(_) => Poll::Ready(Ok(())),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
        }
    }
}
