//! One entry of the table, from the kernel's bytes to a [`Flow`], in place.
//!
//! Attributes: `include/uapi/linux/netfilter/nfnetlink_conntrack.h`. Their integers
//! are big-endian.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::NLA_F_NESTED;

use crate::flow::{
    Beginning, DccpState, Flow, Protocol, SctpState, State, Status, TcpState, Tuple,
};
use crate::netlink::{Attributes, BadLength};

/// Bytes of `struct nfgenmsg`, which stands before the attributes.
pub(super) const HEADER_BYTES: usize = 4;

pub(super) const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_PROTOINFO: u16 = 4;
pub(super) const CTA_MARK: u16 = 8;
pub(super) const CTA_ZONE: u16 = 18;

const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;

const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;

const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_PROTO_ICMP_ID: u16 = 4;
const CTA_PROTO_ICMP_TYPE: u16 = 5;
const CTA_PROTO_ICMP_CODE: u16 = 6;
const CTA_PROTO_ICMPV6_ID: u16 = 7;
const CTA_PROTO_ICMPV6_TYPE: u16 = 8;
const CTA_PROTO_ICMPV6_CODE: u16 = 9;

const CTA_PROTOINFO_TCP: u16 = 1;
const CTA_PROTOINFO_DCCP: u16 = 2;
const CTA_PROTOINFO_SCTP: u16 = 3;
/// The state's attribute has the same number for all three.
const CTA_PROTOINFO_STATE: u16 = 1;
const CTA_PROTOINFO_TCP_FLAGS_ORIGINAL: u16 = 4;

/// `IP_CT_TCP_FLAG_BE_LIBERAL`: the kernel sets it on what it picks up in mid-stream
/// (`tcp_new`), whose windows it cannot know.
const TCP_FLAG_BE_LIBERAL: u8 = 0x08;

/// An entry that does not follow the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undecodable {
    /// A length is wrong.
    #[error(transparent)]
    Length(#[from] BadLength),
    /// An attribute's value has not the size of its type.
    #[error("an attribute has a value of the wrong size")]
    Value,
    /// An end of the connection is not told.
    #[error("a tuple lacks an address or the protocol")]
    Incomplete,
    /// A number that is no state of the protocol.
    #[error("{0} is no state of its protocol")]
    State(u8),
}

/// Decodes the payload of one message of a dump. `None` is an entry of a protocol
/// that is not told apart.
///
/// # Errors
/// Fails when the entry does not follow the format.
pub fn decode(payload: &[u8]) -> Result<Option<Flow>, Undecodable> {
    let attributes = payload.get(HEADER_BYTES..).ok_or(Undecodable::Incomplete)?;
    let mut original = None;
    let mut reply = None;
    let mut status = Status::default();
    let mut info = Info::default();
    let mut zone = 0;
    let mut mark = 0;
    for attribute in Attributes::new(attributes) {
        let (kind, value) = attribute?;
        match kind {
            CTA_TUPLE_ORIG => {
                let (tuple, number) = decode_tuple(value)?;
                let Some(protocol) = Protocol::from_number(number) else {
                    return Ok(None);
                };
                original = Some((tuple, protocol));
            }
            CTA_TUPLE_REPLY => reply = Some(decode_tuple(value)?.0),
            CTA_STATUS => status = Status(be32(value)?),
            CTA_PROTOINFO => info = decode_info(value)?,
            CTA_MARK => mark = be32(value)?,
            CTA_ZONE => zone = be16(value)?,
            _ => {}
        }
    }
    let ((original, protocol), reply) = original.zip(reply).ok_or(Undecodable::Incomplete)?;
    Ok(Some(Flow {
        original,
        reply,
        protocol,
        state: state_of(protocol, info.state, status)?,
        status,
        zone,
        mark,
        beginning: match info.is_liberal {
            Some(true) => Beginning::Missed,
            Some(false) => Beginning::Seen,
            None => Beginning::Unknown,
        },
    }))
}

/// An attribute's header.
const fn header(kind: u16, bytes: u16) -> [u8; 4] {
    let [l0, l1] = bytes.to_ne_bytes();
    let [k0, k1] = kind.to_ne_bytes();
    [l0, l1, k0, k1]
}

