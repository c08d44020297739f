//! What an output could not take yet, merged by context.
//!
//! A context is a metric's name, type, tags and origin. Of each the
//! backlog holds what its lines come to, so that an outage costs memory for the
//! contexts that were seen and not for how long it lasts:
//!
//! | type | held | given back as |
//! |---|---|---|
//! | `c` | the sum, sample rates applied | one line without a rate |
//! | `g` | the last value | that line |
//! | `g` with a sign | the last value without one, the sum of the changes since but the last, the last | up to three lines, in this order |
//! | `s` | 1024 members; lines with others are dropped | a line each |
//! | `h`, `ms`, `d` | 1024 values or 16 KiB of them as they were written, then a sample | packed lines, with the sample's rate |
//!
//! Contexts come back oldest first. A line that is alone in its context comes back
//! byte for byte. What never merges stands in the same queue as it came: events,
//! service checks, lines with a timestamp of their own, and those so long that a
//! sum might not fit in their place. They may be a tenth of the entries; what comes
//! then is dropped.
//!
//! ## The account
//!
//! An entry stands for all the lines it took in. They count as held until it is
//! given back, and what it was given back as is never more of them: the others are
//! merged away then. If it is dropped, they all are. So at any time lines that came
//! = given back + merged away + dropped + held.

mod account;
mod coarsen;
mod entry;
mod line;
mod members;
mod slots;
mod sum;
mod values;

use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use memchr::memchr;

pub use self::account::{
    Dropped, Given, Limits, Merged, OWN, Portion, Run, Sender, SenderId, VALUES_BYTES,
};
use self::entry::{Entry, State, Taken};
pub use self::line::Tick;
use self::line::{Line, Period};
use self::slots::Slots;
use self::values::Coin;
use crate::config::LineSource;
use crate::telemetry::LineDrop;

#[cfg(test)]
mod tests;

/// What entries go by.
#[derive(Debug)]
struct Rules {
    hasher: RandomState,
    /// Bytes of one context's values.
    values_bytes: usize,
}

/// See the module.
#[derive(Debug)]
pub struct Backlog {
    limits: Limits,
    rules: Rules,
    coin: Coin,
    /// Ticks that merge.
    period: Period,
    /// Contexts' slots by their hash.
    index: HashTable<u32>,
    slots: Slots,
}

