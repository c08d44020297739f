//! Connections counted by remote host, direction, protocol, port and state, and
//! what happened to them since the last tick.
//!
//! A series is a row; what is told of flows refers to rows by number, so that a
//! flow that is kept needs no name. Counts follow each flow ([`Tally::enter`],
//! [`Tally::turn`], [`Tally::leave`]), or are made anew from each dump
//! ([`Tally::clear`]). A row goes at the end of a tick in which it stood empty.

mod activity;

use std::hash::{BuildHasher, Hash, Hasher};

use foldhash::fast::RandomState;
use hashbrown::{HashMap, HashTable};

pub use self::activity::{Activity, Durations};
use crate::config::StateView;
use crate::flow::{
    ConnectionState, DccpState, Direction, Flow, Protocol, SctpState, State, TcpState,
};
use crate::hosts::{Placement, Remote};

/// Room that is kept is at most so many times what is held.
const SPARE_ROOM: usize = 4;
/// Rows for which room is always kept.
const LEAST_ROOM: usize = 1024;

/// A state as the tally tells it apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
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

    /// The name of a state that has this one.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static str> {
        let general = ConnectionState::ALL.into_iter().map(Self::General);
        let raw = (0..=u8::MAX).filter_map(State::from_code).map(Self::Raw);
        let mut names = general.chain(raw).map(Self::as_str);
        names.find(|known| *known == name)
    }

    /// One of the four.
    #[must_use]
    pub const fn general(self) -> ConnectionState {
        match self {
            Self::General(state) => state,
            Self::Raw(state) => state.general(),
        }
    }
}

/// What is counted together, whatever its state.
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
}

impl Series {
    /// That of a flow in this place.
    #[must_use]
    pub const fn of(placement: &Placement, protocol: Protocol) -> Self {
        Self {
            remote: placement.remote,
            direction: placement.direction,
            protocol,
            port: placement.port,
        }
    }

    /// As it is reported: clients that count together are one.
    #[must_use]
    pub const fn folded(self) -> Self {
        Self {
            remote: self.remote.folded(),
            ..self
        }
    }
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
            u8::from(self.port.is_some()),
            low,
            high,
            0,
            0,
        ]));
    }
}

/// A remote host's connections with the four states beside each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostRow {
    /// What is counted.
    pub series: Series,
    /// Connections by [`ConnectionState`], in its order.
    pub states: [u64; ConnectionState::ALL.len()],
}

/// A row's number: good until the end of a tick in which the row is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowId(u32);

impl RowId {
    /// The number.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }

    const fn index(self) -> usize {
        self.0 as usize
    }
}

#[derive(Clone, Copy, Debug)]
struct Row {
    series: Series,
    /// Flows in it, in any state.
    flows: u32,
}

/// The counts.
#[derive(Debug)]
pub struct Tally {
    view: StateView,
    hasher: RandomState,
    /// Row numbers by the hash of their series.
    index: HashTable<u32>,
    rows: Vec<Row>,
    /// Flows by row and state: so many of each row behind each other.
    counts: Vec<u32>,
    /// Numbers of rows that stand for nothing.
    free: Vec<u32>,
    active: HashMap<u32, Activity, RandomState>,
}

impl Tally {
    /// An empty one that tells states apart in this view.
    #[must_use]
    pub fn new(view: StateView) -> Self {
        Self {
            view,
            hasher: RandomState::default(),
            index: HashTable::new(),
            rows: Vec::new(),
            counts: Vec::new(),
            free: Vec::new(),
            active: HashMap::default(),
        }
    }

    /// The row of this series, made if there is none.
    pub fn row(&mut self, series: Series) -> RowId {
        let Self {
            hasher,
            index,
            rows,
            ..
        } = self;
        let hash = hasher.hash_one(series);
        let found = index.find(hash, |&number| {
            rows.get(number as usize)
                .is_some_and(|row| row.series == series)
        });
        match found {
            Some(&number) => RowId(number),
            None => self.make(series, hash),
        }
    }

    fn make(&mut self, series: Series, hash: u64) -> RowId {
        let row = Row { series, flows: 0 };
        let number = if let Some(number) = self.free.pop() {
            if let Some(place) = self.rows.get_mut(number as usize) {
                *place = row;
            }
            number
        } else {
            let number = u32::try_from(self.rows.len()).unwrap_or(u32::MAX);
            self.rows.push(row);
            self.counts.resize(self.counts.len() + states(self.view), 0);
            number
        };
        let Self {
            hasher,
            index,
            rows,
            ..
        } = self;
        index.insert_unique(hash, number, |&number| hash_of(hasher, rows, number));
        RowId(number)
    }

    /// What a row counts; `None` for one that is gone.
    #[must_use]
    pub fn series(&self, row: RowId) -> Option<&Series> {
        self.rows.get(row.index()).map(|row| &row.series)
    }

    /// Counts a flow in.
    pub fn enter(&mut self, row: RowId, state: State) {
        if let Some(row) = self.rows.get_mut(row.index()) {
            row.flows += 1;
        }
        if let Some(count) = self.count(row, state) {
            *count += 1;
        }
    }

    /// Counts a flow out that was counted in with the same row and state.
    pub fn leave(&mut self, row: RowId, state: State) {
        let Some(count) = self.count(row, state).filter(|count| **count > 0) else {
            return;
        };
        *count -= 1;
        if let Some(row) = self.rows.get_mut(row.index()) {
            row.flows = row.flows.saturating_sub(1);
        }
    }

    /// A flow that was counted in goes from one state to another.
    pub fn turn(&mut self, row: RowId, from: State, to: State) {
        self.leave(row, from);
        self.enter(row, to);
    }

