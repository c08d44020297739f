//! The sockets of this host, read over `NETLINK_SOCK_DIAG`: the second source, for
//! hosts that do not track connections, or to whose table the program has no right.
//! It needs no privilege.
//!
//! What a socket cannot tell, beside what an entry of the connection tracking table can:
//!
//! - **Forwarded and translated connections** are not there. A connection has the
//!   address that was dialled; which backend answers is not known.
//! - **Direction** is not kept by the kernel. A connection whose local port is
//!   listened on counts as inbound; if its listener is gone, as outbound.
//! - **UDP** has no states. A connected socket counts as replied, whether or not an
//!   answer ever came; an unconnected one, as most servers have, has no remote end
//!   and is left out.
//! - **Zones and marks** belong to connection tracking: `collector.zones` and
//!   `collector.marks` are not applied, and both are 0 here. So are the status bits.
//! - Of `collector.protocols`, TCP and UDP alone are looked at.
//!
//! A connection of the host with itself through one address has two sockets; it is
//! counted once, by the side that dialled, as connection tracking does.
//!
//! See `sock_diag(7)` and `include/uapi/linux/inet_diag.h`.

mod diag;

use std::collections::HashSet;
use std::net::IpAddr;

use self::diag::{CLOSE, ESTABLISHED, InetFamily, LISTEN, Socket, decode, request, states};
use crate::config::{Collector, Family};
use crate::flow::{Beginning, Flow, Protocol, State, Status, TcpState, Tuple};
use crate::netlink::{Netlink, NetlinkError, Subsystem};
use crate::telemetry::CollectError;

/// Why the sockets could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SocketsError {
    /// The kernel has no `sock_diag` for the protocol.
    #[error("the kernel does not list its {0} sockets: load its module (modprobe {0}_diag)")]
    Unsupported(Protocol),
    /// Anything else that goes wrong with netlink.
    #[error("cannot list the sockets of this host: {0}")]
    Netlink(#[from] NetlinkError),
}

impl SocketsError {
    /// What it counts as.
    #[must_use]
    pub fn reason(&self) -> CollectError {
        match self {
            Self::Unsupported(_) => CollectError::Unsupported,
            Self::Netlink(error) => error.reason(),
        }
    }
}

/// What a dump brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Dump {
    /// Connections shown.
    pub entries: u64,
    /// Sockets that the configuration does not count, and second ends.
    pub skipped: u64,
    /// Sockets that could not be decoded.
    pub undecoded: u64,
    /// Whether the tables changed in a way that may have lost or doubled sockets.
    pub interrupted: bool,
}

/// The sockets of one network namespace.
#[derive(Debug)]
pub struct Sockets {
    netlink: Netlink,
    protocols: Vec<Protocol>,
    families: Vec<Family>,
    listeners: Listeners,
}

impl Sockets {
    /// Opens the socket tables of the thread's network namespace.
    ///
    /// # Errors
    /// Fails when the kernel has no `sock_diag` or the system no descriptor left.
    pub fn open(collector: &Collector) -> Result<Self, SocketsError> {
        Ok(Self {
            netlink: Netlink::open(Subsystem::SocketDiag)?,
            protocols: [Protocol::Tcp, Protocol::Udp]
                .into_iter()
                .filter(|protocol| collector.protocols.contains(protocol))
                .collect(),
            families: collector.families.clone(),
            listeners: Listeners::default(),
        })
    }

    /// Shows every connection that the configuration counts.
    ///
    /// # Errors
    /// Fails when a dump does not come to its end; connections may have been shown before.
    pub fn dump(&mut self, each: &mut impl FnMut(&Flow)) -> Result<Dump, SocketsError> {
        let mut dump = Dump::default();
        for protocol in self.protocols.clone() {
            self.dump_protocol(protocol, &mut dump, each)
                .map_err(|error| match error.refusal() {
                    // No handler is registered for the protocol.
                    Some(libc::ENOENT) => SocketsError::Unsupported(protocol),
                    _ => SocketsError::Netlink(error),
                })?;
        }
        Ok(dump)
    }

    fn dump_protocol(
        &mut self,
        protocol: Protocol,
        dump: &mut Dump,
        each: &mut impl FnMut(&Flow),
    ) -> Result<(), NetlinkError> {
        let Self {
            netlink,
            families,
            listeners,
            ..
        } = self;
        let (waiting, connected) = match protocol {
            Protocol::Udp => (states(&[CLOSE]), states(&[ESTABLISHED])),
            _ => (states(&[LISTEN]), !states(&[LISTEN, CLOSE])),
        };
        listeners.clear();
        // IPv6 sockets carry IPv4 connections too, under mapped addresses.
        for family in [InetFamily::V4, InetFamily::V6] {
            let mut request = request(family, protocol, waiting);
            dump.interrupted |= netlink
                .dump(&mut request, &mut |message| match decode(message.payload) {
                    Some(socket) => listeners.insert(&socket),
                    None => dump.undecoded += 1,
                })?
                .interrupted;
        }
        for family in [InetFamily::V4, InetFamily::V6] {
            let mut request = request(family, protocol, connected);
            dump.interrupted |= netlink
                .dump(&mut request, &mut |message| {
                    let Some(socket) = decode(message.payload) else {
                        dump.undecoded += 1;
                        return;
                    };
                    let Some(state) = state(protocol, socket.state) else {
                        dump.undecoded += 1;
                        return;
                    };
                    let inbound = listeners.hold(&socket);
                    if !families.contains(&Family::of(socket.remote))
                        || inbound && is_second_end(&socket, state)
                    {
                        dump.skipped += 1;
                        return;
                    }
                    dump.entries += 1;
                    each(&flow(&socket, protocol, state, inbound));
                })?
                .interrupted;
        }
        Ok(())
    }
}

