//! One entry of the table, or one event, from the kernel's bytes, in place.
//!
//! Attributes: `include/uapi/linux/netfilter/nfnetlink_conntrack.h`. Their integers
//! are big-endian.

mod tuple;

use netlink_packet_core::{NLA_F_NESTED, NLM_F_CREATE, NLM_F_EXCL};

use self::tuple::decode_tuple;
pub(super) use self::tuple::{CTA_PROTO_NUM, CTA_TUPLE_PROTO};
use crate::flow::{
    Beginning, DccpState, Details, Entry, Flow, Protocol, SctpState, State, Status, TcpState,
    Traffic,
};
use crate::netlink::{Attributes, BadLength, Message};

/// `(NFNL_SUBSYS_CTNETLINK << 8) | IPCTNL_MSG_CT_NEW`
const MESSAGE_NEW: u16 = 0x100;
/// `(NFNL_SUBSYS_CTNETLINK << 8) | IPCTNL_MSG_CT_DELETE`
const MESSAGE_DELETE: u16 = 0x102;

/// Bytes of `struct nfgenmsg`, which stands before the attributes.
pub(super) const HEADER_BYTES: usize = 4;

pub(super) const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_PROTOINFO: u16 = 4;
const CTA_TIMEOUT: u16 = 7;
pub(super) const CTA_MARK: u16 = 8;
const CTA_COUNTERS_ORIG: u16 = 9;
const CTA_COUNTERS_REPLY: u16 = 10;
pub(super) const CTA_ZONE: u16 = 18;
const CTA_TIMESTAMP: u16 = 20;
const CTA_TIMESTAMP_EVENT: u16 = 27;

const CTA_PROTOINFO_TCP: u16 = 1;
const CTA_PROTOINFO_DCCP: u16 = 2;
const CTA_PROTOINFO_SCTP: u16 = 3;
/// The state's attribute has the same number for all three.
const CTA_PROTOINFO_STATE: u16 = 1;
const CTA_PROTOINFO_TCP_WSCALE_ORIGINAL: u16 = 2;
const CTA_PROTOINFO_TCP_WSCALE_REPLY: u16 = 3;
const CTA_PROTOINFO_TCP_FLAGS_ORIGINAL: u16 = 4;
const CTA_PROTOINFO_TCP_FLAGS_REPLY: u16 = 5;

const CTA_COUNTERS_PACKETS: u16 = 1;
const CTA_COUNTERS_BYTES: u16 = 2;

const CTA_TIMESTAMP_START: u16 = 1;
const CTA_TIMESTAMP_STOP: u16 = 2;

/// `IP_CT_TCP_FLAG_CLOSE_INIT`: this way's FIN was what made the state `FIN_WAIT`.
const TCP_FLAG_CLOSE_INIT: u8 = 0x04;
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
    /// A message of another kind than those that tell of entries.
    #[error("a message of type {0:#x} tells of no entry")]
    Kind(u16),
}

/// What became of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happening {
    /// It was made.
    New,
    /// Something of it changed.
    Update,
    /// It left the table.
    Destroy,
}

/// A message of the kernel about one entry. It tells what changed, and little else:
/// what it does not tell is to be kept as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// What became of the entry.
    pub happening: Happening,
    /// The entry as far as the event tells. Where `state` is none, `flow.state` is a
    /// stand-in: none, or unreplied.
    pub entry: Entry,
    /// Its state, if told: never told where only other things changed, nor for TCP and
    /// its like in a DESTROY event before Linux 5.11.
    pub state: Option<State>,
    /// Its status bits, if told.
    pub status: Option<Status>,
}

/// Decodes the payload of one message of a dump. `None` is an entry of a protocol
/// that is not told apart.
///
/// # Errors
/// Fails when the entry does not follow the format.
pub fn decode(payload: &[u8]) -> Result<Option<Entry>, Undecodable> {
    told(payload, |entry, _, _| entry)
}

/// Decodes one message of the groups that tell of entries. `None` is an event of a
/// protocol that is not told apart.
///
/// # Errors
/// Fails when the message is none of those, or does not follow their format.
pub fn decode_event(message: Message<'_>) -> Result<Option<Event>, Undecodable> {
    let happening = match message.kind {
        MESSAGE_NEW if message.flags & (NLM_F_CREATE | NLM_F_EXCL) != 0 => Happening::New,
        MESSAGE_NEW => Happening::Update,
        MESSAGE_DELETE => Happening::Destroy,
        kind => return Err(Undecodable::Kind(kind)),
    };
    told(message.payload, |entry, state, status| Event {
        happening,
        entry,
        state,
        status,
    })
}

