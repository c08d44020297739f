//! `[[output]]`: where lines go.

use serde::{Deserialize, Serialize};

use super::{Aggregate, Burst, ByteRate, ByteSize, Config, Interval};
use crate::address::{Address, DEFAULT_PORT, HostPort};

/// How an output writes a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Datadog's: tags behind `|#`.
    Dogstatsd,
    /// Plain: no tags; host and state are parts of the name.
    Statsd,
    /// Tags in the name, `;key=value`.
    Graphite,
    /// Tags in the name, `,key=value`.
    Influx,
}

impl Format {
    /// Whether a line can carry tags.
    #[must_use]
    pub const fn has_tags(self) -> bool {
        !matches!(self, Self::Statsd)
    }
}

/// What happens to a line that finds its output's queue full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFull {
    /// Merged by context while the output takes nothing; senders wait while it does.
    Merge,
    /// Senders wait; the agent's own lines are dropped and counted.
    Block,
    /// Dropped and counted.
    Drop,
}

/// How the outputs of a group share its lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupMode {
    /// All lines go to the first in order that is well.
    Failover,
    /// Each line goes to the one that its context belongs to, by consistent hashing.
    Hash,
}

/// Whose lines an output takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LineSource {
    /// The agent's own metrics.
    Collector,
    /// What senders bring.
    Listeners,
}

/// `[[output]]`
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Output {
    /// Where to. Defaults to `udp://127.0.0.1:8125`.
    pub address: Address,
    /// Defaults to dogstatsd.
    pub format: Format,
    /// Most bytes in a payload. Defaults to 1432 B for UDP, 8 KiB else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_payload: Option<ByteSize>,
    /// Bytes per second; empty means no limit.
    pub rate: ByteRate,
    /// Bytes that may go at once after a rest; empty means one second's, and a payload at least.
    pub burst: Burst,
    /// Whether a long report is paced over half its tick. Defaults to true.
    pub spread: bool,
    /// The longest that a line waits for company. Defaults to 100ms.
    pub flush_interval: Interval,
    /// Bytes waiting before `on_full` applies. Defaults to 4 MiB.
    pub queue: ByteSize,
    /// Defaults to merge.
    pub on_full: OnFull,
    /// Contexts that `merge` holds at most.
    pub backlog_contexts: u64,
    /// Whether an outage's counts and gauges carry their own timestamps.
    pub backfill: bool,
    /// How long everything is merged before it is sent; empty means not at all.
    pub aggregate: Aggregate,
    /// The file in which what is left at the end is kept for the next start; empty means none.
    pub spool: String,
    /// Globs of names (of events: titles); empty means all.
    pub only: Vec<String>,
    /// Defaults to both.
    pub sources: Vec<LineSource>,
    /// Outputs of the same group share lines; empty for none.
    pub group: String,
    /// Defaults to failover.
    pub group_mode: GroupMode,
}

/// The Agent's own default for UDP: what a 1500 byte MTU leaves, less some for tunnels.
const UDP_PAYLOAD: ByteSize = ByteSize(1432);
/// The Agent's `dogstatsd_buffer_size`.
const STREAM_PAYLOAD: ByteSize = ByteSize::kib(8);

impl Output {
    /// Most bytes in a payload, from the key or the transport.
    #[must_use]
    pub fn payload_limit(&self) -> usize {
        self.max_payload
            .unwrap_or(match self.address {
                Address::Udp(_) => UDP_PAYLOAD,
                _ => STREAM_PAYLOAD,
            })
            .as_usize()
    }

    /// Bytes that may go at once where there is a rate, from the key or the rate.
    #[must_use]
    pub fn burst_bytes(&self) -> u64 {
        let bytes = |size: ByteSize| size.0;
        let usual = self.rate.0.map_or(0, bytes);
        let least = self.payload_limit() as u64;
        self.burst.0.map_or_else(|| usual.max(least), bytes)
    }

    /// Whether it takes lines from there.
    #[must_use]
    pub fn takes(&self, source: LineSource) -> bool {
        self.sources.contains(&source)
    }
}

impl Default for Output {
    fn default() -> Self {
        Self {
            address: Address::Udp(HostPort {
                host: "127.0.0.1".to_owned(),
                port: DEFAULT_PORT,
            }),
            format: Format::Dogstatsd,
            max_payload: None,
            rate: ByteRate::default(),
            burst: Burst::default(),
            spread: true,
            flush_interval: Interval::from_millis(100),
            queue: ByteSize::mib(4),
            on_full: OnFull::Merge,
            backlog_contexts: 100_000,
            backfill: false,
            aggregate: Aggregate::default(),
            spool: String::new(),
            only: Vec::new(),
            sources: vec![LineSource::Collector, LineSource::Listeners],
            group: String::new(),
            group_mode: GroupMode::Failover,
        }
    }
}

impl Config {
    /// The places of the outputs, those of a group together at the place of its first.
    #[must_use]
    pub fn output_groups(&self) -> Vec<Vec<usize>> {
        let mut groups: Vec<Vec<usize>> = Vec::new();
        for (place, output) in self.outputs.iter().enumerate() {
            let name = &output.group;
            let same = |members: &&mut Vec<usize>| {
                let first = members.first().and_then(|&first| self.outputs.get(first));
                !name.is_empty() && first.is_some_and(|first| first.group == *name)
            };
            match groups.iter_mut().find(same) {
                Some(members) => members.push(place),
                None => groups.push(vec![place]),
            }
        }
        groups
    }
}
