use std::net::IpAddr;

use super::*;
use crate::flow::{Status, Tuple};
use proptest::prelude::*;

fn flow(state: State) -> Flow {
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
        state,
        status: Status::default(),
        zone: 0,
        mark: 0,
        beginning: crate::flow::Beginning::Unknown,
    }
}

fn inbound(last: u8) -> Placement {
    Placement {
        remote: Remote::Address(IpAddr::from([10, 0, 0, last])),
        address: IpAddr::from([10, 0, 0, last]),
        direction: Direction::Inbound,
        port: None,
        outward: false,
    }
}

fn public(last: u8) -> Placement {
    Placement {
        remote: Remote::Public(IpAddr::from([8, 8, 8, last])),
        ..inbound(last)
    }
}

const SYN_SENT: State = State::Tcp(TcpState::SynSent);
const SYN_RECV: State = State::Tcp(TcpState::SynRecv);
const ESTABLISHED: State = State::Tcp(TcpState::Established);
const TIME_WAIT: State = State::Tcp(TcpState::TimeWait);

fn sorted(tally: &Tally) -> Vec<(&'static str, u64)> {
    let mut counts: Vec<_> = tally
        .series_counts()
        .map(|(_, state, count)| (state.as_str(), count))
        .collect();
    counts.sort_unstable();
    counts
}

#[test]
fn states_count_by_the_general_view_or_as_the_kernel_has_them() {
    let mut general = Tally::new(StateView::General);
    let mut raw = Tally::new(StateView::Raw);
    for state in [SYN_SENT, SYN_RECV, ESTABLISHED, TIME_WAIT] {
        general.add(&inbound(1), &flow(state));
        raw.add(&inbound(1), &flow(state));
    }
    assert_eq!(
        sorted(&general),
        [("closing", 1), ("open", 1), ("opening", 2)]
    );
    assert_eq!(
        sorted(&raw),
        [
            ("established", 1),
            ("syn_recv", 1),
            ("syn_sent", 1),
            ("time_wait", 1)
        ]
    );
}

#[test]
fn rows_have_the_four_states_beside_each_other_in_either_view() {
    for view in [StateView::General, StateView::Raw] {
        let mut tally = Tally::new(view);
        for state in [SYN_SENT, SYN_RECV, ESTABLISHED, TIME_WAIT] {
            tally.add(&inbound(2), &flow(state));
        }
        tally.add(&inbound(1), &flow(State::Tcp(TcpState::Close)));
        let rows = tally.host_rows();
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0].series.remote, inbound(1).remote);
        assert_eq!(rows[0].states, [0, 0, 0, 1]);
        assert_eq!(rows[1].states, [2, 1, 1, 0]);
    }
}

#[test]
fn rows_are_split_by_port() {
    let mut tally = Tally::new(StateView::General);
    for port in [None, Some(0), Some(80), Some(80)] {
        let placement = Placement { port, ..inbound(1) };
        tally.add(&placement, &flow(ESTABLISHED));
    }
    let rows: Vec<_> = tally
        .host_rows()
        .iter()
        .map(|row| (row.series.port, row.states[1]))
        .collect();
    assert_eq!(rows, [(None, 1), (Some(0), 1), (Some(80), 2)]);
}

#[test]
fn clients_that_count_together_have_a_row_each_and_are_shown_as_one() {
    let mut tally = Tally::new(StateView::General);
    for last in [1, 2, 2, 3] {
        tally.add(&public(last), &flow(ESTABLISHED));
    }
    assert_eq!(tally.rows_in_use().count(), 3);
    let rows = tally.host_rows();
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].states, [0, 4, 0, 0]);
}

#[test]
fn a_flow_goes_from_state_to_state_and_out() {
    let mut tally = Tally::new(StateView::General);
    let row = tally.row(Series::of(&inbound(1), Protocol::Tcp));
    tally.enter(row, SYN_SENT);
    tally.turn(row, SYN_SENT, SYN_RECV);
    assert_eq!(sorted(&tally), [("opening", 1)]);
    tally.turn(row, SYN_RECV, ESTABLISHED);
    assert_eq!(sorted(&tally), [("open", 1)]);
    tally.leave(row, ESTABLISHED);
    tally.leave(row, ESTABLISHED);
    assert_eq!(sorted(&tally), []);
}

