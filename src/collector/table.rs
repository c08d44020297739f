//! The flows that are followed: a few bytes each, found by a 64-bit key.
//!
//! Sixteen bytes hold what a flow needs to be counted out again: its key, its row
//! in the tally, its state and what it has been through. The table is cut into
//! shards, which grow one at a time: while one of them is copied, little is held
//! twice.

use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Place;

use crate::flow::State;
use crate::flow::key::FlowKey;
use crate::tally::RowId;

/// Parts of the table. Each grows by itself, so that a growing table holds at most a
/// sixty-fourth twice.
const SHARDS: usize = 64;
/// Which bits of the key choose the shard: neither those that choose a bucket in it
/// nor those that tell its neighbours apart.
const SHARD_SHIFT: u32 = 40;
/// A shard with room for so many times what it holds is cut down.
const SPARE_ROOM: usize = 4;
/// Flows for which a shard always keeps room.
const LEAST_ROOM: usize = 64;

/// What a flow has been through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Marks(u16);

impl Marks {
    /// A packet came back.
    pub(super) const REPLIED: Self = Self(1);
    /// It was open at some time.
    pub(super) const OPENED: Self = Self(1 << 1);
    /// One side said goodbye.
    pub(super) const GOODBYE: Self = Self(1 << 2);
    /// A dump showed it, and no event so far.
    pub(super) const MUTE: Self = Self(1 << 3);
    /// The dump that is under way was the first to tell of it: how it began is not
    /// yet counted.
    pub(super) const FOUND: Self = Self(1 << 4);
    /// An event told of it since the dump began: what the dump says of it may be older.
    pub(super) const TOUCHED: Self = Self(1 << 5);
    /// It ended since the dump began, which may still show it.
    pub(super) const DEAD: Self = Self(1 << 6);
    /// Packets of the original way go to the remote host.
    pub(super) const OUTWARD: Self = Self(1 << 7);
    /// The dump that is under way showed it in a state of which no event has told.
    pub(super) const DIFFERED: Self = Self(1 << 9);
    /// It was picked up in mid-stream: nobody saw it begin.
    pub(super) const PICKED_UP: Self = Self(1 << 8);

    pub(super) const fn has(self, marks: Self) -> bool {
        self.0 & marks.0 != 0
    }

    pub(super) const fn set(&mut self, marks: Self) {
        self.0 |= marks.0;
    }

    pub(super) const fn unset(&mut self, marks: Self) {
        self.0 &= !marks.0;
    }

    /// The names of those that are set.
    pub(super) fn names(self) -> Vec<&'static str> {
        [
            (Self::REPLIED, "replied"),
            (Self::OPENED, "opened"),
            (Self::GOODBYE, "goodbye"),
            (Self::MUTE, "mute"),
            (Self::FOUND, "found"),
            (Self::TOUCHED, "touched"),
            (Self::DEAD, "dead"),
            (Self::OUTWARD, "outward"),
            (Self::PICKED_UP, "picked_up"),
            (Self::DIFFERED, "differed"),
        ]
        .into_iter()
        .filter_map(|(mark, name)| self.has(mark).then_some(name))
        .collect()
    }

    /// These, if the condition holds.
    pub(super) const fn when(self, holds: bool) -> Self {
        if holds { self } else { Self(0) }
    }
}

impl std::ops::BitOr for Marks {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A flow that is followed; `D` is what is kept of it beside.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kept<D> {
    key: FlowKey,
    pub(super) row: RowId,
    state: u8,
    pub(super) marks: Marks,
    /// The dump that showed it last.
    pub(super) epoch: u8,
    pub(super) detail: D,
}

impl<D> Kept<D> {
    pub(super) const fn new(key: FlowKey, row: RowId, state: State, detail: D) -> Self {
        Self {
            key,
            row,
            state: state.code(),
            marks: Marks(0),
            epoch: 0,
            detail,
        }
    }

    pub(super) const fn key(&self) -> FlowKey {
        self.key
    }

    pub(super) fn state(&self) -> State {
        // Only states' codes are ever stored.
        State::from_code(self.state).unwrap_or(State::Unreplied)
    }

    pub(super) const fn set_state(&mut self, state: State) {
        self.state = state.code();
    }
}

/// What [`FlowTable::find`] found.
pub(super) enum Found<'a, D> {
    /// The flow.
    Known(&'a mut Kept<D>),
    /// The place for it.
    New(Vacancy<'a, D>),
}

/// A place for a flow that is not there.
pub(super) struct Vacancy<'a, D> {
    place: hashbrown::hash_table::VacantEntry<'a, Kept<D>>,
}

impl<'a, D> Vacancy<'a, D> {
    pub(super) fn insert(self, kept: Kept<D>) -> &'a mut Kept<D> {
        self.place.insert(kept).into_mut()
    }
}

/// The flows, by key.
#[derive(Debug)]
pub(super) struct FlowTable<D> {
    shards: Vec<HashTable<Kept<D>>>,
}

