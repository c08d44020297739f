//! The bounded channel into an output: lines go in, packed payloads come out.
//!
//! Senders append to the payload under construction, so that nothing is copied
//! twice and 900 connections share one buffer. The bound is in bytes, and room
//! is reserved *before* a sender reads what will fill it.
//!
//! Room is handed out in the order it was asked for, so that no sender starves.
//! The agent's own lines never wait; where senders keep the queue full they may
//! overdraw it by a quarter, or a busy relay would take the collector's voice away.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::time::{Instant, Sleep, sleep_until};

use super::format::Encoding;
use super::payload::{Chunk, Shape};
use crate::config::LineSource;
use crate::telemetry::{LineDrop, OutputCounters};

#[cfg(test)]
mod tests;

/// What may wait while the output takes what comes and senders can wait: enough to
/// keep it busy, and little enough to stay in a core's cache.
const STEADY_BYTES: usize = 512 << 10;

/// Chunks kept for reuse by one output.
const SPARE_CHUNKS: usize = 2;

/// The part of the capacity that the agent's own lines may overdraw.
const OVERDRAFT_DIVISOR: usize = 4;

/// How an output's queue is made.
#[derive(Debug)]
pub struct Settings {
    /// Shape of its payloads.
    pub shape: Shape,
    /// Bytes that may wait.
    pub capacity: usize,
    /// The longest that a line waits for company.
    pub flush_interval: Duration,
    /// Whether senders that can wait do so when it is full.
    pub blocks: bool,
    /// How lines are written.
    pub encoding: Encoding,
}

/// Makes a queue: its sending end for the agent's own lines, and its receiving end.
#[must_use]
pub fn queue(settings: Settings, counters: Arc<OutputCounters>) -> (Inlet, Outlet) {
    // Half of what the semaphore can count, since it also counts what is in debt.
    let capacity = settings.capacity.min(Semaphore::MAX_PERMITS / 2);
    let shared = Arc::new(Shared {
        state: Mutex::new(State {
            full: VecDeque::new(),
            tail: Chunk::new(settings.shape),
            open_since: None,
            spare: Vec::new(),
            timer_armed: false,
            debt: 0,
            withheld: 0,
            closed: None,
        }),
        room: Semaphore::new(capacity),
        wake: Notify::new(),
        inlets: AtomicUsize::new(1),
        settings: Settings {
            capacity,
            ..settings
        },
        counters,
    });
    let outlet = Outlet {
        shared: Arc::clone(&shared),
        timer: None,
        is_narrow: false,
    };
    let inlet = Inlet {
        shared,
        source: LineSource::Collector,
    };
    (inlet, outlet)
}

struct Shared {
    state: Mutex<State>,
    /// One permit a byte that may still be queued.
    room: Semaphore,
    wake: Notify,
    inlets: AtomicUsize,
    settings: Settings,
    counters: Arc<OutputCounters>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic of another holder leaves whole lines behind at worst once more.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct State {
    /// Chunks that no further payload fits into.
    full: VecDeque<Chunk>,
    /// The chunk under construction.
    tail: Chunk,
    /// When the first line of the tail's open payload came, if there is one.
    open_since: Option<Instant>,
    spare: Vec<Chunk>,
    /// Whether the receiver's timer will look at the tail by itself.
    timer_armed: bool,
    /// Bytes queued that no permit was there for.
    debt: usize,
    /// Permits that are to be kept back as they come free.
    withheld: usize,
    /// Why nothing more is taken.
    closed: Option<LineDrop>,
}

impl State {
    fn fresh_tail(&mut self, shape: Shape) -> Chunk {
        let fresh = self.spare.pop().unwrap_or_else(|| Chunk::new(shape));
        std::mem::replace(&mut self.tail, fresh)
    }

    /// Packs `count` lines. Returns the bytes that the queue grew by and the lines
    /// that no payload can hold.
    fn append(&mut self, shape: Shape, mut lines: &[u8], mut count: u64) -> (usize, u64) {
        let (mut bytes, mut oversized, mut begun) = (0, 0, false);
        while count > 0 && !lines.is_empty() {
            if self.tail.is_full() {
                let chunk = self.fresh_tail(shape);
                self.full.push_back(chunk);
            }
            let part = self.tail.append(&mut lines, &mut count);
            bytes += part.bytes;
            oversized += part.oversized;
            begun |= part.begun;
        }
        if !self.tail.has_open() {
            self.open_since = None;
        } else if begun {
            self.open_since = Some(Instant::now());
        }
        (bytes, oversized)
    }

