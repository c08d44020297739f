//! The sending ends of several outputs as one.

use std::cell::RefCell;
use std::sync::Arc;

use super::backlog::SenderId;
use super::only::Only;
use super::queue::{Inlet, Reservation};
use super::shards::{Cut, Shards};
use super::turn::Turn;
use crate::telemetry::OutputCounters;

thread_local! {
    /// Where lines are gathered that are not all for an output.
    static GATHERED: RefCell<Vec<u8>> = RefCell::default();
    /// Where they are cut by the output of a group that they belong to.
    static CUT: RefCell<Cut> = RefCell::default();
}

/// The way of one source's lines into one output, or into the outputs of a group.
#[derive(Debug)]
pub struct Branch {
    /// Where they go in.
    pub way: Way,
    /// Which of them do.
    pub only: Arc<Only>,
    /// What counts the others: of a group, its first output's.
    pub counters: Arc<OutputCounters>,
}

/// Where lines go in. A group has an inlet for each output, in its order.
#[derive(Debug)]
pub enum Way {
    /// An output by itself.
    Lone(Inlet),
    /// The output whose turn it is.
    Failover(Vec<Inlet>, Arc<Turn>),
    /// The output that the line's context belongs to.
    Hash(Vec<Inlet>, Arc<Shards>),
}

impl Way {
    fn inlets(&self) -> &[Inlet] {
        match self {
            Self::Lone(inlet) => std::slice::from_ref(inlet),
            Self::Failover(inlets, _) | Self::Hash(inlets, _) => inlets,
        }
    }

    /// The inlet at a group's place, or, which there always is, the first.
    fn at(&self, place: usize) -> Option<&Inlet> {
        let inlets = self.inlets();
        inlets.get(place).or_else(|| inlets.first())
    }

    /// Hands on lines, each with its newline, through the room there is.
    fn push(&self, lines: &[u8], count: u64, sender: SenderId, parts: &mut Parts<'_, '_>) {
        match self {
            Self::Lone(inlet) => put(parts.next(), inlet, lines, count, sender),
            // What there is room for goes there, whoever has the turn meanwhile.
            Self::Failover(_, turn) => match (parts.next(), self.at(turn.present())) {
                (Some(part), _) => {
                    let inlet = part.inlet;
                    put(Some(part), inlet, lines, count, sender);
                }
                (None, Some(inlet)) => put(None, inlet, lines, count, sender),
                (None, None) => {}
            },
            Self::Hash(inlets, shards) => CUT.with_borrow_mut(|cut| {
                let mut inlets = inlets.iter();
                let mut to = 0;
                shards.cut(lines, cut, |place, lines, count| {
                    // Places come in order.
                    let skipped = place - to;
                    to = place + 1;
                    let (inlet, part) = (inlets.nth(skipped), parts.nth(skipped));
                    if let Some(inlet) = inlet {
                        put(part, inlet, lines, count, sender);
                    }
                });
                // The next branch begins behind this one's parts.
                let rest = inlets.len();
                if rest > 0 {
                    parts.nth(rest - 1);
                }
            }),
        }
    }
}

impl Branch {
    /// Hands one line, with its newline, on; to each output that has room.
    fn offer(&self, line: &[u8]) {
        if !self.only.takes(line) {
            self.counters.filtered.add(1);
            return;
        }
        let place = match &self.way {
            Way::Lone(_) => 0,
            Way::Failover(_, turn) => turn.present(),
            Way::Hash(_, shards) => shards.place(line),
        };
        if let Some(inlet) = self.way.at(place) {
            inlet.offer(line);
        }
    }

    /// Hands on what is to go in, whose room comes next among `parts`.
    fn push(&self, lines: &[u8], count: u64, sender: SenderId, parts: &mut Parts<'_, '_>) {
        if self.only.takes_all() {
            return self.way.push(lines, count, sender, parts);
        }
        GATHERED.with_borrow_mut(|gathered| {
            let picked = self.only.pick(lines, count, gathered);
            self.counters.filtered.add(picked.left_out);
            self.way.push(picked.lines, picked.count, sender, parts);
        });
    }
}

/// The sending ends of every output that takes lines of one source.
#[derive(Debug, Default)]
pub struct Fanout {
    branches: Vec<Branch>,
}

impl Fanout {
    /// Over outputs that take every line.
    #[must_use]
    pub fn new(inlets: Vec<Inlet>) -> Self {
        let branch = |inlet| Branch {
            way: Way::Lone(inlet),
            only: Arc::default(),
            counters: Arc::default(),
        };
        Self::of(inlets.into_iter().map(branch).collect())
    }

