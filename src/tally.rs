//! Connections counted by remote host, direction, protocol, port and state.
//!
//! A dump fills it from nothing: [`Tally::clear`], then [`Tally::add`] for each
//! flow. It keeps nothing per flow; its size is that of its series.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;

use foldhash::fast::RandomState;

use crate::config::StateView;
use crate::flow::{ConnectionState, Direction, Flow, Protocol, State};
use crate::hosts::{Placement, Remote};

/// A cleared map keeps room for this many times what it held.
const SPARE_ROOM: usize = 2;

/// A state as the tally tells it apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SeriesState {
    /// One of the four.
    General(ConnectionState),
    /// The kernel's own.
    Raw(State),
}

impl SeriesState {
    /// The value of the `state` tag; for one protocol no two are the same.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::General(state) => state.as_str(),
            Self::Raw(state) => state.as_str(),
        }
    }

    /// One of the four.
    #[must_use]
    pub const fn general(self) -> ConnectionState {
        match self {
            Self::General(state) => state,
            Self::Raw(state) => state.general(),
        }
    }

    /// A number that no other state has.
    const fn number(self) -> u8 {
        match self {
            Self::General(state) => state as u8,
            Self::Raw(State::Tcp(state)) => 0x10 | state as u8,
            Self::Raw(State::Sctp(state)) => 0x20 | state as u8,
            Self::Raw(State::Dccp(state)) => 0x30 | state as u8,
            Self::Raw(State::Unreplied) => 0x40,
            Self::Raw(State::Replied) => 0x41,
            Self::Raw(State::Assured) => 0x42,
        }
    }
}

/// What is counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Series {
    /// The remote host.
    pub remote: Remote,
    /// Who dialled.
    pub direction: Direction,
    /// Transport protocol.
    pub protocol: Protocol,
    /// The service's port, if ports are told apart.
    pub port: Option<u16>,
    /// The state.
    pub state: SeriesState,
}

impl Hash for Series {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let (address, kind) = self.remote.words();
        let [low, high] = self.port.unwrap_or_default().to_le_bytes();
        state.write_u128(address);
        state.write_u64(u64::from_le_bytes([
            kind,
            self.direction as u8,
            self.protocol.number(),
            self.state.number(),
            low,
            high,
            u8::from(self.port.is_some()),
            0,
        ]));
    }
}

/// A remote host's connections with the four states beside each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostRow {
    /// The remote host.
    pub remote: Remote,
    /// Who dialled.
    pub direction: Direction,
    /// Transport protocol.
    pub protocol: Protocol,
    /// The service's port, if ports are told apart.
    pub port: Option<u16>,
    /// Connections by [`ConnectionState`], in its order.
    pub states: [u64; ConnectionState::ALL.len()],
}

/// The counts.
#[derive(Debug)]
pub struct Tally {
    view: StateView,
    counts: HashMap<Series, u32, RandomState>,
    /// Flows of each address that counts as [`Remote::Public`].
    public: HashMap<IpAddr, u32, RandomState>,
}

impl Tally {
    /// An empty one that tells states apart in this view.
    #[must_use]
    pub fn new(view: StateView) -> Self {
        Self {
            view,
            counts: HashMap::default(),
            public: HashMap::default(),
        }
    }

    /// Forgets everything, and gives back memory that a burst left behind.
    pub fn clear(&mut self) {
        empty(&mut self.counts);
        empty(&mut self.public);
    }

    /// Counts a flow in.
    pub fn add(&mut self, placement: &Placement, flow: &Flow) {
        *self.counts.entry(self.series(placement, flow)).or_default() += 1;
        if placement.remote == Remote::Public {
            *self.public.entry(placement.address).or_default() += 1;
        }
    }

    /// Counts a flow out that was counted in with the same placement and state;
    /// does nothing if it was not.
    pub fn remove(&mut self, placement: &Placement, flow: &Flow) {
        let series = self.series(placement, flow);
        if decrement(&mut self.counts, series) && placement.remote == Remote::Public {
            decrement(&mut self.public, placement.address);
        }
    }

    /// Every series that is not zero, in no order.
    pub fn series_counts(&self) -> impl Iterator<Item = (Series, u64)> + '_ {
        self.counts
            .iter()
            .map(|(&series, &count)| (series, u64::from(count)))
    }

    /// Different addresses that count as [`Remote::Public`].
    #[must_use]
    pub fn public_hosts(&self) -> usize {
        self.public.len()
    }

    /// A row per remote host, direction, protocol and port, in their order.
    #[must_use]
    pub fn rows(&self) -> Vec<HostRow> {
        let mut sorted: Vec<_> = self.series_counts().collect();
        sorted.sort_unstable();
        let mut rows: Vec<HostRow> = Vec::new();
        for (series, count) in sorted {
            let same = rows.last().is_some_and(|row| {
                (row.remote, row.direction, row.protocol, row.port)
                    == (
                        series.remote,
                        series.direction,
                        series.protocol,
                        series.port,
                    )
            });
            if !same {
                rows.push(HostRow {
                    remote: series.remote,
                    direction: series.direction,
                    protocol: series.protocol,
                    port: series.port,
                    states: [0; ConnectionState::ALL.len()],
                });
            }
            if let Some(row) = rows.last_mut() {
                row.states[series.state.general() as usize] += count;
            }
        }
        rows
    }

    fn series(&self, placement: &Placement, flow: &Flow) -> Series {
        Series {
            remote: placement.remote,
            direction: placement.direction,
            protocol: flow.protocol,
            port: placement.port,
            state: match self.view {
                StateView::General => SeriesState::General(flow.state.general()),
                StateView::Raw => SeriesState::Raw(flow.state),
            },
        }
    }
}

