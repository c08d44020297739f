//! The collector: a thread of its own that asks a source for the flows of a tick,
//! places and counts them, and hands on a finished snapshot.
//!
//! A dump holds its caller inside the system call for as long as the kernel walks
//! its table, so nothing else runs on this thread.

mod source;

use std::sync::Arc;
use std::sync::mpsc as thread_channel;
use std::thread;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

pub use self::source::{CollectorError, Look, Sources};
use crate::config::Config;
use crate::flow::Flow;
use crate::hosts::Hosts;
use crate::hosts::local::{LocalAddresses, LocalWatch};
use crate::hosts::select::Selector;
use crate::report::{Snapshot, Source, TableSize};
use crate::tally::Tally;
use crate::telemetry::CollectorCounters;

/// Flows placed and counted: what one look at a source comes to.
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

    /// Starts over, by the host's present addresses.
    pub fn begin(&mut self) {
        self.tally.clear();
        if let Some(watch) = &mut self.watch {
            match watch.refresh(&mut self.local) {
                Ok(true) => debug!("this host's addresses changed"),
                Ok(false) => {}
                Err(error) => warn!(%error, "this host's addresses could not be read again"),
            }
        }
    }

    /// Counts one flow.
    pub fn add(&mut self, flow: &Flow) {
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

/// One look, ready to be reported.
#[derive(Debug)]
pub struct Answer {
    /// Where it was taken.
    pub source: Source,
    /// What was found.
    pub snapshot: Snapshot,
}

/// The collector's thread, from the outside: asked once a tick, answers when done.
#[derive(Debug)]
pub struct Collector {
    requests: thread_channel::SyncSender<()>,
    answers: mpsc::Receiver<Option<Answer>>,
    busy: bool,
    /// Whether the thread has ended, which only a defect makes it do.
    is_gone: bool,
}

impl Collector {
    /// Opens the sources and starts the thread. `None` when the source is off.
    ///
    /// # Errors
    /// Fails when a source that the configuration names refuses.
    pub fn start(
        config: &Config,
        counters: Arc<CollectorCounters>,
    ) -> Result<Option<Self>, CollectorError> {
        let Some(sources) = Sources::open(&config.collector, counters)? else {
            return Ok(None);
        };
        let mut worker = Worker {
            sources,
            count: Count::new(config),
            selector: Selector::new(config.hosts.max),
            asks_kernel: config.report.table,
            failing: false,
        };
        let (requests, asked) = thread_channel::sync_channel(1);
        let (answer, answers) = mpsc::channel(1);
        thread::Builder::new()
            .name("collector".to_owned())
            .spawn(move || {
                while let Ok(()) = asked.recv() {
                    if answer.blocking_send(worker.answer()).is_err() {
                        break;
                    }
                }
            })
            .map_err(CollectorError::Thread)?;
        Ok(Some(Self {
            requests,
            answers,
            busy: false,
            is_gone: false,
        }))
    }

    /// Asks for a snapshot; false when the last one is still being made.
    pub fn ask(&mut self) -> bool {
        if self.busy {
            return false;
        }
        self.busy = self.requests.try_send(()).is_ok();
        if !self.busy && !std::mem::replace(&mut self.is_gone, true) {
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
        let answer = self.answers.recv().await;
        self.busy = false;
        answer.flatten()
    }
}

/// What the thread keeps from tick to tick.
struct Worker {
    sources: Sources,
    count: Count,
    selector: Selector,
    /// Whether the kernel's own counters are reported.
    asks_kernel: bool,
    /// Whether the last look failed: only the first of a row is logged.
    failing: bool,
}

impl Worker {
    fn answer(&mut self) -> Option<Answer> {
        let look = match self.sources.look(&mut self.count) {
            Ok(look) => look,
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    warn!(%error, "this tick counts no connections");
                }
                return None;
            }
        };
        if std::mem::take(&mut self.failing) {
            info!("connections are counted again");
        }
        let kernel = if self.asks_kernel {
            self.sources.kernel_counters()
        } else {
            Vec::new()
        };
        let connections =
            self.selector
                .select(self.count.tally(), self.count.hosts(), Instant::now());
        self.count.tally.settle();
        Some(Answer {
            source: look.source,
            snapshot: Snapshot {
                netns: None,
                connections,
                table: look.table.map(|table| TableSize {
                    entries: u64::from(table.entries),
                    limit: Some(u64::from(table.limit)),
                }),
                kernel,
            },
        })
    }
}
