//! A blocking netlink socket: one request at a time, answered by a dump, by a
//! single message, or by nothing but notices.
//!
//! What goes wrong with netlink goes wrong here: a dump that fails half-way and is
//! still queued when the next one is asked for, messages cut short, a buffer that
//! overran, a table that changed under the dump.
//!
//! See netlink(7) and `include/uapi/linux/netlink.h`.

mod message;

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd as _, IntoRawFd as _, OwnedFd};
use std::time::Duration;

use netlink_packet_core::{NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR, NLMSG_NOOP, NLMSG_OVERRUN};
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE, NETLINK_SOCK_DIAG};
use netlink_sys::{Socket, SocketAddr};
use rustix::net::sockopt::{Timeout, set_socket_timeout};

pub use self::message::{Attributes, BadLength, Message, Messages, Request, attribute};
use crate::telemetry::CollectError;

/// Room for a datagram. A dump fills what it is offered up to 32 KiB
/// (`netlink_recvmsg` in `net/netlink/af_netlink.c`).
const BUFFER_BYTES: usize = 64 * 1024;

/// The longest wait for a datagram. The kernel walks its table inside the system
/// call, so that a long dump does not count as waiting.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the kernel could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The socket could not be made.
    #[error("cannot open a {0} netlink socket: {1}")]
    Open(Subsystem, io::Error),
    /// The kernel answered with an error.
    #[error("the kernel refused the request: {0}")]
    Refused(io::Error),
    /// Messages were lost for want of room in the socket (`ENOBUFS`).
    #[error("the netlink socket's buffer overran")]
    Overrun,
    /// A datagram was longer than the buffer.
    #[error("a netlink datagram of {bytes} bytes did not fit {room}")]
    Truncated {
        /// Its length.
        bytes: usize,
        /// What there was for it.
        room: usize,
    },
    /// A datagram is not a run of messages.
    #[error("malformed netlink datagram: {0}")]
    Malformed(#[from] BadLength),
    /// No answer came.
    #[error("the kernel did not answer within {} s", ANSWER_TIMEOUT.as_secs())]
    Timeout,
    /// The system refused to send, receive, or set an option.
    #[error("cannot {0} a netlink socket: {1}")]
    System(&'static str, io::Error),
}

impl NetlinkError {
    /// What it counts as.
    #[must_use]
    pub fn reason(&self) -> CollectError {
        match self {
            Self::Open(_, error) | Self::Refused(error) | Self::System(_, error) => {
                match error.raw_os_error() {
                    Some(libc::EPERM | libc::EACCES) => CollectError::Permission,
                    Some(
                        libc::EPROTONOSUPPORT
                        | libc::EAFNOSUPPORT
                        | libc::EOPNOTSUPP
                        | libc::ECONNREFUSED,
                    ) => CollectError::Unsupported,
                    _ => CollectError::System,
                }
            }
            Self::Overrun => CollectError::Overrun,
            Self::Truncated { .. } => CollectError::Truncated,
            Self::Malformed(_) => CollectError::Malformed,
            Self::Timeout => CollectError::Timeout,
        }
    }

    /// The error number of the kernel's answer, if it answered.
    #[must_use]
    pub fn refusal(&self) -> Option<i32> {
        match self {
            Self::Refused(error) => error.raw_os_error(),
            _ => None,
        }
    }
}

/// Which part of the kernel a socket talks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subsystem {
    /// Links, addresses, routes: rtnetlink(7).
    Route,
    /// Sockets: `sock_diag(7)`.
    SocketDiag,
    /// Connection tracking and the rest of netfilter.
    Netfilter,
}

impl fmt::Display for Subsystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Route => "route",
            Self::SocketDiag => "sock_diag",
            Self::Netfilter => "netfilter",
        })
    }
}

/// A piece of a dump's answer.
#[derive(Clone, Copy, Debug)]
pub enum Part<'a> {
    /// A message.
    Message(Message<'a>),
    /// The end of a datagram, whose messages have been shown.
    End,
}

/// How a dump ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Dumped {
    /// The table changed meanwhile (`NLM_F_DUMP_INTR`): entries may be missing or double.
    pub interrupted: bool,
}

/// A netlink socket. It belongs to the network namespace that its thread was in
/// when it was opened, for as long as it lives.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
    /// The dump that has not been read to its end.
    unfinished: Option<u32>,
    buffer: Vec<u8>,
}