fn empty<K: Eq + Hash>(map: &mut HashMap<K, u32, RandomState>) {
    let held = map.len();
    map.clear();
    map.shrink_to(SPARE_ROOM * held);
}

fn decrement<K: Eq + Hash>(map: &mut HashMap<K, u32, RandomState>, key: K) -> bool {
    let Entry::Occupied(mut entry) = map.entry(key) else {
        return false;
    };
    *entry.get_mut() -= 1;
    if *entry.get() == 0 {
        entry.remove();
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{SctpState, Status, TcpState, Tuple};
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
        let address = IpAddr::from([10, 0, 0, last]);
        Placement {
            remote: Remote::Address(address),
            address,
            direction: Direction::Inbound,
            port: None,
        }
    }

    fn public(last: u8) -> Placement {
        Placement {
            remote: Remote::Public,
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
            .map(|(series, count)| (series.state.as_str(), count))
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
            let rows = tally.rows();
            assert_eq!(rows.len(), 2);
            assert_eq!(rows[0].remote, inbound(1).remote);
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
            .rows()
            .iter()
            .map(|row| (row.port, row.states[1]))
            .collect();
        assert_eq!(rows, [(None, 1), (Some(0), 1), (Some(80), 2)]);
    }

    #[test]
    fn public_addresses_are_counted_once_each() {
        let mut tally = Tally::new(StateView::General);
        for last in [1, 2, 2, 3] {
            tally.add(&public(last), &flow(ESTABLISHED));
        }
        assert_eq!(tally.public_hosts(), 3);
        tally.remove(&public(2), &flow(ESTABLISHED));
        assert_eq!(tally.public_hosts(), 3);
        tally.remove(&public(3), &flow(ESTABLISHED));
        assert_eq!(tally.public_hosts(), 2);
        tally.clear();
        assert_eq!(tally.public_hosts(), 0);
    }

    #[test]
    fn counting_out_what_was_not_counted_in_changes_nothing() {
        let mut tally = Tally::new(StateView::General);
        tally.add(&inbound(1), &flow(ESTABLISHED));
        tally.remove(&inbound(2), &flow(ESTABLISHED));
        tally.remove(&inbound(1), &flow(TIME_WAIT));
        tally.remove(&public(1), &flow(ESTABLISHED));
        assert_eq!(sorted(&tally), [("open", 1)]);
    }

    #[test]
    fn states_of_protocols_never_share_a_number() {
        let states = TcpState::ALL
            .iter()
            .map(|&state| State::Tcp(state))
            .chain((0..10).filter_map(|number| SctpState::from_number(number).map(State::Sctp)))
            .chain([State::Unreplied, State::Replied, State::Assured])
            .map(SeriesState::Raw)
            .chain(ConnectionState::ALL.map(SeriesState::General));
        let mut numbers: Vec<_> = states.map(SeriesState::number).collect();
        numbers.sort_unstable();
        let all = numbers.len();
        numbers.dedup();
        assert_eq!(numbers.len(), all);
    }

    #[test]
    fn a_cleared_tally_gives_a_bursts_memory_back() {
        let mut tally = Tally::new(StateView::General);
        for [high, low] in (0..=u16::MAX).map(u16::to_be_bytes) {
            let placement = Placement {
                remote: Remote::Address([10, 0, high, low].into()),
                ..inbound(0)
            };
            tally.add(&placement, &flow(ESTABLISHED));
        }
        tally.clear();
        tally.add(&inbound(1), &flow(ESTABLISHED));
        tally.clear();
        assert!(tally.counts.capacity() < 1024);
    }

    proptest! {
        /// What is counted in and out again leaves the tally as it was.
        #[test]
        fn prop_counting_out_undoes_counting_in(
            kept in prop::collection::vec((0_u8..4, 0_usize..10), 0..50),
            gone in prop::collection::vec((0_u8..4, 0_usize..10), 0..50),
        ) {
            let place = |last: u8| if last == 0 { public(last) } else { inbound(last) };
            let state = |index: usize| flow(State::Tcp(TcpState::ALL[index]));
            let mut expected = Tally::new(StateView::Raw);
            let mut tally = Tally::new(StateView::Raw);
            for &(last, index) in kept.iter().chain(&gone) {
                tally.add(&place(last), &state(index));
            }
            for &(last, index) in &gone {
                tally.remove(&place(last), &state(index));
            }
            for &(last, index) in &kept {
                expected.add(&place(last), &state(index));
            }
            prop_assert_eq!(&tally.counts, &expected.counts);
            prop_assert_eq!(&tally.public, &expected.public);
        }
    }
}
