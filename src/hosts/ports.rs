//! Ports that clients are given, as against those that services choose.

use std::fmt;
use std::fs;
use std::ops::RangeInclusive;

/// Linux's default of `net.ipv4.ip_local_port_range`, IPv6 included.
const LINUX_RANGE: RangeInclusive<u16> = 32768..=60999;
/// IANA's dynamic ports (RFC 6335, 6): what most other systems' clients use.
const DYNAMIC_RANGE: RangeInclusive<u16> = 49152..=65535;

const RANGE_PATH: &str = "/proc/sys/net/ipv4/ip_local_port_range";
const RESERVED_PATH: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

/// Number of ports, in 64 bit words.
const WORDS: usize = (1 << 16) / 64;

/// The set of ephemeral ports: this host's range and IANA's dynamic ports, less
/// those that the administrator keeps for services.
#[derive(Clone)]
pub struct EphemeralPorts {
    bits: Box<[u64; WORDS]>,
}

impl Default for EphemeralPorts {
    /// Linux's default range, nothing reserved.
    fn default() -> Self {
        Self::new(LINUX_RANGE, [])
    }
}

impl fmt::Debug for EphemeralPorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count: u32 = self.bits.iter().map(|word| word.count_ones()).sum();
        f.debug_struct("EphemeralPorts")
            .field("count", &count)
            .finish_non_exhaustive()
    }
}

impl EphemeralPorts {
    /// Of a host with this range, less `reserved`.
    #[must_use]
    pub fn new(
        range: RangeInclusive<u16>,
        reserved: impl IntoIterator<Item = RangeInclusive<u16>>,
    ) -> Self {
        let mut bits = Box::new([0; WORDS]);
        for port in range.chain(DYNAMIC_RANGE) {
            *word(&mut bits, port) |= mask(port);
        }
        for port in reserved.into_iter().flatten() {
            *word(&mut bits, port) &= !mask(port);
        }
        Self { bits }
    }

    /// As `net.ipv4.ip_local_port_range` and `ip_local_reserved_ports` have them;
    /// the default where they can't be read.
    #[must_use]
    pub fn system() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        Self::new(
            parse_range(&read(RANGE_PATH)).unwrap_or(LINUX_RANGE),
            parse_reserved(&read(RESERVED_PATH)),
        )
    }

    /// Whether the port is one of them.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        self.bits[usize::from(port >> 6)] & mask(port) != 0
    }
}

const fn mask(port: u16) -> u64 {
    1 << (port & 63)
}

fn word(bits: &mut [u64; WORDS], port: u16) -> &mut u64 {
    &mut bits[usize::from(port >> 6)]
}

/// Two numbers with space between.
fn parse_range(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.trim().split_once(char::is_whitespace)?;
    Some(first.parse().ok()?..=last.trim().parse().ok()?)
}

/// Ports and ranges, `8080,9000-9010`; what is neither is left out.
fn parse_reserved(text: &str) -> Vec<RangeInclusive<u16>> {
    text.trim()
        .split(',')
        .filter_map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some(first.parse().ok()?..=last.parse().ok()?)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_linux_range_and_iana_dynamic_ports() {
        let ports = EphemeralPorts::default();
        for port in [32768, 45000, 60999, 61000, 65535] {
            assert!(ports.contains(port), "{port}");
        }
        for port in [0, 22, 443, 8080, 32767] {
            assert!(!ports.contains(port), "{port}");
        }
    }

    #[test]
    fn reserved_ports_belong_to_services() {
        let ports = EphemeralPorts::new(1024..=65535, parse_reserved("8080,50051-50053\n"));
        assert!(ports.contains(8081) && ports.contains(50054));
        for port in [8080, 50051, 50053, 1023] {
            assert!(!ports.contains(port), "{port}");
        }
    }

    #[test]
    fn the_kernels_files_are_read_as_it_writes_them() {
        assert_eq!(parse_range("32768\t60999\n"), Some(32768..=60999));
        assert_eq!(parse_range("nonsense"), None);
        assert_eq!(parse_reserved("\n"), []);
        assert_eq!(parse_reserved("1,5-7"), [1..=1, 5..=7]);
    }
}
