//! Requests and answers of `sock_diag` for internet sockets
//! (`include/uapi/linux/inet_diag.h`). Addresses and ports are in network order.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::NLM_F_DUMP;

use crate::flow::Protocol;
use crate::netlink::{Attributes, Request};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const INET_DIAG_SKV6ONLY: u16 = 11;

/// Bytes of `struct inet_diag_sockid`.
const SOCKET_ID_BYTES: usize = 48;
/// Bytes of `struct inet_diag_msg` before its `inet_diag_sockid`.
const STATE_BYTES: usize = 4;
/// Bytes of `struct inet_diag_msg` after it.
const COUNTERS_BYTES: usize = 20;

/// States of `include/net/tcp_states.h`; UDP uses two of them.
pub(super) const ESTABLISHED: u8 = 1;
/// For UDP: not connected.
pub(super) const CLOSE: u8 = 7;
pub(super) const LISTEN: u8 = 10;

/// The highest state that is a connection's, `TCP_NEW_SYN_RECV`. `TCP_BOUND_INACTIVE`
/// is beyond it.
const HIGHEST_STATE: u32 = 12;

/// A mask of states.
pub(super) fn states(of: &[u8]) -> u32 {
    of.iter().fold(0, |mask, &state| mask | 1 << state)
}

/// The family of a socket, not that of its addresses.
#[derive(Clone, Copy, Debug)]
pub(super) enum InetFamily {
    V4 = 2,
    V6 = 10,
}

/// A request for the sockets in these states.
pub(super) fn request(family: InetFamily, protocol: Protocol, states: u32) -> Request {
    let mut fixed = vec![family as u8, protocol.number(), 0, 0];
    let known = (1 << (HIGHEST_STATE + 1)) - 1;
    fixed.extend_from_slice(&(states & known).to_ne_bytes());
    fixed.extend_from_slice(&[0; SOCKET_ID_BYTES]);
    Request::new(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, &fixed)
}

/// One socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Socket {
    /// Number of the TCP state.
    pub(super) state: u8,
    /// IPv4 where an IPv6 socket has a mapped address.
    pub(super) local: IpAddr,
    pub(super) remote: IpAddr,
    pub(super) local_port: u16,
    pub(super) remote_port: u16,
    /// Whether it takes no IPv4 connections; told of listeners alone.
    pub(super) v6_only: bool,
}

/// Decodes the payload of one message of a dump.
pub(super) fn decode(payload: &[u8]) -> Option<Socket> {
    let (&[family, state, _, _], rest) = payload.split_first_chunk::<STATE_BYTES>()?;
    let (&[s0, s1, d0, d1], rest) = rest.split_first_chunk::<4>()?;
    let (src, rest) = rest.split_first_chunk::<16>()?;
    let (dst, _) = rest.split_first_chunk::<16>()?;
    let attributes = payload.get(STATE_BYTES + SOCKET_ID_BYTES + COUNTERS_BYTES..)?;
    let mut v6_only = false;
    for attribute in Attributes::new(attributes) {
        if let (INET_DIAG_SKV6ONLY, &[flag]) = attribute.ok()? {
            v6_only = flag != 0;
        }
    }
    Some(Socket {
        state,
        local: address(family, *src)?,
        remote: address(family, *dst)?,
        local_port: u16::from_be_bytes([s0, s1]),
        remote_port: u16::from_be_bytes([d0, d1]),
        v6_only,
    })
}

fn address(family: u8, octets: [u8; 16]) -> Option<IpAddr> {
    if family == InetFamily::V4 as u8 {
        let [a, b, c, d, ..] = octets;
        return Some(Ipv4Addr::new(a, b, c, d).into());
    }
    (family == InetFamily::V6 as u8).then(|| Ipv6Addr::from(octets).to_canonical())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::netlink::attribute;

    fn message(family: u8, src: [u8; 16], tail: &[u8]) -> Vec<u8> {
        let mut bytes = vec![family, 1, 0, 0, 0, 80, 0x9c, 0x40];
        bytes.extend_from_slice(&src);
        bytes.extend_from_slice(&src);
        bytes.extend_from_slice(&[0; 12 + COUNTERS_BYTES]);
        bytes.extend_from_slice(tail);
        bytes
    }

    #[test]
    fn a_mapped_address_is_an_ipv4_address() {
        let mapped: Ipv6Addr = "::ffff:192.0.2.1".parse().unwrap();
        let socket = decode(&message(10, mapped.octets(), &attribute(11, &[1]))).unwrap();
        assert_eq!(socket.local.to_string(), "192.0.2.1");
        assert_eq!((socket.local_port, socket.remote_port), (80, 40_000));
        assert!(socket.v6_only);
    }

    proptest! {
        /// Decoding never panics, and takes no message that is cut short.
        #[test]
        fn prop_any_bytes_decode_or_do_not(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            if decode(&bytes).is_some() {
                prop_assert!(bytes.len() >= STATE_BYTES + SOCKET_ID_BYTES + COUNTERS_BYTES);
            }
        }
    }
}
