//! Keeps the host's own addresses as the kernel has them, over rtnetlink(7).

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::NLM_F_DUMP;

use super::LocalAddresses;
use crate::netlink::{Attributes, Message, Netlink, NetlinkError, Request, Subsystem};
use crate::telemetry::CollectError;

/// Groups of `enum rtnetlink_groups`: addresses and routes, IPv4 and IPv6.
const RTNLGRP_IPV4_IFADDR: u32 = 5;
const RTNLGRP_IPV4_ROUTE: u32 = 7;
const RTNLGRP_IPV6_IFADDR: u32 = 9;
const RTNLGRP_IPV6_ROUTE: u32 = 11;

const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;

/// Bytes of `struct rtmsg`.
const ROUTE_BYTES: usize = 12;
const RTA_DST: u16 = 1;
const RTA_TABLE: u16 = 15;
const RT_TABLE_LOCAL: u8 = 255;

const RTN_LOCAL: u8 = 2;
const RTN_BROADCAST: u8 = 3;
const RTN_ANYCAST: u8 = 4;
const RTN_MULTICAST: u8 = 5;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Why the host's addresses could not be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read this host's own addresses: {0}")]
pub struct WatchError(#[from] NetlinkError);

impl WatchError {
    /// What it counts as.
    #[must_use]
    pub fn reason(&self) -> CollectError {
        self.0.reason()
    }
}

/// Reads the `local` routing table of one network namespace, again whenever it has changed.
#[derive(Debug)]
pub struct LocalWatch {
    notices: Netlink,
    table: Netlink,
    /// Whether the table may be other than what was read of it.
    stale: bool,
}

impl LocalWatch {
    /// Opens the tables of the thread's network namespace. Needs no privilege.
    ///
    /// # Errors
    /// Fails when the system is out of descriptors.
    pub fn open() -> Result<Self, WatchError> {
        let mut notices = Netlink::open(Subsystem::Route)?;
        for group in [
            RTNLGRP_IPV4_IFADDR,
            RTNLGRP_IPV4_ROUTE,
            RTNLGRP_IPV6_IFADDR,
            RTNLGRP_IPV6_ROUTE,
        ] {
            notices.join(group)?;
        }
        let mut table = Netlink::open(Subsystem::Route)?;
        // Without it, an older kernel sends every table, a full routing table of the
        // internet included; what is not asked for is then left out here.
        let _chooses = table.check_strictly();
        Ok(Self {
            notices,
            table,
            stale: true,
        })
    }

    /// Brings `addresses` up to date; tells whether they changed. Where nothing has
    /// happened since the last call, that costs one system call.
    ///
    /// # Errors
    /// Fails when the kernel does not answer; `addresses` are then as they were, and
    /// the next call tries again.
    pub fn refresh(&mut self, addresses: &mut LocalAddresses) -> Result<bool, WatchError> {
        let Self { notices, stale, .. } = self;
        loop {
            match notices.notices(&mut |message| *stale |= concerns_local(message)) {
                Ok(()) => break,
                Err(NetlinkError::Overrun | NetlinkError::Truncated { .. }) => *stale = true,
                Err(error) => return Err(error.into()),
            }
        }
        if !self.stale {
            return Ok(false);
        }
        let mut networks = Vec::new();
        let mut interrupted = false;
        for family in [AF_INET, AF_INET6] {
            interrupted |= self.read(family, &mut networks)?;
        }
        // Of an interrupted dump, what it lacks is read at the next call.
        self.stale = interrupted;
        Ok(addresses.replace(&networks))
    }

    fn read(&mut self, family: u8, networks: &mut Vec<IpNet>) -> Result<bool, NetlinkError> {
        let mut fixed = [0; ROUTE_BYTES];
        fixed[0] = family;
        fixed[4] = RT_TABLE_LOCAL;
        let mut request = Request::new(RTM_GETROUTE, NLM_F_DUMP, &fixed);
        let dumped = self.table.dump(&mut request, &mut |message| {
            if message.kind == RTM_NEWROUTE {
                networks.extend(local_network(message.payload));
            }
        });
        match dumped {
            Ok(dumped) => Ok(dumped.interrupted),
            // A namespace without an address has no such table yet.
            Err(error) if error.refusal() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Whether a notice may be of a change to the local table. A router hears of every
/// route that it learns, and those are not.
fn concerns_local(message: Message<'_>) -> bool {
    match message.kind {
        RTM_NEWROUTE | RTM_DELROUTE => Route::decode(message.payload)
            .is_none_or(|route| route.table == u32::from(RT_TABLE_LOCAL)),
        _ => true,
    }
}

/// The network of a route in the local table to this host.
fn local_network(payload: &[u8]) -> Option<IpNet> {
    let route = Route::decode(payload)?;
    let local = matches!(
        route.kind,
        RTN_LOCAL | RTN_BROADCAST | RTN_ANYCAST | RTN_MULTICAST
    );
    (local && route.table == u32::from(RT_TABLE_LOCAL)).then_some(route.destination)
}

/// What matters of `struct rtmsg` and its attributes.
#[derive(Clone, Copy, Debug)]
struct Route {
    table: u32,
    kind: u8,
    destination: IpNet,
}

impl Route {
    fn decode(payload: &[u8]) -> Option<Self> {
        let (&[family, prefix, _, _, table, _, _, kind, ..], attributes) =
            payload.split_first_chunk::<ROUTE_BYTES>()?;
        let mut table = u32::from(table);
        let mut destination = match family {
            AF_INET => IpAddr::from([0; 4]),
            AF_INET6 => IpAddr::from([0; 16]),
            _ => return None,
        };
        for attribute in Attributes::new(attributes) {
            match attribute.ok()? {
                (RTA_DST, value) => {
                    destination = match family {
                        AF_INET => IpAddr::from(<[u8; 4]>::try_from(value).ok()?),
                        _ => IpAddr::from(<[u8; 16]>::try_from(value).ok()?),
                    }
                }
                (RTA_TABLE, value) => table = u32::from_ne_bytes(value.try_into().ok()?),
                _ => {}
            }
        }
        Some(Self {
            table,
            kind,
            destination: IpNet::new(destination, prefix).ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::netlink::attribute;

    fn route(table: u8, kind: u8, prefix: u8, destination: [u8; 4]) -> Vec<u8> {
        let mut bytes = vec![AF_INET, prefix, 0, 0, table, 0, 0, kind, 0, 0, 0, 0];
        bytes.extend(attribute(RTA_DST, &destination));
        bytes
    }

    #[test]
    fn only_local_routes_of_the_local_table_name_addresses() {
        for (table, kind, network) in [
            (255, RTN_LOCAL, Some("10.9.0.0/16")),
            (255, RTN_BROADCAST, Some("10.9.0.0/16")),
            (255, 1, None),
            (100, RTN_LOCAL, None),
        ] {
            let read = local_network(&route(table, kind, 16, [10, 9, 0, 0]));
            assert_eq!(
                read.map(|network| network.to_string()).as_deref(),
                network,
                "{table} {kind}"
            );
        }
    }

    #[test]
    fn the_table_attribute_beats_the_header() {
        let mut bytes = route(252, RTN_LOCAL, 16, [10, 9, 0, 0]);
        bytes.extend(attribute(RTA_TABLE, &1000_u32.to_ne_bytes()));
        assert!(local_network(&bytes).is_none());
    }

    proptest! {
        /// Decoding a route never panics.
        #[test]
        fn prop_any_bytes_are_a_route_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _route = Route::decode(&bytes);
        }
    }
}
