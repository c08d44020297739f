//! The daemon and its stages as lines of JSON: what the admin socket sends, and what the
//! command reads. One object a line, told apart by `type`.

use std::collections::BTreeMap;
use std::process;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout};

use super::Context;
use super::body::object;
use crate::config::Format;
use crate::output::health::Health;
use crate::report::{Source, resident_bytes};
use crate::telemetry::{CollectorCounters, Reason as _, Telemetry};

/// How long the collector may take to say why it reads what it does: it may be in the
/// middle of a dump, and nothing else here waits for it.
const WHY_TIMEOUT: Duration = Duration::from_secs(1);

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum StatusLine {
    /// The first.
    Daemon(DaemonLine),
    /// One for each network namespace, the daemon's own first.
    Collector(CollectorLine),
    /// One for each, those of a group together.
    Output(OutputLine),
    /// One for each.
    Listener(ListenerLine),
    /// Of a daemon that is newer than the command.
    #[serde(other)]
    Unknown,
}

/// The process.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct DaemonLine {
    pub(crate) version: String,
    pub(crate) pid: u32,
    /// Milliseconds since the epoch.
    pub(crate) started: u64,
    pub(crate) uptime_seconds: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) resident_bytes: Option<u64>,
}

/// Where connections are read from; `GET /collector` tells the rest.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct CollectorLine {
    /// Its network namespace; none for the daemon's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) netns: Option<String>,
    /// conntrack, sockets or off.
    pub(crate) source: String,
    /// How connections are followed, with connection tracking.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mode: Option<String>,
    /// Why it is this source and this mode; of the daemon's own, where it says so in time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) why: Option<String>,
    /// Whether it was told to pause; as `why`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) paused: Option<bool>,
    /// Of the last dump.
    pub(crate) entries: u64,
    /// How long that took, microseconds.
    pub(crate) dump_us: u64,
    /// In the flow table.
    pub(crate) flows: u64,
    /// Failures so far.
    pub(crate) errors: u64,
}

impl CollectorLine {
    fn new(netns: Option<&str>, counters: &CollectorCounters) -> Self {
        let source = counters.source.get().unwrap_or(Source::Off);
        let mode = counters.mode.get();
        Self {
            netns: netns.map(str::to_owned),
            source: source.as_str().to_owned(),
            mode: mode.map(|mode| mode.as_str().to_owned()),
            why: None,
            paused: None,
            entries: counters.last_entries.get(),
            dump_us: counters.last_dump_micros.get(),
            flows: counters.flows.get(),
            errors: counters.errors.total(),
        }
    }
}

/// One output.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct OutputLine {
    pub(crate) address: String,
    pub(crate) format: Format,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) group: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) health: Option<Condition>,
    #[serde(flatten)]
    pub(crate) counters: Counters,
}

/// Whether an output takes lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Condition {
    /// It does, or nothing is known to the contrary.
    Well,
    /// It is not connected, is stuck, or was refused.
    Away,
}

impl Condition {
    fn of(health: &Health) -> Self {
        if health.well_for(Duration::ZERO) {
            Self::Well
        } else {
            Self::Away
        }
    }

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Well => "well",
            Self::Away => "away",
        }
    }
}

/// One listener.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct ListenerLine {
    pub(crate) address: String,
    #[serde(flatten)]
    pub(crate) counters: Counters,
}

/// Counters by name, as in metrics but for what they have in front.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(transparent)]
pub(crate) struct Counters(BTreeMap<String, Count>);

/// A number, or one for each reason.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged)]
enum Count {
    Number(u64),
    ByReason(BTreeMap<String, u64>),
}

impl Counters {
    /// Those of the one thing that `telemetry` has, whose names have `prefix` in front.
    fn of(telemetry: &Telemetry, prefix: &str) -> Self {
        let mut counters = BTreeMap::new();
        telemetry.visit(&mut |sample| {
            let Some(name) = sample.name.strip_prefix(prefix) else {
                return;
            };
            // The first tag is the thing itself.
            let Some((_, reason)) = sample.tags.get(1) else {
                counters.insert(name.to_owned(), Count::Number(sample.value));
                return;
            };
            let empty = || Count::ByReason(BTreeMap::new());
            let count = counters.entry(name.to_owned()).or_insert_with(empty);
            if let Count::ByReason(by_reason) = count {
                by_reason.insert((*reason).to_owned(), sample.value);
            }
        });
        Self(counters)
    }

    /// One of them, of all reasons; 0 where there is none of that name.
    pub(crate) fn get(&self, name: &str) -> u64 {
        match self.0.get(name) {
            None => 0,
            Some(Count::Number(number)) => *number,
            Some(Count::ByReason(by_reason)) => by_reason.values().sum(),
        }
    }

    /// The reasons that were counted, and how often.
    pub(crate) fn reasons(&self, name: &str) -> impl Iterator<Item = (&str, u64)> {
        let by_reason = match self.0.get(name) {
            Some(Count::ByReason(by_reason)) => Some(by_reason),
            _ => None,
        };
        let counted = by_reason
            .into_iter()
            .flatten()
            .filter(|(_, count)| **count > 0);
        counted.map(|(reason, &count)| (reason.as_str(), count))
    }
}