    /// Over these.
    #[must_use]
    pub fn of(branches: Vec<Branch>) -> Self {
        Self { branches }
    }

    /// And over this one.
    pub fn add(&mut self, branch: Branch) {
        self.branches.push(branch);
    }

    /// Whether no output takes the lines.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.branches.is_empty()
    }

    /// The longest line, with its newline, that every output has a payload for.
    #[must_use]
    pub fn payload_limit(&self) -> usize {
        let inlets = self.branches.iter().flat_map(|branch| branch.way.inlets());
        let limits = inlets.map(Inlet::payload_limit);
        limits.min().unwrap_or(usize::MAX)
    }

    /// Hands one line, with its newline, to each output that takes it and has room.
    /// Never waits.
    pub fn offer(&self, line: &[u8]) {
        for branch in &self.branches {
            branch.offer(line);
        }
    }

    /// No room yet, in any output, for one sender's lines.
    #[must_use]
    pub fn room(&self, sender: SenderId) -> Room<'_> {
        Room {
            fanout: self,
            sender,
            parts: Vec::with_capacity(self.branches.len()),
        }
    }
}

/// Room reserved in every output, for lines about to be read.
#[derive(Debug)]
pub struct Room<'a> {
    fanout: &'a Fanout,
    sender: SenderId,
    /// In the order of the branches: one for each output; for a group whose outputs
    /// take turns, one. Those not yet reached by a refill are missing.
    parts: Vec<Part<'a>>,
}

type Parts<'r, 'a> = std::slice::IterMut<'r, Part<'a>>;

/// Room in one output, if it has any.
#[derive(Debug)]
struct Part<'a> {
    inlet: &'a Inlet,
    room: Option<Reservation<'a>>,
}

fn put(part: Option<&mut Part<'_>>, inlet: &Inlet, lines: &[u8], count: u64, sender: SenderId) {
    if count == 0 {
        return;
    }
    match part.and_then(|part| part.room.as_mut()) {
        Some(room) => room.push(lines, count, sender),
        // What is wanted now may be less than what was asked for.
        None => inlet.offer_lines(lines, count, sender),
    }
}

impl Room<'_> {
    /// Whose lines are pushed.
    #[must_use]
    pub const fn sender(&self) -> SenderId {
        self.sender
    }

    /// What is pushed from now on is another sender's.
    pub const fn turn_to(&mut self, sender: SenderId) {
        self.sender = sender;
    }

    /// Reserves `bytes` in each output: waits where the output asks senders to,
    /// does without where it drops. Returns whether it had to wait. What is
    /// pushed after the future was dropped half way is taken or counted all the same.
    pub async fn refill(&mut self, bytes: usize) -> bool {
        let mut waited = false;
        self.parts.clear();
        for Branch { way, .. } in &self.fanout.branches {
            if let Way::Failover(_, turn) = way {
                let part = reserve_in_turn(way, turn, bytes, &mut waited).await;
                self.parts.extend(part);
                continue;
            }
            for inlet in way.inlets() {
                let bytes = inlet.share(bytes);
                let mut room = inlet.try_reserve(bytes);
                if room.is_none() && inlet.blocks() {
                    waited = true;
                    room = inlet.reserve(bytes).await;
                }
                self.parts.push(Part { inlet, room });
            }
        }
        waited
    }

    /// Hands `count` lines, each with its newline, to every output that takes
    /// them; where there is no room they are counted as dropped.
    pub fn push(&mut self, lines: &[u8], count: u64) {
        let mut parts = self.parts.iter_mut();
        for branch in &self.fanout.branches {
            branch.push(lines, count, self.sender, &mut parts);
        }
    }

    /// Gives back what was not used.
    pub fn release(&mut self) {
        self.parts.clear();
    }
}

/// Reserves `bytes` in the output whose turn it is; and in the next one, if the
/// turn goes over while that has no room.
async fn reserve_in_turn<'a>(
    way: &'a Way,
    turn: &Turn,
    bytes: usize,
    waited: &mut bool,
) -> Option<Part<'a>> {
    loop {
        let mut changed = std::pin::pin!(turn.changed().notified());
        // Before the turn is looked at, so that no change is missed.
        changed.as_mut().enable();
        let inlet = way.at(turn.present())?;
        let bytes = inlet.share(bytes);
        let room = inlet.try_reserve(bytes);
        if room.is_some() || !inlet.blocks() {
            return Some(Part { inlet, room });
        }
        *waited = true;
        tokio::select! {
            biased;
            room = inlet.reserve(bytes) => return Some(Part { inlet, room }),
            () = changed => {}
        }
    }
}

#[cfg(test)]
mod tests;
