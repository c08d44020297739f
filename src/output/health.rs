//! Whether an output takes lines: told by its sending task, read by its group.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

/// An output that has been well for so long is not thought to fail again at once.
pub const SETTLED: Duration = Duration::from_secs(10);

/// The output is not connected, or stuck.
const AWAY: u64 = u64::MAX;

/// An output's health: well from the start, until the contrary is known.
#[derive(Debug)]
pub struct Health {
    born: Instant,
    /// Milliseconds after its birth from which the output is well, or [`AWAY`].
    well_from: AtomicU64,
    changed: Arc<Notify>,
}

impl Default for Health {
    fn default() -> Self {
        Self::new(Arc::default())
    }
}

impl Health {
    /// One that wakes whoever waits on `changed`.
    #[must_use]
    pub fn new(changed: Arc<Notify>) -> Self {
        Self {
            born: Instant::now(),
            well_from: AtomicU64::new(0),
            changed,
        }
    }

    fn age(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(AWAY - 1)
    }

    fn put(&self, well_from: u64) {
        if self.well_from.swap(well_from, Ordering::AcqRel) != well_from {
            self.changed.notify_waiters();
        }
    }

    /// It is connected, and takes what comes.
    pub fn is_well(&self) {
        if self.well_from.load(Ordering::Acquire) == AWAY {
            self.put(self.age());
        }
    }

    /// It is not connected, or takes nothing.
    pub fn is_away(&self) {
        self.put(AWAY);
    }

    /// Waits for `wanted`; if that takes longer than `limit`, it is away meanwhile.
    pub async fn within<T>(&self, limit: Duration, wanted: impl Future<Output = T>) -> T {
        tokio::pin!(wanted);
        tokio::select! {
            biased;
            outcome = &mut wanted => outcome,
            () = sleep(limit) => {
                self.is_away();
                wanted.await
            }
        }
    }

    /// Whether it has been well for so long.
    #[must_use]
    pub fn well_for(&self, time: Duration) -> bool {
        let from = self.well_from.load(Ordering::Acquire);
        from != AWAY && from.saturating_add(millis(time)) <= self.age()
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(AWAY - 1)
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_output_is_well_until_it_is_known_to_be_away() {
        let health = Health::default();
        assert!(health.well_for(Duration::ZERO));
        health.is_away();
        advance(SETTLED).await;
        assert!(!health.well_for(Duration::ZERO));
        health.is_well();
        assert!(health.well_for(Duration::ZERO) && !health.well_for(SETTLED));
        advance(SETTLED / 2).await;
        // Said again, it is no news.
        health.is_well();
        advance(SETTLED / 2).await;
        assert!(health.well_for(SETTLED));
    }

    #[tokio::test(start_paused = true)]
    async fn what_takes_too_long_is_away_meanwhile() {
        let health = Health::default();
        let limit = Duration::from_millis(250);
        health.within(limit, sleep(limit / 2)).await;
        assert!(health.well_for(Duration::ZERO));
        health.within(limit, sleep(limit * 2)).await;
        assert!(!health.well_for(Duration::ZERO));
    }
}
