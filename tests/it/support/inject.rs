//! Puts entries into the connection tracking table of the thread's namespace, and takes
//! them out, over ctnetlink and in batches: hundreds of thousands a second, in any state.
//!
//! `include/uapi/linux/netfilter/nfnetlink_conntrack.h`; see `ctnetlink_create_conntrack`
//! in `net/netfilter/nf_conntrack_netlink.c` for what the kernel insists on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use conntally::flow::{Beginning, Flow, Protocol, SctpState, State, Status, TcpState, Tuple};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};

/// `(NFNL_SUBSYS_CTNETLINK << 8) | IPCTNL_MSG_CT_NEW`
const NEW: u16 = 0x100;
/// `(NFNL_SUBSYS_CTNETLINK << 8) | IPCTNL_MSG_CT_DELETE`
const DELETE: u16 = 0x102;
/// `NLM_F_REQUEST | NLM_F_EXCL | NLM_F_CREATE`
const CREATE: u16 = 0x601;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLA_F_NESTED: u16 = 0x8000;
const IPS_CONFIRMED: u32 = 8;
/// Long enough for any test: entries do not expire under it.
const TIMEOUT_SECONDS: u32 = 3600;
const BATCH: usize = 128;

/// Makes an entry of each flow.
pub(crate) fn inject(flows: impl IntoIterator<Item = Flow>) {
    request(NEW, CREATE, flows);
}

/// Puts the entry of each flow into its state.
pub(crate) fn update(flows: impl IntoIterator<Item = Flow>) {
    request(NEW, NLM_F_REQUEST, flows);
}

/// Takes the entry of each flow out.
pub(crate) fn delete(flows: impl IntoIterator<Item = Flow>) {
    request(DELETE, NLM_F_REQUEST, flows);
}

fn request(kind: u16, flags: u16, flows: impl IntoIterator<Item = Flow>) {
    let mut socket = Socket::new(NETLINK_NETFILTER).unwrap();
    socket.bind_auto().unwrap();
    socket.connect(&SocketAddr::new(0, 0)).unwrap();
    let mut flows = flows.into_iter().peekable();
    let mut batch = Vec::new();
    let mut reply = Vec::with_capacity(64 * 1024);
    while flows.peek().is_some() {
        batch.clear();
        let mut last = 0;
        for flow in flows.by_ref().take(BATCH) {
            last = batch.len();
            encode(&mut batch, kind, flags, &flow);
        }
        // One answer a batch, to its last message; an error is answered anyway.
        batch[last + 6..last + 8].copy_from_slice(&(flags | NLM_F_ACK).to_ne_bytes());
        socket.send(&batch, 0).unwrap();
        reply.clear();
        socket.recv(&mut reply, 0).unwrap();
        let code = i32::from_ne_bytes(reply[16..20].try_into().unwrap());
        assert_eq!(code, 0, "the kernel refused an entry: errno {}", -code);
    }
}

/// A flow without translation, zone or mark.
pub(crate) fn flow(protocol: Protocol, state: State, original: Tuple) -> Flow {
    let status = match state {
        State::Unreplied | State::Tcp(TcpState::SynSent) => 0,
        State::Replied => Status::SEEN_REPLY,
        _ => Status::SEEN_REPLY | Status::ASSURED,
    };
    Flow {
        original,
        reply: reversed(protocol, original),
        protocol,
        state,
        status: Status(status),
        zone: 0,
        mark: 0,
        // The kernel has no doubts about what it was told.
        beginning: match protocol {
            Protocol::Tcp => Beginning::Seen,
            _ => Beginning::Unknown,
        },
    }
}

/// A TCP connection that neither end of is here, from 192.0.2.1 and this port to port 443
/// of a host.
pub(crate) fn tcp(src_port: u16, host: &str, state: TcpState) -> Flow {
    let original = Tuple {
        src: Ipv4Addr::new(192, 0, 2, 1).into(),
        dst: host.parse().unwrap(),
        src_port,
        dst_port: 443,
    };
    flow(Protocol::Tcp, State::Tcp(state), original)
}

/// The `n`th IPv4 client, a port of it for each 16 million, and one of `hosts` servers.
pub(crate) fn v4(n: u32, hosts: u32) -> Tuple {
    Tuple {
        src: Ipv4Addr::from_bits(0x0a00_0000 | n & 0x00ff_ffff).into(),
        dst: Ipv4Addr::from_bits(0xac10_0000 + n % hosts).into(),
        src_port: 40_000,
        dst_port: 443,
    }
}

/// The same for IPv6.
pub(crate) fn v6(n: u32, hosts: u32) -> Tuple {
    let [src, dst] = [1, 2].map(|side| 0x2001_0db8_u128 << 96 | side << 64);
    Tuple {
        src: Ipv6Addr::from_bits(src | u128::from(n)).into(),
        dst: Ipv6Addr::from_bits(dst | u128::from(n % hosts)).into(),
        ..v4(n, hosts)
    }
}

