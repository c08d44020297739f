//! One output: its queue, its payloads, its transport.
//!
//! An [`Output`] takes chunks of packed lines from its queue and sends them,
//! reconnecting for as long as it takes. Nothing it took is let go of before it
//! was handed to the transport whole; what it can't send is counted with a reason.
//!
//! "Sent" is what the kernel took. A receiver that dies takes with it what it had
//! not read from its socket yet: for a unix stream at most the sending socket's
//! buffer (`net.core.wmem_default`, 208 KiB), for TCP both buffers, for unix
//! datagrams its queue (`net.unix.max_dgram_qlen`).
//!
//! ## Metrics
//!
//! [`OutputCounters`], as `conntally.output.*`.

pub mod backlog;
pub mod backoff;
mod deliver;
pub mod fanout;
pub mod format;
pub mod health;
pub mod only;
pub mod own;
pub mod payload;
pub mod queue;
pub mod shards;
pub mod spool;
pub mod throttle;
pub mod transport;
pub mod turn;

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use self::backlog::{Limits, VALUES_BYTES};
use self::backoff::{Backoff, Bounds};
pub use self::fanout::{Branch, Fanout, Room, Way};
use self::format::Encoding;
use self::health::Health;
use self::own::OwnListeners;
use self::payload::{Chunk, Delimiter, Shape};
use self::queue::{Inlet, Outlet, STEADY_BYTES, Settings, queue_of, tick_seconds};
use self::spool::{Contents, Found, Kind, Spool, SpoolError};
use self::throttle::Throttle;
use crate::address::Address;
use crate::config::{self, Format, OnFull};
use crate::handover;
use crate::log_limit::LogLimit;
use crate::telemetry::{LineDrop, OutputCounters};

#[cfg(test)]
mod tests;

/// Pauses for a socket file: asking again costs next to nothing, and the agent
/// behind it restarts in a second or two.
const LOCAL_PAUSES: Bounds = pauses(Duration::from_millis(50), Duration::from_secs(1));

/// Pauses for a receiver on the network.
const NETWORK_PAUSES: Bounds = pauses(Duration::from_millis(50), Duration::from_secs(10));

/// Pauses for a datagram that was refused: each try is one datagram.
const DATAGRAM_PAUSES: Bounds = pauses(Duration::from_millis(50), Duration::from_secs(2));

#[expect(clippy::panic, reason = "the compiler runs it, on constants")]
const fn pauses(min: Duration, max: Duration) -> Bounds {
    match Bounds::new(min, max, 0.5) {
        Ok(bounds) => bounds,
        Err(_) => panic!("pauses out of bounds"),
    }
}

/// A connection that lasted so long was a good one: pauses begin short again.
/// One that is taken and closed at once is not.
const SETTLED: Duration = Duration::from_secs(1);

/// An output that takes no chunk for so long, and is not held to its rate, is stuck.
const STUCK: Duration = Duration::from_millis(250);

/// How often a unix receiver is looked at: whether it stands at its path, and lives.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How long an output that gives up may take to end the payload or line that it began.
const CUT_GRACE: Duration = Duration::from_millis(250);

/// Of what goes on failing, one message in so long.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Between two parts of a backlog for a UDP receiver: the scheduler's slice on a busy host.
/// With parts of 32 KiB, 8 MiB/s.
const PART_PAUSE: Duration = Duration::from_millis(4);

/// Bytes of one context's values that are kept where everything is merged: all of them,
/// since the backlog goes before it is full.
const AGGREGATED_BYTES: usize = 4 << 20;

/// The least that may wait while the output takes what comes: two reads.
const LEAST_STEADY_BYTES: usize = 128 << 10;

/// What may wait while the output takes what comes: no more than a second's worth of its
/// rate, if what comes behind that can be merged.
fn steady_bytes(config: &config::Output) -> usize {
    match (config.on_full, config.rate.0) {
        (OnFull::Merge, Some(rate)) => rate.as_usize().clamp(LEAST_STEADY_BYTES, STEADY_BYTES),
        _ => STEADY_BYTES,
    }
}

fn log_limit() -> LogLimit {
    LogLimit::new(1, LOG_INTERVAL)
}

/// How an output came to its end.
#[derive(Debug, PartialEq, Eq)]
pub enum Ending {
    /// Every sender was gone, and all was sent.
    Drained,
    /// It was told to give up.
    Abandoned {
        /// Lines that were still held, now counted as dropped.
        lines: u64,
    },
    /// It was told to give up, and leaves what it held to the process that takes our place.
    Left(handover::Output),
    /// It was told to give up, and what it held is in its spool.
    Spooled {
        /// Lines there.
        lines: u64,
    },
    /// Nobody reads standard output any more.
    Gone {
        /// Lines that were still held, now counted as dropped.
        lines: u64,
    },
}

