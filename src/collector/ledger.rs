//! Every flow that is followed, from its beginning to its end: each begins once and
//! ends once, whatever was lost on the way.
//!
//! Dumps are the truth, events the news. A dump walks the table while it changes,
//! and its datagrams are made before they are read, so that the two must be merged:
//!
//! - What an event told since the dump began is newer than what the dump shows, or
//!   will be: the dump's word on that flow is not taken.
//! - A flow that ended since then stays in the table as dead until the dump is over,
//!   for a datagram of the dump may still show it.
//! - A flow that only the dump knows is counted as begun when the dump is over and the
//!   events that waited have been read: its NEW may be among them.
//! - A flow that the dump did not show, and no event told of, is gone.
//!
//! ```text
//! opened + picked up + found at the start = closed + failed + in the table
//! ```

mod flow;
mod news;

pub(super) use self::flow::{Books, Gone, marks_of};
use self::flow::{Told, begin_late, count_traffic, learn, settle, state_since};
use super::ending::Detail;
use super::table::{FlowTable, Found, Kept, Marks};
use crate::conntrack::sysctl::Timeouts;
use crate::flow::key::KeyHasher;
use crate::flow::{Beginning, Entry};
use crate::telemetry::{Correction, Mode};

/// Which events come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Hearing {
    /// None: flows begin and end by the difference between two dumps.
    Nothing,
    /// NEW and DESTROY.
    Ends,
    /// UPDATE too: states are as good as in a dump.
    Everything,
}

impl Hearing {
    /// The mode that it comes to.
    pub(super) const fn mode(self) -> Mode {
        match self {
            Self::Nothing => Mode::Dump,
            Self::Ends => Mode::Hybrid,
            Self::Everything => Mode::Events,
        }
    }
}

/// What is known of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing: no dump has come to its end.
    Unknown,
    /// The first dump is under way.
    First,
    /// All of it.
    Known,
    /// All of it, and a dump is under way.
    Again,
}

impl Stage {
    const fn is_dumping(self) -> bool {
        matches!(self, Self::First | Self::Again)
    }

    const fn is_known(self) -> bool {
        matches!(self, Self::Known | Self::Again)
    }
}

/// Flows by what became of them, since the ledger was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    /// There when the first dump was made.
    pub(super) found: u64,
    /// Begun.
    pub(super) opened: u64,
    /// Begun before anybody looked, and first seen in mid-stream.
    pub(super) picked_up: u64,
    /// Ended well.
    pub(super) closed: u64,
    /// Never established, or torn down.
    pub(super) failed: u64,
    /// In the table when another source took its place.
    pub(super) forgotten: u64,
}

/// The flows and what became of them.
#[derive(Debug)]
pub(super) struct Ledger<D> {
    keys: KeyHasher,
    table: FlowTable<D>,
    epoch: u8,
    stage: Stage,
    hearing: Hearing,
    timeouts: Timeouts,
    totals: Totals,
    max_flows: usize,
    /// Flows for which there was no room.
    turned_away: u64,
    /// Ends that somebody wants to read; none where nobody does.
    gone: Option<Vec<Gone>>,
}

impl<D: Detail> Ledger<D> {
    /// An empty one that follows at most so many flows.
    pub(super) fn new(max_flows: usize, timeouts: Timeouts, keys: KeyHasher) -> Self {
        Self {
            keys,
            table: FlowTable::new(),
            epoch: 0,
            stage: Stage::Unknown,
            hearing: Hearing::Nothing,
            timeouts,
            totals: Totals::default(),
            max_flows,
            turned_away: 0,
            gone: None,
        }
    }

    /// How long entries stay once nothing happens to them any more.
    pub(super) fn set_timeouts(&mut self, timeouts: Timeouts) {
        self.timeouts = timeouts;
    }

    /// From now on these events come.
    pub(super) fn hear(&mut self, hearing: Hearing) {
        self.hearing = hearing;
    }

    /// Starts anew, with flows of another source.
    pub(super) fn forget(&mut self) {
        let forgotten = self.table.len() as u64;
        self.table = FlowTable::new();
        self.stage = Stage::Unknown;
        self.totals.forgotten += forgotten;
    }

    /// A dump begins.
    pub(super) fn begin(&mut self) {
        self.abandon();
        self.epoch = self.epoch.wrapping_add(1);
        self.turned_away = 0;
        self.stage = if self.stage.is_known() {
            Stage::Again
        } else {
            Stage::First
        };
    }

    /// The dump failed, if one is under way: what it told stays, what it did not means
    /// nothing.
    pub(super) fn abandon(&mut self) {
        if !self.stage.is_dumping() {
            return;
        }
        self.table.sweep(|kept| {
            kept.marks.unset(Marks::TOUCHED | Marks::DIFFERED);
            !kept.marks.has(Marks::DEAD)
        });
        self.stage = match self.stage {
            Stage::First => Stage::Unknown,
            _ => Stage::Known,
        };
    }

