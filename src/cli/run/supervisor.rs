//! What systemd is told of the daemon (`sd_notify(3)`); without it nobody is.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::debug;

use crate::config::Config;
use crate::progress::Progress;

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        debug!(%error, ?state, "systemd cannot be told");
    }
}

/// Every listener is bound, and the first tick is done.
pub(super) fn ready(config: &Config) {
    let (listeners, outputs) = (config.listeners.len(), config.outputs.len());
    let status = format!("{listeners} listeners, {outputs} outputs");
    tell(&[NotifyState::Ready, NotifyState::Status(&status)]);
}

/// A new configuration is read, or a new program takes over.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => debug!(%error, "the time of a reload cannot be told"),
    }
}

/// It ends.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Feeds the watchdog for as long as the daemon moves.
#[derive(Debug)]
pub(super) struct Watchdog {
    ticks: Option<Interval>,
}

impl Watchdog {
    /// As often as systemd asks for.
    pub(super) fn new() -> Self {
        // Twice as often as it must be (sd_watchdog_enabled(3)).
        let ticks = sd_notify::watchdog_enabled().map(|timeout| {
            let mut ticks = interval((timeout / 2).max(Duration::from_millis(1)));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        });
        Self { ticks }
    }

    /// Feeds it, once that is due.
    pub(super) async fn feed(&mut self, progress: &Progress) {
        match &mut self.ticks {
            Some(ticks) => {
                ticks.tick().await;
            }
            None => std::future::pending().await,
        }
        if !progress.is_stuck() {
            tell(&[NotifyState::Watchdog]);
        }
    }
}
