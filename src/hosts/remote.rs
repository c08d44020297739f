//! What stands for a remote host in the tally, and which addresses are public.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// A remote host, or what several are counted as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Remote {
    /// A group or an alias, by its number among the configured names.
    Named(u32),
    /// One address.
    Address(IpAddr),
    /// One client from a public address, counted together with all of them.
    Public(IpAddr),
    /// Hosts beyond `max`, together.
    Other,
}

impl Remote {
    /// What [`Remote::Public`] is called.
    pub const PUBLIC: &str = "public";
    /// What [`Remote::Other`] is called.
    pub const OTHER: &str = "other";

    /// Whether it is one host, so that it may be told apart.
    #[must_use]
    pub const fn is_host(self) -> bool {
        matches!(self, Self::Named(_) | Self::Address(_))
    }

    /// What is reported for it: of those that count together, all look the same.
    #[must_use]
    pub const fn folded(self) -> Self {
        match self {
            Self::Public(_) => Self::Public(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            apart => apart,
        }
    }

    /// Two words that no other remote host has, for a hash in two writes.
    pub(crate) fn words(self) -> (u128, u8) {
        match self {
            Self::Address(IpAddr::V4(address)) => (u128::from(address.to_bits()), 0),
            Self::Address(IpAddr::V6(address)) => (address.to_bits(), 1),
            Self::Named(number) => (u128::from(number), 2),
            Self::Public(IpAddr::V4(address)) => (u128::from(address.to_bits()), 3),
            Self::Public(IpAddr::V6(address)) => (address.to_bits(), 4),
            Self::Other => (0, 5),
        }
    }
}

impl Hash for Remote {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let (address, kind) = self.words();
        state.write_u128(address);
        state.write_u8(kind);
    }
}

/// What a remote host is called; good beyond the configuration that named it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostName {
    /// A group or an alias.
    Name(Arc<str>),
    /// An address that has no name.
    Address(IpAddr),
    /// What several hosts are called together.
    Folded(&'static str),
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(address) => address.fmt(f),
            Self::Folded(name) => f.write_str(name),
        }
    }
}

/// Whether anybody on the Internet may have the address: what IANA's registries of
/// special-purpose addresses (RFC 6890) leave. 6to4 and Teredo addresses count as
/// public, for strangers come from them.
#[must_use]
pub fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, d] = address.octets();
    let special = match a {
        // "This network", private, loopback; multicast (RFC 5771) and reserved.
        0 | 10 | 127 | 224.. => true,
        // Shared by a carrier's customers (RFC 6598).
        100 => b & 0xc0 == 64,
        // Link-local.
        169 => b == 254,
        172 => b & 0xf0 == 16,
        192 => match (b, c) {
            // Protocol assignments, of which two anycast addresses are public
            // (RFC 7723, RFC 8155).
            (0, 0) => !matches!(d, 9 | 10),
            // Documentation (RFC 5737), private.
            (0, 2) | (168, _) => true,
            _ => false,
        },
        // Benchmarks (RFC 2544), documentation.
        198 => b & 0xfe == 18 || (b, c) == (51, 100),
        203 => (b, c) == (0, 113),
        _ => false,
    };
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    match address.segments() {
        // Documentation (RFC 3849, RFC 9637).
        [0x2001, 0xdb8, ..] => false,
        [0x3fff, second, ..] if second >> 12 == 0 => false,
        // Teredo (RFC 4380); translated from public IPv4 (RFC 6052).
        [0x2001, 0, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => true,
        // Other protocol assignments (RFC 2928).
        [0x2001, second, ..] if second < 0x200 => false,
        // Global unicast is all that is given out (RFC 4291, 2.4).
        [first, ..] => first >> 13 == 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_anybody_may_have_are_public() {
        for text in [
            "1.1.1.1",
            "8.8.8.8",
            "100.63.255.255",
            "100.128.0.0",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.0.9",
            "192.0.1.1",
            "192.167.0.1",
            "198.17.0.1",
            "198.20.0.1",
            "223.255.255.255",
            "2606:4700::1111",
            "2a00::1",
            "2001:200::1",
            "2001:0:1::1",
            "2002:808:808::1",
            "64:ff9b::808:808",
            "::ffff:8.8.8.8",
        ] {
            assert!(is_public(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn special_purpose_addresses_are_not_public() {
        for text in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.53",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.251",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:10.0.0.1",
            "64:ff9b:1::1",
            "100::1",
            "2001:2::1",
            "2001:db8::1",
            "3fff:fff::1",
            "5f00::1",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "ff02::1",
        ] {
            assert!(!is_public(text.parse().unwrap()), "{text}");
        }
    }
}