    fn has_sealed(&self) -> bool {
        !self.full.is_empty() || self.tail.has_sealed()
    }

    /// The next chunk to send: a full one, else the tail's sealed payloads, else,
    /// if `flush`, what there is.
    fn take(&mut self, shape: Shape, flush: bool) -> Option<Chunk> {
        if let Some(chunk) = self.full.pop_front() {
            return Some(chunk);
        }
        if self.tail.is_empty() || !(flush || self.tail.has_sealed()) {
            return None;
        }
        let mut chunk = self.fresh_tail(shape);
        if flush || !shape.delimiter.keeps_open() {
            chunk.seal();
            self.open_since = None;
        } else {
            chunk.carry_open(&mut self.tail);
        }
        Some(chunk)
    }
}

/// The sending end, for one source of lines.
pub struct Inlet {
    shared: Arc<Shared>,
    source: LineSource,
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
        self.shared.settings.blocks
    }

    fn permits(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.min(self.shared.settings.capacity)).unwrap_or(u32::MAX)
    }

    /// Waits for room for `bytes`, or for as much as the queue can ever have.
    /// `None` when the output is gone.
    pub async fn reserve(&self, bytes: usize) -> Option<Reservation<'_>> {
        let permit = self.shared.room.acquire_many(self.permits(bytes)).await;
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
        let most = self.shared.settings.capacity / OVERDRAFT_DIVISOR;
        let allowed = self.source == LineSource::Collector
            && self.shared.lock().debt.saturating_add(bytes) <= most;
        allowed.then(|| self.try_reserve(0)).flatten()
    }

    /// Counts lines that found no room.
    pub fn refuse(&self, count: u64, reason: LineDrop) {
        self.shared.counters.accepted.add(count);
        self.shared.counters.dropped.add(reason, count);
    }

    /// Appends one line without waiting; counts it as dropped when there is no room.
    pub fn offer(&self, line: &[u8]) {
        self.offer_lines(line, 1);
    }

    /// Appends `count` lines, each with its newline, without waiting; counts them
    /// as dropped when there is no room.
    pub fn offer_lines(&self, lines: &[u8], count: u64) {
        let room = self.try_reserve(lines.len());
        match room.or_else(|| self.overdraw(lines.len())) {
            Some(mut room) => room.push(lines, count),
            None => self.refuse(count, self.refusal()),
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

    /// Appends `count` lines, each with its newline.
    pub fn push(&mut self, lines: &[u8], count: u64) {
        let shared = &*self.inlet.shared;
        let encoding = &shared.settings.encoding;
        if encoding.is_identity() {
            self.append(lines, count);
        } else {
            let mut encoded = Vec::with_capacity(lines.len());
            let outcome = encoding.encode(lines, self.inlet.source, &mut encoded);
            if outcome.dropped > 0 {
                self.inlet.refuse(outcome.dropped, LineDrop::Format);
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
            self.inlet.refuse(count, reason);
            return;
        }
        let had_sealed = state.has_sealed();
        let (bytes, oversized) = state.append(shared.settings.shape, lines, count);
        let paid = bytes.min(self.permit.num_permits());
        if let Some(spent) = self.permit.split(paid) {
            spent.forget();
        }
        let owed = bytes - paid;
        if owed > 0 {
            state.debt += owed - shared.room.forget_permits(owed);
        }
        let wake = (!had_sealed && state.has_sealed())
            || (state.open_since.is_some() && !state.timer_armed);
        // Before the receiver can count them as sent.
        shared.counters.accepted.add(count);
        drop(state);
        if oversized > 0 {
            shared.counters.dropped.add(LineDrop::Oversized, oversized);
        }
        if wake {
            shared.wake.notify_one();
        }
    }
}

/// The receiving end. When it goes, what is still queued is counted as dropped.
pub struct Outlet {
    shared: Arc<Shared>,
    /// Left running when it has no more to wait for: to go off once for nothing is
    /// cheaper than to be set anew for each payload.
    timer: Option<Pin<Box<Sleep>>>,
    /// Whether only [`STEADY_BYTES`] may wait.
    is_narrow: bool,
}

impl fmt::Debug for Outlet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outlet").finish_non_exhaustive()
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        self.close(LineDrop::Shutdown);
    }
}

