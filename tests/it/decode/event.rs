//! Messages about one entry, and what an entry may tell beside the flow.

use conntally::conntrack::{Event, Happening, Undecodable, decode, decode_event};
use conntally::flow::{Details, State, TcpState, Traffic};
use conntally::netlink::{Attributes, Message, attribute};
use proptest::prelude::*;

use super::{emit, mixed};

/// Type and flags of the kernel's three messages about an entry.
pub(super) const MESSAGE_NEW: (u16, u16) = (0x100, 0x600);
pub(super) const MESSAGE_UPDATE: (u16, u16) = (0x100, 0);
pub(super) const MESSAGE_DESTROY: (u16, u16) = (0x102, 0);

pub(super) fn try_event(
    (kind, flags): (u16, u16),
    payload: &[u8],
) -> Result<Option<Event>, Undecodable> {
    decode_event(Message {
        kind,
        flags,
        sequence: 0,
        payload,
    })
}

pub(super) fn event(of: (u16, u16), payload: &[u8]) -> Option<Event> {
    try_event(of, payload).unwrap()
}

#[test]
fn an_event_is_an_entry_and_what_became_of_it() {
    let tcp = mixed(8).nth(5).unwrap();
    for (message, happening) in [
        (MESSAGE_NEW, Happening::New),
        (MESSAGE_UPDATE, Happening::Update),
        (MESSAGE_DESTROY, Happening::Destroy),
    ] {
        let event = event(message, &emit(&tcp, true)).unwrap();
        assert_eq!(event.happening, happening);
        assert_eq!(event.state, Some(tcp.state));
        assert_eq!(event.entry.flow.original, tcp.original);
    }
    // Expectations have messages of their own, and GET is no answer.
    for kind in [0x101, 0x200, 2] {
        let refused = try_event((kind, 0), &emit(&tcp, true));
        assert_eq!(refused, Err(Undecodable::Kind(kind)));
    }
}

#[test]
fn an_event_that_does_not_tell_the_state_says_so() {
    let tcp = mixed(8).nth(5).unwrap();
    let untold = event(MESSAGE_UPDATE, &emit(&tcp, false)).unwrap();
    assert_eq!(untold.state, None);
    assert_eq!(untold.status, Some(tcp.status));
    assert_eq!(untold.entry.flow.state, State::Tcp(TcpState::None));
    // The tuples alone, of a protocol whose state is made of its status bits.
    let udp = mixed(2).nth(1).unwrap();
    assert_eq!(udp.state, State::Assured);
    let whole = emit(&udp, false);
    assert_eq!(
        event(MESSAGE_UPDATE, &whole).unwrap().state,
        Some(udp.state)
    );
    let mut bytes = whole[..4].to_vec();
    for (kind, value) in Attributes::new(&whole[4..]).map(Result::unwrap) {
        if kind <= 2 {
            bytes.extend(attribute(kind, value));
        }
    }
    let untold = event(MESSAGE_UPDATE, &bytes).unwrap();
    assert_eq!((untold.state, untold.status), (None, None));
    assert_eq!(untold.entry.flow.state, State::Unreplied);
}

/// Counters and times as attributes, numbers in the usual order or the other way round.
fn details_payload(details: &Details, is_usual: bool) -> Vec<u8> {
    let nest = |kind: u16, numbers: [Option<u64>; 2]| {
        let mut parts: Vec<_> = (1..)
            .zip(numbers)
            .filter_map(|(kind, number)| Some(attribute(kind, &number?.to_be_bytes())))
            .collect();
        if !is_usual {
            // As where integers of eight bytes are aligned by padding (`CTA_*_PAD`).
            parts.push(attribute(3, &[]));
            parts.reverse();
        }
        attribute(0x8000 | kind, &parts.concat())
    };
    let mut bytes = Vec::new();
    for (kind, way) in (9..).zip(details.traffic.iter().flatten()) {
        bytes.extend(nest(kind, [Some(way.packets), Some(way.bytes)]));
    }
    if details.started.or(details.stopped).is_some() {
        bytes.extend(nest(20, [details.started, details.stopped]));
    }
    if let Some(time) = details.event_time {
        bytes.extend(attribute(27, &time.to_be_bytes()));
    }
    let flags = [0x20, if details.fin_seen { 0x24 } else { 0x20 }];
    let mut parts = [
        attribute(1, &[TcpState::Close as u8]),
        attribute(2, &[7]),
        attribute(3, &[7]),
        attribute(4, &[flags[0], 0]),
        attribute(5, &[flags[1], 0]),
    ];
    if !is_usual {
        parts.reverse();
    }
    let tcp = attribute(0x8001, &parts.concat());
    bytes.extend(attribute(0x8004, &tcp));
    bytes
}

fn any_details() -> impl Strategy<Value = Details> {
    let traffic = any::<Option<[(u64, u64); 2]>>()
        .prop_map(|ways| ways.map(|ways| ways.map(|(packets, bytes)| Traffic { packets, bytes })));
    (any::<bool>(), traffic, any::<[Option<u64>; 3]>()).prop_map(
        |(fin_seen, traffic, [started, stopped, event_time])| Details {
            fin_seen,
            traffic,
            started,
            stopped,
            event_time,
            timeout: Some(60),
        },
    )
}

proptest! {
    /// Counters, times and flags are read back, in whatever order they stand.
    #[test]
    fn prop_details_are_read_back(details in any_details(), is_usual in any::<bool>()) {
        let flow = mixed(8).nth(5).unwrap();
        let mut bytes = emit(&flow, false);
        bytes.extend(details_payload(&details, is_usual));
        let entry = decode(&bytes).unwrap().unwrap();
        prop_assert_eq!(entry.details, details);
        prop_assert_eq!(entry.flow.state, State::Tcp(TcpState::Close));
    }

    /// What is cut short is an error, or the entry without what stood behind.
    #[test]
    fn prop_details_cut_short_are_never_made_up(
        details in any_details(),
        cut in any::<proptest::sample::Index>(),
    ) {
        let flow = mixed(8).nth(5).unwrap();
        let whole = emit(&flow, false);
        let bytes = [whole.clone(), details_payload(&details, true)].concat();
        let length = whole.len() + cut.index(bytes.len() - whole.len());
        if let Ok(Some(Event { entry, .. })) = try_event(MESSAGE_UPDATE, &bytes[..length]) {
            let read = entry.details;
            prop_assert!(read.event_time.is_none() || read.event_time == details.event_time);
            prop_assert!(read.started.is_none() || read.started == details.started);
            if let Some([original, reply]) = read.traffic {
                let [of_original, of_reply] = details.traffic.unwrap();
                prop_assert_eq!(original, of_original);
                prop_assert!(reply == of_reply || reply == Traffic::default());
            }
        }
    }
}