impl Backlog {
    /// An empty one.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let hasher = RandomState::default();
        let seed = hasher.hash_one(0_u64);
        Self::with_seed(limits, hasher, seed)
    }

    fn with_seed(limits: Limits, hasher: RandomState, seed: u64) -> Self {
        Self {
            limits,
            rules: Rules {
                hasher,
                values_bytes: limits.values_bytes,
            },
            coin: Coin(seed),
            period: Period {
                span: limits.tick_seconds,
            },
            index: HashTable::new(),
            slots: Slots::new(limits),
        }
    }

    /// Takes lines that were checked before, each with its newline. With a tick, counts and
    /// gauges merge with those of the same tick alone, so that they can be given back with it.
    pub fn merge(&mut self, mut lines: &[u8], from: Sender, tick: Option<Tick>) -> Merged {
        let mut merged = Merged::default();
        while !lines.is_empty() {
            let end = memchr(b'\n', lines).unwrap_or(lines.len());
            let (line, rest) = lines.split_at(end);
            lines = rest.get(1..).unwrap_or_default();
            merged.lines += 1;
            if let Err(reason) = self.take(line, from, tick, &mut merged) {
                merged.dropped.note(reason, line.len());
            }
        }
        merged
    }

    fn parse<'a>(&self, text: &'a [u8], source: LineSource) -> Option<Line<'a>> {
        Line::parse(text, source, self.limits.line_bytes, &self.rules.hasher)
    }

    fn find(&self, line: &Line<'_>) -> Option<u32> {
        let period = self.period.of(line.tick);
        let is_it = |entry: &Entry| {
            self.period.of(entry.tick) == period && entry.context_of().is(&line.context())
        };
        let is_it = |&slot: &u32| self.slots.get(slot).is_some_and(is_it);
        self.index.find(line.hash, is_it).copied()
    }

    fn take(
        &mut self,
        text: &[u8],
        from: Sender,
        tick: Option<Tick>,
        merged: &mut Merged,
    ) -> Result<(), LineDrop> {
        let Some(line) = self.parse(text, from.source) else {
            return self.insert(Entry::alone(text, from.source), from, merged);
        };
        let line = line.at(tick, self.period, &self.rules.hasher);
        match self.find(&line) {
            Some(slot) => match self.absorb(slot, &line, merged)? {
                Taken::Yes => {
                    merged.absorbed += 1;
                    Ok(())
                }
                Taken::No => self.insert(Entry::alone(text, from.source), from, merged),
            },
            None => match Entry::context(&line) {
                Some(_) if line.tick.is_some() && self.relieve() => {
                    self.take(text, from, tick, merged)
                }
                Some(entry) => self.insert(entry, from, merged),
                None => Err(LineDrop::BacklogFull),
            },
        }
    }

    fn insert(&mut self, entry: Entry, from: Sender, merged: &mut Merged) -> Result<(), LineDrop> {
        let hash = (!entry.is_alone()).then_some(entry.hash);
        let Self { slots, index, .. } = self;
        let slot = slots.insert(entry, from, &mut merged.dropped, |slot, entry| {
            leave(index, slot, entry);
        })?;
        if let Some(hash) = hash {
            index.insert_unique(hash, slot, |&slot| {
                slots.get(slot).map_or(0, |entry| entry.hash)
            });
        }
        Ok(())
    }

    fn absorb(
        &mut self,
        slot: u32,
        line: &Line<'_>,
        merged: &mut Merged,
    ) -> Result<Taken, LineDrop> {
        let Self {
            slots,
            index,
            rules,
            coin,
            ..
        } = self;
        let Some(entry) = slots.get(slot) else {
            return Ok(Taken::No);
        };
        let (sender, before) = (entry.sender, entry.bytes());
        let can_thin = matches!(entry.state, State::Values(_));
        let more = entry.bytes_with(line, rules)?.saturating_sub(before);
        let room = slots.make_room(sender, [0, 0, more], &mut merged.dropped, |slot, entry| {
            leave(index, slot, entry);
        });
        if !can_thin {
            room?;
        }
        let Some(entry) = slots.get_mut(slot) else {
            return Ok(Taken::No);
        };
        let taken = entry.absorb(line, room.is_ok(), rules, coin);
        let after = entry.bytes();
        if taken == Taken::Yes {
            slots.lines += 1;
        }
        slots.recharge(sender, before, after);
        Ok(taken)
    }

    /// Whether nothing is held.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.contexts() == 0
    }

    /// Lines held: all that what is held stands for.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.slots.lines
    }

    /// Contexts held, and lines that never merge.
    #[must_use]
    pub const fn contexts(&self) -> usize {
        self.slots.sizes()[0]
    }

    /// Memory that what is held takes, bytes.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.slots.sizes()[2]
    }

    /// Appends lines, each with its newline, to `to`, the oldest contexts first, until
    /// `room` is filled, or a line more, or nothing is left. Of a context
    /// that is written as many lines the rest may stay. Those of a tick have it, if `is_free`
    /// says that no line without one was sent in it. Shows whose lines they are.
    pub fn drain(
        &mut self,
        room: Portion,
        to: &mut Vec<u8>,
        is_free: impl Fn(Tick) -> bool,
        mut runs: impl FnMut(Run),
    ) -> Given {
        let start = to.len();
        let mut given = Given::default();
        let mut run: Option<Run> = None;
        while let Some(slot) = self.slots.oldest()
            && given.entries < room.entries
        {
            let left = room.bytes.saturating_sub(to.len() - start);
            let Some(entry) = self.slots.get_mut(slot).filter(|_| left > 0) else {
                break;
            };
            let (before, length) = (entry.bytes(), to.len());
            let with_tick = entry.tick.is_some_and(&is_free);
            let line_bytes = self.limits.line_bytes;
            let (lines, is_all) = entry.write(with_tick, line_bytes, left, &mut self.coin, to);
            let (after, sender, source) = (entry.bytes(), entry.sender, entry.source);
            let bytes = to.len() - length;
            given.lines += lines;
            match &mut run {
                Some(run) if run.source == source => {
                    run.lines += lines;
                    run.bytes += bytes;
                }
                other => {
                    if let Some(run) = other.replace(Run {
                        source,
                        lines,
                        bytes,
                    }) {
                        runs(run);
                    }
                }
            }
            entry.lines = entry.lines.saturating_sub(lines);
            self.slots.lines = self.slots.lines.saturating_sub(lines);
            self.slots.recharge(sender, before, after);
            if is_all && let Some(entry) = self.slots.get(slot) {
                given.merged_away += entry.lines;
                given.merged_contexts += u64::from(entry.lines > 0);
                leave(&mut self.index, slot, entry);
                given.entries += 1;
                self.slots.remove(slot);
            }
        }
        if let Some(run) = run {
            runs(run);
        }
        if self.is_empty() {
            self.clear();
        }
        given
    }

    /// How long all that is held is, about, bytes.
    #[must_use]
    pub fn text_bytes(&self) -> usize {
        self.slots.text_bytes()
    }

    /// Lets go of everything, memory too: returns how many lines that were.
    pub fn clear(&mut self) -> u64 {
        self.index = HashTable::new();
        self.period.span = self.limits.tick_seconds;
        let held = std::mem::replace(&mut self.slots, Slots::new(self.limits));
        held.lines
    }
}

/// Takes an entry out of the index.
fn leave(index: &mut HashTable<u32>, slot: u32, entry: &Entry) {
    if !entry.is_alone()
        && let Ok(place) = index.find_entry(entry.hash, |&found| found == slot)
    {
        place.remove();
    }
}
