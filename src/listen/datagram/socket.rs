//! Datagram sockets, unix and UDP alike, and who sent what comes by them.

use std::fmt;
use std::fs;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{self as std_net, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net as std_unix;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, Shutdown, recvmsg, sockopt,
};
use tokio::io::Interest;
use tokio::net::{UdpSocket, UnixDatagram};

use crate::listen::ListenError;
use crate::listen::socket::{self, Place, SocketFile};
use crate::listen::stream::Peer;

/// Who sent a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whom {
    /// Not told.
    Unknown,
    /// The process of this number.
    Process(u32),
    /// From there, by UDP.
    Remote(SocketAddr),
}

impl fmt::Display for Whom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("unknown"),
            Self::Process(pid) => {
                let peer = Peer {
                    pid: Some(*pid),
                    ..Peer::default()
                };
                peer.with_program().fmt(f)
            }
            Self::Remote(remote) => remote.fmt(f),
        }
    }
}

/// A bound datagram socket.
#[derive(Debug)]
pub(in crate::listen) enum Socket {
    /// And whether the kernel tells who sends by it.
    Unix(UnixDatagram, Tells),
    Udp(UdpSocket),
}

/// Whether a unix socket was made to tell the processes that send by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::listen) enum Tells {
    Process,
    Nothing,
}

impl Socket {
    /// Binds a unix socket.
    pub(in crate::listen) async fn bind(place: Place) -> Result<(Self, SocketFile), ListenError> {
        let ((socket, tells), file) = socket::unix_datagram(place).await?;
        Ok((Self::Unix(socket, tells), file))
    }

    pub(super) async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Unix(socket, _) => socket.readable().await,
            Self::Udp(socket) => socket.readable().await,
        }
    }

    /// The next datagram, cut off at the buffer's end.
    pub(super) fn try_recv(&self, buffer: &mut [u8]) -> io::Result<(usize, Whom)> {
        match self {
            Self::Unix(socket, Tells::Process) => {
                socket.try_io(Interest::READABLE, || recv_with_process(socket, buffer))
            }
            Self::Unix(socket, Tells::Nothing) => socket
                .try_recv(buffer)
                .map(|length| (length, Whom::Unknown)),
            Self::Udp(socket) => socket.try_recv_from(buffer).map(with_remote),
        }
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
    pub(super) fn into_queued(self) -> io::Result<Queue> {
        match self {
            Self::Unix(socket, tells) => {
                rustix::net::shutdown(&socket, Shutdown::Read)?;
                Ok(Queue::Unix(socket.into_std()?, tells))
            }
            Self::Udp(socket) => socket.into_std().map(Queue::Udp),
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

    /// Datagrams that the kernel dropped for want of room since the socket was
    /// bound. Unix senders wait instead.
    ///
    /// This is the kernel's own count, and exact whenever it is asked for. `SO_RXQ_OVFL`
    /// tells the same by the next datagram alone, if there is one, and makes each longer.
    pub(in crate::listen) fn kernel_drops(&self) -> Option<u64> {
        let Self::Udp(socket) = self else { return None };
        let inode = rustix::fs::fstat(socket).ok()?.st_ino;
        ["/proc/net/udp", "/proc/net/udp6"]
            .iter()
            .find_map(|table| drops_of(&fs::read_to_string(table).ok()?, inode))
    }
}

/// A socket whose datagrams are asked of the system itself: the runtime may not
/// have looked yet.
pub(super) enum Queue {
    Unix(std_unix::UnixDatagram, Tells),
    Udp(std_net::UdpSocket),
}

impl Queue {
    pub(super) fn recv(&self, buffer: &mut [u8]) -> io::Result<(usize, Whom)> {
        match self {
            Self::Unix(socket, Tells::Process) => recv_with_process(socket, buffer),
            Self::Unix(socket, Tells::Nothing) => {
                socket.recv(buffer).map(|length| (length, Whom::Unknown))
            }
            Self::Udp(socket) => socket.recv_from(buffer).map(with_remote),
        }
    }

    /// The most that can be waiting, what each datagram takes beside its bytes included.
    pub(super) fn most_bytes(&self) -> usize {
        match self {
            Self::Unix(..) => usize::MAX,
            Self::Udp(socket) => sockopt::socket_recv_buffer_size(socket).unwrap_or(usize::MAX),
        }
    }
}

fn with_remote((length, remote): (usize, SocketAddr)) -> (usize, Whom) {
    (length, Whom::Remote(remote))
}

/// Receives from a socket that tells processes. There is room for a process and nothing
/// else: descriptors that a sender passes are closed by the kernel.
fn recv_with_process(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Whom)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(buffer)];
    let received = recvmsg(socket, &mut parts, &mut control, RecvFlags::empty())?;
    let whom = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmCredentials(sender) => Some(sender.pid.as_raw_nonzero().get()),
        _ => None,
    });
    let whom = whom.and_then(|pid| u32::try_from(pid).ok());
    Ok((received.bytes, whom.map_or(Whom::Unknown, Whom::Process)))
}

/// The last column of the line of this inode, the tenth column, in
/// `/proc/net/udp` (`proc_net_udp(5)`).
fn drops_of(table: &str, inode: u64) -> Option<u64> {
    table.lines().skip(1).find_map(|line| {
        let mut columns = line.split_ascii_whitespace();
        if columns.nth(9)?.parse() != Ok(inode) {
            return None;
        }
        columns.next_back()?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
  382: 0100007F:1FBD 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4711 2 00000000a1b2c3d4 17
  541: 00000000:0044 00000000:0000 07 00000000:00000000 00:00000000 00000000   101        0 815 2 00000000deadbeef 0
";

    #[test]
    fn the_kernels_drops_are_found_by_inode() {
        assert_eq!(drops_of(TABLE, 4711), Some(17));
        assert_eq!(drops_of(TABLE, 815), Some(0));
        assert_eq!(drops_of(TABLE, 1), None);
        assert_eq!(drops_of("", 1), None);
    }

    #[tokio::test]
    async fn a_bound_socket_is_in_the_kernels_table() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(socket) = UdpSocket::bind(address).await else {
                continue;
            };
            assert_eq!(Socket::Udp(socket).kernel_drops(), Some(0), "{address}");
        }
    }

    #[test]
    fn a_process_is_told_with_its_program() {
        let told = Whom::Process(std::process::id()).to_string();
        let pid = format!("(pid {})", std::process::id());
        assert!(told.ends_with(&pid) && told.len() > pid.len(), "{told}");
    }
}