/// The receiving side of one output's queue, and what it sends by.
#[derive(Debug)]
pub struct Output {
    address: Address,
    outlet: Outlet,
    /// What is on its way: kept here, so that it outlives a cancelled send.
    chunk: Option<Chunk>,
    throttle: Throttle,
    counters: Arc<OutputCounters>,
    backoff: Backoff,
    outage: Outage,
    /// Whether the last datagram was refused.
    is_refused: bool,
    oversized: LogLimit,
    looped: LogLimit,
    own: Arc<OwnListeners>,
    health: Arc<Health>,
    spool: Option<Spool>,
    format: Format,
    leave: CancellationToken,
}

/// Failures since the last good connection.
#[derive(Debug)]
struct Outage {
    log: LogLimit,
    /// Since when, if it was logged.
    logged: Option<Instant>,
}

impl Outage {
    fn note(&mut self, output: &Address, error: &(dyn Error + 'static)) {
        if let Some(suppressed) = self.log.permit() {
            let error = chain(error);
            warn!(%output, error, suppressed, "cannot send, trying again");
            self.logged.get_or_insert_with(Instant::now);
        }
    }

    fn over(&mut self, output: &Address) {
        debug!(%output, "connected");
        if let Some(since) = self.logged.take() {
            info!(%output, seconds = since.elapsed().as_secs(), "sending again");
        }
    }
}

/// An error with what caused it.
fn chain(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |&error| error.source());
    let texts: Vec<String> = causes.map(ToString::to_string).collect();
    texts.join(": ")
}

impl Output {
    /// An output as configured, on the host named `hostname` that ticks at this interval,
    /// and the sending end of its queue.
    #[must_use]
    pub fn new(
        config: &config::Output,
        hostname: &str,
        interval: Duration,
        counters: Arc<OutputCounters>,
    ) -> (Inlet, Self) {
        let delimiter = match config.address {
            Address::Udp(_) | Address::UnixDatagram(_) => Delimiter::Datagram,
            Address::UnixStream(_) => Delimiter::LengthPrefix,
            Address::Unix(_) => Delimiter::Auto,
            Address::Tcp(_) | Address::Stdout => Delimiter::Newline,
        };
        let pauses = match config.address {
            Address::Udp(_) => DATAGRAM_PAUSES,
            Address::Tcp(_) => NETWORK_PAUSES,
            _ => LOCAL_PAUSES,
        };
        let throttle = Throttle::new(config);
        let shape = Shape {
            limit: config.payload_limit(),
            delimiter,
        };
        let usual = Settings::of(shape);
        let settings = Settings {
            capacity: config.queue.as_usize(),
            steady: steady_bytes(config),
            flush_interval: config.flush_interval.0,
            on_full: config.on_full,
            backlog: Limits {
                contexts: usize::try_from(config.backlog_contexts).unwrap_or(usize::MAX),
                values_bytes: if config.aggregate.0.is_some() {
                    AGGREGATED_BYTES
                } else {
                    VALUES_BYTES
                },
                tick_seconds: tick_seconds(interval),
                ..usual.backlog
            },
            backfill: config.backfill,
            aggregate: config.aggregate.0.map(|interval| interval.0),
            pause: matches!(config.address, Address::Udp(_)).then_some(PART_PAUSE),
            waits: throttle.waits(),
            encoding: Encoding::new(config.format, hostname),
            ..usual
        };
        let name = config.address.to_string();
        let (inlet, outlet) = queue_of(&name, settings, Arc::clone(&counters));
        let output = Self {
            address: config.address.clone(),
            outlet,
            chunk: None,
            throttle,
            counters,
            backoff: Backoff::new(pauses),
            outage: Outage {
                log: log_limit(),
                logged: None,
            },
            is_refused: false,
            oversized: log_limit(),
            looped: LogLimit::new(1, Duration::MAX),
            own: Arc::default(),
            health: Arc::default(),
            format: config.format,
            leave: CancellationToken::new(),
            spool: (!config.spool.is_empty())
                .then(|| Spool::new(config.spool.clone().into(), config.format)),
        };
        (inlet, output)
    }

    /// The same, that sends to none of these.
    #[must_use]
    pub fn avoiding(self, own: Arc<OwnListeners>) -> Self {
        Self { own, ..self }
    }

