//! Which source is read: connection tracking, sockets, or whichever tells more.

use std::sync::Arc;

use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::config::{self, SourceChoice};
use crate::conntrack::{Conntrack, ConntrackError, KernelCounters, Step, TableSize};
use crate::flow::{Details, Entry};
use crate::netns::NetnsError;
use crate::report::Source;
use crate::sockets::{Sockets, SocketsError};
use crate::telemetry::{CollectError, CollectorCounters};

/// The rule that makes the kernel track connections: any rule that looks at their
/// state does.
const TRACKING_RULE: &str = "nft 'add table inet conntally; \
     add chain inet conntally track { type filter hook input priority 0; }; \
     add rule inet conntally track ct state new counter'";

/// A table that had entries is taken at its word for so many empty looks; then the
/// rules that made it track may be gone.
const PATIENCE: u32 = 6;

/// A dump that the table changed under is made once more, not for ever.
const DUMP_ATTEMPTS: usize = 2;

/// Why no source can be read.
#[derive(Debug, thiserror::Error)]
pub enum CollectorError {
    /// Connection tracking was asked for, or failed.
    #[error(transparent)]
    Conntrack(#[from] ConntrackError),
    /// The sockets could not be listed.
    #[error(transparent)]
    Sockets(#[from] SocketsError),
    /// A network namespace could not be entered.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// Nothing can be read in a network namespace.
    #[error("in the network namespace {netns}: {source}")]
    Within {
        /// What it is called.
        netns: Arc<str>,
        /// Why.
        source: Box<CollectorError>,
    },
    /// The collector's thread could not be started.
    #[error("cannot start the collector's thread: {0}")]
    Thread(#[source] std::io::Error),
}

impl CollectorError {
    /// Whether a capability is what is missing.
    #[must_use]
    pub fn is_permission(&self) -> bool {
        self.reason() == CollectError::Permission
    }

    /// Whether a network namespace is what is missing.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Netns(NetnsError::Missing { .. }))
    }

    /// Whether what is called a network namespace is something else.
    #[must_use]
    pub fn is_misnamed(&self) -> bool {
        matches!(self, Self::Netns(NetnsError::Other { .. }))
    }

    /// The reason that it is counted by.
    #[must_use]
    pub fn reason(&self) -> CollectError {
        match self {
            Self::Conntrack(error) => error.reason(),
            Self::Sockets(error) => error.reason(),
            Self::Within { source, .. } => source.reason(),
            Self::Netns(error) if error.is_permission() => CollectError::Permission,
            Self::Netns(_) | Self::Thread(_) => CollectError::System,
        }
    }
}

/// Why `source = "auto"` reads what it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Connection tracking answers, and tracks.
    Tracks,
    /// It answers with an empty table while there are connections.
    Mute,
    /// It does not answer.
    Refused,
}

/// What one look at the kernel told beside the flows.
#[derive(Debug)]
pub struct Look {
    /// Where it looked.
    pub source: Source,
    /// Entries that the source showed.
    pub entries: u64,
    /// Entries and limit of the connection tracking table, where it may be asked.
    pub table: Option<TableSize>,
}

/// Who takes what a look shows.
pub trait Sink {
    /// A look at this source begins, or begins anew.
    fn begin(&mut self, source: Source);
    /// It shows this.
    fn entry(&mut self, entry: &Entry);
    /// A datagram has been shown: the kernel waits for the next to be asked for.
    fn datagram(&mut self) {}
}

/// The sources that the configuration lets in.
#[derive(Debug)]
pub struct Sources {
    choice: SourceChoice,
    config: config::Collector,
    conntrack: Option<Conntrack>,
    /// What the kernel had counted at the last look; gone with the socket, which
    /// follows the counters' wraps.
    kernel: Option<KernelCounters>,
    sockets: Option<Sockets>,
    standing: Option<Standing>,
    /// Looks in a row that found the table empty after it had tracked.
    empty: u32,
    /// What was said aloud already.
    told: Vec<Standing>,
    /// Why sockets are counted, for who has no log.
    fallback: Option<String>,
    counters: Arc<CollectorCounters>,
}

impl Sources {
    /// Opens what the configuration names. `None` when it is off.
    ///
    /// # Errors
    /// Fails when a source that is named cannot be opened or refuses; `auto` finds
    /// its way at each look instead.
    pub fn open(
        config: &config::Collector,
        counters: Arc<CollectorCounters>,
    ) -> Result<Option<Self>, CollectorError> {
        let mut sources = Self {
            choice: config.source,
            config: config.clone(),
            conntrack: None,
            kernel: None,
            sockets: None,
            standing: None,
            empty: 0,
            told: Vec::new(),
            fallback: None,
            counters,
        };
        match config.source {
            SourceChoice::Off => return Ok(None),
            SourceChoice::Conntrack => {
                sources.conntrack()?.table()?;
            }
            SourceChoice::Sockets => {
                sources.sockets()?;
            }
            SourceChoice::Auto => {}
        }
        Ok(Some(sources))
    }

    fn conntrack(&mut self) -> Result<&mut Conntrack, ConntrackError> {
        match &mut self.conntrack {
            Some(conntrack) => Ok(conntrack),
            none => Ok(none.insert(Conntrack::open(&self.config)?)),
        }
    }

    fn sockets(&mut self) -> Result<&mut Sockets, SocketsError> {
        match &mut self.sockets {
            Some(sockets) => Ok(sockets),
            none => Ok(none.insert(Sockets::open(&self.config)?)),
        }
    }

    /// How full the connection tracking table is, where it may be asked.
    pub fn table(&mut self) -> Option<TableSize> {
        self.conntrack.as_mut()?.table().ok()
    }