/// Flows of every kind that the kernel tracks, `count` of them, all different.
pub(crate) fn mixed(count: u32) -> impl Iterator<Item = Flow> {
    const HOSTS: u32 = 50;
    (0..count).map(|n| {
        let tuple = match n % 3 {
            0 => v6(n, HOSTS),
            _ => v4(n, HOSTS),
        };
        let echo = |kind: u16| Tuple {
            dst_port: kind << 8,
            ..tuple
        };
        let mut flow = match n % 8 {
            0 => flow(Protocol::Udp, State::Unreplied, tuple),
            1 => flow(Protocol::Udp, State::Assured, tuple),
            2 => flow(Protocol::Gre, State::Replied, tuple),
            3 => flow(Protocol::Sctp, State::Sctp(SctpState::Established), tuple),
            4 if tuple.src.is_ipv4() => flow(Protocol::Icmp, State::Replied, echo(8)),
            4 => flow(Protocol::Icmpv6, State::Unreplied, echo(128)),
            _ => {
                let state = TcpState::ALL[n as usize % TcpState::ALL.len()];
                flow(Protocol::Tcp, State::Tcp(state), tuple)
            }
        };
        if flow.protocol.has_ports() && n % 5 == 0 {
            flow.reply.src_port = 8443;
        }
        flow.zone = [0, 0, 7, 9][n as usize % 4];
        flow.mark = [0, 0x10, 0x11, 0x21][n as usize / 4 % 4];
        flow
    })
}

/// The other way of a tuple, without translation.
pub(crate) fn reversed(protocol: Protocol, tuple: Tuple) -> Tuple {
    let back = Tuple {
        src: tuple.dst,
        dst: tuple.src,
        src_port: tuple.dst_port,
        dst_port: tuple.src_port,
    };
    match protocol {
        // An echo is answered under the same identifier, by the answer's type.
        Protocol::Icmp => Tuple {
            src_port: tuple.src_port,
            dst_port: 0,
            ..back
        },
        Protocol::Icmpv6 => Tuple {
            src_port: tuple.src_port,
            dst_port: 129 << 8,
            ..back
        },
        _ => back,
    }
}

fn encode(batch: &mut Vec<u8>, kind: u16, flags: u16, flow: &Flow) {
    let start = batch.len();
    batch.extend_from_slice(&[0; 4]);
    batch.extend_from_slice(&kind.to_ne_bytes());
    batch.extend_from_slice(&flags.to_ne_bytes());
    batch.extend_from_slice(&[0; 8]);
    let family = if flow.original.src.is_ipv4() { 2 } else { 10 };
    batch.extend_from_slice(&[family, 0, 0, 0]);
    encode_tuple(batch, 1, flow.protocol, flow.original);
    if kind == NEW {
        encode_entry(batch, flow);
    }
    if flow.zone != 0 {
        put(batch, 18, &flow.zone.to_be_bytes());
    }
    let length = u32::try_from(batch.len() - start).unwrap();
    batch[start..start + 4].copy_from_slice(&length.to_ne_bytes());
}

fn encode_entry(batch: &mut Vec<u8>, flow: &Flow) {
    encode_tuple(batch, 2, flow.protocol, flow.reply);
    let Status(status) = flow.status;
    put(batch, 3, &(status | IPS_CONFIRMED).to_be_bytes());
    put(batch, 7, &TIMEOUT_SECONDS.to_be_bytes());
    match flow.state {
        State::Tcp(state) => nest(batch, 4, |batch| {
            nest(batch, 1, |batch| put(batch, 1, &[state as u8]));
        }),
        State::Sctp(state) => nest(batch, 4, |batch| {
            nest(batch, 3, |batch| {
                put(batch, 1, &[state as u8]);
                put(batch, 2, &[0, 0, 0, 1]);
                put(batch, 3, &[0, 0, 0, 2]);
            });
        }),
        _ => {}
    }
    if flow.mark != 0 {
        put(batch, 8, &flow.mark.to_be_bytes());
    }
}

fn encode_tuple(batch: &mut Vec<u8>, kind: u16, protocol: Protocol, tuple: Tuple) {
    nest(batch, kind, |batch| {
        nest(batch, 1, |batch| match (tuple.src, tuple.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                put(batch, 1, &src.octets());
                put(batch, 2, &dst.octets());
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                put(batch, 3, &src.octets());
                put(batch, 4, &dst.octets());
            }
            _ => panic!("a tuple of two families"),
        });
        nest(batch, 2, |batch| {
            put(batch, 1, &[protocol.number()]);
            let [kind, code] = tuple.dst_port.to_be_bytes();
            let id = tuple.src_port.to_be_bytes();
            let (first, last): (&[u8], &[u8]) = (&[kind], &[code]);
            match protocol {
                Protocol::Icmp => {
                    put(batch, 4, &id);
                    put(batch, 5, first);
                    put(batch, 6, last);
                }
                Protocol::Icmpv6 => {
                    put(batch, 7, &id);
                    put(batch, 8, first);
                    put(batch, 9, last);
                }
                _ => {
                    put(batch, 2, &id);
                    put(batch, 3, &tuple.dst_port.to_be_bytes());
                }
            }
        });
    });
}

fn put(batch: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap();
    batch.extend_from_slice(&length.to_ne_bytes());
    batch.extend_from_slice(&kind.to_ne_bytes());
    batch.extend_from_slice(value);
    batch.resize(batch.len().next_multiple_of(4), 0);
}

fn nest(batch: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = batch.len();
    put(batch, kind | NLA_F_NESTED, &[]);
    fill(batch);
    let length = u16::try_from(batch.len() - start).unwrap();
    batch[start..start + 2].copy_from_slice(&length.to_ne_bytes());
}
