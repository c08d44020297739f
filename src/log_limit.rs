//! How often the same thing may be said in the log.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Permits log lines, a few per window. A window begins with the first line in it.
#[derive(Debug)]
pub(crate) struct LogLimit {
    lines: u32,
    window: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    began: Option<Instant>,
    permitted: u32,
    suppressed: u64,
}

impl LogLimit {
    /// So many lines in each window.
    pub(crate) fn new(lines: u32, window: Duration) -> Self {
        Self {
            lines,
            window,
            state: Mutex::default(),
        }
    }

    /// Whether a line may be logged now; and how many were not since the last one.
    pub(crate) fn permit(&self) -> Option<u64> {
        self.permit_of(1)
    }

    /// Whether a line may be logged now that tells of so many events; and how many
    /// events no line told of since the last one.
    pub(crate) fn permit_of(&self, events: u64) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if (state.began).is_none_or(|began| now.duration_since(began) >= self.window) {
            state.began = Some(now);
            state.permitted = 0;
        }
        if state.permitted == self.lines {
            state.suppressed += events;
            return None;
        }
        state.permitted += 1;
        Some(std::mem::take(&mut state.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const WINDOW: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn a_few_lines_per_window_are_permitted_and_the_rest_is_counted() {
        let limit = LogLimit::new(5, WINDOW);
        for _ in 0..5 {
            assert_eq!(limit.permit(), Some(0));
        }
        assert_eq!(limit.permit(), None);
        assert_eq!(limit.permit_of(3), None);
        advance(WINDOW).await;
        assert_eq!(limit.permit_of(2), Some(4));
        assert_eq!(limit.permit(), Some(0));
    }

    #[tokio::test(start_paused = true)]
    async fn of_many_failures_one_is_logged_at_once_and_one_in_each_window() {
        let limit = LogLimit::new(1, WINDOW);
        // The first comes late, and the second not for a whole window after it.
        advance(WINDOW / 10 * 9).await;
        let mut passed = Vec::new();
        for _ in 0..100 {
            passed.extend(limit.permit());
            advance(Duration::from_millis(250)).await;
        }
        assert_eq!(passed, [0, 39, 39]);
    }
}
