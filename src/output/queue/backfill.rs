//! Which times a backlog's lines may be given back with.
//!
//! A receiver puts a line without a timestamp into the time of its coming, and of two
//! points at one time the later one stands. So a tick is free for points of its own only
//! if no line without a timestamp went in it. Told for all contexts together: a tick that is
//! partly used is used. What came in a tick that is not free goes without a timestamp, or
//! with that of the next that may be.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::output::backlog::Tick;

/// Seconds after the last line within which it may still be read.
const MARGIN: u32 = 1;

/// The Agent aggregates in buckets of so many seconds of its clock, and tells of each with
/// its beginning.
const BUCKET: u32 = 10;

/// Gaps that are remembered.
const MAX_GAPS: usize = 64;

/// When lines without timestamps went, and when not.
#[derive(Debug)]
pub(super) struct Backfill {
    /// Seconds from one tick to the next.
    every: u32,
    /// When the last line without a timestamp may have gone.
    last: u32,
    /// The latest last.
    gaps: VecDeque<Gap>,
}

/// A time in which no line without a timestamp went.
#[derive(Clone, Copy, Debug)]
struct Gap {
    /// Its first free tick.
    from: u32,
    /// When a line without a timestamp went again, seconds.
    until: u32,
}

/// The seconds of the Unix clock.
pub(super) fn now() -> u32 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    u32::try_from(since.unwrap_or_default().as_secs()).unwrap_or(u32::MAX)
}

/// Whole seconds that a tick takes at least.
#[must_use]
pub fn tick_seconds(interval: Duration) -> u32 {
    let seconds = interval.as_secs() + u64::from(interval.subsec_nanos() > 0);
    u32::try_from(seconds).unwrap_or(u32::MAX).max(1)
}

impl Backfill {
    /// From `now` on: what went before is not known.
    pub(super) const fn new(every: u32, now: u32) -> Self {
        Self {
            every,
            last: now,
            gaps: VecDeque::new(),
        }
    }

    const fn tick_of(&self, time: u32) -> u32 {
        time - time % self.every
    }

    /// The first tick that may be free after the last line.
    const fn free_from(&self) -> u32 {
        self.tick_of(self.last.saturating_add(MARGIN))
            .saturating_add(self.every)
    }

    /// Lines without timestamps went.
    pub(super) fn went(&mut self, now: u32) {
        let from = self.free_from();
        if from < self.tick_of(now) {
            if self.gaps.len() == MAX_GAPS {
                self.gaps.pop_front();
            }
            self.gaps.push_back(Gap { from, until: now });
        }
        self.last = self.last.max(now);
    }

    /// The tick of what comes now, or the next that may be free.
    pub(super) fn tick(&self, now: u32) -> Option<Tick> {
        let tick = self.tick_of(now).max(self.free_from());
        NonZeroU32::new(tick).map(Tick)
    }

    /// Whether no line without a timestamp went in this tick, which is over.
    pub(super) fn is_free(&self, tick: Tick, now: u32) -> bool {
        let open = Gap {
            from: self.free_from(),
            until: now,
        };
        let mut gaps = self.gaps.iter().chain([&open]);
        gaps.any(|gap| self.is_within(*gap, tick))
    }

    const fn is_within(&self, gap: Gap, Tick(tick): Tick) -> bool {
        let tick = tick.get();
        let bucket = gap.until - gap.until % BUCKET;
        gap.from <= tick && tick < self.tick_of(gap.until) && tick != bucket
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tick(seconds: u32) -> Tick {
        Tick(NonZeroU32::new(seconds).unwrap())
    }

    #[test]
    fn a_tick_is_free_when_it_lies_whole_between_two_lines() {
        let mut backfill = Backfill::new(10, 1003);
        assert_eq!(backfill.tick(1004), Some(tick(1010)));
        assert_eq!(backfill.tick(1025), Some(tick(1020)));
        assert!(!backfill.is_free(tick(1020), 1025), "it is not over");
        assert!(backfill.is_free(tick(1010), 1025));
        backfill.went(1038);
        for (seconds, is_free) in [(1000, false), (1010, true), (1020, true), (1030, false)] {
            assert_eq!(backfill.is_free(tick(seconds), 1060), is_free, "{seconds}");
        }
        assert!(!backfill.is_free(tick(1040), 1045), "not over either");
        // A line at the very end of a tick may be read in the next.
        backfill.went(1059);
        assert_eq!(backfill.tick(1061), Some(tick(1070)));
    }

    #[test]
    fn an_interval_of_less_than_a_second_has_ticks_of_one() {
        assert_eq!(tick_seconds(Duration::from_millis(200)), 1);
        assert_eq!(tick_seconds(Duration::from_millis(1200)), 2);
        assert_eq!(tick_seconds(Duration::from_secs(10)), 10);
    }

    proptest! {
        /// No point falls into a tick, or onto the beginning of a bucket, that a line
        /// without a timestamp went in.
        #[test]
        fn prop_no_free_tick_was_used(
            every in 1_u32..40,
            steps in prop::collection::vec((0_u32..120, any::<bool>()), 1..60),
        ) {
            let mut now = 100_000;
            let mut backfill = Backfill::new(every, now);
            let mut lines = vec![now];
            let mut ticks = Vec::new();
            for (seconds, goes) in steps {
                now += seconds;
                if goes {
                    backfill.went(now);
                    lines.push(now);
                } else {
                    ticks.extend(backfill.tick(now));
                }
                for &tick in &ticks {
                    let Tick(at) = tick;
                    let at = at.get();
                    if backfill.is_free(tick, now) {
                        prop_assert!(at + every <= now);
                        for line in &lines {
                            prop_assert!(!(at..at + every).contains(line));
                            prop_assert!(line - line % BUCKET != at);
                        }
                    }
                }
            }
        }
    }
}
