//! How often a listener may say what its senders do wrong.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Log lines in a window; a sender that sends rubbish sends a lot of it.
const LINES: u32 = 5;
const WINDOW: Duration = Duration::from_secs(10);

/// Permits log lines, a few per window.
#[derive(Debug)]
pub(super) struct LogLimit(Mutex<State>);

#[derive(Debug)]
struct State {
    window: Instant,
    permitted: u32,
    suppressed: u64,
}

impl LogLimit {
    pub(super) fn new() -> Self {
        Self(Mutex::new(State {
            window: Instant::now(),
            permitted: 0,
            suppressed: 0,
        }))
    }

    /// Whether a line may be logged now; and how many were not since the last one.
    pub(super) fn permit(&self) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if now.duration_since(state.window) >= WINDOW {
            state.window = now;
            state.permitted = 0;
        }
        if state.permitted == LINES {
            state.suppressed += 1;
            return None;
        }
        state.permitted += 1;
        Some(std::mem::take(&mut state.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_few_lines_per_window_are_permitted_and_the_rest_is_counted() {
        let limit = LogLimit::new();
        for _ in 0..LINES {
            assert_eq!(limit.permit(), Some(0));
        }
        assert_eq!(limit.permit(), None);
        assert_eq!(limit.permit(), None);
        tokio::time::advance(WINDOW).await;
        assert_eq!(limit.permit(), Some(2));
        assert_eq!(limit.permit(), Some(0));
    }
}
