//! The walker over an entry's bytes against the typed parser of
//! netlink-packet-netfilter, on what the kernel sent and on what it never would.

mod event;

use std::collections::HashSet;
use std::net::IpAddr;

use conntally::conntrack::decode;
use conntally::flow::{
    Beginning, DccpState, Details, Entry, Flow, Protocol, SctpState, State, Status, TcpState,
    Traffic, Tuple,
};
use conntally::netlink::{Attributes, Messages, Netlink, Request, Subsystem};
use netlink_packet_core::{
    DefaultNla, Emitable, NLA_TYPE_MASK, NLM_F_DUMP, Nla, ParseableParametrized,
};
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, IPTuple, ProtoInfo, ProtoInfoTCP, ProtoTuple,
    Status as TypedStatus, Tuple as TypedTuple,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};
use proptest::prelude::*;

use self::event::{MESSAGE_DESTROY, MESSAGE_NEW, MESSAGE_UPDATE, event, try_event};
use crate::support::inject::{flow, inject, mixed};
use crate::support::netns::isolated;

/// Entries as a kernel sent them (Linux 6.18, little-endian): `mixed` of
/// `support/inject.rs` with accounting and timestamps, in whole datagrams.
const CAPTURED: &[u8] = include_bytes!("../fixtures/conntrack_dump.bin");
const CAPTURED_ENTRIES: u32 = 80;

/// `(NFNL_SUBSYS_CTNETLINK << 8) | IPCTNL_MSG_CT_{NEW,GET}`
const NEW: u16 = 0x100;
const GET: u16 = 0x101;

/// The entry as the typed parser understands it.
fn oracle(payload: &[u8]) -> Entry {
    let message = NetfilterMessage::parse_with_param(payload, NEW).unwrap();
    let NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) = message.inner else {
        panic!("not an entry: {message:?}");
    };
    let (mut original, mut reply, mut number) = (None, None, None);
    let (mut status, mut zone, mut mark) = (0, 0, 0);
    let mut beginning = Beginning::Unknown;
    let mut details = Details::default();
    for attribute in attributes {
        match attribute {
            ConntrackAttribute::CtaTupleOrig(parts) => original = Some(typed_tuple(&parts)),
            ConntrackAttribute::CtaTupleReply(parts) => reply = Some(typed_tuple(&parts)),
            ConntrackAttribute::CtaStatus(bits) => status = bits.bits(),
            ConntrackAttribute::CtaMark(value) => mark = value,
            ConntrackAttribute::CtaProtoInfo(parts) => {
                number = typed_state(&parts);
                beginning = typed_beginning(&parts);
                details.fin_seen = typed_flags(&parts).any(|(_, flags)| flags & 0x04 != 0);
            }
            ConntrackAttribute::CtaTimeout(seconds) => details.timeout = Some(seconds),
            // Zone, counters and timestamps are attributes that it does not know.
            ConntrackAttribute::Other(nla) => {
                let value = bytes_of(&nla);
                match nla.kind() & NLA_TYPE_MASK {
                    18 => zone = u16::from_be_bytes(value.try_into().unwrap()),
                    9 => details.traffic.get_or_insert_default()[0] = raw_counters(&value),
                    10 => details.traffic.get_or_insert_default()[1] = raw_counters(&value),
                    20 => [details.started, details.stopped] = raw_pair(&value),
                    27 => details.event_time = Some(be64(&value)),
                    _ => {}
                }
            }
            _ => {}
        }
    }
    let (original, protocol) = original.unwrap();
    let protocol = Protocol::from_number(protocol).unwrap();
    let status = Status(status);
    let state = match (protocol, number) {
        (Protocol::Tcp, Some(number)) => State::Tcp(TcpState::from_number(number).unwrap()),
        (Protocol::Sctp, Some(number)) => State::Sctp(SctpState::from_number(number).unwrap()),
        (Protocol::Dccp, Some(number)) => State::Dccp(DccpState::from_number(number).unwrap()),
        _ if status.has(Status::ASSURED) => State::Assured,
        _ if status.has(Status::SEEN_REPLY) => State::Replied,
        _ => State::Unreplied,
    };
    let flow = Flow {
        original,
        reply: reply.unwrap().0,
        protocol,
        state,
        status,
        zone,
        mark,
        beginning,
    };
    Entry { flow, details }
}

