//! What `GET /metrics` of the HTTP endpoint shows, in the text that Prometheus reads.
//!
//! - `conntrack_{opening,open,closing,closed}_connections{host}`: TCP connections now, by
//!   the names and labels of `conntrack_exporter`, from a look of their own ([`looks`]);
//!   in the format 0.0.4 a second time with `_total` behind the name, as its
//!   documentation has it.
//! - `conntrack_{opened,closed,failed,bytes,packets,durations,duration_seconds}_total` by
//!   remote host, `conntrack_hosts`,
//!   `conntrack_hosts_folded`, `conntrack_table_*`: what the ticks told ([`totals`]).
//! - `conntally_*`: what [`Telemetry::visit`] shows, with `_` for dots and `_total` behind
//!   counters; microseconds as seconds, which is Prometheus' unit.
//!
//! `[report]` says which of them there are, as for what is pushed; `report.prefix` is not
//! for these names.

mod help;
mod looks;
mod places;
#[cfg(test)]
mod tests;
pub(crate) mod text;
mod totals;

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;

use self::looks::Looks;
use self::text::{Families, Format, Unit};
pub(crate) use self::totals::{Teller, Totals};
use crate::config::{Config, Report};
use crate::flow::key::KeyHasher;
use crate::report::{Source, resident_bytes};
use crate::telemetry::{HttpCounters, Kind, Mode, Reason, Sample, Telemetry};

/// In front of the agent's own.
const OWN: &str = "conntally";
/// What the names of counters of microseconds end in, and what stands for it.
const MICROS: &str = "_us";
const SECONDS: &str = "_seconds";

/// Everything that can be scraped.
#[derive(Debug)]
pub(crate) struct Exposition {
    started: Instant,
    report: Report,
    telemetry: Telemetry,
    told: watch::Receiver<Totals>,
    looks: Looks,
}

impl Exposition {
    /// Of what the other stages gave; `told` is where the ticks are told.
    pub(crate) fn new(
        config: &Config,
        keys: KeyHasher,
        telemetry: &Telemetry,
        counters: Arc<HttpCounters>,
        told: watch::Receiver<Totals>,
    ) -> Self {
        Self {
            started: Instant::now(),
            report: config.report.clone(),
            looks: Looks::new(config, keys, telemetry, counters),
            telemetry: telemetry.clone(),
            told,
        }
    }

    /// Whether the first tick is done.
    pub(crate) fn has_ticked(&self) -> bool {
        self.told.borrow().ticks() > 0
    }

    /// All of it as it is now.
    pub(crate) async fn text(&self, format: Format) -> String {
        let mut text = String::new();
        if self.report.connections {
            self.looks.families().await.write(format, &mut text);
        }
        let mut families = Families::default();
        self.told.borrow().tell(&self.report, &mut families);
        if self.report.telemetry {
            self.process(&mut families);
            own(&self.telemetry, &mut families);
        }
        families.write(format, &mut text);
        text.push_str(format.end());
        text
    }

    fn process(&self, families: &mut Families) {
        let mut gauge = |name: &str, value| {
            let name = format!("{OWN}_{name}");
            families
                .family(&name, Kind::Gauge, help::of(&name))
                .add([], value);
        };
        gauge("uptime_seconds", self.started.elapsed().as_secs());
        if let Some(bytes) = resident_bytes() {
            gauge("memory_resident_bytes", bytes);
        }
    }
}

/// The agent's own, by the names of [`Telemetry::visit`].
fn own(telemetry: &Telemetry, families: &mut Families) {
    for (netns, collector) in &telemetry.collectors {
        let netns = netns.as_deref();
        present(
            families,
            "source",
            netns,
            Some(collector.source.get().unwrap_or(Source::Off)),
        );
        present::<Mode>(families, "mode", netns, collector.mode.get());
    }
    telemetry.visit(&mut |Sample {
                              name,
                              kind,
                              tags,
                              value,
                          }| {
        let mut full = format!("{OWN}_{}", name.replace('.', "_"));
        let mut unit = Unit::One;
        if let Some(stem) = full.strip_suffix(MICROS) {
            (full, unit) = (format!("{stem}{SECONDS}"), Unit::Micros);
        }
        families
            .family(&full, kind, help::of(&full))
            .of(unit)
            .add(tags.iter().copied(), value);
    });
}

/// Which one of several holds: 1, and 0 for the others.
fn present<R: Reason + PartialEq>(
    families: &mut Families,
    key: &'static str,
    netns: Option<&str>,
    now: Option<R>,
) {
    let name = format!("{OWN}_collector_{key}");
    let family = families.family(&name, Kind::Gauge, help::of(&name));
    for &value in R::ALL {
        let netns = netns.map(|name| ("netns", name));
        let labels = netns.into_iter().chain([(key, value.as_str())]);
        family.add(labels, u64::from(now == Some(value)));
    }
}