impl Outlet {
    /// Waits for payloads worth sending: full ones, or what has waited for the
    /// flush interval. `None` when every sender is gone and all was taken. Nothing
    /// is lost when the future is dropped.
    pub async fn recv(&mut self) -> Option<Chunk> {
        loop {
            // Read before the state: a sender pushes before it goes.
            let ended = self.shared.inlets.load(Ordering::Acquire) == 0;
            let deadline = {
                let mut state = self.shared.lock();
                let deadline = state
                    .open_since
                    .map(|since| since + self.shared.settings.flush_interval);
                let due = deadline.is_some_and(|deadline| deadline <= Instant::now());
                if let Some(chunk) = state.take(self.shared.settings.shape, ended || due) {
                    return Some(chunk);
                }
                state.timer_armed = deadline.is_some();
                deadline
            };
            if ended {
                return None;
            }
            let woken = self.shared.wake.notified();
            if let Some(deadline) = deadline {
                let timer = self
                    .timer
                    .get_or_insert_with(|| Box::pin(sleep_until(deadline)));
                if timer.is_elapsed() || timer.deadline() > deadline {
                    timer.as_mut().reset(deadline);
                }
                // Either way the state is looked at again.
                tokio::select! {
                    () = woken => {}
                    () = timer.as_mut() => {}
                }
            } else {
                woken.await;
            }
        }
    }

    /// Gives a chunk's room back once its payloads are sent or given up.
    pub fn release(&mut self, mut chunk: Chunk) {
        let mut state = self.shared.lock();
        let mut free = chunk.bytes();
        let State { debt, withheld, .. } = &mut *state;
        for owed in [debt, withheld] {
            let paid = free.min(*owed);
            *owed -= paid;
            free -= paid;
        }
        self.shared.room.add_permits(free);
        chunk.clear();
        if state.spare.len() < SPARE_CHUNKS {
            state.spare.push(chunk);
        }
    }

    /// What only a narrow queue keeps back.
    fn kept_back(&self) -> usize {
        let Settings {
            capacity, blocks, ..
        } = self.shared.settings;
        if blocks {
            capacity.saturating_sub(STEADY_BYTES)
        } else {
            0
        }
    }

    /// Keeps senders that can wait to what keeps the output busy: to be called while
    /// it takes what comes.
    pub fn narrow(&mut self) {
        if !std::mem::replace(&mut self.is_narrow, true) {
            let reserve = self.kept_back();
            let mut state = self.shared.lock();
            state.withheld += reserve - self.shared.room.forget_permits(reserve);
        }
    }

    /// Lets senders fill the whole queue: to be called when the output is stuck.
    pub fn widen(&mut self) {
        if std::mem::take(&mut self.is_narrow) {
            let reserve = self.kept_back();
            let mut state = self.shared.lock();
            let still_out = reserve.min(state.withheld);
            state.withheld -= still_out;
            self.shared.room.add_permits(reserve - still_out);
        }
    }

    /// Takes what is queued, without waiting, the last lines too.
    pub fn drain(&mut self) -> Option<Chunk> {
        self.shared.lock().take(self.shared.settings.shape, true)
    }

    /// Takes no more lines: what is queued, and what senders still bring, is
    /// counted as dropped for `reason`. Returns the lines that were queued.
    pub fn close(&mut self, reason: LineDrop) -> u64 {
        // First, so that senders who wake see why.
        self.shared.lock().closed.get_or_insert(reason);
        self.shared.room.close();
        let mut lines = 0;
        while let Some(chunk) = self.drain() {
            lines += chunk.lines();
            self.release(chunk);
        }
        self.shared.counters.dropped.add(reason, lines);
        lines
    }
}
