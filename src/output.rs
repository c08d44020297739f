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
pub mod fanout;
pub mod format;
pub mod health;
pub mod only;
pub mod own;
pub mod payload;
pub mod queue;
pub mod shards;
pub mod throttle;
pub mod transport;
pub mod turn;

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use self::backlog::Limits;
use self::backoff::{Backoff, Bounds};
pub use self::fanout::{Branch, Fanout, Room, Way};
use self::format::Encoding;
use self::health::Health;
use self::own::OwnListeners;
use self::payload::{Chunk, Delimiter, Shape};
use self::queue::{Inlet, Outlet, Settings, queue_of};
use self::throttle::Throttle;
use self::transport::{ConnectError, SendError, Transport};
use crate::address::Address;
use crate::config::{self, OnFull};
use crate::log_limit::LogLimit;
use crate::telemetry::{LineDrop, OutputCounters, OutputError};

#[cfg(test)]
mod tests;

/// Pauses for a socket file: asking again costs next to nothing, and the agent
/// behind it restarts in a second or two.
const LOCAL_PAUSES: Bounds = pauses(Duration::from_millis(50), Duration::from_secs(1));

/// Pauses for a receiver on the network.
const NETWORK_PAUSES: Bounds = pauses(Duration::from_millis(50), Duration::from_secs(10));

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

/// What a backlog may hold, bytes: contexts of 300 bytes at their default number.
const BACKLOG_BYTES: usize = 32 << 20;

/// An output that takes no chunk for so long is stuck, or held to its rate.
const STUCK: Duration = Duration::from_millis(250);

/// Of what goes on failing, one message in so long.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

fn log_limit() -> LogLimit {
    LogLimit::new(1, LOG_INTERVAL)
}

