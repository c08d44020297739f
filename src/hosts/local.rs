//! The addresses that are this host's own: the kernel's `local` routing table, what
//! is local everywhere, and what the configuration adds.
//!
//! The table holds more than the addresses of interfaces: all of 127.0.0.0/8, virtual
//! addresses, and networks that `ip route add local` gives to this host.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

pub use self::watch::{LocalWatch, WatchError};

mod watch;

/// 224.0.0.0/4 and 255.255.255.255: the kernel keeps them in no table.
const MULTICAST_V4: Range<u32> = Range {
    first: 0xe000_0000,
    last: 0xefff_ffff,
};
const BROADCAST_V4: Range<u32> = Range {
    first: u32::MAX,
    last: u32::MAX,
};
/// `ff00::/8`.
const MULTICAST_V6: Range<u128> = Range {
    first: 0xff << 120,
    last: u128::MAX,
};

/// A set of addresses and networks, which always holds multicast and 255.255.255.255.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalAddresses {
    configured: Vec<IpNet>,
    v4: Ranges<u32>,
    v6: Ranges<u128>,
}

impl Default for LocalAddresses {
    fn default() -> Self {
        Self::new(&[])
    }
}

impl LocalAddresses {
    /// A set that holds these networks (`hosts.local`) whatever the kernel says.
    #[must_use]
    pub fn new(configured: &[IpNet]) -> Self {
        let mut addresses = Self {
            configured: configured.to_vec(),
            v4: Ranges(Vec::new()),
            v6: Ranges(Vec::new()),
        };
        addresses.replace(&[]);
        addresses
    }

    /// Adds a network, or an address as a network of one, until the next refresh.
    pub fn insert(&mut self, network: IpNet) {
        self.add(network);
        self.v4.merge();
        self.v6.merge();
    }

    /// Whether the address is one of them.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.v4.contains(address.to_bits()),
            IpAddr::V6(address) => self.v6.contains(address.to_bits()),
        }
    }

    /// Puts these networks in the place of all but the configured ones; tells whether
    /// that changed the set.
    fn replace(&mut self, networks: &[IpNet]) -> bool {
        let v4 = std::mem::replace(&mut self.v4, Ranges(vec![MULTICAST_V4, BROADCAST_V4]));
        let v6 = std::mem::replace(&mut self.v6, Ranges(vec![MULTICAST_V6]));
        let configured = std::mem::take(&mut self.configured);
        for &network in configured.iter().chain(networks) {
            self.add(network);
        }
        self.configured = configured;
        self.v4.merge();
        self.v6.merge();
        v4 != self.v4 || v6 != self.v6
    }

    fn add(&mut self, network: IpNet) {
        match network {
            IpNet::V4(network) => self.v4.0.push(Range {
                first: Ipv4Addr::to_bits(network.network()),
                last: Ipv4Addr::to_bits(network.broadcast()),
            }),
            IpNet::V6(network) => self.v6.0.push(Range {
                first: Ipv6Addr::to_bits(network.network()),
                last: Ipv6Addr::to_bits(network.broadcast()),
            }),
        }
    }
}

/// From the first address to the last, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Range<A> {
    first: A,
    last: A,
}

/// Ranges in order that do not overlap, so that a look-up is a binary search: hosts
/// have a handful, and the busiest a few thousand.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Ranges<A>(Vec<Range<A>>);

impl<A: Copy + Ord> Ranges<A> {
    fn contains(&self, address: A) -> bool {
        let after = self.0.partition_point(|range| range.first <= address);
        after
            .checked_sub(1)
            .and_then(|place| self.0.get(place))
            .is_some_and(|range| address <= range.last)
    }

    fn merge(&mut self) {
        self.0.sort_unstable();
        self.0.dedup_by(|range, before| {
            let overlaps = range.first <= before.last;
            if overlaps {
                before.last = before.last.max(range.last);
            }
            overlaps
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(networks: &[&str]) -> LocalAddresses {
        let mut addresses = LocalAddresses::default();
        for network in networks {
            addresses.insert(network.parse().unwrap());
        }
        addresses
    }

    #[test]
    fn multicast_and_broadcast_are_always_local_and_their_neighbours_are_not() {
        let addresses = LocalAddresses::default();
        for (address, local) in [
            ("224.0.0.0", true),
            ("239.255.255.255", true),
            ("255.255.255.255", true),
            ("ff02::1", true),
            ("223.255.255.255", false),
            ("240.0.0.0", false),
            ("255.255.255.254", false),
            ("127.0.0.1", false),
            ("fe80::1", false),
        ] {
            assert_eq!(
                addresses.contains(address.parse().unwrap()),
                local,
                "{address}"
            );
        }
    }

    #[test]
    fn networks_that_overlap_hold_what_either_holds() {
        let addresses = set(&["10.0.0.0/8", "10.9.0.0/16", "192.0.2.1/32", "2001:db8::/64"]);
        for (address, local) in [
            ("10.255.255.255", true),
            ("10.9.1.1", true),
            ("11.0.0.0", false),
            ("192.0.2.1", true),
            ("192.0.2.2", false),
            ("2001:db8::ffff", true),
            ("2001:db8:0:1::", false),
        ] {
            assert_eq!(
                addresses.contains(address.parse().unwrap()),
                local,
                "{address}"
            );
        }
    }

    #[test]
    fn configured_networks_outlive_what_the_kernel_says() {
        let mut addresses = LocalAddresses::new(&["10.42.0.0/16".parse().unwrap()]);
        assert!(addresses.replace(&["192.0.2.1/32".parse().unwrap()]));
        assert!(addresses.contains("192.0.2.1".parse().unwrap()));
        assert!(!addresses.replace(&["192.0.2.1/32".parse().unwrap()]));
        assert!(addresses.replace(&[]));
        assert!(!addresses.contains("192.0.2.1".parse().unwrap()));
        assert!(addresses.contains("10.42.7.7".parse().unwrap()));
    }

    proptest! {
        /// The set holds an address if and only if one of its networks does.
        #[test]
        fn prop_the_set_is_the_union_of_its_networks(
            networks in proptest::collection::vec((any::<[u8; 4]>(), 0_u8..=32), 0..12),
            probes in proptest::collection::vec(any::<[u8; 4]>(), 0..12),
        ) {
            let networks: Vec<IpNet> = networks
                .into_iter()
                .map(|(octets, prefix)| IpNet::new(octets.into(), prefix).unwrap())
                .collect();
            let mut addresses = LocalAddresses::default();
            addresses.replace(&networks);
            let edges = networks.iter().flat_map(|network| [network.network(), network.broadcast()]);
            for address in probes.into_iter().map(IpAddr::from).chain(edges) {
                let held = networks.iter().any(|network| network.contains(&address))
                    || address.is_multicast()
                    || address == Ipv4Addr::BROADCAST;
                prop_assert_eq!(addresses.contains(address), held, "{}", address);
            }
        }
    }
}
