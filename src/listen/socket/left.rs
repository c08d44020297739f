//! Sockets that another process bound, and left to us. All of it within a runtime.

use std::io;
use std::net as std_net;
use std::os::fd::OwnedFd;
use std::os::unix::net as std_unix;

use tokio::net::{TcpListener, UnixListener};

use super::{Errors, Place, SocketFile};
use crate::address::Address;
use crate::handover;
use crate::listen::ListenError;

/// What is done, where that fails.
const TAKE_OVER: &str = "take over the socket";

/// A listening unix socket.
pub(in crate::listen) fn unix_listener(socket: OwnedFd) -> io::Result<UnixListener> {
    let listener = std_unix::UnixListener::from(socket);
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

/// A listening TCP socket.
pub(in crate::listen) fn tcp_listener(socket: OwnedFd) -> io::Result<TcpListener> {
    let listener = std_net::TcpListener::from(socket);
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// Goes on with a unix stream socket that was left for the place.
pub(crate) fn left_unix_stream(
    place: Place,
    left: handover::Listener,
) -> Result<(UnixListener, SocketFile), ListenError> {
    let listener =
        unix_listener(left.socket).map_err(Errors(&place.address).while_doing(TAKE_OVER))?;
    Ok((listener, SocketFile::left(place, left.file, Vec::new())))
}

/// Goes on with a TCP socket that was left for the address.
pub(crate) fn left_tcp(
    address: &Address,
    left: handover::Listener,
) -> Result<TcpListener, ListenError> {
    tcp_listener(left.socket).map_err(Errors(address).while_doing(TAKE_OVER))
}