fn typed_beginning(parts: &[ProtoInfo]) -> Beginning {
    let original = typed_flags(parts).find(|(is_original, _)| *is_original);
    match original {
        Some((_, flags)) if flags & 0x08 != 0 => Beginning::Missed,
        Some(_) => Beginning::Seen,
        None => Beginning::Unknown,
    }
}

/// The flags of each way of a TCP connection; whether it is the original one.
fn typed_flags(parts: &[ProtoInfo]) -> impl Iterator<Item = (bool, u8)> {
    let tcp = parts.iter().filter_map(|part| match part {
        ProtoInfo::TCP(parts) => Some(parts),
        _ => None,
    });
    tcp.flatten().filter_map(|part| match part {
        ProtoInfoTCP::OriginalFlags(flags) => Some((true, flags.flags)),
        ProtoInfoTCP::ReplyFlags(flags) => Some((false, flags.flags)),
        _ => None,
    })
}

fn be64(value: &[u8]) -> u64 {
    u64::from_be_bytes(value.try_into().unwrap())
}

/// The numbers nested as 1 and as 2.
fn raw_pair(value: &[u8]) -> [Option<u64>; 2] {
    [1, 2].map(|wanted| {
        Attributes::new(value)
            .map(Result::unwrap)
            .find_map(|(kind, value)| (kind == wanted).then(|| be64(value)))
    })
}

fn raw_counters(value: &[u8]) -> Traffic {
    let [packets, bytes] = raw_pair(value).map(Option::unwrap);
    Traffic { packets, bytes }
}

fn typed_tuple(parts: &[TypedTuple]) -> (Tuple, u8) {
    let (mut src, mut dst) = (None, None);
    let (mut number, mut src_port, mut dst_port) = (None, 0, [0; 2]);
    for part in parts {
        match part {
            TypedTuple::Ip(addresses) => {
                for address in addresses {
                    match *address {
                        IPTuple::SourceAddress(address) => src = Some(address),
                        IPTuple::DestinationAddress(address) => dst = Some(address),
                        _ => {}
                    }
                }
            }
            TypedTuple::Proto(parts) => {
                for part in parts {
                    match part {
                        ProtoTuple::Protocol(protocol) => number = Some(u8::from(*protocol)),
                        ProtoTuple::SourcePort(port) => src_port = *port,
                        ProtoTuple::DestinationPort(port) => dst_port = port.to_be_bytes(),
                        ProtoTuple::Other(nla) => match (nla.kind(), &*bytes_of(nla)) {
                            (4 | 7, &[high, low]) => src_port = u16::from_be_bytes([high, low]),
                            (5 | 8, &[kind]) => dst_port[0] = kind,
                            (6 | 9, &[code]) => dst_port[1] = code,
                            other => panic!("{other:?}"),
                        },
                        other => panic!("{other:?}"),
                    }
                }
            }
            _ => {}
        }
    }
    let tuple = Tuple {
        src: src.unwrap(),
        dst: dst.unwrap(),
        src_port,
        dst_port: u16::from_be_bytes(dst_port),
    };
    (tuple, number.unwrap())
}

fn typed_state(parts: &[ProtoInfo]) -> Option<u8> {
    parts.iter().find_map(|part| match part {
        ProtoInfo::TCP(parts) => parts.iter().find_map(|part| match part {
            ProtoInfoTCP::State(state) => Some(*state),
            _ => None,
        }),
        ProtoInfo::Other(nla) => {
            let value = bytes_of(nla);
            let mut parts = Attributes::new(&value).map(Result::unwrap);
            parts.find_map(|(kind, value)| (kind == 1).then(|| value[0]))
        }
        _ => None,
    })
}

fn bytes_of(nla: &DefaultNla) -> Vec<u8> {
    let mut bytes = vec![0; nla.value_len()];
    nla.emit_value(&mut bytes);
    bytes
}

#[test]
fn walker_and_typed_parser_agree_on_each_entry_of_a_dump() {
    isolated(&[], || {
        inject(mixed(5000));
        let mut request = Request::new(GET, NLM_F_DUMP, &[0; 4]);
        let mut seen = 0;
        let dumped = Netlink::open(Subsystem::Netfilter)
            .unwrap()
            .dump(&mut request, &mut |message| {
                seen += 1;
                assert_eq!(decode(message.payload), Ok(Some(oracle(message.payload))));
            })
            .unwrap();
        assert!(!dumped.interrupted);
        assert_eq!(seen, 5000);
    });
}

