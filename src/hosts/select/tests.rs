use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::config::{self, StateView};
use crate::flow::{Beginning, Flow, State, Status, TcpState, Tuple};
use crate::hosts::Placement;
use crate::hosts::ports::EphemeralPorts;

const TICK: Duration = Duration::from_secs(10);

fn host(number: u8) -> Remote {
    Remote::Address(IpAddr::from([10, 0, 0, number]))
}

fn public(number: u8) -> Remote {
    Remote::Public(IpAddr::from([8, 8, 8, number]))
}

fn flow(state: TcpState) -> Flow {
    let unset = Tuple {
        src: [0, 0, 0, 0].into(),
        dst: [0, 0, 0, 0].into(),
        src_port: 0,
        dst_port: 0,
    };
    Flow {
        original: unset,
        reply: unset,
        protocol: Protocol::Tcp,
        state: State::Tcp(state),
        status: Status::default(),
        zone: 0,
        mark: 0,
        beginning: Beginning::Unknown,
    }
}

fn placement(remote: Remote) -> Placement {
    Placement {
        remote,
        address: [10, 0, 0, 1].into(),
        direction: Direction::Outbound,
        port: None,
        outward: true,
    }
}

/// A selector with its clock: each tick is ten seconds after the last.
struct Bench {
    selector: Selector,
    hosts: Hosts,
    now: Instant,
}

impl Bench {
    fn new(max: usize) -> Self {
        let config = config::Hosts {
            aliases: BTreeMap::from([
                ([192, 168, 0, 1].into(), "alpha".to_owned()),
                ([192, 168, 0, 2].into(), "beta".to_owned()),
            ]),
            ..config::Hosts::default()
        };
        Self {
            selector: Selector::new(max),
            hosts: Hosts::with_ephemeral_ports(&config, EphemeralPorts::default()),
            now: Instant::now(),
        }
    }

    /// A tick with so many open connections of each host.
    fn select(&mut self, seen: &[(Remote, u64)]) -> Selection {
        let mut tally = Tally::new(StateView::General);
        for &(remote, connections) in seen {
            for _ in 0..connections {
                tally.add(&placement(remote), &flow(TcpState::Established));
            }
        }
        self.now += TICK;
        self.selector.select(&tally, &self.hosts, self.now)
    }

    /// The same, as names with counts.
    fn tick(&mut self, seen: &[(Remote, u64)]) -> Vec<(String, u64)> {
        let rows = self.select(seen).rows;
        rows.iter()
            .map(|row| (row.host.to_string(), row.connections))
            .collect()
    }

    /// Names of the hosts apart.
    fn apart(&mut self, seen: &[(Remote, u64)]) -> Vec<String> {
        let rows = self.tick(seen).into_iter().map(|(name, _)| name);
        rows.filter(|name| name != Remote::OTHER).collect()
    }
}

#[test]
fn as_many_as_there_are_places_are_apart_at_once() {
    let mut bench = Bench::new(2);
    assert_eq!(
        bench.tick(&[(host(1), 1), (host(2), 3)]),
        [("10.0.0.1".to_owned(), 1), ("10.0.0.2".to_owned(), 3)]
    );
}

#[test]
fn beyond_the_places_a_host_waits_for_its_third_tick() {
    let mut bench = Bench::new(2);
    let seen = [(host(1), 5), (host(2), 7), (host(3), 9)];
    assert_eq!(bench.tick(&seen), [("other".to_owned(), 21)]);
    assert_eq!(bench.tick(&seen), [("other".to_owned(), 21)]);
    assert_eq!(
        bench.tick(&seen),
        [
            ("10.0.0.2".to_owned(), 7),
            ("10.0.0.3".to_owned(), 9),
            ("other".to_owned(), 5)
        ]
    );
}

#[test]
fn ticks_in_which_a_host_was_not_seen_do_not_set_it_back() {
    let mut bench = Bench::new(1);
    let crowd = [(host(1), 1), (host(2), 1)];
    for _ in 0..2 {
        assert!(bench.apart(&crowd).is_empty());
        assert!(bench.apart(&[(host(3), 1), (host(4), 1)]).is_empty());
    }
    assert_eq!(bench.apart(&crowd), ["10.0.0.1"]);
}

#[test]
fn a_host_that_qualified_otherwise_need_not_wait() {
    let mut bench = Bench::new(1);
    let now = bench.now;
    bench.selector.qualify(host(2), now);
    assert_eq!(
        bench.apart(&[(host(1), 9), (host(2), 1), (host(3), 9)]),
        ["10.0.0.2"]
    );
}

#[test]
fn a_place_is_kept_for_ten_minutes_whoever_is_bigger() {
    let mut bench = Bench::new(1);
    bench.apart(&[(host(1), 1)]);
    // The place was taken in the first tick, and is free in the 61st.
    for tick in 2..=60 {
        let apart = bench.apart(&[(host(1), 1), (host(2), 100)]);
        assert_eq!(apart, ["10.0.0.1"], "tick {tick}");
    }
    let apart = bench.apart(&[(host(1), 1), (host(2), 100)]);
    assert_eq!(apart, ["10.0.0.2"]);
}

