use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::flow::key::FlowKey;
use crate::flow::{Beginning, Flow, Protocol, State, Status, TcpState, Tuple};
use crate::hosts::Placement;

const MINUTE: Duration = Duration::from_secs(60);

fn connection(
    remote: Remote,
    name: &HostName,
    direction: Direction,
    state: TcpState,
) -> Connection {
    let unspecified: IpAddr = [0, 0, 0, 0].into();
    let tuple = Tuple {
        src: unspecified,
        dst: unspecified,
        src_port: 0,
        dst_port: 0,
    };
    Connection {
        key: FlowKey(0),
        flow: Flow {
            original: tuple,
            reply: tuple,
            protocol: Protocol::Tcp,
            state: State::Tcp(state),
            status: Status::default(),
            zone: 0,
            mark: 0,
            beginning: Beginning::Seen,
        },
        placement: Placement {
            remote,
            address: unspecified,
            direction,
            port: Some(443),
            outward: true,
        },
        host: name.clone(),
        traffic: None,
        age: None,
    }
}

fn address(text: &str) -> (Remote, HostName) {
    let address = text.parse().unwrap();
    (Remote::Address(address), HostName::Address(address))
}

/// So many established connections with each address, which this host dialled.
fn counted(hosts: &[(&str, usize)]) -> Counted {
    let mut counted = nothing();
    for &(host, connections) in hosts {
        let (remote, name) = address(host);
        let one = connection(remote, &name, Direction::Outbound, TcpState::Established);
        for _ in 0..connections {
            counted.add(&one);
        }
    }
    counted
}

/// A look of whom nobody has a place, that finds nothing.
fn nothing() -> Counted {
    Places::new(1).look()
}

/// What is told: open connections by host.
fn open(places: &Places) -> BTreeMap<String, u64> {
    let open =
        |(host, states): (&str, States)| (host.to_owned(), states[ConnectionState::Open as usize]);
    places.rows().map(open).collect()
}

fn told(rows: &[(&str, u64)]) -> BTreeMap<String, u64> {
    rows.iter()
        .map(|&(host, number)| (host.to_owned(), number))
        .collect()
}

#[test]
fn the_service_is_named_where_this_host_dialled_and_the_client_alone_where_it_was_dialled() {
    let named = (Remote::Named(0), HostName::Name(Arc::from("internal")));
    let public = (
        Remote::Public([8, 8, 8, 8].into()),
        HostName::Folded(Remote::PUBLIC),
    );
    let mut counted = nothing();
    for ((remote, name), direction, state) in [
        (address("10.0.0.7"), Direction::Outbound, TcpState::SynSent),
        (
            address("10.0.0.7"),
            Direction::Inbound,
            TcpState::Established,
        ),
        (address("fd00::7"), Direction::Forwarded, TcpState::TimeWait),
        (address("fd00::7"), Direction::Inbound, TcpState::Close),
        (named, Direction::Local, TcpState::Established),
        (public.clone(), Direction::Inbound, TcpState::Established),
        (
            (Remote::Public([9, 9, 9, 9].into()), public.1),
            Direction::Inbound,
            TcpState::SynRecv,
        ),
    ] {
        counted.add(&connection(remote, &name, direction, state));
    }
    let mut places = Places::new(100);
    places.seat(counted, Instant::now());
    let rows: BTreeMap<_, _> = places.rows().collect();
    let expected = [
        ("10.0.0.7", [0, 1, 0, 0]),
        ("10.0.0.7:443", [1, 0, 0, 0]),
        ("[fd00::7]:443", [0, 0, 1, 0]),
        ("fd00::7", [0, 0, 0, 1]),
        ("internal:443", [0, 1, 0, 0]),
        ("public", [1, 1, 0, 0]),
    ];
    assert_eq!(rows, expected.into());
}

#[test]
fn one_that_vanished_is_told_as_zero_for_two_minutes_and_then_no_more() {
    let mut places = Places::new(100);
    let start = Instant::now();
    places.seat(counted(&[("10.0.0.1", 3)]), start);
    assert_eq!(open(&places), told(&[("10.0.0.1:443", 3)]));
    for seconds in [10, 60, 129] {
        places.seat(nothing(), start + Duration::from_secs(seconds));
        assert_eq!(open(&places), told(&[("10.0.0.1:443", 0)]), "{seconds}");
    }
    places.seat(nothing(), start + Duration::from_secs(130));
    assert!(open(&places).is_empty());
}

