//! What the kernel tells of a datagram beside its bytes: who sent it, and when.

use std::ffi::c_int;
use std::fmt;
use std::iter;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use crate::listen::stream::Peer;
use crate::output::backlog::SenderId;

/// The header of a control message (`cmsg(3)`).
const HEADER_BYTES: usize = size_of::<libc::cmsghdr>();

/// A control message with a body of so many bytes.
const fn space(body: usize) -> usize {
    HEADER_BYTES + body.next_multiple_of(size_of::<usize>())
}

const PROCESS_BYTES: usize = space(size_of::<libc::ucred>());
const TIME_BYTES: usize = space(size_of::<libc::timespec>());
const CONTROL_BYTES: usize = PROCESS_BYTES + TIME_BYTES;
/// Of the longer of the two families.
const NAME_BYTES: usize = size_of::<libc::sockaddr_in6>();

/// What a socket was made to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::listen) enum Tells {
    /// The address of who sends, with UDP.
    Remote,
    /// The process, and its user.
    Process,
    /// When it sent, too.
    ProcessAndTime,
}

/// Who sent a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whom {
    /// Not told.
    Unknown,
    /// A process of this host.
    Local(Credentials),
    /// From there, by UDP.
    Remote(SocketAddr),
}

/// What is told of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Credentials {
    /// None where it has no number here, being in another pid namespace; and where it sent
    /// before the socket was made to tell.
    pub(in crate::listen) pid: Option<u32>,
    /// In the latter case that of nobody, 65534.
    pub(in crate::listen) uid: u32,
    /// When it sent, since 1970, by the clock of that moment.
    pub(in crate::listen) sent: Option<Duration>,
}

impl Whom {
    /// Who has the share of the room that this datagram takes, as far as that is told.
    pub(super) fn sender(&self) -> Option<SenderId> {
        match self {
            Self::Unknown => None,
            Self::Local(Credentials { pid, .. }) => pid.map(SenderId::of_process),
            Self::Remote(remote) => Some(SenderId::of_remote(remote.ip())),
        }
    }

    /// The user, where that is told.
    pub(super) const fn uid(&self) -> Option<u32> {
        match self {
            Self::Local(Credentials { uid, .. }) => Some(*uid),
            Self::Unknown | Self::Remote(_) => None,
        }
    }
}

impl fmt::Display for Whom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let peer = match self {
            Self::Unknown => Peer::default(),
            Self::Local(Credentials { pid, .. }) => Peer {
                pid: *pid,
                ..Peer::default()
            },
            Self::Remote(remote) => Peer {
                remote: Some(*remote),
                ..Peer::default()
            },
        };
        peer.with_program().fmt(f)
    }
}

/// Room for what is told of one datagram.
#[derive(Debug)]
pub(super) struct Envelope {
    /// Bytes of the datagram.
    pub(super) bytes: usize,
    name: Name,
    name_bytes: usize,
    control: Control,
    control_bytes: usize,
}

/// An address.
#[derive(Debug)]
#[repr(C, align(8))]
struct Name([u8; NAME_BYTES]);

/// Control messages.
#[derive(Debug)]
#[repr(C, align(8))]
struct Control([u8; CONTROL_BYTES]);

impl Envelope {
    /// Nothing is told.
    pub(super) const EMPTY: Self = Self {
        bytes: 0,
        name: Name([0; NAME_BYTES]),
        name_bytes: 0,
        control: Control([0; CONTROL_BYTES]),
        control_bytes: 0,
    };

    /// Where the kernel is to write an address, and control messages. There is room for
    /// what was asked for and nothing else: descriptors that a sender passes are closed by
    /// the kernel.
    pub(super) fn room(&mut self, tells: Tells) -> (&mut [u8], &mut [u8]) {
        let (name, control) = match tells {
            Tells::Remote => (self.name.0.len(), 0),
            Tells::Process => (0, PROCESS_BYTES),
            Tells::ProcessAndTime => (0, CONTROL_BYTES),
        };
        (
            self.name.0.get_mut(..name).unwrap_or_default(),
            self.control.0.get_mut(..control).unwrap_or_default(),
        )
    }

    /// So much was written.
    pub(super) const fn close(&mut self, bytes: usize, name: usize, control: usize) {
        self.bytes = bytes;
        self.name_bytes = name;
        self.control_bytes = control;
    }

    /// Who sent it.
    pub(super) fn whom(&self) -> Whom {
        if self.name_bytes > 0 {
            let name = self.name.0.get(..self.name_bytes);
            return name.and_then(address).map_or(Whom::Unknown, Whom::Remote);
        }
        let control = self.control.0.get(..self.control_bytes);
        local(control.unwrap_or_default()).map_or(Whom::Unknown, Whom::Local)
    }
}