/// Makes something of an entry, its state and its status, the last two if told.
#[inline]
fn told<T>(
    payload: &[u8],
    make: impl FnOnce(Entry, Option<State>, Option<Status>) -> T,
) -> Result<Option<T>, Undecodable> {
    let attributes = payload.get(HEADER_BYTES..).ok_or(Undecodable::Incomplete)?;
    let mut original = None;
    let mut reply = None;
    let mut status = None;
    let mut info = Info::default();
    let mut zone = 0;
    let mut mark = 0;
    let mut details = Details::default();
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
            CTA_STATUS => status = Some(Status(be32(value)?)),
            CTA_PROTOINFO => info = decode_info(value)?,
            CTA_TIMEOUT => details.timeout = Some(be32(value)?),
            CTA_MARK => mark = be32(value)?,
            CTA_COUNTERS_ORIG => traffic_of(&mut details)[0] = decode_counters(value)?,
            CTA_COUNTERS_REPLY => traffic_of(&mut details)[1] = decode_counters(value)?,
            CTA_ZONE => zone = be16(value)?,
            CTA_TIMESTAMP => decode_times(value, &mut details)?,
            CTA_TIMESTAMP_EVENT => details.event_time = Some(be64(value)?),
            _ => {}
        }
    }
    let ((original, protocol), reply) = original.zip(reply).ok_or(Undecodable::Incomplete)?;
    let state = told_state(protocol, info.state, status)?;
    let status_or_none = status.unwrap_or_default();
    details.fin_seen = info.either_way & TCP_FLAG_CLOSE_INIT != 0;
    let flow = Flow {
        original,
        reply,
        protocol,
        state: state.unwrap_or_else(|| stand_in(protocol, status_or_none)),
        status: status_or_none,
        zone,
        mark,
        beginning: match info.original_way {
            Some(flags) if flags & TCP_FLAG_BE_LIBERAL != 0 => Beginning::Missed,
            Some(_) => Beginning::Seen,
            None => Beginning::Unknown,
        },
    };
    Ok(Some(make(Entry { flow, details }, state, status)))
}

/// An attribute's header.
const fn header(kind: u16, bytes: u16) -> [u8; 4] {
    let [l0, l1] = bytes.to_ne_bytes();
    let [k0, k1] = kind.to_ne_bytes();
    [l0, l1, k0, k1]
}

/// What `CTA_PROTOINFO` holds of one protocol.
#[derive(Clone, Copy, Debug, Default)]
struct Info {
    /// The number of its state.
    state: Option<u8>,
    /// TCP: the flags of the original way.
    original_way: Option<u8>,
    /// TCP: the flags of both ways together.
    either_way: u8,
}

const TCP: [u8; 4] = header(CTA_PROTOINFO_TCP | NLA_F_NESTED, 44);
const STATE: [u8; 4] = header(CTA_PROTOINFO_STATE, 5);
const WSCALE_ORIGINAL: [u8; 4] = header(CTA_PROTOINFO_TCP_WSCALE_ORIGINAL, 5);
const WSCALE_REPLY: [u8; 4] = header(CTA_PROTOINFO_TCP_WSCALE_REPLY, 5);
const FLAGS_ORIGINAL: [u8; 4] = header(CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, 6);
const FLAGS_REPLY: [u8; 4] = header(CTA_PROTOINFO_TCP_FLAGS_REPLY, 6);

fn decode_info(bytes: &[u8]) -> Result<Info, Undecodable> {
    // As with tuples: the order in which kernels have always written it.
    if let (
        &[
            TCP,
            STATE,
            [state, ..],
            WSCALE_ORIGINAL,
            _,
            WSCALE_REPLY,
            _,
            FLAGS_ORIGINAL,
            [original, ..],
            FLAGS_REPLY,
            [reply, ..],
        ],
        &[],
    ) = bytes.as_chunks::<4>()
    {
        return Ok(Info {
            state: Some(state),
            original_way: Some(original),
            either_way: original | reply,
        });
    }
    walk_info(bytes)
}

fn walk_info(bytes: &[u8]) -> Result<Info, Undecodable> {
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
            let (kind, value) = part?;
            match kind {
                CTA_PROTOINFO_STATE => info.state = Some(byte(value)?),
                CTA_PROTOINFO_TCP_FLAGS_ORIGINAL if protocol == CTA_PROTOINFO_TCP => {
                    let [flags, _mask] = fixed(value)?;
                    info.original_way = Some(flags);
                    info.either_way |= flags;
                }
                CTA_PROTOINFO_TCP_FLAGS_REPLY if protocol == CTA_PROTOINFO_TCP => {
                    let [flags, _mask] = fixed(value)?;
                    info.either_way |= flags;
                }
                _ => {}
            }
        }
    }
    Ok(info)
}

