//! Failover: which output of a group has the lines now.
//!
//! The first in order that is well has them all. What one that fails still holds
//! stays with it. A better one that is back is gone back to once it has been well
//! for [`SETTLED`]; while none is well, lines wait where they were going.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tracing::warn;

use super::health::{Health, SETTLED};
use crate::log_limit::LogLimit;

/// Of switches, one message in so long.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// Whose turn it is among the outputs of a group.
#[derive(Debug)]
pub struct Turn {
    group: String,
    members: Vec<(String, Arc<Health>)>,
    present: AtomicUsize,
    changed: Arc<Notify>,
    log: LogLimit,
}

impl Turn {
    /// Of a group's outputs, by their addresses, the best first.
    #[must_use]
    pub fn new(group: &str, addresses: impl IntoIterator<Item = String>) -> Self {
        let changed = Arc::<Notify>::default();
        let member = |address| (address, Arc::new(Health::new(Arc::clone(&changed))));
        Self {
            group: group.to_owned(),
            members: addresses.into_iter().map(member).collect(),
            present: AtomicUsize::new(0),
            log: LogLimit::new(1, LOG_INTERVAL),
            changed,
        }
    }

    /// What each output is to tell its health to, in order.
    pub fn healths(&self) -> impl Iterator<Item = Arc<Health>> {
        self.members.iter().map(|(_, health)| Arc::clone(health))
    }

    /// Wakes waiters when the health of any output changes.
    pub(super) fn changed(&self) -> &Notify {
        &self.changed
    }

    /// The place of the output that has the lines now.
    #[must_use]
    pub fn present(&self) -> usize {
        let present = self.present.load(Ordering::Relaxed);
        let well_for = |place: usize, time| {
            let member = self.members.get(place);
            member.is_some_and(|(_, health)| health.well_for(time))
        };
        let better = (0..present).find(|&place| well_for(place, SETTLED));
        let next = better.or_else(|| {
            let mut all = std::iter::once(present).chain(0..self.members.len());
            all.find(|&place| well_for(place, Duration::ZERO))
        });
        match next {
            Some(next) if next != present => self.go(present, next),
            _ => present,
        }
    }

    fn go(&self, from: usize, to: usize) -> usize {
        let gone = (self.present).compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed);
        if gone.is_ok()
            && let Some(suppressed) = self.log.permit()
        {
            let address = |place: usize| self.members.get(place).map(|(address, _)| address);
            let (from, to) = (address(from), address(to));
            warn!(group = %self.group, from, to, suppressed, "lines go to another output");
        }
        gone.map_or_else(|present| present, |_| to)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_that_is_well_has_the_turn_and_gets_it_back_when_it_has_settled() {
        let turn = Turn::new("g", ["a", "b", "c"].map(str::to_owned));
        let health: Vec<_> = turn.healths().collect();
        assert_eq!(turn.present(), 0);
        health[0].is_away();
        assert_eq!(turn.present(), 1);
        health[0].is_well();
        assert_eq!(turn.present(), 1, "not settled yet");
        advance(SETTLED / 2).await;
        health[0].is_away();
        health[0].is_well();
        advance(SETTLED / 2).await;
        assert_eq!(turn.present(), 1, "it failed meanwhile");
        advance(SETTLED / 2).await;
        assert_eq!(turn.present(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn while_none_is_well_the_turn_stays_and_then_goes_to_whichever_is_back() {
        let turn = Turn::new("g", ["a", "b", "c"].map(str::to_owned));
        let health: Vec<_> = turn.healths().collect();
        health[0].is_away();
        assert_eq!(turn.present(), 1);
        health[1].is_away();
        health[2].is_away();
        assert_eq!(turn.present(), 1);
        health[2].is_well();
        assert_eq!(turn.present(), 2);
        health[2].is_away();
        health[0].is_well();
        assert_eq!(turn.present(), 0);
    }
}