#[test]
fn two_hosts_that_take_turns_in_being_bigger_do_not_flap() {
    let mut bench = Bench::new(1);
    let mut changes = 0;
    let mut before = Vec::new();
    for tick in 0..360 {
        let (one, two) = if tick % 2 == 0 { (9, 1) } else { (1, 9) };
        let apart = bench.apart(&[(host(1), one), (host(2), two)]);
        changes += u32::from(apart != before);
        before = apart;
    }
    // Once at first, and at most once in each ten minutes of the hour.
    assert!(changes <= 6, "{changes} changes");
}

#[test]
fn a_place_outlives_a_short_absence() {
    let mut bench = Bench::new(2);
    bench.apart(&[(host(1), 1), (host(2), 1)]);
    let crowd = [(host(2), 1), (host(3), 9), (host(4), 9)];
    for _ in 0..10 {
        assert_eq!(bench.apart(&crowd), ["10.0.0.2"]);
    }
    let back = [(host(1), 1), (host(2), 1), (host(3), 9)];
    assert_eq!(bench.apart(&back), ["10.0.0.1", "10.0.0.2"]);
}

#[test]
fn an_absent_host_yields_where_there_is_a_place_for_every_host_seen() {
    let mut bench = Bench::new(2);
    bench.apart(&[(host(1), 1), (host(2), 1)]);
    assert_eq!(
        bench.apart(&[(host(2), 1), (host(3), 1)]),
        ["10.0.0.2", "10.0.0.3"]
    );
}

#[test]
fn named_hosts_take_places_first_and_at_once() {
    let mut bench = Bench::new(2);
    bench.apart(&[(host(1), 5), (host(2), 6)]);
    let seen = [(host(1), 5), (host(2), 6), (Remote::Named(0), 1)];
    assert_eq!(bench.apart(&seen), ["10.0.0.2", "alpha"]);
    let seen = [
        (host(2), 6),
        (Remote::Named(0), 1),
        (Remote::Named(1), 1),
        (host(3), 9),
    ];
    assert_eq!(bench.apart(&seen), ["alpha", "beta"]);
}

#[test]
fn public_and_other_take_no_place() {
    let mut bench = Bench::new(1);
    let seen = [(public(1), 4), (Remote::Other, 2), (host(1), 1)];
    assert_eq!(
        bench.tick(&seen),
        [
            ("10.0.0.1".to_owned(), 1),
            ("other".to_owned(), 2),
            ("public".to_owned(), 4)
        ]
    );
}

#[test]
fn without_places_all_is_other() {
    let mut bench = Bench::new(0);
    for _ in 0..4 {
        let seen = [(host(1), 1), (Remote::Named(0), 1)];
        assert_eq!(bench.tick(&seen), [("other".to_owned(), 2)]);
    }
}

#[test]
fn hosts_seen_and_folded_count_every_public_address() {
    let mut bench = Bench::new(1);
    let mut tally = Tally::new(StateView::General);
    for number in 1..=3 {
        tally.add(&placement(host(number)), &flow(TcpState::Established));
        tally.add(&placement(public(number)), &flow(TcpState::Established));
    }
    let selection = bench.selector.select(&tally, &bench.hosts, bench.now);
    assert_eq!((selection.hosts, selection.folded), (6, 6));
    bench.select(&[(host(1), 1)]);
    let selection = bench.selector.select(&tally, &bench.hosts, bench.now);
    assert_eq!((selection.hosts, selection.folded), (6, 5));
}

#[test]
fn a_host_with_failures_competes_at_once() {
    let mut bench = Bench::new(1);
    let failing = host(9);
    let mut tally = Tally::new(StateView::General);
    tally.add(&placement(host(1)), &flow(TcpState::Established));
    let row = tally.row(Series::of(&placement(failing), Protocol::Tcp));
    tally.activity(row).failed[0] = 3;
    let selection = bench.selector.select(&tally, &bench.hosts, bench.now);
    assert_eq!((selection.hosts, selection.folded), (2, 1));
    let activity = &selection.activities[0];
    assert_eq!(
        (&*activity.host, activity.activity.failed[0]),
        ("10.0.0.9", 3)
    );
}

#[test]
fn activities_add_up_by_host_direction_and_protocol_and_fold_with_their_hosts() {
    let mut bench = Bench::new(0);
    let mut tally = Tally::new(StateView::General);
    for (remote, port) in [
        (host(1), Some(80)),
        (host(2), None),
        (public(1), None),
        (public(2), None),
    ] {
        let place = Placement {
            port,
            ..placement(remote)
        };
        let row = tally.row(Series::of(&place, Protocol::Tcp));
        tally.activity(row).opened += 2;
    }
    let selection = bench.selector.select(&tally, &bench.hosts, bench.now);
    let sums: Vec<_> = selection
        .activities
        .iter()
        .map(|of| (&*of.host, of.activity.opened))
        .collect();
    assert_eq!(sums, [("other", 4), ("public", 4)]);
    assert!(selection.rows.is_empty());
}

