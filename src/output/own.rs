//! The agent's own listeners, which no output may send to: what it sent would come
//! back for ever.
//!
//! The configuration is refused where an address or path shows it; a name shows it
//! only once it is looked up.

use std::net::SocketAddr;

use crate::address::{Address, HostPort, reaches};

/// Where the agent listens, by protocol.
#[derive(Debug, Default)]
pub struct OwnListeners {
    udp: Vec<SocketAddr>,
    tcp: Vec<SocketAddr>,
}

impl<'a> FromIterator<&'a Address> for OwnListeners {
    /// Of the addresses that listeners are bound to.
    fn from_iter<T: IntoIterator<Item = &'a Address>>(bound: T) -> Self {
        let mut own = Self::default();
        for address in bound {
            let (of_kind, end) = match address {
                Address::Udp(end) => (&mut own.udp, end),
                Address::Tcp(end) => (&mut own.tcp, end),
                _ => continue,
            };
            of_kind.extend(socket_address(end));
        }
        own
    }
}

fn socket_address(end: &HostPort) -> Option<SocketAddr> {
    Some(SocketAddr::new(end.host.parse().ok()?, end.port))
}

impl OwnListeners {
    /// Those for datagrams.
    #[must_use]
    pub fn udp(&self) -> &[SocketAddr] {
        &self.udp
    }

    /// Those for connections.
    #[must_use]
    pub fn tcp(&self) -> &[SocketAddr] {
        &self.tcp
    }
}

/// Takes out the addresses that lead to one of `own`. Returns one, if none is left.
pub(super) fn take_out(addresses: &mut Vec<SocketAddr>, own: &[SocketAddr]) -> Option<SocketAddr> {
    let first = addresses.first().copied();
    addresses.retain(|&to| !own.iter().any(|&bound| reaches(to, bound)));
    first.filter(|_| addresses.is_empty())
}