#[test]
fn beyond_the_bound_those_with_most_connections_are_apart_and_the_rest_are_other() {
    let mut places = Places::new(2);
    let start = Instant::now();
    places.seat(
        counted(&[("10.0.0.1", 1), ("10.0.0.2", 5), ("10.0.0.3", 4)]),
        start,
    );
    let first = told(&[("10.0.0.2:443", 5), ("10.0.0.3:443", 4), ("other", 1)]);
    assert_eq!(open(&places), first);
    // A place is kept for ten minutes, however large the others grow.
    let grown = || counted(&[("10.0.0.1", 9), ("10.0.0.2", 5), ("10.0.0.3", 1)]);
    places.seat(grown(), start + 9 * MINUTE);
    let held = told(&[("10.0.0.2:443", 5), ("10.0.0.3:443", 1), ("other", 9)]);
    assert_eq!(open(&places), held);
    places.seat(grown(), start + 10 * MINUTE);
    let changed = told(&[("10.0.0.1:443", 9), ("10.0.0.2:443", 5), ("other", 1)]);
    assert_eq!(open(&places), changed);
    // Who is there goes before who has gone; and what is no more is 0.
    places.seat(
        counted(&[("10.0.0.2", 5), ("10.0.0.4", 1)]),
        start + 11 * MINUTE,
    );
    let replaced = told(&[("10.0.0.2:443", 5), ("10.0.0.4:443", 1), ("other", 0)]);
    assert_eq!(open(&places), replaced);
}

#[test]
fn one_with_a_name_has_a_place_first() {
    let mut places = Places::new(1);
    let start = Instant::now();
    places.seat(counted(&[("10.0.0.1", 7)]), start);
    let mut with_name = counted(&[("10.0.0.1", 7)]);
    let name = HostName::Name(Arc::from("db"));
    with_name.add(&connection(
        Remote::Named(3),
        &name,
        Direction::Inbound,
        TcpState::Established,
    ));
    places.seat(with_name, start + MINUTE);
    assert_eq!(open(&places), told(&[("db", 1), ("other", 7)]));
}

#[test]
fn a_table_of_any_number_of_clients_is_counted_in_bounded_memory() {
    let mut places = Places::new(10);
    let start = Instant::now();
    places.seat(counted(&[("192.0.2.7", 2)]), start);
    let mut counted = places.look();
    let clients = u32::try_from(MOST_COUNTED).unwrap() + 1000;
    for n in 0..clients {
        let client: IpAddr = (0x0a00_0000 + n).to_be_bytes().into();
        let (remote, name) = (Remote::Address(client), HostName::Address(client));
        counted.add(&connection(
            remote,
            &name,
            Direction::Inbound,
            TcpState::Established,
        ));
    }
    // Who has a place is counted, however late it comes.
    let (remote, name) = address("192.0.2.7");
    let late = connection(remote, &name, Direction::Outbound, TcpState::Established);
    counted.add(&late);
    assert_eq!(counted.by_host.len(), MOST_COUNTED + 1);
    places.seat(counted, start + MINUTE);
    let open = open(&places);
    assert_eq!(open.len(), 11);
    assert_eq!(open["192.0.2.7:443"], 1);
    assert_eq!(open.values().sum::<u64>(), u64::from(clients) + 1);
}

proptest! {
    /// Whoever comes and goes, and whenever: every connection is told once, and no more
    /// values than may be, `other` aside.
    #[test]
    fn prop_the_sum_is_told_in_bounded_values(
        most in 1_usize..5,
        looks in prop::collection::vec(
            (prop::collection::vec((0_u8..12, 1_usize..4), 0..10), 0_u64..900), 1..12),
    ) {
        let mut places = Places::new(most);
        let mut now = Instant::now();
        for (hosts, seconds) in looks {
            now += Duration::from_secs(seconds);
            let hosts: Vec<_> = hosts.iter().map(|&(n, number)| (format!("10.0.0.{n}"), number)).collect();
            let hosts: Vec<_> = hosts.iter().map(|(host, number)| (host.as_str(), *number)).collect();
            places.seat(counted(&hosts), now);
            let open = open(&places);
            let sum: usize = hosts.iter().map(|(_, number)| number).sum();
            prop_assert_eq!(open.values().sum::<u64>(), sum as u64);
            prop_assert!(open.len() <= most + usize::from(open.contains_key("other")));
        }
    }
}
