//! Longer periods instead of more of them: what keeps ticks from filling the backlog.
//!
//! When it is crowded, the periods in which counts and gauges merge become twice as long,
//! and what stands in one then is one. The point in time that is kept of a period is its
//! last tick. So an outage of any length is told in as much detail as there is room for,
//! and costs no count.

use hashbrown::HashTable;

use super::Backlog;
use super::line::Period;

/// Longer than any outage, seconds.
const LONGEST_SPAN: u32 = 1 << 30;

/// How much longer periods become where twice as long was not enough.
const MORE: u32 = 8;

impl Backlog {
    /// Makes periods longer, if it is crowded, until there is room or a context has no
    /// more than one. Whether they are longer now.
    pub(super) fn relieve(&mut self) -> bool {
        if !self.is_fuller_than(3) || self.period.span >= LONGEST_SPAN {
            return false;
        }
        let mut factor = 2;
        while self.is_fuller_than(2) && self.period.span < LONGEST_SPAN {
            self.coarsen(factor);
            factor = MORE;
        }
        true
    }

    /// Whether more is held than so many quarters of what may be.
    fn is_fuller_than(&self, quarters: usize) -> bool {
        self.contexts() > self.limits.contexts / 4 * quarters
            || self.bytes() > self.limits.bytes / 4 * quarters
    }

    fn coarsen(&mut self, factor: u32) {
        let before = self.period;
        self.period = Period {
            span: before.span.saturating_mul(factor).min(LONGEST_SPAN),
        };
        let mut index: HashTable<u32> = HashTable::with_capacity(self.index.len());
        let mut next = self.slots.oldest();
        while let Some(slot) = next {
            next = self.slots.younger(slot);
            let hasher = &self.rules.hasher;
            let Some(entry) = self.slots.get_mut(slot).filter(|entry| !entry.is_alone()) else {
                continue;
            };
            let context = before.mix(entry.hash, entry.tick, hasher);
            entry.hash = self.period.mix(context, entry.tick, hasher);
            let hash = entry.hash;
            let slots = &self.slots;
            let older = slots.get(slot).filter(|entry| entry.tick.is_some());
            let older = older.and_then(|entry| {
                let period = self.period.of(entry.tick);
                index.find(hash, |&other| {
                    slots.get(other).is_some_and(|other| {
                        self.period.of(other.tick) == period
                            && other.context_of().is(&entry.context_of())
                    })
                })
            });
            if !older.is_some_and(|&older| self.slots.fold(slot, older)) {
                index.insert_unique(hash, slot, |&slot| {
                    self.slots.get(slot).map_or(0, |entry| entry.hash)
                });
            }
        }
        self.index = index;
    }
}
