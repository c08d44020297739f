//! A listener's socket: bound by us, or by somebody who left it to us.

use std::io;
use std::net::{self as std_net, SocketAddr};
use std::os::unix::net as std_unix;

use tokio::net::{TcpListener, UdpSocket, UnixDatagram, UnixListener};

use super::ListenError;
use super::datagram;
use super::socket::{self, Place, SocketFile};
use super::stream::Acceptor;
use crate::address::Address;
use crate::config;
use crate::handover;

/// The socket, and what belongs to it.
#[derive(Debug)]
pub(super) struct Bound {
    pub(super) socket: Socket,
    /// Its name, with unix sockets; none where it is somebody else's.
    pub(super) file: Option<SocketFile>,
    /// Where it is bound to, with the others.
    pub(super) local: Option<SocketAddr>,
}

/// Of either kind.
#[derive(Debug)]
pub(super) enum Socket {
    Streams(Acceptor),
    Datagrams(datagram::Socket),
}

impl Bound {
    /// Binds.
    pub(super) async fn new(config: &config::Listener) -> Result<Self, ListenError> {
        let address = &config.address;
        let place = |path| Place {
            address,
            path,
            owner: &config.owner,
            mode: config.mode,
        };
        Ok(match address {
            Address::UnixStream(path) => {
                let (listener, file) = socket::unix_stream(place(path))?;
                Self {
                    socket: Socket::Streams(Acceptor::Unix(listener)),
                    file: Some(file),
                    local: None,
                }
            }
            Address::UnixDatagram(path) => {
                let (socket, tells, file) = socket::unix_datagram(place(path))?;
                Self {
                    socket: Socket::Datagrams(datagram::Socket::Unix(socket, tells)),
                    file: Some(file),
                    local: None,
                }
            }
            Address::Tcp(host) => {
                Self::tcp(socket::tcp(address, host, socket::ACCEPT_QUEUE).await?)
            }
            Address::Udp(host) => Self::udp(socket::udp(address, host).await?),
            Address::Unix(_) | Address::Stdout => return Err(ListenError::Scheme(address.clone())),
        })
    }

    fn tcp(listener: TcpListener) -> Self {
        Self {
            local: listener.local_addr().ok(),
            socket: Socket::Streams(Acceptor::Tcp(listener)),
            file: None,
        }
    }

    fn udp(socket: UdpSocket) -> Self {
        Self {
            local: socket.local_addr().ok(),
            socket: Socket::Datagrams(datagram::Socket::Udp(socket)),
            file: None,
        }
    }

    /// Leaves the socket to [`Bound::inherited`].
    pub(super) fn leave(self, address: &Address) -> Result<handover::Listener, ListenError> {
        let socket = match self.socket {
            Socket::Streams(acceptor) => acceptor.into_descriptor(),
            Socket::Datagrams(socket) => socket.into_descriptor(),
        };
        Ok(handover::Listener {
            address: address.to_string(),
            socket: socket.map_err(|source| ListenError::System {
                address: address.clone(),
                action: "hand on the socket",
                source,
            })?,
            file: self.file.map(SocketFile::leave),
            connections: Vec::new(),
        })
    }

    /// Takes the socket that was left for this address, and its connections.
    pub(super) fn inherited(
        address: &Address,
        left: handover::Listener,
    ) -> Result<(Self, Vec<handover::Connection>), ListenError> {
        let handover::Listener {
            socket,
            file,
            connections,
            ..
        } = left;
        let adopt = || -> io::Result<Option<Self>> {
            let file = (address.path().zip(file)).map(|(path, id)| SocketFile::inherited(path, id));
            Ok(Some(match address {
                Address::UnixStream(_) => {
                    let listener = std_unix::UnixListener::from(socket);
                    listener.set_nonblocking(true)?;
                    let listener = UnixListener::from_std(listener)?;
                    Self {
                        socket: Socket::Streams(Acceptor::Unix(listener)),
                        file,
                        local: None,
                    }
                }
                Address::UnixDatagram(_) => {
                    let socket = std_unix::UnixDatagram::from(socket);
                    socket.set_nonblocking(true)?;
                    let tells = socket::tells(&socket, file.is_some());
                    let socket = UnixDatagram::from_std(socket)?;
                    Self {
                        socket: Socket::Datagrams(datagram::Socket::Unix(socket, tells)),
                        file,
                        local: None,
                    }
                }
                Address::Tcp(_) => {
                    let listener = std_net::TcpListener::from(socket);
                    listener.set_nonblocking(true)?;
                    Self::tcp(TcpListener::from_std(listener)?)
                }
                Address::Udp(_) => {
                    let socket = std_net::UdpSocket::from(socket);
                    socket.set_nonblocking(true)?;
                    Self::udp(UdpSocket::from_std(socket)?)
                }
                Address::Unix(_) | Address::Stdout => return Ok(None),
            }))
        };
        let bound = adopt().map_err(|source| ListenError::System {
            address: address.clone(),
            action: "take over the socket",
            source,
        })?;
        let bound = bound.ok_or_else(|| ListenError::Scheme(address.clone()))?;
        Ok((bound, connections))
    }
}
