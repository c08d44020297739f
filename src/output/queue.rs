//! The bounded channel into an output: lines go in, packed payloads come out.
//!
//! Senders append to the payload under construction, so that nothing is copied
//! twice and 900 connections share one buffer. The bound is in bytes, and room
//! is reserved *before* a sender reads what will fill it.
//!
//! Room is handed out in the order it was asked for, so that no sender starves.
//! The agent's own lines never wait; where senders keep the queue full they may
//! overdraw it by a quarter, or a busy relay would take the collector's voice away.

mod inlet;
mod outlet;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tracing::warn;

pub use self::inlet::{Inlet, Reservation};
pub use self::outlet::Outlet;
use super::backlog::{Backlog, Limits, Sender};
use super::format::Encoding;
use super::payload::{Appended, Chunk, Shape};
use crate::config::LineSource;
use crate::log_limit::LogLimit;
use crate::telemetry::{LineDrop, OutputCounters};

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
    /// What is merged when it is full, if anything is. Then senders wait only while the
    /// output takes what comes.
    pub backlog: Option<Limits>,
    /// How lines are written.
    pub encoding: Encoding,
}

/// What is taken from the backlog at once: it is queued behind nothing.
const RESTOCK_BYTES: usize = 64 << 10;

/// Of lines that are too long, one message in so long: they come again and again.
const OVERSIZED_LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Makes a queue: its sending end for the agent's own lines, and its receiving end.
#[must_use]
pub fn queue(settings: Settings, counters: Arc<OutputCounters>) -> (Inlet, Outlet) {
    queue_of("", settings, counters)
}

/// Makes the queue of the output that the log knows by this name.
#[must_use]
pub fn queue_of(
    output: &str,
    settings: Settings,
    counters: Arc<OutputCounters>,
) -> (Inlet, Outlet) {
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
            backlog: settings.backlog.map(Backlog::new),
            closed: None,
        }),
        takes: AtomicBool::new(false),
        room: Semaphore::new(capacity),
        wake: Notify::new(),
        inlets: AtomicUsize::new(1),
        output: output.to_owned(),
        oversized_log: LogLimit::new(1, OVERSIZED_LOG_INTERVAL),
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
    /// Whether the output takes what comes.
    takes: AtomicBool,
    inlets: AtomicUsize,
    output: String,
    oversized_log: LogLimit,
    settings: Settings,
    counters: Arc<OutputCounters>,
}

impl Shared {
    /// Hands lines to the backlog, if there is one; or, unless `always`, only if there
    /// is something in it that they must not overtake. Whether that was done.
    fn merge(&self, lines: &[u8], count: u64, source: LineSource, always: bool) -> bool {
        if self.settings.backlog.is_none() {
            return false;
        }
        let mut state = self.lock();
        if state.closed.is_some() || !(always || state.has_backlog()) {
            return false;
        }
        let Some(backlog) = &mut state.backlog else {
            return false;
        };
        let merged = backlog.merge(lines, Sender { source, id: 0 });
        self.counters.accepted.add(count);
        for (reason, lines) in merged.dropped.by_reason() {
            if lines > 0 {
                self.counters.dropped.add(reason, lines);
            }
        }
        drop(state);
        self.wake.notify_one();
        true
    }

    /// Moves a chunk's worth of the backlog behind what is queued, where nothing is that
    /// could go before.
    fn restock(&self, state: &mut State) -> Appended {
        let mut done = Appended::default();
        let Some(backlog) = &mut state.backlog else {
            return done;
        };
        if backlog.is_empty() || !state.full.is_empty() || state.tail.has_sealed() {
            return done;
        }
        let (mut lines, mut runs) = (Vec::new(), Vec::new());
        let given = backlog.drain(RESTOCK_BYTES, &mut lines, |run| runs.push(run));
        self.counters.merged.add(given.merged_away);
        let mut rest = &*lines;
        for run in runs {
            let Some((text, after)) = rest.split_at_checked(run.bytes) else {
                break;
            };
            rest = after;
            let mut encoded = Vec::new();
            let (text, count) = if self.settings.encoding.is_identity() {
                (text, run.lines)
            } else {
                let outcome = self
                    .settings
                    .encoding
                    .encode(text, run.source, &mut encoded);
                self.counters.dropped.add(LineDrop::Format, outcome.dropped);
                // One line may become several.
                let more = (outcome.lines + outcome.dropped).saturating_sub(run.lines);
                self.counters.accepted.add(more);
                (&*encoded, outcome.lines)
            };
            let part = state.append(self.settings.shape, text, count);
            done.bytes += part.bytes;
            done.oversized += part.oversized;
            done.longest_oversized = done.longest_oversized.max(part.longest_oversized);
        }
        state.debt += done.bytes - self.room.forget_permits(done.bytes);
        done
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic of another holder leaves whole lines behind at worst once more.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts lines that no payload can hold, and says so.
    fn drop_oversized(&self, appended: Appended) {
        let lines = appended.oversized;
        self.counters.dropped.add(LineDrop::Oversized, lines);
        if let Some(suppressed) = self.oversized_log.permit_of(lines) {
            warn!(
                output = %self.output,
                lines,
                line_bytes = appended.longest_oversized,
                max_payload = self.settings.shape.limit,
                suppressed,
                "dropped a line longer than max_payload"
            );
        }
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
    /// What found no room, and what came behind that: while anything is in it, all
    /// lines go there, so that none overtakes an older one of its context.
    backlog: Option<Backlog>,
    /// Why nothing more is taken.
    closed: Option<LineDrop>,
}

impl State {
    fn has_backlog(&self) -> bool {
        self.backlog
            .as_ref()
            .is_some_and(|backlog| !backlog.is_empty())
    }

    fn fresh_tail(&mut self, shape: Shape) -> Chunk {
        let fresh = self.spare.pop().unwrap_or_else(|| Chunk::new(shape));
        std::mem::replace(&mut self.tail, fresh)
    }

    /// Packs `count` lines.
    fn append(&mut self, shape: Shape, mut lines: &[u8], mut count: u64) -> Appended {
        let mut done = Appended::default();
        while count > 0 && !lines.is_empty() {
            if self.tail.is_full() {
                let chunk = self.fresh_tail(shape);
                self.full.push_back(chunk);
            }
            let part = self.tail.append(&mut lines, &mut count);
            done.bytes += part.bytes;
            done.oversized += part.oversized;
            done.longest_oversized = done.longest_oversized.max(part.longest_oversized);
            done.begun |= part.begun;
        }
        if !self.tail.has_open() {
            self.open_since = None;
        } else if done.begun {
            self.open_since = Some(Instant::now());
        }
        done
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