fn traffic_of(details: &mut Details) -> &mut [Traffic; 2] {
    details.traffic.get_or_insert_default()
}

const PACKETS: [u8; 4] = header(CTA_COUNTERS_PACKETS, 12);
const BYTES: [u8; 4] = header(CTA_COUNTERS_BYTES, 12);
const START: [u8; 4] = header(CTA_TIMESTAMP_START, 12);

#[inline]
fn decode_counters(bytes: &[u8]) -> Result<Traffic, Undecodable> {
    if let (&[PACKETS, p0, p1, BYTES, b0, b1], &[]) = bytes.as_chunks::<4>() {
        return Ok(Traffic {
            packets: wide(p0, p1),
            bytes: wide(b0, b1),
        });
    }
    walk_counters(bytes)
}

fn walk_counters(bytes: &[u8]) -> Result<Traffic, Undecodable> {
    let mut traffic = Traffic::default();
    for counter in Attributes::new(bytes) {
        match counter? {
            (CTA_COUNTERS_PACKETS, value) => traffic.packets = be64(value)?,
            (CTA_COUNTERS_BYTES, value) => traffic.bytes = be64(value)?,
            _ => {}
        }
    }
    Ok(traffic)
}

#[inline]
fn decode_times(bytes: &[u8], details: &mut Details) -> Result<(), Undecodable> {
    if let (&[START, t0, t1], &[]) = bytes.as_chunks::<4>() {
        details.started = Some(wide(t0, t1));
        return Ok(());
    }
    walk_times(bytes, details)
}

fn walk_times(bytes: &[u8], details: &mut Details) -> Result<(), Undecodable> {
    for time in Attributes::new(bytes) {
        match time? {
            (CTA_TIMESTAMP_START, value) => details.started = Some(be64(value)?),
            (CTA_TIMESTAMP_STOP, value) => details.stopped = Some(be64(value)?),
            _ => {}
        }
    }
    Ok(())
}

/// The state, where what it is made of was told: the protocol's own, or the status bits.
fn told_state(
    protocol: Protocol,
    number: Option<u8>,
    status: Option<Status>,
) -> Result<Option<State>, Undecodable> {
    let state = match (protocol, number) {
        (Protocol::Tcp, Some(number)) => TcpState::from_number(number).map(State::Tcp),
        (Protocol::Sctp, Some(number)) => SctpState::from_number(number).map(State::Sctp),
        (Protocol::Dccp, Some(number)) => DccpState::from_number(number).map(State::Dccp),
        (Protocol::Tcp | Protocol::Sctp | Protocol::Dccp, None) => return Ok(None),
        _ => {
            return Ok(status.map(|status| match status {
                _ if status.has(Status::ASSURED) => State::Assured,
                _ if status.has(Status::SEEN_REPLY) => State::Replied,
                _ => State::Unreplied,
            }));
        }
    };
    match state {
        Some(state) => Ok(Some(state)),
        None => Err(Undecodable::State(number.unwrap_or_default())),
    }
}

/// The state of an entry that does not tell it.
fn stand_in(protocol: Protocol, status: Status) -> State {
    match protocol {
        // A flow table carries established connections alone, and a dump then
        // leaves the state out (`ctnetlink_dump_info`).
        Protocol::Tcp if status.has(Status::OFFLOAD) => State::Tcp(TcpState::Established),
        Protocol::Tcp => State::Tcp(TcpState::None),
        Protocol::Sctp => State::Sctp(SctpState::None),
        Protocol::Dccp => State::Dccp(DccpState::None),
        _ => State::Unreplied,
    }
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

/// Two words of four bytes as one number.
const fn wide([b0, b1, b2, b3]: [u8; 4], [b4, b5, b6, b7]: [u8; 4]) -> u64 {
    u64::from_be_bytes([b0, b1, b2, b3, b4, b5, b6, b7])
}

fn be64(value: &[u8]) -> Result<u64, Undecodable> {
    fixed(value).map(u64::from_be_bytes)
}

#[inline]
fn fixed<const N: usize>(value: &[u8]) -> Result<[u8; N], Undecodable> {
    value.try_into().map_err(|_| Undecodable::Value)
}
