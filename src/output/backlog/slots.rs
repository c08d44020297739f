//! Where entries lie, in which order, and who holds how much.
//!
//! Entries are numbered places in one vector, linked by age twice: all of them,
//! and each sender's. When there is no room, a sender that would still have no
//! more than its share (the limit by the senders that hold something) takes the
//! place of the youngest entry of the sender that holds most; any other is refused.
//! Beyond [`MOST_SENDERS`], newcomers share with one that is there, by the hash of who
//! they are (stochastic fairness, as in `tc-sfq(8)`).
//! The agent's own lines are one more sender, outside of the shares: a tenth of
//! the room is theirs, and what is left free besides.

use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use super::entry::Entry;
use super::{Dropped, Limits, Sender, SenderId};
use crate::config::LineSource;
use crate::telemetry::LineDrop;

const NONE: u32 = u32::MAX;

/// The sender that the agent is itself.
const OWN: usize = 0;

/// Of what is limited: entries, those among them that never merge, bytes.
pub(super) type Sizes = [usize; 3];

const UNMERGED: usize = 1;

/// A slot, an eighth of them in reserve, its place in the index (at most 16/7
/// places of 5 bytes), and in the list of free ones, which may be twice as long.
const SLOT_BYTES: usize = size_of::<Option<Entry>>() / 8 * 9 + 12 + 8;

/// Senders told apart, as many as a listener takes connections by default: whoever can
/// forge addresses, or fork, could be any number, and each makes looking for who holds most
/// take longer.
const MOST_SENDERS: usize = 1024;

/// A sender: its holding, and its place in the index, each with room to grow.
const SENDER_BYTES: usize = 2 * size_of::<Holding>() + 5 * size_of::<(SenderId, u32)>() / 2;

/// The neighbours by age.
#[derive(Clone, Copy, Debug)]
pub(super) struct Links {
    older: u32,
    younger: u32,
}

impl Default for Links {
    fn default() -> Self {
        Self {
            older: NONE,
            younger: NONE,
        }
    }
}

/// What one sender holds.
#[derive(Debug)]
struct Holding {
    /// Not of the agent itself.
    id: SenderId,
    sizes: Sizes,
    /// Its youngest context, and its youngest line that never merges.
    youngest: [u32; 2],
}