fn captured() -> Vec<&'static [u8]> {
    Messages::new(CAPTURED)
        .map(|message| message.unwrap().payload)
        .collect()
}

#[cfg(target_endian = "little")]
#[test]
fn captured_entries_are_what_was_injected() {
    let mut injected: Vec<_> = mixed(CAPTURED_ENTRIES).collect();
    let mut states = HashSet::new();
    for payload in captured() {
        let entry = decode(payload).unwrap().unwrap();
        assert_eq!(entry, oracle(payload));
        let Details {
            traffic, started, ..
        } = entry.details;
        assert!(traffic.is_some() && started.is_some(), "{entry:?}");
        let flow = entry.flow;
        states.insert(flow.state);
        let place = injected
            .iter()
            .position(|of| (of.protocol, of.original) == (flow.protocol, flow.original));
        let of = injected.swap_remove(place.unwrap());
        assert_eq!((flow.reply, flow.state), (of.reply, of.state));
        assert_eq!((flow.zone, flow.mark), (of.zone, of.mark));
        assert!(flow.status.has(of.status.0) || of.status.0 == 0);
    }
    assert_eq!(injected, []);
    assert!(states.len() >= TcpState::ALL.len(), "{states:?}");
}

/// Writes the fixture anew: `cargo test --test it -- --ignored record`.
#[test]
#[ignore = "writes a fixture"]
fn record_captured_entries() {
    isolated(&[], || {
        for switch in ["acct", "timestamp"] {
            let path = format!("/proc/sys/net/netfilter/nf_conntrack_{switch}");
            std::fs::write(path, "1").unwrap();
        }
        inject(mixed(CAPTURED_ENTRIES));
        let mut request = Request::new(GET, NLM_F_DUMP, &[0; 4]);
        let mut bytes = Vec::new();
        let _dumped = Netlink::open(Subsystem::Netfilter)
            .unwrap()
            .dump(&mut request, &mut |message| {
                let length = u32::try_from(16 + message.payload.len()).unwrap();
                bytes.extend_from_slice(&length.to_ne_bytes());
                bytes.extend_from_slice(&message.kind.to_ne_bytes());
                bytes.extend_from_slice(&message.flags.to_ne_bytes());
                bytes.extend_from_slice(&message.sequence.to_ne_bytes());
                bytes.extend_from_slice(&[0; 4]);
                bytes.extend_from_slice(message.payload);
            })
            .unwrap();
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/fixtures/conntrack_dump.bin"
        );
        std::fs::write(path, bytes).unwrap();
    });
}

#[test]
fn an_offloaded_connection_without_a_state_is_established() {
    let tuple = mixed(8).last().unwrap().original;
    let mut offloaded = flow(Protocol::Tcp, State::Tcp(TcpState::Established), tuple);
    offloaded.status.0 |= Status::OFFLOAD;
    offloaded.beginning = Beginning::Unknown;
    let bytes = emit(&offloaded, false);
    assert_eq!(decode(&bytes), Ok(Some(emitted(offloaded))));
    // An event that leaves the state out does so because it did not change.
    let event = event(MESSAGE_UPDATE, &bytes).unwrap();
    assert_eq!(event.state, None);
    assert_eq!(event.status, Some(offloaded.status));
}

#[test]
fn an_entry_of_a_protocol_that_is_not_told_apart_is_none() {
    const ESP: u8 = 50;
    let udp = mixed(2).last().unwrap();
    assert_eq!(decode(&emit_as(ESP, &udp, false)), Ok(None));
}

/// An entry as [`emit`] writes it.
fn emitted(flow: Flow) -> Entry {
    Entry {
        flow,
        details: Details {
            timeout: Some(60),
            ..Details::default()
        },
    }
}

/// The payload that the typed parser makes of a flow.
fn emit(flow: &Flow, with_state: bool) -> Vec<u8> {
    emit_as(flow.protocol.number(), flow, with_state)
}

