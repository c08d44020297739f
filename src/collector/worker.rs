//! The collector's thread: it waits for events, for the tick and for the time of the
//! next dump, and serves whichever comes first.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc as thread_channel;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{info, warn};

use super::command::Commands;
use super::desk::{Desk, Drained, Drift};
use super::ending::Detail;
use super::source::Sources;
use super::{Answer, CollectorError};
use crate::config::Config;
use crate::conntrack::TableSize;
use crate::flow::key::KeyHasher;
use crate::handover;
use crate::report::Source;
use crate::telemetry::CollectorCounters;

/// How long events gather before they are read: fewer wakes, and time for the buffer.
const NAP: Duration = Duration::from_millis(20);
/// What an event takes of the socket's buffer, and how many of them may come in a
/// second: what makes the nap shorter where the buffer is small.
const EVENT_BYTES: usize = 1280;
const EVENTS_PER_MILLISECOND: usize = 250;
/// How often it is looked whether too much is listened to.
const SECOND: Duration = Duration::from_secs(1);
/// After a loss the next dump waits for so many times what the last one took; so many
/// where it looks as if much was lost, and so many where as if anything was, which is
/// the share of the time that dumps may take anyway.
const BREATH: u32 = 10;
const LONG_BREATH: u32 = 50;
const LONGEST_BREATH: u32 = 200;

/// What the thread is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Request {
    /// An answer, now that a tick is over.
    Tick,
}

/// What the thread keeps from tick to tick.
#[derive(Debug)]
pub(super) struct Worker<D> {
    pub(super) sources: Sources,
    pub(super) desk: Desk<D>,
    commands: Commands,
    /// Whether it was told to read nothing.
    pub(super) paused: bool,
    /// Whether the kernel's own counters are reported.
    asks_kernel: bool,
    /// Whether the last look failed: only the first of a row is logged.
    failing: bool,
    pub(super) last: Option<Last>,
}

/// The last dump.
#[derive(Clone, Copy, Debug)]
pub(super) struct Last {
    pub(super) source: Source,
    pub(super) ended: Instant,
    pub(super) took: Duration,
    pub(super) table: Option<TableSize>,
    /// How far the table has gone another way since than the flows that are followed.
    drift: Drift,
}

impl<D: Detail> Worker<D> {
    pub(super) fn new(
        config: &Config,
        sources: Sources,
        commands: Commands,
        keys: KeyHasher,
        counters: Arc<CollectorCounters>,
        left: Option<handover::Events>,
    ) -> Self {
        let mut desk = Desk::new(config, keys, counters);
        desk.go_on(left);
        Self {
            sources,
            desk,
            commands,
            paused: false,
            asks_kernel: config.report.table,
            failing: false,
            last: None,
        }
    }

    /// Serves until nobody asks any more, or, once it `leaves`, until it has answered: then it
    /// leaves the events that wait. `wake` becomes readable with each request.
    pub(super) fn run(
        mut self,
        wake: &OwnedFd,
        asked: &thread_channel::Receiver<Request>,
        answers: &mpsc::Sender<Option<Answer>>,
        leaves: &AtomicBool,
    ) -> Option<handover::Events> {
        let mut naps_until = None;
        let mut next_second = Instant::now() + SECOND;
        let mut more = false;
        loop {
            let now = Instant::now();
            let mut until = if more { now } else { next_second };
            if let Some(due) = self.due() {
                until = until.min(due);
            }
            let listens = match naps_until {
                Some(end) if now < end => {
                    until = until.min(end);
                    false
                }
                _ => true,
            };
            self.wait(wake, listens, until);
            loop {
                match asked.try_recv() {
                    Ok(Request::Tick) => {
                        // What is read after that would be told to nobody.
                        let is_last = leaves.load(Ordering::Acquire);
                        let answer = self.tick();
                        let left = if is_last { self.desk.leave() } else { None };
                        if answers.blocking_send(answer).is_err() || is_last {
                            return left;
                        }
                    }
                    Err(thread_channel::TryRecvError::Empty) => break,
                    Err(thread_channel::TryRecvError::Disconnected) => return None,
                }
            }
            while let Some(command) = self.commands.take() {
                self.obey(command);
            }
            let drained = self.desk.drain();
            more = drained == Drained::Partly;
            let now = Instant::now();
            // Where one event came, others follow.
            let nap = self.nap().filter(|_| drained == Drained::Wholly);
            naps_until = nap.map(|nap| now + nap);
            if next_second <= now {
                next_second = now + SECOND;
                if !self.paused {
                    self.desk.second(now);
                }
                self.desk.journal.expire(now);
                self.desk.watch_ends();
            }
            if self.due().is_some_and(|due| due <= now) {
                // A failure is said there; the next attempt is the next tick's.
                let _shown = self.look();
            }
        }
    }

