//! The bounded channel into an output: lines go in, packed payloads come out.
//!
//! Senders append to the payload under construction, so that nothing is copied
//! twice and 900 connections share one buffer. The bound is in bytes, and room
//! is reserved *before* a sender reads what will fill it.
//!
//! Room is handed out in the order it was asked for, so that no sender starves.
//! The agent's own lines never wait. Where senders keep the queue full they may
//! overdraw it by a quarter, or a busy relay would take the collector's voice away;
//! beyond that they are merged, whatever becomes of the senders' lines.

mod backfill;
mod inlet;
mod merging;
mod outlet;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tracing::warn;

pub use self::backfill::tick_seconds;
pub use self::inlet::{Inlet, Reservation};
use self::merging::Merging;
pub use self::outlet::Outlet;
use super::backlog::{Limits, VALUES_BYTES};
use super::format::Encoding;
use super::payload::{Appended, Chunk, Shape};
use super::throttle::Waits;
use crate::config::{self, LineSource, OnFull};
use crate::log_limit::LogLimit;
use crate::telemetry::{LineDrop, OutputCounters};

/// How an output's queue is made.
#[derive(Debug)]
pub struct Settings {
    /// Shape of its payloads.
    pub shape: Shape,
    /// Bytes that may wait.
    pub capacity: usize,
    /// What may wait of that while the output takes what comes and senders can wait.
    pub steady: usize,
    /// The longest that a line waits for company.
    pub flush_interval: Duration,
    /// What becomes of senders' lines when it is full.
    pub on_full: OnFull,
    /// What may be merged.
    pub backlog: Limits,
    /// Whether what was merged goes with the time that it came in.
    pub backfill: bool,
    /// How long everything is merged before it goes, if it is.
    pub aggregate: Option<Duration>,
    /// How long to rest between two parts of the backlog, where the receiver does not slow
    /// down who sends too fast.
    pub pause: Option<Duration>,
    /// Whether the output is over its rate.
    pub waits: Waits,
    /// How lines are written.
    pub encoding: Encoding,
}

impl Settings {
    /// For payloads of this shape, all else as an output has it by default.
    #[must_use]
    pub fn of(shape: Shape) -> Self {
        let usual = config::Output::default();
        Self {
            shape,
            capacity: usual.queue.as_usize(),
            steady: STEADY_BYTES,
            flush_interval: usual.flush_interval.0,
            on_full: usual.on_full,
            backlog: Limits {
                contexts: usize::try_from(usual.backlog_contexts).unwrap_or(usize::MAX),
                bytes: BACKLOG_BYTES,
                line_bytes: shape.limit.saturating_sub(1),
                values_bytes: VALUES_BYTES,
                tick_seconds: 1,
            },
            backfill: false,
            aggregate: None,
            pause: None,
            waits: Waits::default(),
            encoding: Encoding::new(usual.format, ""),
        }
    }
}

/// What a backlog may hold, bytes: contexts of 300 bytes at their default number.
const BACKLOG_BYTES: usize = 32 << 20;

/// What may wait while the output takes what comes and senders can wait: enough to
/// keep it busy, and little enough to stay in a core's cache, and not to keep a quiet
/// sender's lines behind a flood of others for long.
pub(super) const STEADY_BYTES: usize = 256 << 10;

/// The part of the capacity that the agent's own lines may overdraw.
const OVERDRAFT_DIVISOR: usize = 4;

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
            hurries: false,
            debt: 0,
            withheld: 0,
            merging: Merging::new(&settings),
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
        restocked: None,
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

/// Makes an output send what waits for company. It is no sender: an output whose senders
/// are gone ends, whoever has this.
#[derive(Clone)]
pub struct Flusher(Arc<Shared>);

impl fmt::Debug for Flusher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Flusher").field(&self.0.output).finish()
    }
}

impl Flusher {
    /// All that there is now goes as soon as the receiver and the rate let it, aggregated
    /// lines too.
    pub fn flush(&self) {
        let mut state = self.0.lock();
        state.hurries = true;
        state.merging.hurry();
        drop(state);
        self.0.wake.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic of another holder leaves whole lines behind at worst once more.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues one line of an earlier run as it is.
    fn requeue(&self, line: &[u8]) {
        let mut state = self.lock();
        let appended = state.append(self.settings.shape, line, 1);
        state.debt += appended.bytes - self.room.forget_permits(appended.bytes);
        self.counters.accepted.add(1);
        drop(state);
        if appended.oversized > 0 {
            self.drop_oversized(appended);
        }
    }

    /// Counts lines that no payload can hold, and says so.
    fn drop_oversized(&self, appended: Appended) {
        let lines = appended.oversized;
        // The longest of them stands for all.
        let bytes = appended.longest_oversized * usize::try_from(lines).unwrap_or(1);
        self.counters.drop_lines(LineDrop::Oversized, lines, bytes);
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
    /// Whether what waits for company is to go at once.
    hurries: bool,
    /// Bytes queued that no permit was there for.
    debt: usize,
    /// Permits that are to be kept back as they come free.
    withheld: usize,
    merging: Merging,
    /// Why nothing more is taken.
    closed: Option<LineDrop>,
}

impl State {
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
            done.add(self.tail.append(&mut lines, &mut count));
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
