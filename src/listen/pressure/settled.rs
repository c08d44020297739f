//! Memory that lines took, and that the process keeps although they are gone.
//!
//! The allocator gives back to the system what lies at the end of its heap alone: after
//! an outage the process stays as large as it was at its worst, and mostly empty. Were it
//! only the size that counts, senders would be slowed down, or their lines given up, for
//! good. So where the outputs have got rid of what made the process grow, it may be as
//! large as it is, and only growth beyond that is pressure.

use super::measure::Usage;
use crate::config;

/// Of what was held at most, no more than one part in so many may be left.
const GONE_DIVISOR: u64 = 8;

/// The size that the process is known to be without need.
#[derive(Debug, Default)]
pub(super) struct Settled {
    /// Most bytes that outputs held since memory became short.
    most_held: u64,
    /// The size, bytes.
    used: Option<u64>,
}

/// Shares of the limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Bounds {
    /// From here on reads wait.
    pub(super) low: f64,
    /// Beyond this they stop.
    pub(super) high: f64,
}

impl Settled {
    /// What bounds hold now that so much is used, of which outputs hold about `held` bytes.
    pub(super) fn bounds(&mut self, usage: Usage, held: u64, config: &config::Memory) -> Bounds {
        let share = usage.share();
        if share < config.low {
            *self = Self::default();
        } else {
            self.most_held = self.most_held.max(held);
            let most = Usage {
                used: self.most_held,
                ..usage
            };
            // Else it was not for them that the process grew.
            let counts = most.share() >= config.high - config.low && self.most_held > 0;
            if counts && held <= self.most_held / GONE_DIVISOR {
                self.used = Some(usage.used);
                self.most_held = 0;
            }
        }
        match self.used {
            None => Bounds {
                low: config.low,
                high: config.high,
            },
            // Of what is left to the limit, a quarter and a half.
            Some(used) => {
                let settled = Usage { used, ..usage }.share();
                let rest = (1.0 - settled).max(0.0);
                Bounds {
                    low: settled + rest / 4.0,
                    high: settled + rest / 2.0,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u64 = 1000;

    fn bounds(settled: &mut Settled, used: u64, held: u64) -> (f64, f64) {
        let usage = Usage { used, limit: LIMIT };
        let bounds = settled.bounds(usage, held, &config::Memory::default());
        let rounded = |share: f64| (share * 1e6).round() / 1e6;
        (rounded(bounds.low), rounded(bounds.high))
    }

    const CONFIGURED: (f64, f64) = (0.7, 0.8);

    #[test]
    fn once_what_was_held_is_gone_only_growth_is_pressure() {
        let mut settled = Settled::default();
        for (used, held) in [(500, 400), (750, 600), (850, 700), (840, 500), (840, 88)] {
            assert_eq!(bounds(&mut settled, used, held), CONFIGURED);
        }
        assert_eq!(bounds(&mut settled, 840, 87), (0.88, 0.92));
        assert_eq!(bounds(&mut settled, 880, 600), (0.88, 0.92));
        // The next time less is left.
        assert_eq!(bounds(&mut settled, 900, 10), (0.925, 0.95));
        // The system has it back.
        assert_eq!(bounds(&mut settled, 690, 0), CONFIGURED);
        assert_eq!(bounds(&mut settled, 750, 0), CONFIGURED);
    }

    #[test]
    fn what_others_use_is_pressure_for_as_long_as_they_do() {
        let mut settled = Settled::default();
        // Outputs held less than would explain it.
        for held in [0, 50, 99, 5, 0] {
            assert_eq!(bounds(&mut settled, 900, held), CONFIGURED);
        }
    }

    #[test]
    fn a_process_beyond_its_limit_may_not_grow_at_all() {
        let mut settled = Settled::default();
        bounds(&mut settled, 1200, 500);
        assert_eq!(bounds(&mut settled, 1200, 0), (1.2, 1.2));
    }
}