/// How an output came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Every sender was gone, and all was sent.
    Drained,
    /// It was told to give up.
    Abandoned {
        /// Lines that were still held, now counted as dropped.
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
    oversized: LogLimit,
    refused: LogLimit,
    looped: LogLimit,
    own: Arc<OwnListeners>,
    health: Arc<Health>,
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
    /// An output as configured, on the host named `hostname`, and the sending end
    /// of its queue.
    #[must_use]
    pub fn new(
        config: &config::Output,
        hostname: &str,
        counters: Arc<OutputCounters>,
    ) -> (Inlet, Self) {
        let delimiter = match config.address {
            Address::Udp(_) | Address::UnixDatagram(_) => Delimiter::Datagram,
            Address::UnixStream(_) => Delimiter::LengthPrefix,
            Address::Unix(_) => Delimiter::Auto,
            Address::Tcp(_) | Address::Stdout => Delimiter::Newline,
        };
        let pauses = match config.address {
            Address::Udp(_) | Address::Tcp(_) => NETWORK_PAUSES,
            _ => LOCAL_PAUSES,
        };
        let settings = Settings {
            shape: Shape {
                limit: config.payload_limit(),
                delimiter,
            },
            capacity: config.queue.as_usize(),
            flush_interval: config.flush_interval.0,
            blocks: config.on_full != OnFull::Drop,
            backlog: (config.on_full == OnFull::Merge).then(|| Limits {
                contexts: usize::try_from(config.backlog_contexts).unwrap_or(usize::MAX),
                bytes: BACKLOG_BYTES,
                line_bytes: config.payload_limit().saturating_sub(1),
            }),
            encoding: Encoding::new(config.format, hostname),
        };
        let name = config.address.to_string();
        let (inlet, outlet) = queue_of(&name, settings, Arc::clone(&counters));
        let output = Self {
            address: config.address.clone(),
            outlet,
            chunk: None,
            throttle: Throttle::new(config),
            counters,
            backoff: Backoff::new(pauses),
            outage: Outage {
                log: log_limit(),
                logged: None,
            },
            oversized: log_limit(),
            refused: log_limit(),
            looped: LogLimit::new(1, Duration::MAX),
            own: Arc::default(),
            health: Arc::default(),
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

    /// Sends until every sender is gone and all was sent, or until `abandon` is
    /// cancelled: what is left then is counted as [`LineDrop::Shutdown`].
    pub async fn run(mut self, abandon: CancellationToken) -> Ending {
        let reason = tokio::select! {
            biased;
            reason = self.deliver() => reason,
            () = abandon.cancelled() => Some(LineDrop::Shutdown),
        };
        let Some(reason) = reason else {
            return Ending::Drained;
        };
        self.health.is_away();
        let cut = self.chunk.take().map_or(0, |chunk| chunk.lines());
        self.counters.dropped.add(reason, cut);
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

    /// Sends all there is. Returns why the rest is given up, if it is.
    async fn deliver(&mut self) -> Option<LineDrop> {
        loop {
            let address = self.address.clone();
            let own = Arc::clone(&self.own);
            let health = Arc::clone(&self.health);
            let connected = health.within(STUCK, Transport::connect(&address, &own));
            match self.meanwhile(connected).await? {
                Ok(transport) => {
                    health.is_well();
                    self.counters.connects.add(1);
                    self.outage.over(&address);
                    let since = Instant::now();
                    match self.serve(transport).await {
                        Served::Ended => return None,
                        Served::Gone => return Some(LineDrop::Closed),
                        Served::Lost(error) => {
                            self.counters.errors.add(OutputError::Send, 1);
                            self.outage.note(&address, &error);
                        }
                    }
                    if since.elapsed() >= SETTLED {
                        self.backoff.reset();
                    }
                }
                Err(error) => {
                    self.counters.errors.add(error.kind(), 1);
                    if !matches!(error, ConnectError::Own { .. }) {
                        self.outage.note(&address, &error);
                    } else if self.looped.permit().is_some() {
                        // Until the name leads elsewhere, which it hardly will.
                        error!(output = %address, %error, "nothing is sent");
                    }
                }
            }
            health.is_away();
            self.outlet.widen();
            let pause = sleep(self.backoff.next_delay());
            self.meanwhile(pause).await?;
        }
    }

    /// Waits for `wanted`, and meanwhile for something to send. `None` when there
    /// is nothing, and will be nothing.
    async fn meanwhile<T>(&mut self, wanted: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(wanted);
        while self.chunk.is_none() {
            tokio::select! {
                biased;
                outcome = &mut wanted => return Some(outcome),
                chunk = self.outlet.recv() => self.chunk = Some(chunk?),
            }
        }
        Some(wanted.await)
    }

    /// Sends by one connection for as long as it lasts.
    async fn serve(&mut self, mut transport: Transport) -> Served {
        loop {
            let chunk = match &mut self.chunk {
                Some(chunk) => chunk,
                none => tokio::select! {
                    biased;
                    error = transport.closed() => return Served::Lost(SendError::Lost(error)),
                    chunk = self.outlet.recv() => match chunk {
                        Some(chunk) => none.insert(chunk),
                        None => return Served::Ended,
                    },
                },
            };
            // One that waits for its rate is well.
            let is_held = self.throttle.holds();
            let sent = {
                let sending = transport.send(chunk, &mut self.throttle, &self.counters);
                tokio::pin!(sending);
                tokio::select! {
                    biased;
                    sent = &mut sending => {
                        self.outlet.narrow();
                        sent
                    }
                    () = sleep(STUCK) => {
                        self.outlet.widen();
                        if !is_held {
                            self.health.is_away();
                        }
                        sending.await
                    }
                }
            };
            match sent {
                Ok(()) => {
                    self.health.is_well();
                    if let Some(chunk) = self.chunk.take() {
                        self.outlet.release(chunk);
                    }
                }
                Err(SendError::TooLarge) => {
                    let lines = chunk.pass_payload().lines;
                    self.counters.dropped.add(LineDrop::MessageSize, lines);
                    if let Some(suppressed) = self.oversized.permit() {
                        let (output, error) = (&self.address, SendError::TooLarge);
                        warn!(%output, %error, lines, suppressed, "dropped a payload");
                    }
                }
                Err(SendError::Refused) => {
                    self.counters.errors.add(OutputError::Refused, 1);
                    self.health.is_refused();
                    if let Some(suppressed) = self.refused.permit() {
                        let (output, error) = (&self.address, SendError::Refused);
                        warn!(%output, %error, suppressed, "a datagram was refused");
                    }
                    if let Err(error) = transport.next_address().await {
                        return Served::Lost(error);
                    }
                }
                Err(SendError::Gone) => return Served::Gone,
                Err(error @ SendError::Lost(_)) => {
                    chunk.rewind();
                    return Served::Lost(error);
                }
            }
        }
    }
}

/// How a connection ended.
enum Served {
    /// All was sent, and no more comes.
    Ended,
    /// It was lost.
    Lost(SendError),
    /// There can be no other.
    Gone,
}