const IP_V4: [u8; 4] = header(CTA_TUPLE_IP | NLA_F_NESTED, 20);
const IP_V6: [u8; 4] = header(CTA_TUPLE_IP | NLA_F_NESTED, 44);
const V4_SRC: [u8; 4] = header(CTA_IP_V4_SRC, 8);
const V4_DST: [u8; 4] = header(CTA_IP_V4_DST, 8);
const V6_SRC: [u8; 4] = header(CTA_IP_V6_SRC, 20);
const V6_DST: [u8; 4] = header(CTA_IP_V6_DST, 20);
const PROTO: [u8; 4] = header(CTA_TUPLE_PROTO | NLA_F_NESTED, 28);
const NUM: [u8; 4] = header(CTA_PROTO_NUM, 5);
const SRC_PORT: [u8; 4] = header(CTA_PROTO_SRC_PORT, 6);
const DST_PORT: [u8; 4] = header(CTA_PROTO_DST_PORT, 6);

/// A tuple with ports in the order in which kernels have always written it. Tuples are
/// most of an entry: a decode takes a quarter less time than by walking them.
#[inline]
fn usual_tuple(bytes: &[u8]) -> Option<(Tuple, u8)> {
    let (words, _) = bytes.as_chunks::<4>();
    let (src, dst, rest): (IpAddr, IpAddr, _) = match words {
        &[IP_V4, V4_SRC, src, V4_DST, dst, ref rest @ ..] => (src.into(), dst.into(), rest),
        [
            IP_V6,
            V6_SRC,
            s0,
            s1,
            s2,
            s3,
            V6_DST,
            d0,
            d1,
            d2,
            d3,
            rest @ ..,
        ] => {
            let v6 = |words: [&[u8; 4]; 4]| {
                let [high, upper, lower, low] =
                    words.map(|word| u128::from(u32::from_be_bytes(*word)));
                Ipv6Addr::from_bits(high << 96 | upper << 64 | lower << 32 | low).into()
            };
            (v6([s0, s1, s2, s3]), v6([d0, d1, d2, d3]), rest)
        }
        _ => return None,
    };
    let &[
        PROTO,
        NUM,
        [number, ..],
        SRC_PORT,
        [s0, s1, ..],
        DST_PORT,
        [d0, d1, ..],
    ] = rest
    else {
        return None;
    };
    let tuple = Tuple {
        src,
        dst,
        src_port: u16::from_be_bytes([s0, s1]),
        dst_port: u16::from_be_bytes([d0, d1]),
    };
    Some((tuple, number))
}

fn decode_tuple(bytes: &[u8]) -> Result<(Tuple, u8), Undecodable> {
    match usual_tuple(bytes) {
        Some(decoded) => Ok(decoded),
        None => walk_tuple(bytes),
    }
}