impl Netlink {
    /// Opens a socket.
    ///
    /// # Errors
    /// Fails when the kernel has no such subsystem or the process no descriptor left.
    pub fn open(subsystem: Subsystem) -> Result<Self, NetlinkError> {
        let protocol = match subsystem {
            Subsystem::Route => NETLINK_ROUTE,
            Subsystem::SocketDiag => NETLINK_SOCK_DIAG,
            Subsystem::Netfilter => NETLINK_NETFILTER,
        };
        let connected = || {
            let mut socket = Socket::new(protocol)?;
            socket.bind_auto()?;
            // Port 0 is the kernel: no other process can slip a message in.
            socket.connect(&SocketAddr::new(0, 0))?;
            set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_TIMEOUT))?;
            Ok(socket)
        };
        Ok(Self {
            socket: connected().map_err(|error| NetlinkError::Open(subsystem, error))?,
            sequence: 0,
            unfinished: None,
            buffer: Vec::with_capacity(BUFFER_BYTES),
        })
    }

    /// Goes on with the socket that another process opened, and what waits in it.
    #[must_use]
    #[expect(unsafe_code, reason = "netlink_sys takes no owned descriptor")]
    pub fn adopt(socket: OwnedFd) -> Self {
        // SAFETY: it is open, and nobody else's from here on.
        let socket = unsafe { Socket::from_raw_fd(socket.into_raw_fd()) };
        Self {
            socket,
            sequence: 0,
            unfinished: None,
            buffer: Vec::with_capacity(BUFFER_BYTES),
        }
    }

    /// The socket once more, which stays open when this one goes.
    ///
    /// # Errors
    /// When there are no more descriptors.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        self.as_fd().try_clone_to_owned()
    }

    /// Sends a request with `NLM_F_DUMP` and shows each message of the answer.
    ///
    /// # Errors
    /// Fails when the kernel refuses, does not answer, or the answer is damaged;
    /// messages may have been shown before. The socket stays usable: what is left
    /// of the dump is thrown away when the next request is made.
    pub fn dump(
        &mut self,
        request: &mut Request,
        each: &mut impl FnMut(Message<'_>),
    ) -> Result<Dumped, NetlinkError> {
        self.dump_in_parts(request, &mut |part| match part {
            Part::Message(message) => each(message),
            Part::End => {}
        })
    }

    /// The same, telling where a datagram of the answer ends: the caller may do what is
    /// urgent before the kernel walks on.
    ///
    /// # Errors
    /// As for [`Netlink::dump`].
    pub fn dump_in_parts(
        &mut self,
        request: &mut Request,
        each: &mut impl FnMut(Part<'_>),
    ) -> Result<Dumped, NetlinkError> {
        self.finish()?;
        let sequence = self.send(request)?;
        self.follow(sequence, each)
    }

    /// Sends a request and reads the one message that answers it.
    ///
    /// # Errors
    /// As for [`Netlink::dump`].
    pub fn ask<T>(
        &mut self,
        request: &mut Request,
        read: impl FnOnce(Message<'_>) -> T,
    ) -> Result<T, NetlinkError> {
        self.finish()?;
        let sequence = self.send(request)?;
        loop {
            self.receive(0)?;
            for message in Messages::new(&self.buffer) {
                let message = message?;
                if message.sequence != sequence {
                    continue;
                }
                match message.kind {
                    NLMSG_ERROR => refusal(message.payload)?,
                    NLMSG_OVERRUN => return Err(NetlinkError::Overrun),
                    NLMSG_NOOP | NLMSG_DONE => {}
                    _ => return Ok(read(message)),
                }
            }
        }
    }

    /// Joins a multicast group, whose messages [`Netlink::notices`] shows.
    ///
    /// # Errors
    /// Fails when the kernel refuses.
    pub fn join(&mut self, group: u32) -> Result<(), NetlinkError> {
        self.socket
            .add_membership(group)
            .map_err(|error| NetlinkError::System("join a group with", error))
    }

    /// Leaves a multicast group.
    ///
    /// # Errors
    /// Fails when the kernel refuses.
    pub fn leave(&mut self, group: u32) -> Result<(), NetlinkError> {
        self.socket
            .drop_membership(group)
            .map_err(|error| NetlinkError::System("leave a group with", error))
    }

    /// Asks for requests to be checked strictly, filters in them included
    /// (`NETLINK_GET_STRICT_CHK`, Linux 4.20); tells whether the kernel can.
    pub fn check_strictly(&mut self) -> bool {
        self.socket.set_netlink_get_strict_chk(true).is_ok()
    }

    /// Shows the notices that wait, without waiting for more.
    ///
    /// # Errors
    /// [`NetlinkError::Overrun`] when some were lost; those after them still wait.
    pub fn notices(&mut self, each: &mut impl FnMut(Message<'_>)) -> Result<(), NetlinkError> {
        while let Some(datagram) = self.notice()? {
            for message in Messages::new(datagram) {
                each(message?);
            }
        }
        Ok(())
    }

    /// The next datagram of notices, if one waits.
    ///
    /// # Errors
    /// As for [`Netlink::notices`].
    pub fn notice(&mut self) -> Result<Option<&[u8]>, NetlinkError> {
        match self.receive(libc::MSG_DONTWAIT) {
            Ok(()) => Ok(Some(&self.buffer)),
            Err(NetlinkError::Timeout) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Throws away what is left of a dump that failed: until its end has been read,
    /// the kernel answers `EBUSY` to another.
    fn finish(&mut self) -> Result<(), NetlinkError> {
        match self.unfinished {
            None => Ok(()),
            Some(sequence) => match self.follow(sequence, &mut |_| {}) {
                Ok(_) | Err(NetlinkError::Refused(_)) => Ok(()),
                // Its end was lost: what comes now is the next one's.
                Err(NetlinkError::Timeout) => {
                    self.unfinished = None;
                    Ok(())
                }
                Err(error) => Err(error),
            },
        }
    }

    fn send(&mut self, request: &mut Request) -> Result<u32, NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = request.numbered(self.sequence);
        loop {
            match self.socket.send(bytes, 0) {
                Ok(_) => return Ok(self.sequence),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(NetlinkError::System("send through", error)),
            }
        }
    }

    fn follow(
        &mut self,
        sequence: u32,
        each: &mut impl FnMut(Part<'_>),
    ) -> Result<Dumped, NetlinkError> {
        self.unfinished = Some(sequence);
        let mut dumped = Dumped::default();
        loop {
            self.receive(0)?;
            let mut is_last = false;
            for message in Messages::new(&self.buffer) {
                let message = message?;
                if message.sequence != sequence {
                    continue;
                }
                dumped.interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                match message.kind {
                    NLMSG_DONE => {
                        self.unfinished = None;
                        refusal(message.payload)?;
                        is_last = true;
                    }
                    NLMSG_ERROR => {
                        self.unfinished = None;
                        refusal(message.payload)?;
                    }
                    NLMSG_OVERRUN => return Err(NetlinkError::Overrun),
                    NLMSG_NOOP => {}
                    _ => each(Part::Message(message)),
                }
            }
            each(Part::End);
            if is_last {
                return Ok(dumped);
            }
        }
    }

    /// Reads one datagram into the buffer.
    fn receive(&mut self, flags: i32) -> Result<(), NetlinkError> {
        loop {
            self.buffer.clear();
            let room = self.buffer.capacity();
            // With MSG_TRUNC the length is the datagram's, not what was copied.
            match self.socket.recv(&mut self.buffer, flags | libc::MSG_TRUNC) {
                Ok(bytes) if bytes > room => {
                    self.buffer.clear();
                    self.buffer.reserve(bytes.max(BUFFER_BYTES));
                    return Err(NetlinkError::Truncated { bytes, room });
                }
                Ok(_) => return Ok(()),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    Some(libc::EAGAIN) => return Err(NetlinkError::Timeout),
                    Some(libc::ENOBUFS) => return Err(NetlinkError::Overrun),
                    _ => return Err(NetlinkError::System("receive from", error)),
                },
            }
        }
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The negative error number that `NLMSG_ERROR` and `NLMSG_DONE` begin with, if any.
fn refusal(payload: &[u8]) -> Result<(), NetlinkError> {
    match payload.first_chunk().copied().map(i32::from_ne_bytes) {
        Some(code) if code < 0 => Err(NetlinkError::Refused(io::Error::from_raw_os_error(
            code.saturating_neg(),
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
