//! One network namespace and its collector, as they come and go.

use std::io;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::time::Instant;
use tracing::{error_span, info, warn};

use crate::collector::{Answer, Collector, CollectorError, command};
use crate::config::Config;
use crate::flow::key::KeyHasher;
use crate::handover;
use crate::log_limit::LogLimit;
use crate::netns::{Identity, Netns};
use crate::report::{Snapshot, Source, TableSize, ZERO_FOR};
use crate::telemetry::CollectorCounters;

/// How often it is said why a namespace that is there again cannot be counted.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);
/// How many lines tell in that time that a namespace came or went.
const MOVES: u32 = 6;
/// For how long a namespace that is gone is told of: until its series have been told as 0
/// for as long as any, and are forgotten.
const FADING: Duration = ZERO_FOR.saturating_add(Duration::from_secs(1));

/// A collector in another namespace, just started, and which namespace that is. `None`
/// where the source is off.
pub(super) type Arrival = Option<(Collector, Identity)>;

/// Where a namespace's collector is.
#[derive(Debug)]
enum Stage {
    /// It counts.
    Counting(Collector),
    /// The namespace's file is gone: the next answer is the last.
    Leaving(Collector),
    /// A thread enters the namespace, and opens there what is to be opened.
    Entering(JoinHandle<Result<Arrival, CollectorError>>),
    /// There is no such namespace.
    Gone,
}

/// One network namespace.
#[derive(Debug)]
pub(super) struct Seat {
    /// `None` for the daemon's own.
    netns: Option<Netns>,
    /// Which namespace is, or was, counted under the name.
    pub(super) identity: Option<Identity>,
    counters: Arc<CollectorCounters>,
    stage: Stage,
    /// Whether this tick's report waits for its answer.
    pub(super) awaited: bool,
    /// Whether its answer is not of this tick.
    late: bool,
    /// When the namespace was found gone, until its zeroes have been told.
    fades: Option<Fade>,
    complaints: LogLimit,
    moves: LogLimit,
}

/// A namespace that is gone, while its series are told as 0.
#[derive(Clone, Copy, Debug)]
struct Fade {
    since: Instant,
    /// Whether the size of its table was told.
    has_table: bool,
}

impl Seat {
    pub(super) fn new(
        netns: Option<Netns>,
        identity: Option<Identity>,
        counters: Arc<CollectorCounters>,
        collector: Collector,
    ) -> Self {
        Self {
            netns,
            identity,
            counters,
            stage: Stage::Counting(collector),
            awaited: false,
            late: false,
            fades: None,
            complaints: LogLimit::new(1, COMPLAIN_EVERY),
            moves: LogLimit::new(MOVES, COMPLAIN_EVERY),
        }
    }

    /// Asks, if there is somebody to ask.
    pub(super) fn ask(&mut self) {
        let (Stage::Counting(collector) | Stage::Leaving(collector)) = &mut self.stage else {
            return;
        };
        let waits = !mem::replace(&mut self.late, collector.is_busy());
        if collector.ask() {
            self.awaited = waits;
        } else {
            self.counters.skipped.add(1);
        }
    }

    /// From now on, the answer that it gives is the last, of the daemon's own namespace.
    pub(super) fn will_leave(&self) {
        if let (None, Stage::Counting(collector)) = (&self.netns, &self.stage) {
            collector.will_leave();
        }
    }

    /// The events that wait for the daemon's own namespace.
    pub(super) fn leave_events(self) -> Option<handover::Events> {
        match (self.netns, self.stage) {
            (None, Stage::Counting(collector)) => collector.leave(),
            _ => None,
        }
    }

    pub(super) fn is_busy(&self) -> bool {
        match &self.stage {
            Stage::Counting(collector) | Stage::Leaving(collector) => collector.is_busy(),
            Stage::Entering(_) | Stage::Gone => false,
        }
    }

    /// Whether the namespace is not, or no more, the one that is counted.
    fn has_left(&self) -> bool {
        self.netns
            .as_ref()
            .is_some_and(|netns| netns.identity() != self.identity)
    }

    /// At a tick: follows the namespace as it comes and goes.
    pub(super) fn follow(&mut self, config: &Arc<Config>) {
        let Some(netns) = self.netns.clone() else {
            return;
        };
        match mem::replace(&mut self.stage, Stage::Gone) {
            Stage::Counting(collector) if self.has_left() => {
                if let Some(suppressed) = self.moves.permit() {
                    info!(%netns, suppressed, "the network namespace is gone: counting nothing of it until it is there again");
                }
                self.stage = Stage::Leaving(collector);
            }
            Stage::Entering(thread) if thread.is_finished() => {
                self.arrive(&netns, joined(thread));
            }
            Stage::Gone if netns.identity().is_some() => {
                match enter(&netns, config, Arc::clone(&self.counters)) {
                    Ok(thread) => self.stage = Stage::Entering(thread),
                    Err(error) => self.complain(&error),
                }
            }
            stage => self.stage = stage,
        }
    }

