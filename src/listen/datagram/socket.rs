//! Datagram sockets, unix and UDP alike.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{Shutdown, sockopt};
use tokio::io::Interest;
use tokio::net::{UdpSocket, UnixDatagram};

use super::envelope::{Envelope, Tells};
use super::sys;
use crate::listen::ListenError;
use crate::listen::socket::{self, Place, SocketFile};

/// A bound datagram socket.
#[derive(Debug)]
pub(in crate::listen) enum Socket {
    /// And what it tells.
    Unix(UnixDatagram, Tells),
    Udp(UdpSocket),
}

/// Has a unix socket tell who sends by it, and when.
///
/// # Errors
/// When it can't tell who.
pub(in crate::listen) fn ask(socket: impl AsFd) -> io::Result<Tells> {
    sockopt::set_socket_passcred(&socket, true)?;
    Ok(match sys::ask_for_times(socket.as_fd()) {
        Ok(()) => Tells::ProcessAndTime,
        Err(error) => {
            tracing::debug!(%error, "datagrams will not tell when they were sent");
            Tells::Process
        }
    })
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(socket, _) => socket.as_fd(),
            Self::Udp(socket) => socket.as_fd(),
        }
    }
}

impl Socket {
    /// Binds a unix socket.
    pub(in crate::listen) async fn bind(place: Place) -> Result<(Self, SocketFile), ListenError> {
        let ((socket, tells), file) = socket::unix_datagram(place).await?;
        Ok((Self::Unix(socket, tells), file))
    }

    const fn tells(&self) -> Tells {
        match self {
            Self::Unix(_, tells) => *tells,
            Self::Udp(_) => Tells::Remote,
        }
    }

    pub(super) async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Unix(socket, _) => socket.readable().await,
            Self::Udp(socket) => socket.readable().await,
        }
    }

    /// The next datagram, as far as the runtime knows, cut off at the buffer's end.
    pub(super) fn try_receive(&self, buffer: &mut [u8], envelope: &mut Envelope) -> io::Result<()> {
        let receive = || self.receive(buffer, envelope);
        match self {
            Self::Unix(socket, _) => socket.try_io(Interest::READABLE, receive),
            Self::Udp(socket) => socket.try_io(Interest::READABLE, receive),
        }
    }

    /// The same, asked of the system itself: the runtime may not have looked yet.
    pub(super) fn receive(&self, buffer: &mut [u8], envelope: &mut Envelope) -> io::Result<()> {
        sys::receive(self.as_fd(), self.tells(), buffer, envelope)
    }

    /// The socket itself, with what is queued in it.
    ///
    /// # Errors
    /// When the runtime does not let go of it.
    pub(in crate::listen) fn into_descriptor(self) -> io::Result<OwnedFd> {
        match self {
            Self::Unix(socket, _) => socket.into_std().map(OwnedFd::from),
            Self::Udp(socket) => socket.into_std().map(OwnedFd::from),
        }
    }

    /// Lets nothing more come, where that can be.
    pub(super) fn close(&self) -> io::Result<()> {
        match self {
            Self::Unix(socket, _) => Ok(rustix::net::shutdown(socket, Shutdown::Read)?),
            Self::Udp(_) => Ok(()),
        }
    }

    /// The most that can be waiting, what each datagram takes beside its bytes included.
    pub(super) fn most_bytes(&self) -> usize {
        match self {
            Self::Unix(..) => usize::MAX,
            Self::Udp(socket) => sockopt::socket_recv_buffer_size(socket).unwrap_or(usize::MAX),
        }
    }

    /// Asks the kernel to let so much wait by UDP. Beyond what `net.core.rmem_max` allows
    /// it takes `CAP_NET_ADMIN`.
    pub(in crate::listen) fn ask_for_buffer(&self, bytes: usize) {
        let Self::Udp(socket) = self else { return };
        let bytes = bytes.min(i32::MAX as usize / 2);
        let set = sockopt::set_socket_recv_buffer_size_force(socket, bytes)
            // Cut by the kernel to what is allowed.
            .or_else(|_| sockopt::set_socket_recv_buffer_size(socket, bytes));
        if let Err(error) = set {
            tracing::debug!(%error, bytes, "cannot set the receive buffer");
        }
    }

    /// What may wait by UDP, in the measure of `receive_buffer`. The kernel allows twice as
    /// much and counts its own overhead.
    pub(in crate::listen) fn buffer_bytes(&self) -> Option<u64> {
        let Self::Udp(socket) = self else { return None };
        let doubled = sockopt::socket_recv_buffer_size(socket).ok()?;
        Some(doubled as u64 / 2)
    }

    /// Datagrams that the kernel dropped for want of room since the socket was bound, modulo
    /// 2³². Unix senders wait instead.
    ///
    /// This is the kernel's own count, exact whenever it is asked for. `SO_RXQ_OVFL` tells
    /// the same by the next datagram alone, if there is one.
    pub(in crate::listen) fn kernel_drops(&self) -> Option<u32> {
        let Self::Udp(socket) = self else { return None };
        sys::kernel_drops(socket.as_fd())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listen::datagram::envelope::Whom;

    #[tokio::test]
    async fn a_datagram_is_cut_off_and_tells_its_sender() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(receiver) = UdpSocket::bind(address).await else {
                continue;
            };
            let sender = std::net::UdpSocket::bind(address).unwrap();
            let to = receiver.local_addr().unwrap();
            let socket = Socket::Udp(receiver);
            sender.send_to(b"abc", to).unwrap();
            let (mut buffer, mut envelope) = ([0; 2], Envelope::EMPTY);
            socket.receive(&mut buffer, &mut envelope).unwrap();
            assert_eq!((&buffer, envelope.bytes), (b"ab", 2));
            let from = Whom::Remote(sender.local_addr().unwrap());
            assert_eq!(envelope.whom(), from);
            let none = socket.receive(&mut buffer, &mut envelope).unwrap_err();
            assert_eq!(none.kind(), io::ErrorKind::WouldBlock);
            assert_eq!(socket.kernel_drops(), Some(0), "{address}");
        }
    }
}
