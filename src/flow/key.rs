//! What a flow is known by: 64 bits in the place of a tuple of forty bytes.

use std::fmt;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Protocol, Tuple};

/// Bytes of what is hashed: two addresses, two ports, protocol and zone.
const V4_BYTES: usize = 4 + 4 + 2 + 2 + 1 + 2;
const V6_BYTES: usize = 16 + 16 + 2 + 2 + 1 + 2;

/// Stands for a flow's original tuple, protocol and zone. Written as sixteen hex
/// digits; a number of JSON would lose its last bits to many readers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct FlowKey(pub u64);

impl fmt::Display for FlowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A text that is no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a connection's key: write its sixteen hex digits")]
pub struct KeyError(String);

impl FromStr for FlowKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let is_key = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        match u64::from_str_radix(text, 16) {
            Ok(number) if is_key => Ok(Self(number)),
            _ => Err(KeyError(text.to_owned())),
        }
    }
}

impl TryFrom<String> for FlowKey {
    type Error = KeyError;

    fn try_from(text: String) -> Result<Self, KeyError> {
        text.parse()
    }
}

impl From<FlowKey> for String {
    fn from(key: FlowKey) -> Self {
        key.to_string()
    }
}

/// Makes keys. Seeded at random, since tuples are chosen by whoever sends packets: two
/// hashers agree on a key only if one is the other's clone.
#[derive(Clone, Debug, Default)]
pub struct KeyHasher {
    state: RandomState,
}

impl KeyHasher {
    /// The key of a flow.
    #[must_use]
    pub fn key(&self, original: &Tuple, protocol: Protocol, zone: u16) -> FlowKey {
        FlowKey(match (original.src, original.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let mut bytes = [0; V4_BYTES];
                bytes[..4].copy_from_slice(&src.octets());
                bytes[4..8].copy_from_slice(&dst.octets());
                finish(&mut bytes, 8, original, protocol, zone);
                self.hash(&bytes)
            }
            (src, dst) => {
                let mut bytes = [0; V6_BYTES];
                bytes[..16].copy_from_slice(&octets(src));
                bytes[16..32].copy_from_slice(&octets(dst));
                finish(&mut bytes, 32, original, protocol, zone);
                self.hash(&bytes)
            }
        })
    }

    fn hash(&self, bytes: &[u8]) -> u64 {
        // One write: each costs the hasher its bookkeeping.
        let mut hasher = self.state.build_hasher();
        hasher.write(bytes);
        hasher.finish()
    }
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// Writes what follows the addresses.
fn finish(bytes: &mut [u8], at: usize, tuple: &Tuple, protocol: Protocol, zone: u16) {
    bytes[at..at + 2].copy_from_slice(&tuple.src_port.to_ne_bytes());
    bytes[at + 2..at + 4].copy_from_slice(&tuple.dst_port.to_ne_bytes());
    bytes[at + 4] = protocol.number();
    bytes[at + 5..at + 7].copy_from_slice(&zone.to_ne_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuple(src: &str, dst: &str, src_port: u16, dst_port: u16) -> Tuple {
        Tuple {
            src: src.parse().unwrap(),
            dst: dst.parse().unwrap(),
            src_port,
            dst_port,
        }
    }

    #[test]
    fn whatever_differs_between_two_flows_makes_two_keys() {
        let keys = KeyHasher::default();
        let (one, six) = (
            tuple("10.0.0.1", "10.0.0.2", 40_000, 443),
            tuple("fd00::1", "fd00::2", 40_000, 443),
        );
        let mut all = vec![
            keys.key(&one, Protocol::Tcp, 0),
            keys.key(&one, Protocol::Udp, 0),
            keys.key(&one, Protocol::Tcp, 7),
            keys.key(
                &tuple("10.0.0.2", "10.0.0.1", 40_000, 443),
                Protocol::Tcp,
                0,
            ),
            keys.key(
                &tuple("10.0.0.1", "10.0.0.2", 443, 40_000),
                Protocol::Tcp,
                0,
            ),
            keys.key(
                &tuple("10.0.0.1", "10.0.0.2", 40_001, 443),
                Protocol::Tcp,
                0,
            ),
            keys.key(&six, Protocol::Tcp, 0),
            keys.key(&tuple("fd00::1", "fd00::3", 40_000, 443), Protocol::Tcp, 0),
            keys.key(&six, Protocol::Tcp, 1),
        ];
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }

    #[test]
    fn a_clone_makes_the_same_keys_and_another_hasher_does_not() {
        let keys = KeyHasher::default();
        let one = tuple("10.0.0.1", "10.0.0.2", 40_000, 443);
        let key = keys.key(&one, Protocol::Tcp, 0);
        assert_eq!(keys.clone().key(&one, Protocol::Tcp, 0), key);
        assert_ne!(KeyHasher::default().key(&one, Protocol::Tcp, 0), key);
    }

    #[test]
    fn a_key_prints_as_sixteen_hex_digits_and_reads_back() {
        let key = FlowKey(0xabc);
        assert_eq!(key.to_string(), "0000000000000abc");
        assert_eq!("0000000000000abc".parse(), Ok(key));
        for text in ["", "abc", "+000000000000abc", "000000000000000g"] {
            assert!(text.parse::<FlowKey>().is_err(), "{text}");
        }
    }
}
