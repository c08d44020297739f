//! Which end of a flow is the remote one, what it is called, how many are told apart.

pub mod local;
pub mod ports;
pub mod remote;
pub mod select;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::IpNet;
use prefix_trie::joint::JointPrefixMap;

use self::local::LocalAddresses;
use self::ports::EphemeralPorts;
pub use self::remote::{HostName, Remote};
use crate::config::{self, NatView, PublicInbound};
use crate::flow::{Beginning, Direction, Flow, Protocol, SctpState, State, TcpState};
use crate::report::text;

/// Ports below this are given to privileged sockets alone (RFC 6335, 6), and
/// translation never moves a port from above it to below.
const FIRST_UNPRIVILEGED_PORT: u16 = 1024;

/// Where a flow counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The host that it counts for.
    pub remote: Remote,
    /// The other end's address, also where `remote` is a group or folded.
    pub address: IpAddr,
    /// Who dialled, seen from this host.
    pub direction: Direction,
    /// The service's port, if ports are told apart: the one that was dialled
    /// (`nat = "original"`) or the one that answers (`"translated"`), at whichever
    /// end the service is. `None` where that is an ephemeral port.
    pub port: Option<u16>,
    /// Whether packets of the original way go to the remote host.
    pub outward: bool,
}

/// The rules of `[hosts]`, ready for a million flows.
#[derive(Debug)]
pub struct Hosts {
    nat: NatView,
    loopback: bool,
    ports: bool,
    fold_public: bool,
    ephemeral: EphemeralPorts,
    ignored: Option<JointPrefixMap<IpNet, ()>>,
    /// Groups, and aliases as networks of one address.
    named: Option<JointPrefixMap<IpNet, Remote>>,
    /// What [`Remote::Named`] stands for.
    names: Vec<Arc<str>>,
}

impl Hosts {
    /// By the configuration, with the system's range of ephemeral ports.
    #[must_use]
    pub fn new(config: &config::Hosts) -> Self {
        Self::with_ephemeral_ports(config, EphemeralPorts::system())
    }

    /// By the configuration, with another range of ephemeral ports.
    #[must_use]
    pub fn with_ephemeral_ports(config: &config::Hosts, ephemeral: EphemeralPorts) -> Self {
        let mut interned = Names::default();
        let mut named = JointPrefixMap::new();
        for (network, name) in &config.groups {
            named.insert(network.trunc(), interned.remote(name));
        }
        // After the groups: an alias is at least as exact as any of them.
        for (&address, name) in &config.aliases {
            named.insert(IpNet::from(address), interned.remote(name));
        }
        let mut ignored = JointPrefixMap::new();
        for network in &config.ignore {
            ignored.insert(network.trunc(), ());
        }
        Self {
            nat: config.nat,
            loopback: config.loopback,
            ports: config.ports,
            fold_public: config.public_inbound == PublicInbound::Fold,
            ephemeral,
            ignored: (!ignored.is_empty()).then_some(ignored),
            named: (!named.is_empty()).then_some(named),
            names: interned.list,
        }
    }

    /// Where a flow counts; `None` where it does not: within this host, or ignored.
    ///
    /// Its ends are the source of the first packet and the source of the answers.
    /// The dialled address is an end only where it answers itself: that of a
    /// published port or of a virtual service is this host's own, and what is
    /// behind it is not.
    #[must_use]
    pub fn place(&self, flow: &Flow, local: &LocalAddresses) -> Option<Placement> {
        let inverted = self.is_inverted(flow);
        let (original, reply) = if inverted {
            (&flow.reply, &flow.original)
        } else {
            (&flow.original, &flow.reply)
        };
        let (service, port) = match self.nat {
            NatView::Original => (original.dst, original.dst_port),
            NatView::Translated => (reply.src, reply.src_port),
        };
        // Where nothing is translated two look-ups decide.
        let answered_here = local.contains(reply.src);
        let (direction, address) = if local.contains(original.src) {
            if !answered_here {
                (Direction::Outbound, service)
            } else if self.loopback {
                (Direction::Local, service)
            } else {
                return None;
            }
        } else if answered_here || (original.dst != reply.src && local.contains(original.dst)) {
            (Direction::Inbound, original.src)
        } else if reply.dst != original.src && local.contains(reply.dst) {
            (Direction::Outbound, service)
        } else {
            (Direction::Forwarded, service)
        };
        Some(Placement {
            remote: self.remote(address, direction)?,
            address,
            direction,
            outward: (direction == Direction::Inbound) == inverted,
            port: (self.ports && flow.protocol.has_ports() && !self.ephemeral.contains(port))
                .then_some(port),
        })
    }