    /// Counts a flow of a dump: [`Tally::enter`] by its placement.
    #[inline]
    pub fn add(&mut self, placement: &Placement, flow: &Flow) {
        let row = self.row(Series::of(placement, flow.protocol));
        self.enter(row, flow.state);
    }

    /// What happened to a row's flows since the last tick, to be added to.
    pub fn activity(&mut self, row: RowId) -> &mut Activity {
        self.active.entry(row.0).or_default()
    }

    /// Sets every count to nothing, for the next dump. Rows stay until [`Tally::settle`].
    pub fn clear(&mut self) {
        self.counts.fill(0);
        for row in &mut self.rows {
            row.flows = 0;
        }
    }

    /// The end of a tick: forgets what happened in it, and the rows that are empty.
    pub fn settle(&mut self) {
        self.active.clear();
        self.active.shrink_to(LEAST_ROOM);
        let Self {
            hasher,
            index,
            rows,
            free,
            ..
        } = self;
        index.retain(|&mut number| {
            let is_empty = rows.get(number as usize).is_none_or(|row| row.flows == 0);
            if is_empty {
                free.push(number);
            }
            !is_empty
        });
        let spare = SPARE_ROOM * index.len() + LEAST_ROOM;
        if index.capacity() > spare {
            index.shrink_to(2 * index.len(), |&number| hash_of(hasher, rows, number));
        }
        self.cut_off(spare);
    }

    /// Gives back the rows behind the last one in use, when most are free.
    fn cut_off(&mut self, spare: usize) {
        if self.rows.len() <= spare {
            return;
        }
        let used = self.index.iter().max().map_or(0, |&last| last as usize + 1);
        self.rows.truncate(used);
        self.rows.shrink_to(spare);
        self.counts.truncate(used * states(self.view));
        self.counts.shrink_to(spare * states(self.view));
        self.free.retain(|&number| (number as usize) < used);
        // The lowest are taken first, so that the end becomes free again.
        self.free.sort_unstable_by(|a, b| b.cmp(a));
        self.free.shrink_to(spare);
    }

    /// Rows with flows, or to whose flows something happened, in no order.
    pub fn rows_in_use(&self) -> impl Iterator<Item = (RowId, &Series, u64)> {
        self.index.iter().filter_map(|&number| {
            let row = self.rows.get(number as usize)?;
            (row.flows > 0 || self.active.contains_key(&number)).then_some((
                RowId(number),
                &row.series,
                u64::from(row.flows),
            ))
        })
    }

    /// A row's counts that are not zero.
    pub fn states(&self, row: RowId) -> impl Iterator<Item = (SeriesState, u64)> + use<'_> {
        let protocol = self.series(row).map(|series| series.protocol);
        let first = row.index() * states(self.view);
        let counts = self.counts.get(first..first + states(self.view));
        counts
            .unwrap_or_default()
            .iter()
            .zip(0..)
            .filter(|&(&count, _)| count > 0)
            .filter_map(move |(&count, place)| {
                Some((state_at(self.view, protocol?, place)?, u64::from(count)))
            })
    }

    /// What happened since the last tick, by row, in no order.
    pub fn activities(&self) -> impl Iterator<Item = (&Series, &Activity)> {
        self.active.iter().filter_map(|(&number, activity)| {
            Some((&self.rows.get(number as usize)?.series, activity))
        })
    }

    /// Every count that is not zero, in no order.
    pub fn series_counts(&self) -> impl Iterator<Item = (Series, SeriesState, u64)> + '_ {
        self.rows_in_use().flat_map(|(row, &series, _)| {
            self.states(row)
                .map(move |(state, count)| (series, state, count))
        })
    }

    /// A row per remote host, direction, protocol and port, in their order, of those
    /// that have flows.
    #[must_use]
    pub fn host_rows(&self) -> Vec<HostRow> {
        let mut sorted: Vec<_> = self
            .series_counts()
            .map(|(series, state, count)| (series.folded(), state, count))
            .collect();
        sorted.sort_unstable();
        let mut rows: Vec<HostRow> = Vec::new();
        for (series, state, count) in sorted {
            if rows.last().is_none_or(|row| row.series != series) {
                let states = [0; ConnectionState::ALL.len()];
                rows.push(HostRow { series, states });
            }
            if let Some(row) = rows.last_mut() {
                row.states[state.general() as usize] += count;
            }
        }
        rows
    }

    fn count(&mut self, row: RowId, state: State) -> Option<&mut u32> {
        let place = match self.view {
            StateView::General => state.general() as usize,
            // Rows are of one protocol: the number within it tells states apart.
            StateView::Raw => usize::from(state.code() & 0x0f),
        };
        self.counts.get_mut(row.index() * states(self.view) + place)
    }
}

fn hash_of(hasher: &RandomState, rows: &[Row], number: u32) -> u64 {
    rows.get(number as usize)
        .map_or(0, |row| hasher.hash_one(row.series))
}

/// How many states a row tells apart.
const fn states(view: StateView) -> usize {
    match view {
        StateView::General => ConnectionState::ALL.len(),
        // TCP and SCTP have the most.
        StateView::Raw => TcpState::ALL.len(),
    }
}

fn state_at(view: StateView, protocol: Protocol, place: u8) -> Option<SeriesState> {
    if view == StateView::General {
        let state = ConnectionState::ALL.get(usize::from(place)).copied();
        return state.map(SeriesState::General);
    }
    let state = match protocol {
        Protocol::Tcp => TcpState::from_number(place).map(State::Tcp),
        Protocol::Sctp => SctpState::from_number(place).map(State::Sctp),
        Protocol::Dccp => DccpState::from_number(place).map(State::Dccp),
        _ => State::from_code(place),
    };
    state.map(SeriesState::Raw)
}

#[cfg(test)]
mod tests;