    /// The same, that tells its health to this.
    #[must_use]
    pub fn telling(self, health: Arc<Health>) -> Self {
        Self { health, ..self }
    }

    /// The same, that leaves what it holds to another process if it is told to give up after
    /// this was cancelled.
    #[must_use]
    pub fn leaving(self, leave: CancellationToken) -> Self {
        Self { leave, ..self }
    }

    /// Sends until every sender is gone and all was sent, or until `abandon` is
    /// cancelled: what is left then is left to another process, put into the spool, or
    /// counted as [`LineDrop::Shutdown`].
    pub async fn run(mut self, abandon: CancellationToken) -> Ending {
        let mut connection = None;
        let reason = tokio::select! {
            biased;
            reason = self.deliver(&mut connection) => reason,
            () = abandon.cancelled() => Some(LineDrop::Shutdown),
        };
        if let (Some(transport), Some(chunk)) = (&mut connection, &mut self.chunk) {
            let finished = timeout(CUT_GRACE, transport.finish(chunk, &self.counters)).await;
            debug!(output = %self.address, ?finished, "what was begun");
        }
        let Some(reason) = reason else {
            return Ending::Drained;
        };
        self.health.is_away();
        let chunk = self.chunk.take();
        self.outlet.shut(reason);
        if reason == LineDrop::Shutdown && self.leave.is_cancelled() {
            let contents = self.take_rest(chunk.as_ref());
            // To this process they are what a spool's lines are.
            self.counters.spooled.add(contents.lines());
            return Ending::Left(handover::Output {
                address: self.address.to_string(),
                format: self.format,
                contents,
            });
        }
        if reason == LineDrop::Shutdown
            && let Some(lines) = self.keep(chunk.as_ref())
        {
            return Ending::Spooled { lines };
        }
        let cut = chunk.map_or((0, 0), |chunk| (chunk.lines(), chunk.unwritten().len()));
        let (cut, bytes) = cut;
        self.counters.drop_lines(reason, cut, bytes);
        let lines = cut + self.outlet.close(reason);
        let output = &self.address;
        if reason == LineDrop::Closed {
            warn!(%output, lines, "nobody reads it any more: gave up");
            return Ending::Gone { lines };
        }
        if lines > 0 {
            warn!(%output, lines, "stopped before all was sent");
        }
        Ending::Abandoned { lines }
    }

    /// Takes in what an earlier run left in the spool, if there is one.
    ///
    /// # Errors
    /// When the spool can't be read, or could not be written at the end. One that is damaged
    /// is put aside, and said to be.
    pub fn restore(&mut self) -> Result<(), SpoolError> {
        let Some(spool) = &self.spool else {
            return Ok(());
        };
        let found = match spool.take() {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(()),
            Err(damaged @ SpoolError::Damaged { .. }) => {
                error!(output = %self.address, error = %damaged, "what an earlier run left is lost");
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let Found {
            contents,
            is_same_format,
            age,
        } = found;
        let (lines, seconds) = (contents.lines(), age.map(|age| age.as_secs()));
        info!(output = %self.address, lines, seconds, "goes on with what an earlier run left");
        self.outlet.restore(&contents, is_same_format);
        Ok(())
    }

    /// Takes in what another process had not sent.
    pub fn go_on(&mut self, left: &handover::Output) {
        let is_same_format = left.format == self.format;
        self.outlet.restore(&left.contents, is_same_format);
    }

    /// All that is held.
    fn take_rest(&mut self, chunk: Option<&Chunk>) -> Contents {
        let mut contents = Contents::default();
        for lines in chunk.into_iter().flat_map(Chunk::rest) {
            contents.add(Kind::Wire, lines);
        }
        self.outlet.take_rest(&mut contents);
        contents
    }

    /// Puts what is left into the spool, if there is one. Returns how many lines are in it.
    fn keep(&mut self, chunk: Option<&Chunk>) -> Option<u64> {
        let spool = self.spool.clone()?;
        let contents = self.take_rest(chunk);
        let (output, lines) = (&self.address, contents.lines());
        if lines == 0 {
            return Some(0);
        }
        match spool.keep(&contents) {
            Ok(()) => {
                let path = spool.path().display();
                info!(%output, lines, %path, "kept for the next start what was not sent");
                self.counters.spooled.add(lines);
            }
            Err(error) => {
                error!(%output, lines, %error, "what was not sent is lost");
                let bytes = contents.bytes();
                (self.counters).drop_lines(LineDrop::Shutdown, lines, bytes);
            }
        }
        Some(lines)
    }
}
