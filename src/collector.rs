//! The collector: a thread of its own that follows the kernel's flows by dumps and
//! events, places and counts them, and hands on a finished snapshot at each tick.
//!
//! ```text
//! source ── entries of a dump ──▶ desk ──▶ ledger: each flow begins once and ends once
//! events ── what happened ──────▶   │         │
//!                                   │         ▼
//!             mode ◀── costs, ──────┘       tally ── selector ──▶ snapshot
//!                      overruns
//! ```
//!
//! A dump holds its caller inside the system call for as long as the kernel walks
//! its table, so nothing else runs on this thread.

pub mod command;
mod desk;
mod ending;
pub mod journal;
mod ledger;
mod mode;
mod namespaces;
mod orders;
mod source;
mod table;
mod worker;

use std::future::poll_fn;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc as thread_channel;
use std::task::{Context, Poll};
use std::thread::{self, JoinHandle};

use rustix::event::{EventfdFlags, eventfd};
use tokio::sync::mpsc;
use tracing::{Span, debug, error, warn};

use self::command::Commands;
use self::ending::{Detail, Story};
pub use self::namespaces::Collectors;
pub use self::source::{CollectorError, Look, Sink, Sources};
use self::worker::{Request, Worker};
use crate::config::Config;
use crate::flow::key::KeyHasher;
use crate::flow::{Entry, Flow};
use crate::handover;
use crate::hosts::Hosts;
use crate::hosts::local::{LocalAddresses, LocalWatch};
use crate::report::{Snapshot, Source};
use crate::tally::{RowId, Series, Tally};
use crate::telemetry::CollectorCounters;

/// Flows placed and counted. By itself it takes one look at a source.
#[derive(Debug)]
pub struct Count {
    hosts: Hosts,
    local: LocalAddresses,
    watch: Option<LocalWatch>,
    tally: Tally,
}

impl Count {
    /// An empty count by this configuration.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let watch = match LocalWatch::open() {
            Ok(watch) => Some(watch),
            Err(error) => {
                warn!(%error, "this host's addresses are unknown: only hosts.local counts as local");
                None
            }
        };
        Self {
            hosts: Hosts::new(&config.hosts),
            local: LocalAddresses::new(&config.hosts.local),
            watch,
            tally: Tally::new(config.report.states),
        }
    }

    /// Looks what the host's addresses are now.
    fn refresh(&mut self) {
        if let Some(watch) = &mut self.watch {
            match watch.refresh(&mut self.local) {
                Ok(true) => debug!("this host's addresses changed"),
                Ok(false) => {}
                Err(error) => warn!(%error, "this host's addresses could not be read again"),
            }
        }
    }

    /// The row that a flow counts in, and whether its original way goes to the remote
    /// host; `None` where it does not count.
    fn place(&mut self, flow: &Flow) -> Option<(RowId, bool)> {
        let placement = self.hosts.place(flow, &self.local)?;
        let row = self.tally.row(Series::of(&placement, flow.protocol));
        Some((row, placement.outward))
    }

    /// Counts one flow.
    fn add(&mut self, flow: &Flow) {
        if let Some(placement) = self.hosts.place(flow, &self.local) {
            self.tally.add(&placement, flow);
        }
    }

    /// What was counted.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Who is who.
    #[must_use]
    pub fn hosts(&self) -> &Hosts {
        &self.hosts
    }
}

impl Sink for Count {
    fn begin(&mut self, _source: Source) {
        self.tally.clear();
        self.refresh();
    }

    fn entry(&mut self, entry: &Entry) {
        self.add(&entry.flow);
    }
}

/// One tick, ready to be reported.
#[derive(Debug)]
pub struct Answer {
    /// Where was looked.
    pub source: Source,
    /// What was found.
    pub snapshot: Snapshot,
}

