//! Bytes per second, and how many may go at once after a rest.
//!
//! Governor's limiter on the runtime's clock, so that a paused one holds it too. Bytes
//! are paid for before they go, and what was paid for and did not go pays for what comes
//! next: a wait that is given up costs nothing.
//!
//! In any stretch of time no more is paid for than the rate times the stretch, and the
//! burst. The runtime's timers tick in milliseconds: a burst of less than some 5 ms of the
//! rate keeps below it.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use tokio::time::{Instant, sleep};

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

/// A rate to be held.
#[derive(Debug)]
pub(crate) struct Rate {
    limiter: Limiter,
    /// Most bytes to pay for at once.
    burst: NonZeroU32,
    /// Bytes that were paid for and have not gone.
    paid: usize,
}

impl Rate {
    /// So many bytes per second, of which so many may go at once after a rest. The
    /// configuration's bounds keep the limiter's numbers in theirs; `None` where they do not.
    pub(crate) fn new(bytes_per_second: u64, burst: u64) -> Option<Self> {
        // Rounded up: a little slower rather than a little faster.
        let period = (NANOS_PER_SECOND * u64::from(FINENESS)).div_ceil(bytes_per_second.max(1));
        let burst = u32::try_from(burst).unwrap_or(u32::MAX);
        let burst = NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::with_period(Duration::from_nanos(period))?.allow_burst(burst);
        let clock = RuntimeClock {
            started: Instant::now(),
        };
        Some(Self {
            limiter: RateLimiter::direct_with_clock(quota, clock),
            burst,
            paid: 0,
        })
    }

    /// Most bytes that may go at once.
    pub(crate) const fn burst(&self) -> usize {
        self.burst.get() as usize
    }

    /// Whether `bytes` may go now.
    pub(crate) fn is_ready(&mut self, bytes: usize) -> bool {
        self.pay(bytes).is_none()
    }

    /// Waits until `bytes` may go. Returns for how long, in microseconds, if it had to.
    pub(crate) async fn ready(&mut self, bytes: usize) -> Option<u64> {
        let mut pause = self.pay(bytes)?;
        let since = Instant::now();
        loop {
            sleep(pause).await;
            match self.pay(bytes) {
                Some(next) => pause = next,
                None => break,
            }
        }
        let waited = since.elapsed().as_micros();
        Some(u64::try_from(waited).unwrap_or(u64::MAX))
    }

    /// Notes that `bytes` went.
    pub(crate) const fn went(&mut self, bytes: usize) {
        self.paid = self.paid.saturating_sub(bytes);
    }

    /// Pays for as much of `bytes` as may go now. Returns how long the next part has
    /// to wait, if not all of it may.
    fn pay(&mut self, bytes: usize) -> Option<Duration> {
        while self.paid < bytes {
            let part = u32::try_from(bytes - self.paid).unwrap_or(u32::MAX);
            let part = NonZeroU32::new(part)?.min(self.burst);
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