#[test]
fn the_rest_is_exact_by_direction_protocol_port_and_state() {
    let mut bench = Bench::new(0);
    let mut tally = Tally::new(StateView::General);
    for number in 1..=9 {
        let direction = if number % 2 == 0 {
            Direction::Inbound
        } else {
            Direction::Outbound
        };
        let placement = Placement {
            direction,
            port: Some(u16::from(number % 3)),
            ..placement(host(number))
        };
        tally.add(&placement, &flow(TcpState::Established));
        tally.add(&placement, &flow(TcpState::SynSent));
    }
    let rows = bench.selector.select(&tally, &bench.hosts, bench.now).rows;
    assert_eq!(rows.len(), 2 * 3 * 2);
    for row in rows {
        // Inbound 6; 4; 2 and 8. Outbound 3 and 9; 1 and 7; 5.
        let is_pair = (row.direction == Direction::Inbound) == (row.port == Some(2));
        let of_port = if is_pair { 2 } else { 1 };
        assert_eq!(row.connections, of_port, "{row:?}");
    }
}

#[test]
fn memory_of_hosts_without_a_place_is_bounded() {
    let mut bench = Bench::new(1);
    let mut tally = Tally::new(StateView::General);
    for tick in 0..20_u8 {
        tally.clear();
        tally.settle();
        for [high, low] in (0..4096_u16).map(u16::to_be_bytes) {
            let remote = Remote::Address([10, tick, high, low].into());
            tally.add(&placement(remote), &flow(TcpState::SynSent));
        }
        bench
            .selector
            .select(&tally, &bench.hosts, bench.now + TICK * tick.into());
        assert!(bench.selector.sightings.len() <= 4096 + MAX_REMEMBERED);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Over any run of ticks: the rows add up to the tally, hosts apart are never
    /// more than `max`, no series is there twice, rows are sorted, and whoever took a
    /// place and is seen in each tick has it for ten minutes.
    #[test]
    fn prop_rows_add_up_and_places_are_bounded(
        max in 0_usize..6,
        ticks in prop::collection::vec(
            prop::collection::vec((0_u8..12, 0_usize..10, 1_u64..4), 0..20),
            1..80,
        ),
    ) {
        let mut bench = Bench::new(max);
        let mut since: BTreeMap<Arc<str>, Option<Instant>> = BTreeMap::new();
        for seen in ticks {
            let mut tally = Tally::new(StateView::Raw);
            let mut flows = 0;
            let mut hosts = BTreeSet::new();
            let mut publics = 0;
            for (number, state, connections) in seen {
                let remote = if number == 0 { public(1) } else { host(number) };
                if remote.is_host() {
                    hosts.insert(remote);
                } else {
                    publics += 1;
                }
                for _ in 0..connections {
                    tally.add(&placement(remote), &flow(TcpState::ALL[state]));
                }
                flows += connections;
            }
            bench.now += TICK;
            let selection = bench.selector.select(&tally, &bench.hosts, bench.now);
            let rows = &selection.rows;
            prop_assert_eq!(rows.iter().map(|row| row.connections).sum::<u64>(), flows);
            prop_assert!(rows.is_sorted());
            let labels = |row: &Row| (row.host.clone(), row.direction, row.port, row.state);
            prop_assert!(rows.windows(2).all(|pair| labels(&pair[0]) != labels(&pair[1])));

            let mut apart: Vec<_> = rows.iter().map(|row| row.host.clone()).collect();
            apart.dedup();
            apart.retain(|name| !matches!(&**name, Remote::OTHER | Remote::PUBLIC));
            prop_assert!(apart.len() <= max);
            if hosts.len() <= max {
                prop_assert_eq!(apart.len(), hosts.len());
            }
            let public = usize::from(publics > 0);
            prop_assert_eq!(selection.hosts, (hosts.len() + public) as u64);
            let folded = hosts.len() - apart.len() + public;
            prop_assert_eq!(selection.folded, folded as u64);

            // Whoever took a place in the last ten minutes and was seen ever since still
            // has it. Who was absent comes back to its old place or takes a new one: what
            // is left of its ten minutes is known again when it was seen without a place.
            let names = hosts.iter().map(|&remote| Arc::from(bench.hosts.name(remote)));
            let seen: BTreeSet<Arc<str>> = names.collect();
            for (name, at) in &mut since {
                if !seen.contains(name) {
                    *at = None;
                } else if at.is_some_and(|at| bench.now.duration_since(at) < HOLD) {
                    prop_assert!(apart.contains(name), "{name} lost its place");
                } else if at.is_some() {
                    *at = Some(bench.now);
                }
            }
            since.retain(|name, _| apart.contains(name) || !seen.contains(name));
            for name in apart {
                since.entry(name).or_insert(Some(bench.now));
            }
        }
    }
}
