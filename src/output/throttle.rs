//! `rate` and `burst`: what an output may send, and when.
//!
//! Every payload is paid for before it goes, and what was paid for a payload that did not
//! go pays for the next: a wait that is given up, or a connection that is lost, costs nothing.
//!
//! In any stretch of time no more goes than the rate times the stretch, and the burst;
//! and where the receiver kept a payload waiting that was paid for, that one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::config;
use crate::rate::Rate;
use crate::telemetry::OutputCounters;

#[cfg(test)]
mod tests;

/// What holds an output to its rate; by default nothing does.
#[derive(Debug, Default)]
pub struct Throttle {
    rate: Option<Rate>,
    waits: Waits,
}

/// Whether an output is over its rate: its payloads have to wait.
#[derive(Clone, Debug, Default)]
pub struct Waits(Arc<AtomicBool>);

impl Waits {
    /// Whether the last payload had to wait, or waits now.
    #[must_use]
    pub fn now(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, waits: bool) {
        if self.now() != waits {
            self.0.store(waits, Ordering::Relaxed);
        }
    }
}

impl Throttle {
    /// As configured.
    #[must_use]
    pub fn new(config: &config::Output) -> Self {
        let rate = (config.rate.0).and_then(|rate| Rate::new(rate.0, config.burst_bytes()));
        Self {
            rate,
            waits: Waits::default(),
        }
    }

    /// What tells whether the output is over its rate.
    #[must_use]
    pub fn waits(&self) -> Waits {
        self.waits.clone()
    }

    /// Whether there is a rate to hold.
    #[must_use]
    pub const fn holds(&self) -> bool {
        self.rate.is_some()
    }

    /// Waits until `bytes` may go, and counts the wait.
    pub async fn ready(&mut self, bytes: usize, counters: &OutputCounters) {
        let Some(rate) = &mut self.rate else {
            return;
        };
        let is_ready = rate.is_ready(bytes);
        self.waits.set(!is_ready);
        if is_ready {
            return;
        }
        if let Some(micros) = rate.ready(bytes).await {
            counters.throttled.add(1);
            counters.throttled_us.add(micros);
        }
    }

    /// Notes that `bytes` went.
    pub const fn went(&mut self, bytes: usize) {
        if let Some(rate) = &mut self.rate {
            rate.went(bytes);
        }
    }
}