#[test]
fn a_row_lives_as_long_as_it_has_flows_or_something_happened_to_them() {
    let mut tally = Tally::new(StateView::General);
    let row = tally.row(Series::of(&inbound(1), Protocol::Tcp));
    tally.activity(row).opened += 1;
    tally.activity(row).closed += 1;
    assert_eq!(tally.rows_in_use().count(), 1);
    assert_eq!(tally.activities().count(), 1);
    tally.settle();
    assert_eq!(tally.rows_in_use().count(), 0);
    assert_eq!(tally.activities().count(), 0);

    let row = tally.row(Series::of(&inbound(2), Protocol::Tcp));
    tally.enter(row, ESTABLISHED);
    tally.settle();
    assert_eq!(tally.row(Series::of(&inbound(2), Protocol::Tcp)), row);
    assert_eq!(sorted(&tally), [("open", 1)]);
}

#[test]
fn every_state_comes_back_from_its_row() {
    let states = TcpState::ALL
        .iter()
        .map(|&state| (Protocol::Tcp, State::Tcp(state)))
        .chain((SctpState::ALL.iter()).map(|&state| (Protocol::Sctp, State::Sctp(state))))
        .chain((DccpState::ALL.iter()).map(|&state| (Protocol::Dccp, State::Dccp(state))))
        .chain(
            [State::Unreplied, State::Replied, State::Assured].map(|state| (Protocol::Udp, state)),
        );
    for (protocol, state) in states {
        assert_eq!(State::from_code(state.code()), Some(state));
        for (view, expected) in [
            (StateView::Raw, SeriesState::Raw(state)),
            (StateView::General, SeriesState::General(state.general())),
        ] {
            let mut tally = Tally::new(view);
            let row = tally.row(Series::of(&inbound(1), protocol));
            tally.enter(row, state);
            assert_eq!(tally.states(row).collect::<Vec<_>>(), [(expected, 1)]);
        }
    }
}

#[test]
fn a_burst_of_rows_gives_its_memory_back() {
    let mut tally = Tally::new(StateView::General);
    let many = |[high, low]: [u8; 2]| Placement {
        remote: Remote::Address([10, 0, high, low].into()),
        ..inbound(0)
    };
    for number in 0..=u16::MAX {
        tally.add(&many(number.to_be_bytes()), &flow(ESTABLISHED));
    }
    tally.clear();
    tally.add(&inbound(1), &flow(ESTABLISHED));
    tally.settle();
    // The one row that is left may stand behind all the others: it goes to the front
    // when it is made anew.
    tally.clear();
    tally.settle();
    tally.add(&inbound(1), &flow(ESTABLISHED));
    tally.settle();
    let room = [
        tally.index.capacity(),
        tally.rows.capacity(),
        tally.counts.capacity(),
        tally.free.capacity(),
    ];
    assert!(room.iter().all(|&room| room <= 16 * LEAST_ROOM), "{room:?}");
    assert_eq!(sorted(&tally), [("open", 1)]);
}

proptest! {
    /// What is counted in and out again leaves the tally as it was, ends of ticks or not.
    #[test]
    fn prop_counting_out_undoes_counting_in(
        kept in prop::collection::vec((0_u8..4, 0_usize..10), 0..50),
        gone in prop::collection::vec((0_u8..4, 0_usize..10, any::<bool>()), 0..50),
    ) {
        let place = |last: u8| if last == 0 { public(last) } else { inbound(last) };
        let series = |last: u8| Series::of(&place(last), Protocol::Tcp);
        let state = |index: usize| State::Tcp(TcpState::ALL[index]);
        let mut expected = Tally::new(StateView::Raw);
        let mut tally = Tally::new(StateView::Raw);
        for &(last, index, _) in &gone {
            tally.add(&place(last), &flow(state(index)));
        }
        for &(last, index) in &kept {
            tally.add(&place(last), &flow(state(index)));
            expected.add(&place(last), &flow(state(index)));
        }
        for &(last, index, settles) in &gone {
            let row = tally.row(series(last));
            tally.leave(row, state(index));
            if settles {
                tally.settle();
            }
        }
        let sorted = |tally: &Tally| {
            let mut counts: Vec<_> = tally.series_counts().collect();
            counts.sort_unstable();
            counts
        };
        prop_assert_eq!(sorted(&tally), sorted(&expected));
    }
}