/// The collector's thread, from the outside: asked once a tick, answers when done.
#[derive(Debug)]
pub struct Collector {
    requests: thread_channel::SyncSender<Request>,
    wake: Arc<OwnedFd>,
    answers: mpsc::Receiver<Option<Answer>>,
    busy: bool,
    /// Whether the thread has ended, which only a defect makes it do.
    is_gone: bool,
    leaves: Arc<AtomicBool>,
    thread: Option<JoinHandle<Option<handover::Events>>>,
}

impl Drop for Collector {
    fn drop(&mut self) {
        // The thread looks up, and finds that nobody asks any more.
        let (requests, _) = thread_channel::sync_channel(1);
        self.requests = requests;
        ring(&self.wake);
    }
}

impl Collector {
    /// Opens the sources and starts the thread, both in the network namespace of the
    /// calling thread; it takes commands too. `None` when the source is off.
    ///
    /// # Errors
    /// Fails when a source that the configuration names refuses.
    pub fn start(
        config: &Config,
        commands: Commands,
        keys: KeyHasher,
        counters: Arc<CollectorCounters>,
        left: Option<handover::Events>,
    ) -> Result<Option<Self>, CollectorError> {
        let Some(sources) = Sources::open(&config.collector, Arc::clone(&counters))? else {
            return Ok(None);
        };
        if config.report.traffic || config.report.durations {
            let worker = Worker::<Story>::new(config, sources, commands, keys, counters, left);
            Self::spawn(worker).map(Some)
        } else {
            let worker = Worker::<()>::new(config, sources, commands, keys, counters, left);
            Self::spawn(worker).map(Some)
        }
    }

    fn spawn<D: Detail + Send + 'static>(worker: Worker<D>) -> Result<Self, CollectorError> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| CollectorError::Thread(error.into()))?;
        let wake = Arc::new(wake);
        let (requests, asked) = thread_channel::sync_channel(1);
        let (answer, answers) = mpsc::channel(1);
        let woken = Arc::clone(&wake);
        let span = Span::current();
        let leaves = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&leaves);
        let thread = thread::Builder::new()
            .name("collector".to_owned())
            .spawn(move || span.in_scope(|| worker.run(&woken, &asked, &answer, &told)))
            .map_err(CollectorError::Thread)?;
        Ok(Self {
            leaves,
            thread: Some(thread),
            requests,
            wake,
            answers,
            busy: false,
            is_gone: false,
        })
    }

    /// From now on, the answer that it gives is the last.
    pub fn will_leave(&self) {
        self.leaves.store(true, Ordering::Release);
    }

    /// The events that wait, after the last answer; `None` where the thread has not ended.
    #[must_use]
    pub fn leave(mut self) -> Option<handover::Events> {
        let thread = self.thread.take().filter(|_| !self.busy)?;
        // It ends with the answer that has come.
        thread.join().ok().flatten()
    }

    /// Asks for a snapshot; false when the last one is still being made.
    pub fn ask(&mut self) -> bool {
        if self.busy {
            return false;
        }
        self.busy = self.requests.try_send(Request::Tick).is_ok();
        if self.busy {
            ring(&self.wake);
        } else if !std::mem::replace(&mut self.is_gone, true) {
            error!(
                "the collector's thread has ended: connections are counted no more; restart conntally"
            );
        }
        self.busy
    }

    /// Whether an answer is due.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.busy
    }

    /// What was asked for; `None` when the kernel did not tell.
    pub async fn answer(&mut self) -> Option<Answer> {
        poll_fn(|context| self.poll_answer(context)).await
    }

    fn poll_answer(&mut self, context: &mut Context<'_>) -> Poll<Option<Answer>> {
        self.answers.poll_recv(context).map(|answer| {
            self.busy = false;
            answer.flatten()
        })
    }
}

/// Wakes the thread.
fn ring(wake: &OwnedFd) {
    // Full only when it has been rung often, and then it rings.
    let _rung = rustix::io::write(wake, &1_u64.to_ne_bytes());
}
