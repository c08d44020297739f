//! How long to wait before the next attempt: exponential, with jitter, so that a
//! host's worth of senders does not knock at a restarted receiver at once.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Why a backoff can't be made.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum BackoffError {
    /// The first delay is zero: attempts would spin.
    #[error("the shortest delay must be longer than zero")]
    Zero,
    /// The bounds are the wrong way round.
    #[error("the shortest delay {min:?} is longer than the longest {max:?}")]
    Bounds {
        /// Shortest delay.
        min: Duration,
        /// Longest delay.
        max: Duration,
    },
    /// Not a share.
    #[error("the jitter {0} is not between 0 and 1")]
    Jitter(f64),
}

/// Between which delays to stay, and how much of each is random.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    min: Duration,
    max: Duration,
    jitter: f64,
}

impl Bounds {
    /// Delays from `min` to `max`, of which up to the share `jitter` is taken off.
    ///
    /// # Errors
    ///
    /// When `min` is zero or above `max`, or `jitter` is not within 0 and 1.
    pub const fn new(min: Duration, max: Duration, jitter: f64) -> Result<Self, BackoffError> {
        if min.is_zero() {
            return Err(BackoffError::Zero);
        }
        if min.as_nanos() > max.as_nanos() {
            return Err(BackoffError::Bounds { min, max });
        }
        if !(jitter >= 0.0 && jitter <= 1.0) {
            return Err(BackoffError::Jitter(jitter));
        }
        Ok(Self { min, max, jitter })
    }
}

/// Delays that double from a shortest to a longest, each shortened by a random
/// share of itself.
#[derive(Clone, Debug)]
pub struct Backoff {
    bounds: Bounds,
    /// The next delay, before jitter.
    delay: Duration,
    random: SplitMix64,
}

impl Backoff {
    /// Delays within `bounds`, the shortest first.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            delay: bounds.min,
            random: SplitMix64::seeded(),
        }
    }

    /// The delay before the next attempt; the one after is twice as long.
    pub fn next_delay(&mut self) -> Duration {
        let delay = self.delay;
        self.delay = self.bounds.max.min(delay.saturating_mul(2));
        delay.mul_f64(1.0 - self.bounds.jitter * self.random.unit())
    }

    /// The next delay is the shortest again.
    pub fn reset(&mut self) {
        self.delay = self.bounds.min;
    }
}

/// Sebastiano Vigna's `SplitMix64`: enough to spread retries, not for secrets.
#[derive(Clone, Debug)]
struct SplitMix64(u64);

impl SplitMix64 {
    /// Seeded by the system: each `RandomState` has keys of its own.
    fn seeded() -> Self {
        Self(RandomState::new().hash_one(()))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0, below 1.
    fn unit(&mut self) -> f64 {
        let bits = u32::try_from(self.next() >> 32).unwrap_or_default();
        f64::from(bits) / (f64::from(u32::MAX) + 1.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn backoff(min: Duration, max: Duration, jitter: f64) -> Backoff {
        Backoff::new(Bounds::new(min, max, jitter).unwrap())
    }

    #[test]
    fn delays_double_up_to_the_longest_and_start_over_after_a_reset() {
        let mut backoff = backoff(SECOND, 10 * SECOND, 0.0);
        let delays: Vec<u64> = (0..6).map(|_| backoff.next_delay().as_secs()).collect();
        assert_eq!(delays, [1, 2, 4, 8, 10, 10]);
        backoff.reset();
        assert_eq!(backoff.next_delay(), SECOND);
    }

    #[test]
    fn bounds_that_make_no_sense_are_refused() {
        assert_eq!(
            Bounds::new(Duration::ZERO, SECOND, 0.0).unwrap_err(),
            BackoffError::Zero
        );
        assert_eq!(
            Bounds::new(2 * SECOND, SECOND, 0.0).unwrap_err(),
            BackoffError::Bounds {
                min: 2 * SECOND,
                max: SECOND
            }
        );
        for jitter in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            assert!(matches!(
                Bounds::new(SECOND, SECOND, jitter),
                Err(BackoffError::Jitter(_))
            ));
        }
    }

    #[test]
    fn two_backoffs_do_not_walk_in_step() {
        let delays = || {
            let mut backoff = backoff(SECOND, 64 * SECOND, 0.5);
            (0..8).map(|_| backoff.next_delay()).collect::<Vec<_>>()
        };
        assert_ne!(delays(), delays());
    }

    proptest! {
        /// Jitter takes at most its share off, and never adds.
        #[test]
        fn prop_a_delay_stays_within_its_jitter(
            min in 1_u64..10_000,
            more in 0_u64..100_000,
            jitter in 0.0..=1.0,
            steps in 1_usize..20,
        ) {
            let (min, max) = (Duration::from_millis(min), Duration::from_millis(min + more));
            let mut jittered = backoff(min, max, jitter);
            let mut plain = backoff(min, max, 0.0);
            for _ in 0..steps {
                let (delay, whole) = (jittered.next_delay(), plain.next_delay());
                prop_assert!(delay <= whole && whole <= max);
                // Durations round to nanoseconds.
                prop_assert!(delay + Duration::from_nanos(1) >= whole.mul_f64(1.0 - jitter));
            }
        }
    }
}
