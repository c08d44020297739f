//! What is asked of the kernel, and how often: dumps alone, dumps and the ends of
//! flows, or every event and a dump now and then.
//!
//! `auto` weighs the time that a dump takes against the tick, and every mode gives way
//! when events come faster than they can be taken. Both turn slowly: what was found
//! too much is tried again after a while, and ever later if it is too much again.

use std::time::Duration;

use tokio::time::Instant;

use super::ledger::Hearing;
use crate::config::{self, CollectorMode};
use crate::telemetry::{Mode, Reason as _};

/// Above this share of the tick, per mille, dumps are made rarely.
const COSTLY_SHARE: u32 = 5;
/// Below this share of it they are made each tick again.
const CHEAP_SHARE: u32 = 2;
/// Dumps that must agree before `auto` turns.
const AGREEMENT: usize = 3;
/// How long `auto` stays where it is.
const REST: Duration = Duration::from_secs(5 * 60);
/// The most of the time that dumps take where events do not tell enough: per mille.
const CROWDED_SHARE: u32 = 100;

/// Seconds that are looked back on.
const WINDOW: u32 = 5;
/// How many of them lost events for want of room before less is listened to.
const TOO_MANY: u32 = 3;
/// The first wait before more is listened to again, and the last.
const FIRST_HOLD: Duration = Duration::from_secs(30);
const LAST_HOLD: Duration = Duration::from_secs(10 * 60);
/// What was too much again within this time of the last attempt waits twice as long.
const PROBATION: Duration = Duration::from_secs(60);

/// Chooses the mode, by what dumps cost and what events overrun.
#[derive(Debug)]
pub(super) struct Pace {
    choice: CollectorMode,
    tick: Duration,
    resync: Duration,
    /// Whether the kernel tells of events at all.
    tells: bool,
    load: Load,
    /// What the last dumps took, the last one first.
    costs: [Option<Duration>; AGREEMENT],
    /// Whether dumps cost too much for each tick, in `auto`.
    is_costly: bool,
    turned: Option<Instant>,
}

impl Pace {
    pub(super) fn new(config: &config::Collector, tick: Duration) -> Self {
        Self {
            choice: config.mode,
            tick,
            resync: config.resync_interval.0,
            tells: true,
            load: Load::new(),
            costs: [None; AGREEMENT],
            // All events until the first dump has told what dumps cost.
            is_costly: true,
            turned: None,
        }
    }

    /// Whether the kernel tells of events at all; true if that is news.
    pub(super) fn set_tells(&mut self, tells: bool) -> bool {
        std::mem::replace(&mut self.tells, tells) != tells
    }

    /// Which events are listened to now.
    pub(super) fn hearing(&self) -> Hearing {
        if self.tells {
            self.wanted().min(self.load.limit)
        } else {
            Hearing::Nothing
        }
    }

    /// Which events would be, whatever the load.
    const fn wanted(&self) -> Hearing {
        match self.choice {
            CollectorMode::Dump => Hearing::Nothing,
            CollectorMode::Events => Hearing::Everything,
            CollectorMode::Auto if self.is_costly => Hearing::Everything,
            CollectorMode::Auto | CollectorMode::Hybrid => Hearing::Ends,
        }
    }

    /// The mode that this comes to.
    pub(super) fn mode(&self) -> Mode {
        self.hearing().mode()
    }

    /// How long after a dump the next is due; `None`: at each tick.
    pub(super) fn resync_after(&self) -> Option<Duration> {
        let cost = self.costs[0].unwrap_or_default();
        if self.hearing() == Hearing::Everything {
            return Some(self.resync.max(cost * 1000 / COSTLY_SHARE));
        }
        let stepped_down =
            matches!(self.choice, CollectorMode::Auto | CollectorMode::Events) && self.is_costly;
        let least = cost * 1000 / CROWDED_SHARE;
        (stepped_down && self.tick < least).then_some(least)
    }