fn emit_as(number: u8, flow: &Flow, with_state: bool) -> Vec<u8> {
    let ip = |tuple: Tuple| {
        TypedTuple::Ip(vec![
            IPTuple::SourceAddress(tuple.src),
            IPTuple::DestinationAddress(tuple.dst),
        ])
    };
    let proto = |tuple: Tuple| {
        TypedTuple::Proto(vec![
            ProtoTuple::Protocol(number.into()),
            ProtoTuple::SourcePort(tuple.src_port),
            ProtoTuple::DestinationPort(tuple.dst_port),
        ])
    };
    let mut attributes = vec![
        ConntrackAttribute::CtaTupleOrig(vec![ip(flow.original), proto(flow.original)]),
        ConntrackAttribute::CtaTupleReply(vec![ip(flow.reply), proto(flow.reply)]),
        ConntrackAttribute::Other(DefaultNla::new(18, flow.zone.to_be_bytes().to_vec())),
        ConntrackAttribute::CtaStatus(TypedStatus::from_bits_retain(flow.status.0)),
        ConntrackAttribute::CtaTimeout(60),
        ConntrackAttribute::CtaMark(flow.mark),
    ];
    if let (State::Tcp(state), true) = (flow.state, with_state) {
        let state = ProtoInfoTCP::State(state as u8);
        attributes.push(ConntrackAttribute::CtaProtoInfo(vec![ProtoInfo::TCP(
            vec![state],
        )]));
    }
    let header = NetfilterHeader::new(NetfilterProtoFamily::IPv4, 0, 0);
    let message = NetfilterMessage::new(header, ConntrackMessage::New(attributes));
    let mut bytes = vec![0; Emitable::buffer_len(&message)];
    message.emit(&mut bytes);
    bytes
}

fn any_tuple(v6: bool) -> impl Strategy<Value = Tuple> {
    let ends = if v6 {
        any::<[[u8; 16]; 2]>()
            .prop_map(|ends| ends.map(IpAddr::from))
            .boxed()
    } else {
        any::<[[u8; 4]; 2]>()
            .prop_map(|ends| ends.map(IpAddr::from))
            .boxed()
    };
    (ends, any::<u16>(), any::<u16>()).prop_map(|([src, dst], src_port, dst_port)| Tuple {
        src,
        dst,
        src_port,
        dst_port,
    })
}

fn any_flow() -> impl Strategy<Value = Flow> {
    let tuples = any::<bool>().prop_flat_map(|v6| (any_tuple(v6), any_tuple(v6)));
    let state = prop_oneof![
        proptest::sample::select(TcpState::ALL).prop_map(State::Tcp),
        proptest::sample::select(&[State::Unreplied, State::Replied, State::Assured][..]),
    ];
    (tuples, state, any::<u32>(), any::<u16>(), any::<u32>()).prop_map(
        |((original, reply), state, status, zone, mark)| {
            let bits = match state {
                State::Replied => Status::SEEN_REPLY,
                State::Assured => Status::ASSURED,
                _ => 0,
            };
            let others = !(Status::SEEN_REPLY | Status::ASSURED);
            Flow {
                original,
                reply,
                protocol: match state {
                    State::Tcp(_) => Protocol::Tcp,
                    _ => Protocol::Udp,
                },
                state,
                status: Status(status & others | bits),
                zone,
                mark,
                beginning: Beginning::Unknown,
            }
        },
    )
}

proptest! {
    /// What the typed parser emits is read back as it was.
    #[test]
    fn prop_emitted_entries_are_read_back(flow in any_flow()) {
        let bytes = emit(&flow, true);
        prop_assert_eq!(decode(&bytes), Ok(Some(emitted(flow))));
        let event = event(MESSAGE_NEW, &bytes).unwrap();
        prop_assert_eq!(event.entry, emitted(flow));
        prop_assert_eq!((event.state, event.status), (Some(flow.state), Some(flow.status)));
    }

    /// No bytes make the walker panic.
    #[test]
    fn prop_any_bytes_decode_or_do_not(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert_eq!(decode(&bytes).is_ok(), try_event(MESSAGE_DESTROY, &bytes).is_ok());
    }

    /// A real entry with a few bytes changed, or cut short, makes the walker panic neither.
    #[test]
    fn prop_damaged_entries_decode_or_do_not(
        entry in any::<proptest::sample::Index>(),
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..6),
        length in any::<proptest::sample::Index>(),
    ) {
        let captured = captured();
        let mut bytes = entry.get(&captured).to_vec();
        for (place, byte) in damage {
            *place.get_mut(&mut bytes) = byte;
        }
        for part in [&bytes[..], &bytes[..length.index(bytes.len() + 1)]] {
            let entry = decode(part);
            let event = try_event(MESSAGE_UPDATE, part);
            prop_assert_eq!(entry, event.map(|event| event.map(|event| event.entry)));
        }
    }
}