/// Whether the socket is the accepted end of a connection whose dialling end is here
/// too. Not in `TIME_WAIT`, which outlives the other end.
fn is_second_end(socket: &Socket, state: State) -> bool {
    let one_address = socket.local == socket.remote;
    let loopback = socket.local.is_loopback() && socket.remote.is_loopback();
    (one_address || loopback) && state != State::Tcp(TcpState::TimeWait)
}

fn flow(socket: &Socket, protocol: Protocol, state: State, inbound: bool) -> Flow {
    let sent = Tuple {
        src: socket.local,
        dst: socket.remote,
        src_port: socket.local_port,
        dst_port: socket.remote_port,
    };
    let received = Tuple {
        src: sent.dst,
        dst: sent.src,
        src_port: sent.dst_port,
        dst_port: sent.src_port,
    };
    let (original, reply) = if inbound {
        (received, sent)
    } else {
        (sent, received)
    };
    Flow {
        original,
        reply,
        protocol,
        state,
        status: Status::default(),
        zone: 0,
        mark: 0,
        // A socket knows by which port it came to be.
        beginning: Beginning::Seen,
    }
}

/// The state that connection tracking would show for a socket's
/// (`include/net/tcp_states.h`). Half-closed states are the socket's own: `FIN_WAIT`
/// here means that this host has closed, `CLOSE_WAIT` that the remote one has.
fn state(protocol: Protocol, number: u8) -> Option<State> {
    if protocol == Protocol::Udp {
        return Some(State::Replied);
    }
    Some(State::Tcp(match number {
        1 => TcpState::Established,
        2 => TcpState::SynSent,
        3 | 12 => TcpState::SynRecv,
        4 | 5 => TcpState::FinWait,
        6 => TcpState::TimeWait,
        7 => TcpState::Close,
        8 => TcpState::CloseWait,
        // CLOSING: both have closed, one of the two FINs is not acknowledged.
        9 | 11 => TcpState::LastAck,
        _ => return None,
    }))
}

/// Where connections are taken.
#[derive(Debug, Default)]
struct Listeners {
    at: HashSet<(IpAddr, u16), foldhash::fast::RandomState>,
    anywhere_v4: HashSet<u16, foldhash::fast::RandomState>,
    anywhere_v6: HashSet<u16, foldhash::fast::RandomState>,
}

impl Listeners {
    fn clear(&mut self) {
        self.at.clear();
        self.anywhere_v4.clear();
        self.anywhere_v6.clear();
    }

    fn insert(&mut self, socket: &Socket) {
        let port = socket.local_port;
        match socket.local {
            IpAddr::V4(local) if local.is_unspecified() => {
                self.anywhere_v4.insert(port);
            }
            IpAddr::V6(local) if local.is_unspecified() => {
                self.anywhere_v6.insert(port);
                if !socket.v6_only {
                    self.anywhere_v4.insert(port);
                }
            }
            local => {
                self.at.insert((local, port));
            }
        }
    }

    fn hold(&self, socket: &Socket) -> bool {
        let anywhere = match socket.local {
            IpAddr::V4(_) => &self.anywhere_v4,
            IpAddr::V6(_) => &self.anywhere_v6,
        };
        anywhere.contains(&socket.local_port)
            || self.at.contains(&(socket.local, socket.local_port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(local: &str, local_port: u16, v6_only: bool) -> Socket {
        Socket {
            state: 1,
            local: local.parse().unwrap(),
            remote: "192.0.2.9".parse().unwrap(),
            local_port,
            remote_port: 40_000,
            v6_only,
        }
    }

    #[test]
    fn a_dual_stack_wildcard_listens_for_both_families_unless_it_is_v6_only() {
        let mut listeners = Listeners::default();
        listeners.insert(&socket("::", 80, false));
        listeners.insert(&socket("::", 443, true));
        for (local, port, held) in [
            ("192.0.2.1", 80, true),
            ("2001:db8::1", 80, true),
            ("192.0.2.1", 443, false),
            ("2001:db8::1", 443, true),
            ("192.0.2.1", 81, false),
        ] {
            assert_eq!(
                listeners.hold(&socket(local, port, false)),
                held,
                "{local} {port}"
            );
        }
    }

    #[test]
    fn a_listener_on_one_address_holds_no_other() {
        let mut listeners = Listeners::default();
        listeners.insert(&socket("192.0.2.1", 80, false));
        assert!(listeners.hold(&socket("192.0.2.1", 80, false)));
        assert!(!listeners.hold(&socket("192.0.2.2", 80, false)));
    }

    #[test]
    fn an_inbound_connection_was_dialled_by_the_remote_end() {
        let socket = socket("192.0.2.1", 80, false);
        let state = State::Tcp(TcpState::Established);
        let inbound = flow(&socket, Protocol::Tcp, state, true);
        assert_eq!(inbound.original.src, socket.remote);
        assert_eq!(inbound.original.dst_port, 80);
        let outbound = flow(&socket, Protocol::Tcp, state, false);
        assert_eq!(outbound.original.dst, socket.remote);
        assert_eq!(outbound.reply, inbound.original);
    }
}