    /// Shows every flow that there is now.
    ///
    /// # Errors
    /// Fails when the kernel does; what was counted until then is to be discarded.
    pub fn look(&mut self, sink: &mut impl Sink) -> Result<Look, CollectorError> {
        let look = match self.choice {
            SourceChoice::Conntrack => self.look_at_conntrack(sink),
            SourceChoice::Sockets => self.look_at_sockets(sink, None),
            SourceChoice::Auto | SourceChoice::Off => self.look_at_either(sink),
        };
        if let Err(error) = &look {
            self.counters.errors.add(error.reason(), 1);
        }
        look
    }

    fn look_at_either(&mut self, sink: &mut impl Sink) -> Result<Look, CollectorError> {
        let table = self.conntrack().and_then(Conntrack::table);
        match table {
            Ok(table) if table.entries > 0 => {
                self.empty = 0;
                self.stands(Standing::Tracks, None);
                self.look_at_conntrack(sink)
            }
            Ok(_) if self.standing == Some(Standing::Tracks) && self.empty < PATIENCE => {
                self.empty += 1;
                self.look_at_conntrack(sink)
            }
            // Nothing is connected: an empty table may well be the truth.
            Ok(_) if self.standing != Some(Standing::Mute) && !self.has_sockets()? => {
                self.look_at_conntrack(sink)
            }
            Ok(table) => {
                self.stands(Standing::Mute, None);
                self.look_at_sockets(sink, Some(table))
            }
            Err(error) => {
                // Once: what is refused for good is no error of each tick.
                if self.standing != Some(Standing::Refused) {
                    self.counters.errors.add(error.reason(), 1);
                }
                self.stands(Standing::Refused, Some(&error));
                // Opened anew next time: whatever was wrong may have been mended.
                self.conntrack = None;
                self.kernel = None;
                self.look_at_sockets(sink, None)
            }
        }
    }

    /// Whether there is any connection, tracked or not.
    fn has_sockets(&mut self) -> Result<bool, CollectorError> {
        Ok(self.sockets()?.dump(&mut |_| {})?.entries > 0)
    }

    /// Says what `auto` found, aloud the first time: a host whose table empties now
    /// and then would go to and fro in its log.
    fn stands(&mut self, standing: Standing, error: Option<&ConntrackError>) {
        if self.standing == Some(standing) {
            return;
        }
        self.fallback = match (standing, error) {
            (Standing::Tracks, _) => None,
            (_, Some(error)) => Some(format!(
                "counting this host's sockets instead of connection tracking: {error}"
            )),
            (_, None) => Some(format!(
                "connection tracking tracks nothing, since no rule asks for it: counting this \
                 host's sockets instead, until a rule turns it on, such as {TRACKING_RULE}"
            )),
        };
        let first = !self.told.contains(&standing);
        match &self.fallback {
            Some(reason) if first => warn!("{reason}"),
            None if first => info!("counting by connection tracking"),
            _ => debug!(?standing, "went over to another source"),
        }
        if first {
            self.told.push(standing);
        }
        self.standing = Some(standing);
    }

    fn look_at_conntrack(&mut self, sink: &mut impl Sink) -> Result<Look, CollectorError> {
        let begun = Instant::now();
        let mut attempts = DUMP_ATTEMPTS;
        loop {
            let conntrack = self.conntrack()?;
            let table = conntrack.table()?;
            sink.begin(Source::Conntrack);
            let dump = conntrack.dump(&mut |step| match step {
                Step::Entry(entry) => sink.entry(entry),
                Step::Datagram => sink.datagram(),
            })?;
            attempts -= 1;
            if dump.interrupted {
                self.counters.errors.add(CollectError::Interrupted, 1);
                if attempts > 0 {
                    continue;
                }
            }
            self.counters.undecoded.add(dump.undecoded);
            self.finish(begun, dump.entries);
            return Ok(Look {
                source: Source::Conntrack,
                entries: dump.entries,
                table: Some(table),
            });
        }
    }

    fn look_at_sockets(
        &mut self,
        sink: &mut impl Sink,
        table: Option<TableSize>,
    ) -> Result<Look, CollectorError> {
        let begun = Instant::now();
        sink.begin(Source::Sockets);
        let details = Details::default();
        let dump = self
            .sockets()?
            .dump(&mut |&flow| sink.entry(&Entry { flow, details }))?;
        if dump.interrupted {
            self.counters.errors.add(CollectError::Interrupted, 1);
        }
        self.counters.undecoded.add(dump.undecoded);
        self.finish(begun, dump.entries);
        Ok(Look {
            source: Source::Sockets,
            entries: dump.entries,
            table,
        })
    }

    fn finish(&self, begun: Instant, entries: u64) {
        let micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.counters.dumps.add(1);
        self.counters.entries.add(entries);
        self.counters.last_entries.set(entries);
        self.counters.last_dump_micros.set(micros);
    }

    /// What the kernel counted itself since the last call, by name; nothing where it
    /// cannot be asked, and at the first call, which has nothing to compare with.
    pub fn kernel_counters(&mut self) -> Vec<(&'static str, u64)> {
        let Some(conntrack) = self.conntrack.as_mut() else {
            return Vec::new();
        };
        match conntrack.counters() {
            Ok(now) => {
                let before = self.kernel.replace(now);
                now.iter()
                    .zip(before.iter().flat_map(KernelCounters::iter))
                    .map(|((name, now), (_, before))| (name, now.saturating_sub(before)))
                    .collect()
            }
            Err(error) => {
                self.counters.errors.add(error.reason(), 1);
                Vec::new()
            }
        }
    }

    /// Why `auto` counts sockets, in a sentence for a terminal.
    #[must_use]
    pub fn fallback(&self) -> Option<&str> {
        self.fallback.as_deref()
    }
}
