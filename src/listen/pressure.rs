//! Memory pressure: where memory runs short, senders are read later.
//!
//! One task measures for all, and only where there is a limit; who reads looks at a
//! number. Below `low` nothing waits. From there to `high` each read waits, the longer
//! the less memory is left. Beyond `high` reading stops, for [`STOP_LIMIT`] at most: what
//! is read after that is counted and given up, so that nothing stands still for good.
//!
//! Emits `listener.pressure_waits`, `listener.pressure_us` and `listener.lines_dropped`
//! with the reason `pressure`.

mod measure;
mod settled;

use std::io;
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use self::measure::{Measure, Usage};
use self::settled::{Bounds, Settled};
use crate::config;
use crate::log_limit::LogLimit;
use crate::telemetry::ListenerCounters;

/// How often memory is measured.
const INTERVAL: Duration = Duration::from_millis(250);

/// How long a read waits between `low` and `high`, in steps of the same width.
const STEPS: u32 = 5;
const DELAYS_MS: [u64; STEPS as usize] = [1, 3, 6, 12, 25];

/// The longest that reading stops, beyond `high`.
const STOP_LIMIT: Duration = Duration::from_secs(1);

/// What may be said of it in the log.
const LOG_LINES: u32 = 4;
const LOG_WINDOW: Duration = Duration::from_secs(60);

/// How short memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    /// Not at all.
    Calm,
    /// Reads are to wait for so long.
    Short(Duration),
    /// Nothing is to be read.
    Spent,
}

/// The number of [`Level::Spent`]: 0 is calm, and each step between has its own.
const SPENT: usize = DELAYS_MS.len() + 1;

impl Level {
    fn of_number(number: usize) -> Self {
        match number.checked_sub(1).map(|step| DELAYS_MS.get(step)) {
            None => Self::Calm,
            Some(Some(&millis)) => Self::Short(Duration::from_millis(millis)),
            Some(None) => Self::Spent,
        }
    }

    /// Whether both mean the same, but for how long a read waits.
    fn is_like(self, other: Self) -> bool {
        std::mem::discriminant(&self) == std::mem::discriminant(&other)
    }
}

/// How short memory is, for all who read from senders.
#[derive(Debug, Default)]
pub struct Pressure {
    /// Of the [`Level`].
    number: AtomicUsize,
    /// Told when reading may go on.
    relief: Notify,
    /// As long as the process lives, with whatever configuration.
    settled: Mutex<Settled>,
}

/// Whether what is read now is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    /// It is.
    All,
    /// It is counted and given up.
    Nothing,
}

impl Pressure {
    fn level(&self) -> Level {
        Level::of_number(self.number.load(Ordering::Relaxed))
    }

    /// Whether a read need not wait.
    pub(super) fn is_calm(&self) -> bool {
        self.number.load(Ordering::Relaxed) == 0
    }

    fn set(&self, number: usize) {
        let before = self.number.swap(number, Ordering::Relaxed);
        if before == SPENT && number != SPENT {
            self.relief.notify_waiters();
        }
    }

    /// What bounds hold now that so much is used, of which outputs hold about `held` bytes.
    fn bounds(&self, usage: Usage, held: u64, config: &config::Memory) -> Bounds {
        let settled = self.settled.lock();
        let mut settled = settled.unwrap_or_else(PoisonError::into_inner);
        settled.bounds(usage, held, config)
    }

    /// Waits for as long as a read has to, and counts that.
    pub(super) async fn wait(&self, counters: &ListenerCounters) -> Keep {
        let since = Instant::now();
        let keep = match self.level() {
            Level::Calm => return Keep::All,
            Level::Short(delay) => {
                sleep(delay).await;
                Keep::All
            }
            Level::Spent => self.wait_for_relief(since + STOP_LIMIT).await,
        };
        counters.pressure_waits.add(1);
        let waited = u64::try_from(since.elapsed().as_micros());
        counters.pressure_us.add(waited.unwrap_or(u64::MAX));
        keep
    }

    async fn wait_for_relief(&self, deadline: Instant) -> Keep {
        let mut relief = pin!(self.relief.notified());
        loop {
            // Before the level is looked at, so that no change is missed.
            relief.as_mut().enable();
            if self.level() != Level::Spent {
                return Keep::All;
            }
            if timeout_at(deadline, relief.as_mut()).await.is_err() {
                return Keep::Nothing;
            }
            relief.set(self.relief.notified());
        }
    }
}

/// What measures memory for all listeners.
#[derive(Debug)]
pub struct Watch {
    measure: Measure,
    config: config::Memory,
    pressure: Arc<Pressure>,
    /// What the log says.
    told: Level,
    log: LogLimit,
}

impl Watch {
    /// As configured; `None` where there is no limit, and so nothing to do.
    #[must_use]
    pub fn new(config: &config::Memory, pressure: &Arc<Pressure>) -> Option<Self> {
        let measure = Measure::find(config.limit, &mut read)?;
        tracing::info!(%measure, low = config.low, high = config.high, "memory is limited");
        Some(Self::over(measure, config, pressure))
    }

    fn over(measure: Measure, config: &config::Memory, pressure: &Arc<Pressure>) -> Self {
        Self {
            measure,
            config: config.clone(),
            pressure: Arc::clone(pressure),
            told: Level::Calm,
            log: LogLimit::new(LOG_LINES, LOG_WINDOW),
        }
    }

    /// Measures until `stop`. After that nobody waits. `held` tells about how many bytes
    /// the outputs hold.
    pub async fn run(self, held: impl Fn() -> u64, stop: CancellationToken) {
        self.run_with(held, read, stop).await;
    }

    /// The same, with another way to read files.
    async fn run_with(
        mut self,
        held: impl Fn() -> u64,
        mut read: impl FnMut(&Path) -> io::Result<String>,
        stop: CancellationToken,
    ) {
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = ticks.tick() => {}
            }
            let usage = self.measure.usage(self.config.low, &mut read);
            let number = usage.map_or(0, |usage| {
                let bounds = self.pressure.bounds(usage, held(), &self.config);
                number_of(usage.share(), bounds)
            });
            self.pressure.set(number);
            self.tell(usage);
        }
        self.pressure.set(0);
    }

    /// Says when reads begin to wait, or stop, or do neither any more; later, where that
    /// was said too often of late.
    fn tell(&mut self, usage: Option<Usage>) {
        let now = self.pressure.level();
        if now.is_like(self.told) || self.log.permit().is_none() {
            return;
        }
        self.told = now;
        let (used, limit) = usage.map_or((0, 0), |usage| (usage.used, usage.limit));
        match now {
            Level::Calm => tracing::info!(used, limit, "memory is not short any more"),
            Level::Short(_) => {
                tracing::warn!(used, limit, "memory is short: senders are read slowly");
            }
            Level::Spent => tracing::warn!(
                used,
                limit,
                "memory is spent: senders are read once a second, and their lines dropped"
            ),
        }
    }
}

fn read(path: &Path) -> io::Result<String> {
    std::fs::read_to_string(path)
}

/// The number of the level at which so large a share of the memory is used.
fn number_of(share: f64, Bounds { low, high }: Bounds) -> usize {
    if share < low {
        return 0;
    }
    if share > high {
        return SPENT;
    }
    let step = (high - low) / f64::from(STEPS);
    let passed = (1..STEPS).filter(|&number| share >= low + step * f64::from(number));
    1 + passed.count()
}

#[cfg(test)]
mod tests;