    /// The dump shows this entry. `now` is in nanoseconds since the epoch, as all times
    /// here.
    pub(super) fn dumped(&mut self, entry: &Entry, now: u64, books: &mut Books<'_>) {
        let flow = &entry.flow;
        let key = self.keys.key(&flow.original, flow.protocol, flow.zone);
        let is_full = self.is_full();
        let since = if D::IS_KEPT {
            state_since(entry, &self.timeouts, now)
        } else {
            now
        };
        match self.table.find(key) {
            Some(Found::Known(kept)) => {
                if kept.marks.has(Marks::DEAD) {
                    return;
                }
                kept.epoch = self.epoch;
                if kept.marks.has(Marks::TOUCHED) {
                    return;
                }
                // Its placement may have changed with this host's addresses.
                let Some((row, outward)) = books.count.place(flow) else {
                    // It counts no more: it ends here as the dump not showing it.
                    kept.epoch = self.epoch.wrapping_sub(1);
                    return;
                };
                if row != kept.row {
                    let state = kept.state();
                    books.count.tally.leave(kept.row, state);
                    books.count.tally.enter(row, state);
                    kept.row = row;
                    kept.marks.unset(Marks::OUTWARD);
                    kept.marks.set(Marks::OUTWARD.when(outward));
                    books.corrected(Correction::Placement);
                }
                let turned = kept.state() != flow.state;
                learn(
                    kept,
                    Some(flow.state),
                    flow.status,
                    &entry.details,
                    since,
                    books,
                );
                kept.marks.set(Marks::DIFFERED.when(turned));
                count_traffic(kept, &entry.details, books);
            }
            Some(Found::New(place)) => {
                if is_full {
                    self.turned_away += 1;
                    return;
                }
                let Some((row, outward)) = books.count.place(flow) else {
                    return;
                };
                let kept = place.insert(Kept::new(key, row, flow.state, D::default()));
                kept.epoch = self.epoch;
                kept.marks = Marks::FOUND
                    | Marks::MUTE
                    | Marks::OUTWARD.when(outward)
                    | Marks::PICKED_UP.when(flow.beginning == Beginning::Missed);
                books.count.tally.enter(row, flow.state);
                if let Some(started) = entry.details.started {
                    kept.detail.begin(started);
                }
                learn(
                    kept,
                    Some(flow.state),
                    flow.status,
                    &entry.details,
                    since,
                    books,
                );
                if self.stage == Stage::First {
                    // What it carried before anybody looked is nobody's.
                    if let Some(traffic) = entry.details.traffic {
                        kept.detail.carry(traffic);
                    }
                } else {
                    count_traffic(kept, &entry.details, books);
                }
            }
            None => {}
        }
    }

    /// The dump is over, and the events that waited have been read.
    pub(super) fn finish(&mut self, now: u64, books: &mut Books<'_>) {
        let first = self.stage == Stage::First;
        let (epoch, hearing) = (self.epoch, self.hearing);
        let Self {
            table,
            totals,
            timeouts,
            gone,
            ..
        } = self;
        table.sweep(|kept| {
            if kept.marks.has(Marks::DEAD) {
                return false;
            }
            if kept.marks.has(Marks::FOUND) {
                begin_late(kept, first, hearing, totals, books);
            }
            let hears_it = hearing == Hearing::Everything && !kept.marks.has(Marks::MUTE);
            if hears_it && kept.marks.has(Marks::DIFFERED) {
                books.corrected(Correction::State);
            }
            let seen = kept.epoch == epoch || kept.marks.has(Marks::TOUCHED);
            kept.marks.unset(Marks::TOUCHED | Marks::DIFFERED);
            if seen {
                return true;
            }
            if hearing != Hearing::Nothing {
                books.corrected(if kept.marks.has(Marks::MUTE) {
                    Correction::MuteEnded
                } else {
                    Correction::MissedDestroy
                });
            }
            let told = Told::by_absence(now);
            settle(kept, &told, timeouts, totals, gone.as_mut(), books);
            false
        });
        self.stage = Stage::Known;
    }

    /// Whether no more flows may be followed. Only where there is a limit is it worth
    /// counting them at each event.
    fn is_full(&self) -> bool {
        self.max_flows != usize::MAX && self.max_flows <= self.table.len()
    }

    /// Flows that are followed, and what they take, bytes.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.table.len(), self.table.bytes())
    }

    /// What became of flows so far.
    pub(super) const fn totals(&self) -> Totals {
        self.totals
    }

    /// Whether there was no room for a flow since the last dump began.
    pub(super) const fn is_overfull(&self) -> bool {
        0 < self.turned_away
    }

    /// Whether a dump has come to its end.
    pub(super) const fn is_known(&self) -> bool {
        self.stage.is_known()
    }

    /// What flows are known by.
    pub(super) const fn keys(&self) -> &KeyHasher {
        &self.keys
    }

    /// Keeps ends to be read, or no more.
    pub(super) fn watch_ends(&mut self, watch: bool) {
        self.gone = watch.then(|| self.gone.take().unwrap_or_default());
    }

    /// The ends since the last call, of those that are watched.
    pub(super) fn take_ends(&mut self) -> impl Iterator<Item = Gone> {
        self.gone.as_mut().map(std::mem::take).into_iter().flatten()
    }

    /// Some flows from a place on, as [`FlowTable::page`].
    pub(super) fn page(&self, from: u64, most: usize) -> (Vec<&Kept<D>>, Option<u64>) {
        self.table.page(from, most)
    }
}

#[cfg(test)]
mod tests;
