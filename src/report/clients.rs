//! What `DogStatsD` clients tell of themselves, told of the outputs: Datadog's own
//! dashboards read it, to show what is lost between programs and its agent.
//!
//! ## Metrics
//! Counts below `datadog.dogstatsd.client`, of the outputs with `format = "dogstatsd"`
//! but standard output: `metrics`, `metric_dropped_on_receive`, `packets_sent`,
//! `packets_dropped`, `packets_dropped_queue`, `packets_dropped_writer`, `bytes_sent`,
//! `bytes_dropped`, `bytes_dropped_queue`, `bytes_dropped_writer`, `aggregated_context`.
//! The official clients' `events` and `service_checks` are not told: nothing on a
//! line's way needs to know what it is, so that `metrics` counts them too.

use std::collections::BTreeMap;

use super::deltas::Deltas;
use super::lane::Lane;
use crate::address::Address;
use crate::config::{self, Format};
use crate::telemetry::{Kind, LineDrop, OutputCounters, Reason as _, Sample, Telemetry};

/// Put before each name.
pub(super) const PREFIX: &str = "datadog.dogstatsd.client";

/// On each line.
pub(super) const TAGS: [&str; 2] = [
    "client:rust-conntally",
    concat!("client_version:", env!("CARGO_PKG_VERSION")),
];

/// The tag that tells one line of a name from another.
const TRANSPORT: &str = "client_transport";

/// What a client of this output would send by, as the official ones call it; none where
/// there is no such client. Which kind a `unix://` socket is, is not known before.
fn transport(output: &config::Output) -> Option<&'static str> {
    if output.format != Format::Dogstatsd {
        return None;
    }
    match output.address {
        Address::Udp(_) => Some("udp"),
        Address::UnixDatagram(_) | Address::Unix(_) => Some("uds"),
        Address::UnixStream(_) => Some("uds-stream"),
        Address::Tcp(_) => Some("tcp"),
        Address::Stdout => None,
    }
}

/// Names and totals so far.
type Totals = [(&'static str, u64); 11];

/// The outputs, in the order of their counters.
#[derive(Debug, Default)]
pub(super) struct Clients(Vec<Option<Client>>);

impl Clients {
    pub(super) fn new<'a>(outputs: impl IntoIterator<Item = &'a config::Output>) -> Self {
        let client = |output: &config::Output| {
            transport(output).map(|transport| Client {
                transport,
                limit: (output.payload_limit() as u64).max(1),
                queue: Lost::default(),
                writer: Lost::default(),
            })
        };
        Self(outputs.into_iter().map(client).collect())
    }

    /// What the outputs of each transport come to together.
    pub(super) fn totals(&mut self, telemetry: &Telemetry) -> BTreeMap<&'static str, Totals> {
        let mut sums = BTreeMap::<_, Totals>::new();
        for (client, (_, counters)) in self.0.iter_mut().zip(&telemetry.outputs) {
            let Some(client) = client else {
                continue;
            };
            let totals = client.totals(counters);
            if let Some(sums) = sums.get_mut(client.transport) {
                for ((_, sum), (_, total)) in sums.iter_mut().zip(totals) {
                    *sum += total;
                }
            } else {
                sums.insert(client.transport, totals);
            }
        }
        sums
    }
}

/// Sends what was added to them since the last tick, to the lanes that have tags.
pub(super) fn send(totals: &BTreeMap<&'static str, Totals>, deltas: &mut Deltas, lanes: &[Lane]) {
    for (&transport, totals) in totals {
        let tags = &[(TRANSPORT, transport)];
        for &(name, value) in totals {
            let sample = Sample {
                name,
                kind: Kind::Count,
                tags,
                value,
            };
            if let Some(delta) = deltas.advance(&sample) {
                for lane in lanes {
                    lane.client_count(name, tags, delta);
                }
            }
        }
    }
}

/// One output.
#[derive(Debug)]
struct Client {
    transport: &'static str,
    /// The longest payload, bytes.
    limit: u64,
    /// What found no room.
    queue: Lost,
    /// What was given up on its way to the transport.
    writer: Lost,
}

impl Client {
    fn totals(&mut self, counters: &OutputCounters) -> Totals {
        let no_room = (LineDrop::ALL.iter())
            .filter(|reason| !reason.is_by_writer())
            .map(|&reason| counters.dropped.get(reason))
            .sum();
        self.queue
            .advance(counters.dropped_queue_bytes.get(), self.limit);
        self.writer
            .advance(counters.dropped_writer_bytes.get(), self.limit);
        let (queue, writer) = (&self.queue, &self.writer);
        [
            ("metrics", counters.accepted.get()),
            ("metric_dropped_on_receive", no_room),
            ("packets_sent", counters.payloads.get()),
            ("packets_dropped", queue.packets + writer.packets),
            ("packets_dropped_queue", queue.packets),
            ("packets_dropped_writer", writer.packets),
            ("bytes_sent", counters.bytes.get()),
            ("bytes_dropped", queue.bytes + writer.bytes),
            ("bytes_dropped_queue", queue.bytes),
            ("bytes_dropped_writer", writer.bytes),
            ("aggregated_context", counters.merged_contexts.get()),
        ]
    }
}

/// Bytes that an output dropped, and the payloads that these would have made: what is
/// dropped is lines, which were never packed.
#[derive(Debug, Default)]
struct Lost {
    bytes: u64,
    packets: u64,
}

impl Lost {
    /// What was dropped since the last tick would have filled payloads, but for the last.
    fn advance(&mut self, bytes: u64, limit: u64) {
        self.packets += bytes.saturating_sub(self.bytes).div_ceil(limit);
        self.bytes = bytes;
    }
}
