//! A listener's socket: bound by us, or by somebody who left it to us.

use std::io;
use std::net::{self as std_net, SocketAddr};
use std::os::unix::net as std_unix;
use std::path::Path;

use tokio::net::{TcpListener, UdpSocket, UnixDatagram};

use super::datagram;
use super::socket::{self, Place, SocketFile};
use super::stream::Acceptor;
use super::{ListenError, left};
use crate::address::Address;
use crate::config;
use crate::handover;

/// The socket, and what belongs to it.
#[derive(Debug)]
pub(super) struct Bound {
    pub(super) socket: Socket,
    /// Its name, with unix sockets.
    pub(super) file: Option<SocketFile>,
    /// Where it is bound to, with the others.
    pub(super) local: Option<SocketAddr>,
}

/// Of either kind.
#[derive(Debug)]
pub(super) enum Socket {
    Streams(Acceptor),
    /// The newest last, where the file was made anew.
    Datagrams(Vec<datagram::Socket>),
}

/// What the file of a listener's socket is to be.
fn place(config: &config::Listener, path: &Path) -> Place {
    Place {
        address: config.address.clone(),
        path: path.to_owned(),
        owner: config.owner.clone(),
        mode: config.mode,
    }
}

impl Bound {
    /// Binds.
    pub(super) async fn new(config: &config::Listener) -> Result<Self, ListenError> {
        let address = &config.address;
        Ok(match address {
            Address::UnixStream(path) => {
                let (listener, file) = socket::unix_stream(place(config, path)).await?;
                Self {
                    socket: Socket::Streams(Acceptor::unix(listener)),
                    file: Some(file),
                    local: None,
                }
            }
            Address::UnixDatagram(path) => {
                let (socket, file) = datagram::Socket::bind(place(config, path)).await?;
                Self {
                    socket: Socket::Datagrams(vec![socket]),
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
            socket: Socket::Datagrams(vec![datagram::Socket::Udp(socket)]),
            file: None,
        }
    }

    /// Gives datagram sockets the buffer that the configuration asks for, and says what it
    /// came to.
    pub(super) fn size_buffers(&self, config: &config::Listener, address: &Address) {
        let (Socket::Datagrams(sockets), Some(asked)) = (&self.socket, config.receive_buffer.0)
        else {
            return;
        };
        for socket in sockets {
            socket.ask_for_buffer(asked.as_usize());
            match socket.buffer_bytes() {
                Some(granted) if granted < asked.0 => tracing::warn!(
                    %address, asked = asked.0, granted,
                    "the kernel grants less than receive_buffer: raise net.core.rmem_max, or give \
                     CAP_NET_ADMIN"
                ),
                Some(granted) => tracing::info!(%address, granted, "receive buffer"),
                None => {}
            }
        }
    }

    /// Leaves the socket to [`Bound::inherited`].
    pub(super) fn leave(self, address: &Address) -> Result<handover::Listener, ListenError> {
        let name = address.to_string();
        let left = match self.socket {
            Socket::Streams(acceptor) => (acceptor.into_descriptors())
                .map(|descriptors| Some(left(name, descriptors, self.file))),
            Socket::Datagrams(sockets) => Ok(datagram::leave(sockets, self.file, &name)),
        };
        let none = || io::Error::other("there is none");
        left.and_then(|left| left.ok_or_else(none))
            .map_err(|source| ListenError::System {
                address: address.clone(),
                action: "hand on the socket",
                source,
            })
    }

    /// Takes the socket that was left for this address, and its connections.
    pub(super) fn inherited(
        config: &config::Listener,
        left: handover::Listener,
    ) -> Result<(Self, Vec<handover::Connection>), ListenError> {
        let address = &config.address;
        let handover::Listener {
            socket,
            file,
            older,
            connections,
            ..
        } = left;
        let (older, files): (Vec<_>, Vec<_>) = older.into_iter().unzip();
        let of_file = |path: &Path| SocketFile::left(place(config, path), file, files);
        let adopt = || -> io::Result<Option<Self>> {
            Ok(Some(match address {
                Address::UnixStream(path) => Self {
                    socket: Socket::Streams(Acceptor::of_unix(older, socket)?),
                    file: Some(of_file(path)),
                    local: None,
                },
                Address::UnixDatagram(path) => {
                    let sockets = older.into_iter().chain([socket]).map(|socket| {
                        let socket = std_unix::UnixDatagram::from(socket);
                        socket.set_nonblocking(true)?;
                        let tells = datagram::ask(&socket)?;
                        Ok(datagram::Socket::Unix(
                            UnixDatagram::from_std(socket)?,
                            tells,
                        ))
                    });
                    Self {
                        socket: Socket::Datagrams(sockets.collect::<io::Result<_>>()?),
                        file: Some(of_file(path)),
                        local: None,
                    }
                }
                Address::Tcp(_) => Self::tcp(socket::tcp_listener(socket)?),
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