impl<D> FlowTable<D> {
    pub(super) fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| HashTable::new()).collect(),
        }
    }

    /// Flows in it.
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(HashTable::len).sum()
    }

    /// Bytes that it takes, beside what the allocator adds.
    pub(super) fn bytes(&self) -> usize {
        self.shards.iter().map(HashTable::allocation_size).sum()
    }

    /// The flow of this key, or the place for it.
    pub(super) fn find(&mut self, key: FlowKey) -> Option<Found<'_, D>> {
        let shard = self.shards.get_mut(shard_of(key))?;
        let place = shard.entry(key.0, |kept| kept.key == key, |kept| kept.key.0);
        Some(match place {
            Place::Occupied(there) => Found::Known(there.into_mut()),
            Place::Vacant(place) => Found::New(Vacancy { place }),
        })
    }

    /// Takes a flow out.
    pub(super) fn remove(&mut self, key: FlowKey) -> Option<Kept<D>> {
        let shard = self.shards.get_mut(shard_of(key))?;
        let there = shard.find_entry(key.0, |kept| kept.key == key).ok()?;
        Some(there.remove().0)
    }

    /// Some flows from a place on, and the place of those behind them, if there are any.
    /// A place is a shard and how many of its flows were shown: good for as long as the
    /// table does not change, and for about the rest of it after.
    pub(super) fn page(&self, from: u64, most: usize) -> (Vec<&Kept<D>>, Option<u64>) {
        let [high, low] = [from >> 32, from & u64::from(u32::MAX)];
        let mut shard = usize::try_from(high).unwrap_or(usize::MAX);
        let mut shown = usize::try_from(low).unwrap_or(usize::MAX);
        let mut page = Vec::new();
        while let Some(flows) = self.shards.get(shard) {
            let before = page.len();
            page.extend(flows.iter().skip(shown).take(most - before));
            shown += page.len() - before;
            if page.len() == most {
                return (page, Some((shard as u64) << 32 | shown as u64));
            }
            (shard, shown) = (shard + 1, 0);
        }
        (page, None)
    }

    /// Shows every flow, drops those for which `keep` is false, and gives back memory
    /// that a burst left behind.
    pub(super) fn sweep(&mut self, mut keep: impl FnMut(&mut Kept<D>) -> bool) {
        for shard in &mut self.shards {
            shard.retain(&mut keep);
            if shard.capacity() > SPARE_ROOM * shard.len() + LEAST_ROOM {
                shard.shrink_to(2 * shard.len(), |kept| kept.key.0);
            }
        }
    }
}

const fn shard_of(key: FlowKey) -> usize {
    (key.0 >> SHARD_SHIFT) as usize % SHARDS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::TcpState;
    use crate::tally::{Series, Tally};

    /// As far apart as a keyed hash puts them: splitmix64's finisher.
    fn key(number: u64) -> FlowKey {
        let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        FlowKey(mixed ^ (mixed >> 31))
    }

    fn row() -> RowId {
        Tally::new(crate::config::StateView::General).row(Series {
            remote: crate::hosts::Remote::Other,
            direction: crate::flow::Direction::Inbound,
            protocol: crate::flow::Protocol::Tcp,
            port: None,
        })
    }

    fn fill(table: &mut FlowTable<()>, numbers: std::ops::Range<u64>) {
        let state = State::Tcp(TcpState::Established);
        for number in numbers {
            let key = key(number);
            match table.find(key) {
                Some(Found::New(place)) => {
                    place.insert(Kept::new(key, row(), state, ()));
                }
                _ => panic!("{number} is there already"),
            }
        }
    }

    #[test]
    fn a_flow_takes_sixteen_bytes_without_details() {
        assert_eq!(size_of::<Kept<()>>(), 16);
    }

    #[test]
    fn flows_are_found_by_their_keys_until_they_are_removed() {
        let mut table = FlowTable::new();
        fill(&mut table, 0..10_000);
        assert_eq!(table.len(), 10_000);
        for number in 0..5_000 {
            assert_eq!(table.remove(key(number)).unwrap().key(), key(number));
        }
        assert!(table.remove(key(1)).is_none());
        assert!(matches!(table.find(key(1)), Some(Found::New(_))));
        assert!(matches!(table.find(key(9_999)), Some(Found::Known(_))));
        assert_eq!(table.len(), 5_000);
    }

    #[test]
    fn pages_show_every_flow_once() {
        let mut table = FlowTable::new();
        fill(&mut table, 0..1_000);
        let mut keys = Vec::new();
        let mut from = Some(0);
        while let Some(place) = from {
            let (page, next) = table.page(place, 64);
            assert!(page.len() <= 64);
            keys.extend(page.iter().map(|kept| kept.key()));
            from = next;
        }
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), 1_000);
    }

    #[test]
    fn a_burst_gives_its_memory_back() {
        let mut table = FlowTable::new();
        fill(&mut table, 0..100_000);
        let burst = table.bytes();
        let kept = [key(1), key(2)];
        table.sweep(|flow| kept.contains(&flow.key()));
        assert_eq!(table.len(), 2);
        assert!(table.bytes() < burst / 100, "{} of {burst}", table.bytes());
    }

    #[test]
    fn a_million_flows_fit_in_forty_megabytes_while_the_table_grows() {
        let mut table = FlowTable::new();
        fill(&mut table, 0..1_000_000);
        assert!(table.bytes() < 40 << 20, "{}", table.bytes());
        let shard = table.shards.iter().map(HashTable::allocation_size).max();
        assert!(shard.unwrap() < 1 << 20);
    }
}
