//! `rate` and `burst`: what an output may send, and when.
//!
//! Governor's limiter on the runtime's clock, so that a paused one holds it too. Every
//! payload is paid for before it goes, and what was paid for a payload that did not go
//! pays for the next: a wait that is given up, or a connection that is lost, costs nothing.
//!
//! In any stretch of time no more goes than the rate times the stretch, and the burst;
//! and where the receiver kept a payload waiting that was paid for, that one. The runtime's
//! timers tick in milliseconds: a burst of less than some 5 ms of the rate keeps below it.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use tokio::time::{Instant, sleep};

use crate::config;
use crate::telemetry::OutputCounters;

#[cfg(test)]
mod tests;

/// Parts of a nanosecond that the limiter counts in: it knows whole ones alone, and a
/// byte at 1 GiB/s takes 0.93 of one. An uptime of 36 years still fits its 64 bits.
const FINENESS: u32 = 16;

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// The time since it was made, in parts of nanoseconds.
#[derive(Clone, Debug)]
struct RuntimeClock {
    started: Instant,
}

impl Clock for RuntimeClock {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.started.elapsed().saturating_mul(FINENESS)
    }
}

type Limiter = RateLimiter<NotKeyed, InMemoryState, RuntimeClock, NoOpMiddleware<Duration>>;

/// What holds an output to its rate; by default nothing does.
#[derive(Debug, Default)]
pub struct Throttle {
    limit: Option<Limit>,
    waits: Waits,
}

/// Whether an output is over its rate: its payloads have to wait.
#[derive(Clone, Debug, Default)]
pub struct Waits(Arc<AtomicBool>);

impl Waits {
    /// Whether the last payload had to wait, or waits now.
    #[must_use]
    pub fn now(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, waits: bool) {
        if self.now() != waits {
            self.0.store(waits, Ordering::Relaxed);
        }
    }
}

#[derive(Debug)]
struct Limit {
    limiter: Limiter,
    /// Most bytes to pay for at once.
    most: NonZeroU32,
    /// Bytes that were paid for and have not gone.
    paid: usize,
}

impl Throttle {
    /// As configured. The configuration's bounds keep the limiter's numbers in theirs.
    #[must_use]
    pub fn new(config: &config::Output) -> Self {
        let Some(rate) = config.rate.0 else {
            return Self::default();
        };
        // Rounded up: a little slower rather than a little faster.
        let period = (NANOS_PER_SECOND * u64::from(FINENESS)).div_ceil(rate.0.max(1));
        let burst = u32::try_from(config.burst_bytes()).unwrap_or(u32::MAX);
        let most = NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::with_period(Duration::from_nanos(period));
        let limit = quota.map(|quota| {
            let clock = RuntimeClock {
                started: Instant::now(),
            };
            Limit {
                limiter: RateLimiter::direct_with_clock(quota.allow_burst(most), clock),
                most,
                paid: 0,
            }
        });
        Self {
            limit,
            waits: Waits::default(),
        }
    }

    /// What tells whether the output is over its rate.
    #[must_use]
    pub fn waits(&self) -> Waits {
        self.waits.clone()
    }

    /// Whether there is a rate to hold.
    #[must_use]
    pub const fn holds(&self) -> bool {
        self.limit.is_some()
    }

    /// Waits until `bytes` may go, and counts the wait.
    pub async fn ready(&mut self, bytes: usize, counters: &OutputCounters) {
        let Some(limit) = &mut self.limit else {
            return;
        };
        let is_over = limit.pay(bytes).is_some();
        self.waits.set(is_over);
        if !is_over {
            return;
        }
        let since = Instant::now();
        while let Some(pause) = limit.pay(bytes) {
            sleep(pause).await;
        }
        counters.throttled.add(1);
        let waited = since.elapsed().as_micros();
        let waited = u64::try_from(waited).unwrap_or(u64::MAX);
        counters.throttled_us.add(waited);
    }

    /// Notes that `bytes` went.
    pub const fn went(&mut self, bytes: usize) {
        if let Some(limit) = &mut self.limit {
            limit.paid = limit.paid.saturating_sub(bytes);
        }
    }
}

impl Limit {
    /// Pays for as much of `bytes` as may go now. Returns how long the next part has
    /// to wait, if not all of it may.
    fn pay(&mut self, bytes: usize) -> Option<Duration> {
        while self.paid < bytes {
            let part = u32::try_from(bytes - self.paid).unwrap_or(u32::MAX);
            let part = NonZeroU32::new(part)?.min(self.most);
            match self.limiter.check_n(part) {
                Ok(Ok(())) => self.paid += part.get() as usize,
                Ok(Err(not_until)) => {
                    let now = self.limiter.clock().now();
                    return Some(not_until.wait_time_from(now) / FINENESS);
                }
                // No part is larger than the burst.
                Err(_) => return None,
            }
        }
        None
    }
}