    /// The thread that entered the namespace is done.
    fn arrive(&mut self, netns: &Netns, arrival: Result<Arrival, CollectorError>) {
        match arrival {
            Ok(None) => {}
            Ok(Some((collector, identity))) => {
                if let Some(suppressed) = self.moves.permit() {
                    info!(%netns, suppressed, "the network namespace is there again: counting its connections");
                }
                self.identity = Some(identity);
                self.fades = None;
                self.stage = Stage::Counting(collector);
            }
            // It went as fast as it came.
            Err(error) if error.is_missing() => {}
            Err(error) => self.complain(&error),
        }
    }

    fn complain(&self, error: &CollectorError) {
        if let Some(suppressed) = self.complaints.permit() {
            warn!(%error, suppressed, "a network namespace that is there again is not counted");
        }
    }

    /// Takes the answer, if it is there: what to tell of the namespace.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Snapshot>> {
        let (Stage::Counting(collector) | Stage::Leaving(collector)) = &mut self.stage else {
            return Poll::Pending;
        };
        if !collector.is_busy() {
            return Poll::Pending;
        }
        collector.poll_answer(context).map(|answer| {
            let snapshot = answer.map(|Answer { source, snapshot }| {
                self.counters.source.set(Some(source));
                Snapshot {
                    netns: self.netns.as_ref().map(|netns| Arc::clone(netns.tag())),
                    ..snapshot
                }
            });
            match self.stage {
                Stage::Leaving(_) => Some(self.leave(snapshot)),
                _ => snapshot,
            }
        })
    }

    /// Lets go of the namespace. What happened in it until now is told, and that nothing
    /// is there.
    fn leave(&mut self, last: Option<Snapshot>) -> Snapshot {
        let fade = Fade {
            since: Instant::now(),
            has_table: self.counters.source.get() == Some(Source::Conntrack),
        };
        self.stage = Stage::Gone;
        self.identity = None;
        self.fades = Some(fade);
        self.counters.rest();
        let mut nothing = self.nothing(fade);
        if let Some(last) = last {
            nothing.connections.activities = last.connections.activities;
            nothing.kernel = last.kernel;
        }
        nothing
    }

    fn nothing(&self, fade: Fade) -> Snapshot {
        Snapshot {
            netns: self.netns.as_ref().map(|netns| Arc::clone(netns.tag())),
            table: fade.has_table.then_some(TableSize {
                entries: 0,
                limit: None,
            }),
            ..Snapshot::default()
        }
    }

    /// What to tell of a namespace that is gone, as long as its series are told as 0.
    pub(super) fn fade(&mut self) -> Option<Snapshot> {
        if matches!(self.stage, Stage::Leaving(_)) && !self.is_busy() {
            // The thread has ended, which only a defect makes it do.
            return Some(self.leave(None));
        }
        let fade = self.fades?;
        if fade.since.elapsed() > FADING {
            self.fades = None;
        }
        Some(self.nothing(fade))
    }
}

/// Starts a collector from a thread that is in the namespace, so that all that it opens
/// and starts is there too.
pub(super) fn enter(
    netns: &Netns,
    config: &Arc<Config>,
    counters: Arc<CollectorCounters>,
) -> Result<JoinHandle<Result<Arrival, CollectorError>>, CollectorError> {
    let (netns, config) = (netns.clone(), Arc::clone(config));
    thread::Builder::new()
        .name("netns".to_owned())
        .spawn(move || {
            // Around errors too, so that no level of the log leaves it out.
            let _named = error_span!("netns", name = &**netns.tag()).entered();
            let identity = netns.enter()?;
            // Nobody commands it.
            let (_, commands) = command::channel().map_err(CollectorError::Thread)?;
            let keys = KeyHasher::default();
            let collector =
                Collector::start(&config, commands, keys, counters, None).map_err(|error| {
                    CollectorError::Within {
                        netns: Arc::clone(netns.tag()),
                        source: Box::new(error),
                    }
                })?;
            Ok(collector.map(|collector| (collector, identity)))
        })
        .map_err(CollectorError::Thread)
}

/// What the thread came back with; waits for it.
pub(super) fn joined(
    thread: JoinHandle<Result<Arrival, CollectorError>>,
) -> Result<Arrival, CollectorError> {
    thread.join().unwrap_or_else(|_| {
        let error = io::Error::other("it ended before it had started");
        Err(CollectorError::Thread(error))
    })
}
