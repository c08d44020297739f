//! Whether the daemon is ready, and whether it still moves: what a supervisor is told.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Told by the report, which has an answer of every collector at each tick.
#[derive(Debug)]
pub struct Progress {
    born: Instant,
    /// Milliseconds after its birth.
    beat: AtomicU64,
    ready: CancellationToken,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            born: Instant::now(),
            beat: AtomicU64::new(0),
            ready: CancellationToken::new(),
        }
    }
}

impl Progress {
    /// A tick is done.
    pub(super) fn beat(&self) {
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
}