    /// When the next dump is due without a tick: never where each tick makes one.
    pub(super) fn due(&self) -> Option<Instant> {
        let last = self.last.filter(|_| !self.paused)?;
        if last.source != Source::Conntrack || !self.desk.is_current() {
            return None;
        }
        let mut after = self.desk.pace.resync_after()?;
        match last.drift {
            Drift::None => {}
            Drift::Small => after = after.min(SECOND.max(last.took * LONGEST_BREATH)),
            Drift::Large => after = after.min(SECOND.max(last.took * LONG_BREATH)),
        }
        if self.desk.has_lost() {
            after = after.min(SECOND.max(last.took * BREATH));
        }
        Some(last.ended + after)
    }

    /// How long events may gather: not so long that the buffer fills.
    fn nap(&self) -> Option<Duration> {
        let events = self.desk.events.as_ref()?;
        let fills_in = events.buffer_bytes() / EVENT_BYTES / EVENTS_PER_MILLISECOND / 2;
        let fills_in = Duration::from_millis(u64::try_from(fills_in).unwrap_or(u64::MAX));
        Some(NAP.min(fills_in)).filter(|nap| !nap.is_zero())
    }

    /// Waits for a request, for events if it `listens`, or for the time.
    fn wait(&self, wake: &OwnedFd, listens: bool, until: Instant) {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).ok();
        let wake_fd = PollFd::new(wake, PollFlags::IN);
        let commands = PollFd::new(&self.commands, PollFlags::IN);
        let _woken = match self.desk.events.as_ref().filter(|_| listens) {
            Some(events) => {
                let events = events.as_fd();
                let events = PollFd::from_borrowed_fd(events, PollFlags::IN);
                poll(&mut [wake_fd, commands, events], timeout.as_ref())
            }
            None => poll(&mut [wake_fd, commands], timeout.as_ref()),
        };
        // An interrupted wait is a short one.
        let mut taken = [0; 8];
        let _count = rustix::io::read(wake, &mut taken);
    }

    /// The answer of a tick, from a dump where events do not tell enough.
    fn tick(&mut self) -> Option<Answer> {
        self.desk.catch_up();
        let tracks = |last: &Last| last.source == Source::Conntrack;
        let rests = self.last.filter(tracks).is_some_and(|last| {
            self.desk
                .pace
                .resync_after()
                .is_some_and(|after| last.ended.elapsed() < after)
        });
        let knows = self.desk.is_current() || rests && self.desk.is_known();
        if !knows && !self.paused {
            self.look().ok()?;
        }
        let last = self.last?;
        let table = match last.source {
            Source::Conntrack => self.sources.table().or(last.table),
            _ => last.table,
        };
        let drift = table.map_or(Drift::None, |table| self.desk.drift(table.entries));
        self.last = Some(Last { drift, ..last });
        let kernel = if self.asks_kernel {
            self.sources.kernel_counters()
        } else {
            Vec::new()
        };
        Some(self.desk.answer(last.source, table, kernel))
    }

    /// Makes a dump; another where there are more flows than may be followed.
    pub(super) fn look(&mut self) -> Result<(), CollectorError> {
        loop {
            self.desk.prepare();
            let begun = Instant::now();
            let look = self.sources.look(&mut self.desk);
            let look = look.inspect_err(|error| {
                self.desk.abandon();
                if !std::mem::replace(&mut self.failing, true) {
                    warn!(%error, "this tick counts no connections");
                }
            })?;
            if std::mem::take(&mut self.failing) {
                info!("connections are counted again");
            }
            let ended = Instant::now();
            let took = ended.duration_since(begun);
            let was_crowded = self.desk.is_crowded();
            self.desk.conclude(&look, took, ended);
            self.last = Some(Last {
                source: look.source,
                ended,
                took,
                table: look.table,
                drift: Drift::None,
            });
            if self.desk.is_crowded() == was_crowded {
                return Ok(());
            }
        }
    }
}