/// When the daemon began, by either clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begun {
    at: SystemTime,
    instant: Instant,
}

impl Begun {
    pub(super) fn now() -> Self {
        Self {
            at: SystemTime::now(),
            instant: Instant::now(),
        }
    }
}

/// The whole answer: as long as the configuration, whatever comes and goes.
pub(super) async fn status(context: &Context) -> Vec<u8> {
    let mut out = Vec::new();
    object(&mut out, &StatusLine::Daemon(daemon(context.begun)));
    for line in collectors(context).await {
        object(&mut out, &StatusLine::Collector(line));
    }
    for line in outputs(context) {
        object(&mut out, &StatusLine::Output(line));
    }
    for line in listeners(&context.telemetry) {
        object(&mut out, &StatusLine::Listener(line));
    }
    out
}

fn daemon(begun: Begun) -> DaemonLine {
    DaemonLine {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: process::id(),
        started: unix_millis(begun.at),
        uptime_seconds: begun.instant.elapsed().as_secs(),
        resident_bytes: resident_bytes(),
    }
}

/// Milliseconds since the epoch.
pub(super) fn unix_millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

async fn collectors(context: &Context) -> Vec<CollectorLine> {
    let described = timeout(WHY_TIMEOUT, context.collector.describe()).await;
    let collectors = context.telemetry.collectors.iter();
    let mut lines: Vec<_> = collectors
        .map(|(netns, counters)| CollectorLine::new(netns.as_deref(), counters))
        .collect();
    if let Ok(Ok(description)) = described
        && let Some(own) = lines.first_mut()
    {
        own.why = Some(description.why).filter(|why| !why.is_empty());
        own.paused = Some(description.paused);
    }
    lines
}

fn outputs(context: &Context) -> impl Iterator<Item = OutputLine> {
    let counted = context.telemetry.outputs.iter();
    let mut healths = context.views.healths.iter();
    context
        .config
        .outputs_by_group()
        .zip(counted)
        .map(move |(output, (address, counters))| {
            let alone = Telemetry {
                outputs: vec![(address.clone(), Arc::clone(counters))],
                ..Telemetry::default()
            };
            OutputLine {
                address: address.clone(),
                format: output.format,
                group: output.group.clone(),
                health: healths.next().map(|health| Condition::of(health)),
                counters: Counters::of(&alone, "output."),
            }
        })
}

fn listeners(telemetry: &Telemetry) -> impl Iterator<Item = ListenerLine> {
    telemetry.listeners.iter().map(|(address, counters)| {
        let alone = Telemetry {
            listeners: vec![(address.clone(), Arc::clone(counters))],
            ..Telemetry::default()
        };
        ListenerLine {
            address: address.clone(),
            counters: Counters::of(&alone, "listener."),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{LineDrop, OutputCounters};

    fn output() -> OutputLine {
        let counters = Arc::<OutputCounters>::default();
        counters.accepted.add(9);
        counters.sent.add(4);
        counters.drop_lines(LineDrop::QueueFull, 2, 100);
        let telemetry = Telemetry {
            outputs: vec![("udp://127.0.0.1:1".to_owned(), counters)],
            ..Telemetry::default()
        };
        OutputLine {
            address: "udp://127.0.0.1:1".to_owned(),
            format: Format::Dogstatsd,
            group: String::new(),
            health: Some(Condition::Away),
            counters: Counters::of(&telemetry, "output."),
        }
    }

    #[test]
    fn every_counter_is_there_by_its_metrics_name_and_by_reason_where_it_has_any() {
        let line = serde_json::to_value(StatusLine::Output(output())).unwrap();
        for (name, value) in [
            ("lines", 9),
            ("lines_held", 3),
            ("bytes_dropped_queue", 100),
        ] {
            assert_eq!(line[name], value, "{name}");
        }
        assert_eq!(line["lines_dropped"]["queue_full"], 2);
        assert_eq!(line["lines_dropped"]["oversized"], 0);
        assert_eq!(line["health"], "away");
        assert_eq!(line.get("group"), None);
    }

    #[test]
    fn a_line_is_read_back_as_it_was_and_one_of_a_newer_daemon_is_unknown() {
        let line = StatusLine::Output(output());
        let text = serde_json::to_string(&line).unwrap();
        assert_eq!(serde_json::from_str::<StatusLine>(&text).unwrap(), line);
        let newer = r#"{"type":"spool","bytes":1}"#;
        let read: StatusLine = serde_json::from_str(newer).unwrap();
        assert_eq!(read, StatusLine::Unknown);
    }

    #[test]
    fn reasons_are_those_that_were_counted() {
        let counters = output().counters;
        assert_eq!(counters.get("lines_dropped"), 2);
        let dropped: Vec<_> = counters.reasons("lines_dropped").collect();
        assert_eq!(dropped, [("queue_full", 2)]);
        assert_eq!(counters.reasons("lines").count(), 0);
        assert_eq!(counters.get("nothing"), 0);
    }
}
