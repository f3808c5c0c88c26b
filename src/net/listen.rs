//! Listening sockets.

use std::fmt;
use std::fs::Permissions;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, UnixListener};

use super::Stream;
use crate::config::ListenAddress;

/// Connections that the kernel keeps for us until they are accepted.
const BACKLOG: i32 = 4096;

/// Where a client comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// An IP address and port.
    Tcp(SocketAddr),
    /// A process on this machine.
    Unix,
}

impl Peer {
    /// The IP address, if it has one; an IPv4 address mapped into IPv6 is given as IPv4.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(address) => Some(address.ip().to_canonical()),
            Self::Unix => None,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

/// A listening socket.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// Unix; the file is removed when the listener goes.
    Unix(UnixListener, SocketFile),
}

/// A socket file that is removed with its listener.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Listener {
    /// Waits for the next client.
    pub async fn accept(&self) -> io::Result<(Stream, Peer)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                Ok((Stream::Tcp(stream), Peer::Tcp(address)))
            }
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                Ok((Stream::Unix(stream), Peer::Unix))
            }
        }
    }

    /// The TCP address that was bound, for a port of 0.
    pub fn local_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix(..) => None,
        }
    }
}

/// Binds one address. TCP sockets share their port (`SO_REUSEPORT`), so that a new Weir can start before the old
/// one has drained.
pub fn bind(address: &ListenAddress) -> io::Result<Listener> {
    match address {
        ListenAddress::Tcp(address) => {
            let socket = Socket::new(Domain::for_address(*address), Type::STREAM, Some(Protocol::TCP))?;
            socket.set_reuse_address(true)?;
            socket.set_reuse_port(true)?;
            socket.set_nonblocking(true)?;
            socket.bind(&(*address).into())?;
            socket.listen(BACKLOG)?;
            Ok(Listener::Tcp(TcpListener::from_std(socket.into())?))
        }
        ListenAddress::Unix { directory, port } => {
            let path = directory.join(format!(".s.PGSQL.{port}"));
            if std::os::unix::net::UnixStream::connect(&path).is_err() {
                // Nobody answers: what a crash left behind.
                let _ = std::fs::remove_file(&path);
            }
            let listener = UnixListener::bind(&path)?;
            let file = SocketFile(path);
            // As PostgreSQL's default of unix_socket_permissions: the access rules say who gets in, not the umask.
            std::fs::set_permissions(&file.0, Permissions::from_mode(0o777))?;
            Ok(Listener::Unix(listener, file))
        }
    }
}

/// Binds all addresses, or says which one could not be bound.
pub fn bind_all(addresses: &[ListenAddress]) -> Result<Vec<Listener>, (ListenAddress, io::Error)> {
    addresses.iter().map(|address| bind(address).map_err(|error| (address.clone(), error))).collect()
}
