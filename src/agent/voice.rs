//! The report at each tick, and who hears it.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::outputs::Own;
use super::running::Told;
use crate::collector::Collectors;
use crate::config::Config;
use crate::exposition::Teller;
use crate::progress::Progress;
use crate::report::{Latest, Process, Reporter, SentSeries, Snapshot, resident_bytes};
use crate::telemetry::Telemetry;

/// How long the last look at the kernel's tables may take.
const LAST_LOOK: Duration = Duration::from_secs(2);

/// The report and what it tells of.
pub(super) struct Voice {
    /// To outputs that are sent to at once, and to those over the tick; the first ends before
    /// the other begins.
    pub(super) reporters: [Reporter; 2],
    pub(super) telemetry: Telemetry,
    /// Where scrapes read what the ticks told.
    pub(super) teller: Teller,
    /// Where the admin socket reads what the last tick found.
    pub(super) latest: watch::Sender<Latest>,
    pub(super) started: Instant,
}

/// Those of a voice, as the configuration has them; the second is paced until the last
/// report.
pub(super) fn reporters(
    config: &Config,
    to: [Own; 2],
    last_report: &CancellationToken,
) -> [Reporter; 2] {
    let [at_once, spread] = to.map(|to| {
        Reporter::new(&config.report, &config.tags, to.tagged, to.untagged)
            .telling_of(config.outputs_by_group())
    });
    [
        at_once,
        spread.paced(config.interval.0 / 2, last_report.clone()),
    ]
}

impl Voice {
    async fn report(&mut self, snapshots: Vec<Snapshot>) {
        let snapshots: Arc<[Snapshot]> = snapshots.into();
        if !self.latest.is_closed() {
            self.latest.send_modify(|latest| latest.tell(&snapshots));
        }
        let process = Process {
            started: self.started,
            resident: resident_bytes(),
        };
        let now = Instant::now();
        for reporter in &mut self.reporters {
            reporter
                .report(&snapshots, &self.telemetry, &process, now)
                .await;
        }
        self.teller.tell(&snapshots);
    }

    /// What was sent, for the process that takes our place.
    fn series(&self, now: Instant) -> SentSeries {
        let [at_once, spread] = &self.reporters;
        let mut sent = at_once.sent(now);
        sent.add(spread.sent(now));
        sent
    }
}

/// Asks the collectors at each tick, and sends what they answer and what the agent
/// counted itself. A report that is spread goes on while they are asked again: it takes
/// half a tick, so that no more than one other waits for its end.
pub(super) async fn report(
    mut voice: Voice,
    mut collectors: Collectors,
    every: Duration,
    last: CancellationToken,
    leave: CancellationToken,
    progress: Arc<Progress>,
) -> Told {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = last.cancelled() => break,
            snapshots = collectors.report() => {
                progress.beat();
                let mut reporting = pin!(voice.report(snapshots));
                let mut asked = false;
                loop {
                    tokio::select! {
                        biased;
                        () = &mut reporting => break,
                        _ = ticks.tick(), if !asked => {
                            collectors.tick();
                            asked = true;
                        }
                    }
                }
            }
            _ = ticks.tick() => collectors.tick(),
        }
    }
    let leaves = leave.is_cancelled();
    for snapshots in collectors.last(LAST_LOOK, leaves).await {
        voice.report(snapshots).await;
    }
    if !leaves {
        return Told::default();
    }
    Told {
        events: collectors.leave(),
        series: voice.series(Instant::now()),
    }
}