/// Takes so many bytes off the front.
fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (front, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*front)
}

/// `sockaddr_in` (`ip(7)`) or `sockaddr_in6` (`ipv6(7)`).
fn address(mut name: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(take(&mut name)?);
    let port = u16::from_be_bytes(take(&mut name)?);
    match c_int::from(family) {
        libc::AF_INET => {
            let ip = Ipv4Addr::from(take::<4>(&mut name)?);
            Some(SocketAddr::from((ip, port)))
        }
        libc::AF_INET6 => {
            let flow = u32::from_ne_bytes(take(&mut name)?);
            let ip = Ipv6Addr::from(take::<16>(&mut name)?);
            let scope = u32::from_ne_bytes(take(&mut name)?);
            Some(SocketAddrV6::new(ip, port, flow, scope).into())
        }
        _ => None,
    }
}

/// Control messages: level, type, body.
fn messages(mut control: &[u8]) -> impl Iterator<Item = (c_int, c_int, &[u8])> {
    iter::from_fn(move || {
        let message = control;
        let mut header = message;
        let length = usize::from_ne_bytes(take(&mut header)?);
        let level = c_int::from_ne_bytes(take(&mut header)?);
        let kind = c_int::from_ne_bytes(take(&mut header)?);
        let next = length.next_multiple_of(size_of::<usize>());
        control = message.get(next..).unwrap_or_default();
        Some((level, kind, message.get(HEADER_BYTES..length)?))
    })
}

fn local(control: &[u8]) -> Option<Credentials> {
    let of = |wanted| {
        messages(control)
            .find(|&(level, kind, _)| (level, kind) == (libc::SOL_SOCKET, wanted))
            .map(|(_, _, body)| body)
    };
    let mut process = of(libc::SCM_CREDENTIALS)?;
    let pid = u32::from_ne_bytes(take(&mut process)?);
    let uid = u32::from_ne_bytes(take(&mut process)?);
    Some(Credentials {
        pid: Some(pid).filter(|&pid| pid > 0),
        uid,
        sent: of(libc::SCM_TIMESTAMPNS).and_then(time),
    })
}

/// A `timespec`.
fn time(mut body: &[u8]) -> Option<Duration> {
    let seconds = i64::from_ne_bytes(take(&mut body)?);
    let nanoseconds = i64::from_ne_bytes(take(&mut body)?);
    Some(Duration::new(
        seconds.try_into().ok()?,
        nanoseconds.try_into().ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A control message, padded.
    fn message(level: c_int, kind: c_int, body: &[u8]) -> Vec<u8> {
        let length = HEADER_BYTES + body.len();
        let mut message = length.to_ne_bytes().to_vec();
        message.extend(level.to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(body);
        message.resize(space(body.len()), 0);
        message
    }

    fn process(pid: u32, uid: u32) -> Vec<u8> {
        let body = [pid, uid, 7].map(u32::to_ne_bytes).concat();
        message(libc::SOL_SOCKET, libc::SCM_CREDENTIALS, &body)
    }

    #[test]
    fn a_process_is_found_among_what_is_told() {
        let time = [12_i64, 34].map(i64::to_ne_bytes).concat();
        let time = message(libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS, &time);
        let known = Credentials {
            pid: Some(4711),
            uid: 1000,
            sent: None,
        };
        let at = Some(Duration::new(12, 34));
        let other = message(libc::SOL_IP, libc::SCM_CREDENTIALS, &[0; 12]);
        for (control, told) in [
            (process(4711, 1000), Some(known)),
            ([other, process(4711, 1000)].concat(), Some(known)),
            (
                [time.clone(), process(4711, 1000)].concat(),
                Some(Credentials { sent: at, ..known }),
            ),
            (process(0, 1000), Some(Credentials { pid: None, ..known })),
            (time, None),
            (Vec::new(), None),
        ] {
            assert_eq!(local(&control), told);
        }
    }

    #[test]
    fn what_is_cut_off_is_not_told() {
        let whole = process(4711, 1000);
        for length in 0..HEADER_BYTES + 8 {
            assert_eq!(local(&whole[..length]), None, "{length}");
        }
        // A length of 0 would be the same message again and again.
        assert_eq!(local(&[0; 32]), None);
    }

    #[test]
    fn a_process_is_named_with_its_program() {
        let told = Whom::Local(Credentials {
            pid: Some(std::process::id()),
            uid: 0,
            sent: None,
        });
        let pid = format!("(pid {})", std::process::id());
        let told = told.to_string();
        assert!(told.ends_with(&pid) && told.len() > pid.len(), "{told}");
        assert_eq!(Whom::Unknown.to_string(), "unknown");
    }
}
