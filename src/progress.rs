//! Whether the daemon is ready, and whether it still moves: what a supervisor is told.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::Config;

/// It is stuck when no tick was done in so many of them.
const MAX_TICKS: u32 = 3;
/// A look at a large table takes its time.
const LONGEST_LOOK: Duration = Duration::from_secs(10);

/// Told by the report, which has an answer of every collector at each tick.
#[derive(Debug)]
pub struct Progress {
    tick: Duration,
    born: Instant,
    /// Milliseconds after its birth.
    beat: AtomicU64,
    ready: CancellationToken,
}

impl Default for Progress {
    fn default() -> Self {
        Self::of(Config::default().interval.0)
    }
}

impl Progress {
    /// Of a daemon that ticks at this interval.
    #[must_use]
    pub fn of(tick: Duration) -> Self {
        Self {
            tick,
            born: Instant::now(),
            beat: AtomicU64::new(0),
            ready: CancellationToken::new(),
        }
    }

    /// A tick is done.
    pub(crate) fn beat(&self) {
        let age = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.beat.store(age, Ordering::Relaxed);
        self.ready.cancel();
    }

    /// How long ago the last tick was done, or it began.
    #[must_use]
    pub fn age(&self) -> Duration {
        let beat = Duration::from_millis(self.beat.load(Ordering::Relaxed));
        self.born.elapsed().saturating_sub(beat)
    }

    /// Whether the next tick should have been done long ago.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        self.age() > self.tick * MAX_TICKS + LONGEST_LOOK
    }

    /// Waits until every listener is bound and the first tick is done.
    pub async fn ready(&self) {
        self.ready.cancelled().await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_ready_with_the_first_beat_and_ages_without_more() {
        let progress = Progress::default();
        assert!(
            timeout(Duration::from_secs(9), progress.ready())
                .await
                .is_err()
        );
        assert_eq!(progress.age(), Duration::from_secs(9));
        progress.beat();
        progress.ready().await;
        assert_eq!(progress.age(), Duration::ZERO);
        advance(Duration::from_secs(2)).await;
        assert_eq!(progress.age(), Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_stuck_when_three_ticks_and_a_long_look_have_brought_nothing() {
        let progress = Progress::of(Duration::from_secs(60));
        advance(Duration::from_secs(190)).await;
        assert!(!progress.is_stuck());
        advance(Duration::from_secs(1)).await;
        assert!(progress.is_stuck());
        progress.beat();
        assert!(!progress.is_stuck());
    }
}
