//! The sending end of a queue: room is reserved, then filled.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::SemaphorePermit;
use tokio::time::timeout;

use super::{Flusher, Shared};
use crate::config::{LineSource, OnFull};
use crate::output::STUCK;
use crate::output::backlog::{OWN, Sender, SenderId};
use crate::telemetry::LineDrop;

/// The sending end, for one source of lines.
pub struct Inlet {
    pub(super) shared: Arc<Shared>,
    pub(super) source: LineSource,
}

impl fmt::Debug for Inlet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inlet")
            .field("source", &self.source)
            .field("room", &self.shared.room.available_permits())
            .finish_non_exhaustive()
    }
}

impl Drop for Inlet {
    fn drop(&mut self) {
        if self.shared.inlets.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.shared.wake.notify_one();
        }
    }
}

impl Inlet {
    /// What makes the output send.
    #[must_use]
    pub fn flusher(&self) -> Flusher {
        Flusher(Arc::clone(&self.shared))
    }

    /// Another sending end, for lines of `source`.
    #[must_use]
    pub fn for_source(&self, source: LineSource) -> Self {
        self.shared.inlets.fetch_add(1, Ordering::AcqRel);
        Self {
            shared: Arc::clone(&self.shared),
            source,
        }
    }

    /// Whether a sender that can wait for room should.
    #[must_use]
    pub fn blocks(&self) -> bool {
        let Shared {
            settings, takes, ..
        } = &*self.shared;
        match settings.on_full {
            OnFull::Block => true,
            OnFull::Merge => takes.load(Ordering::Relaxed) && !settings.waits.now(),
            OnFull::Drop => false,
        }
    }

    /// The longest payload, and so the longest line with its newline.
    #[must_use]
    pub fn payload_limit(&self) -> usize {
        self.shared.settings.shape.limit
    }

    /// What one sender may reserve of these bytes, so that it has not to wait for a queue that
    /// is wholly empty: what else it brings is taken on credit.
    #[must_use]
    pub fn share(&self, bytes: usize) -> usize {
        bytes.min(self.shared.settings.capacity / 2)
    }

    fn permits(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.min(self.shared.settings.capacity)).unwrap_or(u32::MAX)
    }

    /// Waits for room for `bytes`, or for as much as the queue can ever have.
    /// `None` when the output is gone, or, where lines are merged, takes nothing.
    pub async fn reserve(&self, bytes: usize) -> Option<Reservation<'_>> {
        let permits = self.permits(bytes);
        let permit = if self.shared.settings.on_full == OnFull::Block {
            self.shared.room.acquire_many(permits).await
        } else {
            // Apart, as every connection's task would have room for the timer.
            let permit = self.shared.room.acquire_many(permits);
            Box::pin(timeout(STUCK, permit)).await.ok()?
        };
        permit.ok().map(|permit| Reservation {
            inlet: self,
            permit,
        })
    }

    /// Room for `bytes`, if it is there now.
    #[must_use]
    pub fn try_reserve(&self, bytes: usize) -> Option<Reservation<'_>> {
        let permit = self.shared.room.try_acquire_many(self.permits(bytes));
        permit.ok().map(|permit| Reservation {
            inlet: self,
            permit,
        })
    }

    /// No room, but leave to overdraw the queue by `bytes`.
    fn overdraw(&self, bytes: usize) -> Option<Reservation<'_>> {
        let allowed = self.source == LineSource::Collector
            && self.shared.settings.on_full != OnFull::Merge
            && bytes <= self.shared.overdraft(&self.shared.lock());
        allowed.then(|| self.try_reserve(0)).flatten()
    }

    /// Counts lines that found no room.
    pub(super) fn refuse(&self, lines: &[u8], count: u64, reason: LineDrop) {
        self.shared.counters.accepted.add(count);
        self.shared.counters.drop_lines(reason, count, lines.len());
    }

    /// Appends one line of the agent's own without waiting; where there is no room it is
    /// merged.
    pub fn offer(&self, line: &[u8]) {
        self.offer_lines(line, 1, OWN);
    }

    /// Appends `count` lines of a sender, each with its newline, without waiting; where
    /// there is no room they are merged, or counted as dropped.
    pub fn offer_lines(&self, lines: &[u8], count: u64, sender: SenderId) {
        if let Some(mut room) = self.try_reserve(lines.len()) {
            return room.push(lines, count, sender);
        }
        if let Some(mut room) = self.overdraw(lines.len()) {
            return room.push(lines, count, sender);
        }
        if !(self.shared).merge(lines, count, self.from(sender), true) {
            self.refuse(lines, count, self.refusal());
        }
    }

    const fn from(&self, id: SenderId) -> Sender {
        Sender {
            source: self.source,
            id,
        }
    }

    fn refusal(&self) -> LineDrop {
        self.shared.lock().closed.unwrap_or(LineDrop::QueueFull)
    }
}

/// Room in a queue; what is not used goes back when it is dropped.
#[derive(Debug)]
pub struct Reservation<'a> {
    inlet: &'a Inlet,
    permit: SemaphorePermit<'a>,
}

impl Reservation<'_> {
    /// Bytes left of it.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.permit.num_permits()
    }

    /// Appends `count` lines of a sender, each with its newline.
    pub fn push(&mut self, lines: &[u8], count: u64, sender: SenderId) {
        let shared = &*self.inlet.shared;
        if shared.merge(lines, count, self.inlet.from(sender), false) {
            return;
        }
        let encoding = &shared.settings.encoding;
        if encoding.is_identity() {
            self.append(lines, count);
        } else {
            let mut encoded = Vec::with_capacity(lines.len());
            let outcome = encoding.encode(lines, self.inlet.source, &mut encoded);
            if outcome.dropped > 0 {
                self.inlet.refuse(&[], outcome.dropped, LineDrop::Format);
            }
            self.append(&encoded, outcome.lines);
        }
    }

    /// Pays for what is queued. Prefixes and what an encoding adds may go beyond
    /// what was reserved; that much is taken from what is free, and where nothing
    /// is, from what comes free next.
    fn append(&mut self, lines: &[u8], count: u64) {
        if count == 0 {
            return;
        }
        let shared = &*self.inlet.shared;
        let mut state = shared.lock();
        if let Some(reason) = state.closed {
            drop(state);
            self.inlet.refuse(lines, count, reason);
            return;
        }
        let had_sealed = state.has_sealed();
        let appended = state.append(shared.settings.shape, lines, count);
        let paid = appended.bytes.min(self.permit.num_permits());
        if let Some(spent) = self.permit.split(paid) {
            spent.forget();
        }
        let owed = appended.bytes - paid;
        if owed > 0 {
            state.debt += owed - shared.room.forget_permits(owed);
        }
        let wake = (!had_sealed && state.has_sealed())
            || (state.open_since.is_some() && !state.timer_armed);
        // Before the receiver can count them as sent.
        shared.counters.accepted.add(count);
        drop(state);
        if appended.oversized > 0 {
            shared.drop_oversized(appended);
        }
        if wake {
            shared.wake.notify_one();
        }
    }
}