    /// What a remote host is called: by its name, else by its address.
    #[must_use]
    pub fn name(&self, remote: Remote) -> Cow<'_, str> {
        match remote {
            Remote::Named(index) => self
                .names
                .get(index as usize)
                .map_or(Cow::Borrowed(Remote::OTHER), |name| Cow::Borrowed(&**name)),
            Remote::Address(address) => Cow::Owned(address.to_string()),
            Remote::Public(_) => Cow::Borrowed(Remote::PUBLIC),
            Remote::Other => Cow::Borrowed(Remote::OTHER),
        }
    }

    /// The same, to be kept.
    #[must_use]
    pub fn host_name(&self, remote: Remote) -> HostName {
        match remote {
            Remote::Named(index) => self
                .names
                .get(index as usize)
                .map_or(HostName::Folded(Remote::OTHER), |name| {
                    HostName::Name(Arc::clone(name))
                }),
            Remote::Address(address) => HostName::Address(address),
            Remote::Public(_) => HostName::Folded(Remote::PUBLIC),
            Remote::Other => HostName::Folded(Remote::OTHER),
        }
    }

    fn remote(&self, address: IpAddr, direction: Direction) -> Option<Remote> {
        if let Some(ignored) = &self.ignored
            && ignored.get_lpm(&IpNet::from(address)).is_some()
        {
            return None;
        }
        if let Some(named) = &self.named
            && let Some((_, &remote)) = named.get_lpm(&IpNet::from(address))
        {
            return Some(match remote {
                Remote::Public(_) => Remote::Public(address),
                named => named,
            });
        }
        Some(
            if self.fold_public && direction == Direction::Inbound && remote::is_public(address) {
                Remote::Public(address)
            } else {
                Remote::Address(address)
            },
        )
    }

    /// Whether the first packet that the kernel saw was an answer, so that the
    /// flow's original direction is the wrong way round.
    ///
    /// That happens to flows older than the first rule that tracks, and to UDP
    /// flows whose entry expired between a question and its answer. The ports
    /// decide, where nothing speaks against it: it went to an ephemeral port from
    /// one that is not. Not inverted is
    ///
    /// - TCP whose beginning the kernel saw, which it tells of each entry: no
    ///   client turns a connection round by its choice of port;
    /// - what still shakes hands;
    /// - what was redirected, for a rule matched where it was dialled to;
    /// - other than TCP, what came from an unprivileged port: peers behind
    ///   translators send from any of them, to services such as `WireGuard`'s
    ///   whose port is in the range.
    ///
    /// A service of this host whose port is in the range belongs into
    /// `ip_local_reserved_ports`, which is honoured.
    fn is_inverted(&self, flow: &Flow) -> bool {
        let any_port = match (flow.protocol, flow.beginning) {
            (Protocol::Tcp, Beginning::Missed) => true,
            (Protocol::Udp | Protocol::Sctp, Beginning::Unknown) => false,
            _ => return false,
        };
        let (from, to) = (flow.original.src_port, flow.original.dst_port);
        self.ephemeral.contains(to)
            && from != 0
            && (any_port || from < FIRST_UNPRIVILEGED_PORT)
            && !self.ephemeral.contains(from)
            && !shakes_hands(flow.state)
            && (flow.original.dst, to) == (flow.reply.src, flow.reply.src_port)
    }
}

const fn shakes_hands(state: State) -> bool {
    matches!(
        state,
        State::Tcp(TcpState::SynSent | TcpState::SynRecv | TcpState::SynSent2)
            | State::Sctp(SctpState::CookieWait | SctpState::CookieEchoed)
    )
}

/// Gives each name one number, however many networks and addresses bear it.
#[derive(Default)]
struct Names {
    list: Vec<Arc<str>>,
    numbers: HashMap<Arc<str>, u32, foldhash::fast::RandomState>,
}

impl Names {
    /// The host of this name. A name that hosts have without configuration means
    /// the same host: two series with the same tags would overwrite each other.
    fn remote(&mut self, name: &str) -> Remote {
        let name = text::clean(name);
        if let Ok(address) = name.parse() {
            return Remote::Address(address);
        }
        match &*name {
            Remote::PUBLIC => return Remote::Public(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            Remote::OTHER => return Remote::Other,
            _ => {}
        }
        if let Some(&number) = self.numbers.get(&*name) {
            return Remote::Named(number);
        }
        let number = u32::try_from(self.list.len()).unwrap_or(u32::MAX);
        let name: Arc<str> = name.into();
        self.list.push(Arc::clone(&name));
        self.numbers.insert(name, number);
        Remote::Named(number)
    }
}