    /// A dump was made; what to say if that turned `auto`.
    pub(super) fn dumped(&mut self, took: Duration, now: Instant) -> Option<String> {
        self.costs.rotate_right(1);
        self.costs[0] = Some(took);
        if self.choice != CollectorMode::Auto {
            return None;
        }
        let first = self.turned.is_none();
        let agreed = |is: &dyn Fn(Duration) -> bool| {
            let mut known = self.costs.iter().flatten();
            if first {
                is(took)
            } else {
                known.clone().count() == AGREEMENT && known.all(|&cost| is(cost))
            }
        };
        let costly = agreed(&|cost| self.tick * COSTLY_SHARE / 1000 < cost);
        let cheap = agreed(&|cost| cost < self.tick * CHEAP_SHARE / 1000);
        let to = match (self.is_costly, costly, cheap) {
            _ if first => costly,
            (false, true, _) => true,
            (true, _, true) => false,
            (as_is, ..) => as_is,
        };
        let rests = self.turned.is_some_and(|at| now.duration_since(at) < REST);
        if !first && (to == self.is_costly || rests) {
            return None;
        }
        self.turned = Some(now);
        self.is_costly = to;
        Some(if to {
            format!(
                "mode events: a dump takes {took:.1?}, more than {} % of the tick: \
                 connections are counted by events, and by a dump each {:.0?}",
                f64::from(COSTLY_SHARE) / 10.0,
                self.resync_after().unwrap_or(self.resync)
            )
        } else {
            format!("mode hybrid: a dump takes {took:.1?}: one is made at each tick")
        })
    }

    /// Once a second: whether events were lost for want of room that could not be had.
    /// What to say if that changed what is listened to.
    pub(super) fn second(&mut self, overran: bool, now: Instant) -> Option<String> {
        let before = self.mode();
        let turn = self.load.second(overran, self.wanted(), now)?;
        if self.mode() == before {
            return None;
        }
        match turn {
            Turn::Down => Some(format!(
                "events come faster than they can be taken: from mode {} to {} for {:.0?}",
                before.as_str(),
                self.mode().as_str(),
                self.load.hold,
            )),
            Turn::Up => Some(format!(
                "events may be fewer now: from mode {} to {}",
                before.as_str(),
                self.mode().as_str(),
            )),
        }
    }
}

enum Turn {
    Down,
    Up,
}

/// What the load lets us listen to.
#[derive(Debug)]
struct Load {
    limit: Hearing,
    /// The last seconds, the last one the lowest bit: whether events were lost in it.
    seconds: u32,
    hold: Duration,
    /// When the limit was changed last.
    changed: Option<Instant>,
}

impl Load {
    const fn new() -> Self {
        Self {
            limit: Hearing::Everything,
            seconds: 0,
            hold: FIRST_HOLD,
            changed: None,
        }
    }

    fn second(&mut self, overran: bool, wanted: Hearing, now: Instant) -> Option<Turn> {
        self.seconds = (self.seconds << 1 | u32::from(overran)) & ((1 << WINDOW) - 1);
        let since = self.changed.map(|at| now.duration_since(at));
        if TOO_MANY <= self.seconds.count_ones() {
            let lower = match wanted.min(self.limit) {
                Hearing::Everything => Hearing::Ends,
                Hearing::Ends => Hearing::Nothing,
                Hearing::Nothing => return None,
            };
            self.hold = match since {
                Some(since) if since < PROBATION => LAST_HOLD.min(self.hold * 2),
                _ => FIRST_HOLD,
            };
            self.change(lower, now);
            return Some(Turn::Down);
        }
        let higher = match self.limit {
            Hearing::Everything => return None,
            Hearing::Ends => Hearing::Everything,
            Hearing::Nothing => Hearing::Ends,
        };
        if self.seconds != 0 || since.is_some_and(|since| since < self.hold) {
            return None;
        }
        self.change(higher, now);
        Some(Turn::Up)
    }

    fn change(&mut self, limit: Hearing, now: Instant) {
        self.limit = limit;
        self.seconds = 0;
        self.changed = Some(now);
    }
}

#[cfg(test)]
mod tests;