fn walk_tuple(bytes: &[u8]) -> Result<(Tuple, u8), Undecodable> {
    let mut src = None;
    let mut dst = None;
    let mut number = None;
    let mut src_port = 0;
    let mut dst_port = 0;
    for attribute in Attributes::new(bytes) {
        let (kind, value) = attribute?;
        match kind {
            CTA_TUPLE_IP => {
                for address in Attributes::new(value) {
                    let (kind, value) = address?;
                    match kind {
                        CTA_IP_V4_SRC => src = Some(v4(value)?),
                        CTA_IP_V4_DST => dst = Some(v4(value)?),
                        CTA_IP_V6_SRC => src = Some(v6(value)?),
                        CTA_IP_V6_DST => dst = Some(v6(value)?),
                        _ => {}
                    }
                }
            }
            CTA_TUPLE_PROTO => {
                for part in Attributes::new(value) {
                    let (kind, value) = part?;
                    match kind {
                        CTA_PROTO_NUM => number = Some(byte(value)?),
                        CTA_PROTO_SRC_PORT | CTA_PROTO_ICMP_ID | CTA_PROTO_ICMPV6_ID => {
                            src_port = be16(value)?;
                        }
                        CTA_PROTO_DST_PORT => dst_port = be16(value)?,
                        CTA_PROTO_ICMP_TYPE | CTA_PROTO_ICMPV6_TYPE => {
                            dst_port |= u16::from(byte(value)?) << 8;
                        }
                        CTA_PROTO_ICMP_CODE | CTA_PROTO_ICMPV6_CODE => {
                            dst_port |= u16::from(byte(value)?);
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    let (Some(src), Some(dst), Some(number)) = (src, dst, number) else {
        return Err(Undecodable::Incomplete);
    };
    let tuple = Tuple {
        src,
        dst,
        src_port,
        dst_port,
    };
    Ok((tuple, number))
}

/// What `CTA_PROTOINFO` holds of one protocol.
#[derive(Clone, Copy, Debug, Default)]
struct Info {
    /// The number of its state.
    state: Option<u8>,
    /// TCP: whether the kernel is liberal about the original way's windows.
    is_liberal: Option<bool>,
}

fn decode_info(bytes: &[u8]) -> Result<Info, Undecodable> {
    let mut info = Info::default();
    for protocol in Attributes::new(bytes) {
        let (protocol, value) = protocol?;
        if !matches!(
            protocol,
            CTA_PROTOINFO_TCP | CTA_PROTOINFO_DCCP | CTA_PROTOINFO_SCTP
        ) {
            continue;
        }
        for part in Attributes::new(value) {
            match part? {
                (CTA_PROTOINFO_STATE, value) => info.state = Some(byte(value)?),
                (CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, value) if protocol == CTA_PROTOINFO_TCP => {
                    let [flags, _mask] = fixed(value)?;
                    info.is_liberal = Some(flags & TCP_FLAG_BE_LIBERAL != 0);
                    // What comes after is the reply way's.
                    break;
                }
                _ => {}
            }
        }
    }
    Ok(info)
}

fn state_of(protocol: Protocol, number: Option<u8>, status: Status) -> Result<State, Undecodable> {
    let state = match (protocol, number) {
        (Protocol::Tcp, Some(number)) => TcpState::from_number(number).map(State::Tcp),
        (Protocol::Sctp, Some(number)) => SctpState::from_number(number).map(State::Sctp),
        (Protocol::Dccp, Some(number)) => DccpState::from_number(number).map(State::Dccp),
        // A flow table carries established connections alone, and a dump then
        // leaves the state out (`ctnetlink_dump_info`).
        (Protocol::Tcp, None) if status.has(Status::OFFLOAD) => {
            Some(State::Tcp(TcpState::Established))
        }
        (Protocol::Tcp, None) => Some(State::Tcp(TcpState::None)),
        (Protocol::Sctp, None) => Some(State::Sctp(SctpState::None)),
        (Protocol::Dccp, None) => Some(State::Dccp(DccpState::None)),
        _ if status.has(Status::ASSURED) => Some(State::Assured),
        _ if status.has(Status::SEEN_REPLY) => Some(State::Replied),
        _ => Some(State::Unreplied),
    };
    state.ok_or_else(|| Undecodable::State(number.unwrap_or_default()))
}

fn byte(value: &[u8]) -> Result<u8, Undecodable> {
    fixed(value).map(u8::from_be_bytes)
}

fn be16(value: &[u8]) -> Result<u16, Undecodable> {
    fixed(value).map(u16::from_be_bytes)
}

pub(super) fn be32(value: &[u8]) -> Result<u32, Undecodable> {
    fixed(value).map(u32::from_be_bytes)
}

fn v4(value: &[u8]) -> Result<IpAddr, Undecodable> {
    fixed(value).map(|octets: [u8; 4]| Ipv4Addr::from(octets).into())
}

fn v6(value: &[u8]) -> Result<IpAddr, Undecodable> {
    fixed(value).map(|octets: [u8; 16]| Ipv6Addr::from(octets).into())
}

#[inline]
fn fixed<const N: usize>(value: &[u8]) -> Result<[u8; N], Undecodable> {
    value.try_into().map_err(|_| Undecodable::Value)
}
