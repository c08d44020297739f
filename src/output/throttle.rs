//! `rate` and `burst`: what an output may send, and when.
//!
//! Every payload is paid for before it goes, and what was paid for a payload that did not
//! go pays for the next: a connection that is lost costs nothing.
//!
//! In any stretch of time no more goes than the rate times the stretch, and the burst;
//! and where the receiver kept a payload waiting that was paid for, that one.

use crate::config;
use crate::rate::Rate;
use crate::telemetry::OutputCounters;

#[cfg(test)]
mod tests;

/// What holds an output to its rate; by default nothing does.
#[derive(Debug, Default)]
pub struct Throttle(Option<Rate>);

impl Throttle {
    /// As configured.
    #[must_use]
    pub fn new(config: &config::Output) -> Self {
        let rate = config.rate.0;
        Self(rate.and_then(|rate| Rate::new(rate.0, config.burst_bytes())))
    }

    /// Whether there is a rate to hold.
    #[must_use]
    pub const fn holds(&self) -> bool {
        self.0.is_some()
    }

    /// Waits until `bytes` may go, and counts the wait.
    pub async fn ready(&mut self, bytes: usize, counters: &OutputCounters) {
        if let Some(rate) = &mut self.0
            && let Some(micros) = rate.ready(bytes).await
        {
            counters.throttled.add(1);
            counters.throttled_us.add(micros);
        }
    }

    /// Notes that `bytes` went.
    pub const fn went(&mut self, bytes: usize) {
        if let Some(rate) = &mut self.0 {
            rate.went(bytes);
        }
    }
}