impl Holding {
    const fn new(id: SenderId) -> Self {
        Self {
            id,
            sizes: [0; 3],
            youngest: [NONE; 2],
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Slots {
    limits: Sizes,
    entries: Vec<Option<Entry>>,
    free: Vec<u32>,
    oldest: u32,
    youngest: u32,
    holdings: Vec<Holding>,
    free_holdings: Vec<u32>,
    senders: HashMap<SenderId, u32, RandomState>,
    /// What all of them hold.
    total: Sizes,
    /// Lines that all entries stand for.
    pub(super) lines: u64,
}

impl Slots {
    pub(super) fn new(limits: Limits) -> Self {
        let contexts = limits.contexts.min(NONE as usize - 1);
        Self {
            limits: [contexts, (contexts / 10).max(1), limits.bytes],
            entries: Vec::new(),
            free: Vec::new(),
            oldest: NONE,
            youngest: NONE,
            holdings: vec![Holding::new(super::OWN)],
            free_holdings: Vec::new(),
            senders: HashMap::default(),
            total: [0; 3],
            lines: 0,
        }
    }

    pub(super) const fn sizes(&self) -> Sizes {
        self.total
    }

    pub(super) fn get(&self, slot: u32) -> Option<&Entry> {
        self.entries.get(slot as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, slot: u32) -> Option<&mut Entry> {
        self.entries.get_mut(slot as usize)?.as_mut()
    }

    pub(super) const fn oldest(&self) -> Option<u32> {
        if self.oldest == NONE {
            None
        } else {
            Some(self.oldest)
        }
    }

    pub(super) fn text_bytes(&self) -> usize {
        self.entries.iter().flatten().map(Entry::text_bytes).sum()
    }

    /// Puts an entry behind all others. `gone` is shown what gave way to it.
    ///
    /// # Errors
    /// If there is no room, and none to be made.
    pub(super) fn insert(
        &mut self,
        mut entry: Entry,
        from: Sender,
        dropped: &mut Dropped,
        gone: impl FnMut(u32, &Entry),
    ) -> Result<u32, LineDrop> {
        let before = self.senders.len();
        let sender = self.sender(from);
        let is_new = self.senders.len() > before;
        let mut need = [1, usize::from(entry.is_alone()), SLOT_BYTES + entry.bytes()];
        if is_new {
            need[2] += SENDER_BYTES;
        }
        if let Err(reason) = self.make_room(sender, need, dropped, gone) {
            self.forget(sender);
            return Err(reason);
        }
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => self.push_slot().ok_or(LineDrop::BacklogFull)?,
        };
        self.count(sender, need, true);
        self.lines += entry.lines;
        entry.sender = sender;
        entry.queue.older = std::mem::replace(&mut self.youngest, slot);
        let list = usize::from(entry.is_alone());
        if let Some(holding) = self.holdings.get_mut(sender as usize) {
            entry.own.older = std::mem::replace(&mut holding.youngest[list], slot);
        }
        let (before, own_before) = (entry.queue.older, entry.own.older);
        match self.get_mut(before) {
            Some(before) => before.queue.younger = slot,
            None => self.oldest = slot,
        }
        if let Some(before) = self.get_mut(own_before) {
            before.own.younger = slot;
        }
        if let Some(place) = self.entries.get_mut(slot as usize) {
            *place = Some(entry);
        }
        Ok(slot)
    }

    fn push_slot(&mut self) -> Option<u32> {
        let slot = u32::try_from(self.entries.len()).ok()?;
        if self.entries.len() == self.entries.capacity() {
            self.entries.reserve_exact(self.entries.len() / 8 + 16);
        }
        self.entries.push(None);
        Some(slot)
    }

    pub(super) fn remove(&mut self, slot: u32) -> Option<Entry> {
        let entry = self.entries.get_mut(slot as usize)?.take()?;
        self.free.push(slot);
        let Links { older, younger } = entry.queue;
        match self.get_mut(older) {
            Some(older) => older.queue.younger = younger,
            None => self.oldest = younger,
        }
        match self.get_mut(younger) {
            Some(younger) => younger.queue.older = older,
            None => self.youngest = older,
        }
        let Links { older, younger } = entry.own;
        if let Some(older) = self.get_mut(older) {
            older.own.younger = younger;
        }
        match self.get_mut(younger) {
            Some(younger) => younger.own.older = older,
            None => {
                if let Some(holding) = self.holdings.get_mut(entry.sender as usize) {
                    holding.youngest[usize::from(entry.is_alone())] = older;
                }
            }
        }
        let had = [1, usize::from(entry.is_alone()), SLOT_BYTES + entry.bytes()];
        self.count(entry.sender, had, false);
        self.lines -= entry.lines;
        self.forget(entry.sender);
        Some(entry)
    }

    /// The next younger one.
    pub(super) fn younger(&self, slot: u32) -> Option<u32> {
        let younger = self.get(slot)?.queue.younger;
        (younger != NONE).then_some(younger)
    }

    /// Puts a younger entry into an older one of its context and period. Whether they added
    /// up.
    pub(super) fn fold(&mut self, younger: u32, older: u32) -> bool {
        let united = self.get(older).zip(self.get(younger));
        let Some(united) = united.and_then(|(older, younger)| older.united(younger)) else {
            return false;
        };
        let Some(younger) = self.remove(younger) else {
            return false;
        };
        let Some(entry) = self.get_mut(older) else {
            return false;
        };
        let (sender, before, lines) = (entry.sender, entry.bytes(), younger.lines);
        entry.unite_with(younger, united);
        let after = entry.bytes();
        self.lines += lines;
        self.recharge(sender, before, after);
        true
    }

    /// An entry takes another number of bytes now.
    pub(super) fn recharge(&mut self, sender: u32, before: usize, after: usize) {
        if after >= before {
            self.count(sender, [0, 0, after - before], true);
        } else {
            self.count(sender, [0, 0, before - after], false);
        }
    }

    fn count(&mut self, sender: u32, sizes: Sizes, is_more: bool) {
        let holding = self.holdings.get_mut(sender as usize);
        let counts = holding.map(|holding| &mut holding.sizes);
        for counts in counts.into_iter().chain([&mut self.total]) {
            for (count, size) in counts.iter_mut().zip(sizes) {
                *count = if is_more {
                    *count + size
                } else {
                    count.saturating_sub(size)
                };
            }
        }
    }

    fn sender(&mut self, from: Sender) -> u32 {
        if from.source == LineSource::Collector {
            return 0;
        }
        if let Some(&sender) = self.senders.get(&from.id) {
            return sender;
        }
        if self.senders.len() >= MOST_SENDERS {
            let place = self.senders.hasher().hash_one(from.id) % MOST_SENDERS as u64;
            // The places behind the agent's own, all of them in use.
            return u32::try_from(place + 1).unwrap_or(1);
        }
        let holding = Holding::new(from.id);
        let sender = match self.free_holdings.pop() {
            Some(sender) => sender,
            None => u32::try_from(self.holdings.len()).unwrap_or(0),
        };
        match self.holdings.get_mut(sender as usize) {
            Some(place) => *place = holding,
            None => self.holdings.push(holding),
        }
        self.senders.insert(from.id, sender);
        sender
    }

    /// Forgets a sender that holds nothing.
    fn forget(&mut self, sender: u32) {
        if sender == 0 {
            return;
        }
        let Some(holding) = self.holdings.get(sender as usize) else {
            return;
        };
        let [entries, _, bytes] = holding.sizes;
        if entries == 0 {
            self.senders.remove(&holding.id);
            self.free_holdings.push(sender);
            self.count(sender, [0, 0, bytes], false);
        }
    }

    /// Makes room for what a sender brings.
    ///
    /// # Errors
    /// If there is none, and it has its share.
    pub(super) fn make_room(
        &mut self,
        sender: u32,
        need: Sizes,
        dropped: &mut Dropped,
        mut gone: impl FnMut(u32, &Entry),
    ) -> Result<(), LineDrop> {
        while let Some((measure, victim)) = self.shortage(sender, need) {
            let evicted = victim
                .and_then(|victim| self.holdings.get(victim))
                .and_then(|holding| {
                    let [context, unmerged] = holding.youngest;
                    let one = if measure == UNMERGED || context == NONE {
                        unmerged
                    } else {
                        context
                    };
                    (one != NONE).then_some(one)
                });
            let Some(slot) = evicted else {
                return Err(match measure {
                    UNMERGED => LineDrop::BacklogUnmerged,
                    _ => LineDrop::BacklogFull,
                });
            };
            if let Some(entry) = self.get(slot) {
                gone(slot, entry);
            }
            if let Some(entry) = self.remove(slot) {
                dropped.evicted += entry.lines;
                dropped.bytes += entry.lines * entry.text.len() as u64;
            }
        }
        Ok(())
    }

    /// What there is not enough of, if there is not, and who is to give way, if
    /// anyone.
    fn shortage(&self, sender: u32, need: Sizes) -> Option<(usize, Option<usize>)> {
        let own = self.holdings.first().map_or([0; 3], |own| own.sizes);
        for (measure, &limit) in self.limits.iter().enumerate() {
            let of = |sizes: Sizes| sizes.get(measure).copied().unwrap_or(0);
            let (need, total, own) = (of(need), of(self.total), of(own));
            if need == 0 {
                continue;
            }
            let relayed = limit - limit / 10;
            if sender as usize != OWN && total - own + need > relayed {
                return Some((measure, self.fattest(measure, sender, need, relayed)));
            }
            if total + need > limit {
                // Relayed lines have no more than theirs, so the agent's have.
                return Some((measure, (sender as usize != OWN).then_some(OWN)));
            }
        }
        None
    }

    /// Who holds most, if this sender would have no more than its share.
    fn fattest(&self, measure: usize, sender: u32, need: usize, limit: usize) -> Option<usize> {
        let of = |holding: &Holding| holding.sizes.get(measure).copied().unwrap_or(0);
        let mine = self.holdings.get(sender as usize).map_or(0, of);
        if mine + need > limit / self.senders.len().max(1) {
            return None;
        }
        let relayed = self.holdings.iter().enumerate().skip(OWN + 1);
        let (victim, holding) = relayed.max_by_key(|(_, holding)| of(holding))?;
        (of(holding) > mine && victim != sender as usize).then_some(victim)
    }
}
