//! Lines for the outputs of one kind: with tags, or with names alone.

use std::fmt::Write as _;
use std::io;
use std::mem;
use std::panic::RefUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cadence::prelude::*;
use cadence::{Metric, MetricBuilder, MetricSink, StatsdClient};
use tokio::task::yield_now;
use tokio::time::Instant;

use super::{name, own, text};
use crate::flow::{Direction, Protocol};
use crate::hosts::select::Row;
use crate::output::Fanout;

/// For how long a series that vanished is sent as 0.
const ZERO_FOR: Duration = Duration::from_secs(120);

/// Lines between two turns of the runtime: some 100 µs of work.
const LINES_PER_TURN: u32 = 256;

/// Where cadence writes to: every output of the lane, through one reused buffer.
#[derive(Clone, Debug)]
struct Sink {
    outputs: Arc<Mutex<Lines>>,
}

#[derive(Debug)]
struct Lines {
    fanout: Fanout,
    line: Vec<u8>,
}

impl MetricSink for Sink {
    fn emit(&self, metric: &str) -> io::Result<usize> {
        let mut lines = self.outputs.lock().unwrap_or_else(PoisonError::into_inner);
        let Lines { fanout, line } = &mut *lines;
        line.clear();
        line.extend_from_slice(metric.as_bytes());
        line.push(b'\n');
        fanout.offer(line);
        Ok(metric.len())
    }
}

/// What a `connections` line is tagged with. Its order is that of the lines.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Labels {
    pub(super) host: Arc<str>,
    /// Not told apart without tags.
    pub(super) way: Option<(Direction, Protocol)>,
    pub(super) port: Option<u16>,
    pub(super) state: &'static str,
}

impl Labels {
    /// Sends the line of this series; `port` is memory for its number's text.
    pub(super) fn send(&self, client: &StatsdClient, connections: u64, port: &mut String) {
        let mut line = client
            .gauge_with_tags(name::CONNECTIONS, connections)
            .with_tag("remote_host", &self.host)
            .with_tag("state", self.state);
        if let Some((direction, protocol)) = self.way {
            line = line
                .with_tag("protocol", protocol.as_str())
                .with_tag("direction", direction.as_str());
        }
        if let Some(number) = self.port {
            port.clear();
            // Writing to a String does not fail.
            write!(port, "{number}").unwrap_or_default();
            line = line.with_tag("port", port);
        }
        line.send();
    }
}

/// A client whose lines all carry `tags`.
pub(super) fn client<S>(prefix: &str, tags: &[String], sink: S) -> StatsdClient
where
    S: MetricSink + Send + Sync + RefUnwindSafe + 'static,
{
    let tags: Vec<_> = tags
        .iter()
        .filter(|tag| text::check_tag(tag).is_ok())
        .map(|tag| text::clean(tag))
        .collect();
    tags.iter()
        .fold(
            StatsdClient::builder(prefix, sink),
            |builder, tag| match tag.split_once(':') {
                Some((key, value)) => builder.with_tag(key, value),
                None => builder.with_tag_value(tag),
            },
        )
        .build()
}

/// A series that was sent.
#[derive(Debug)]
struct Sent {
    labels: Labels,
    /// When it was first missed.
    gone: Option<Instant>,
}

/// The clients over one kind of outputs, and what was sent to them.
#[derive(Debug)]
pub(super) struct Lane {
    conntrack: StatsdClient,
    own: StatsdClient,
    has_tags: bool,
    sent: Vec<Sent>,
    /// Memory of the tick before last.
    spare: Vec<Sent>,
    port: String,
    lines: u32,
}

impl Lane {
    /// For outputs that carry tags: `tags` on every line.
    pub(super) fn tagged(prefix: &str, tags: &[String], fanout: Fanout) -> Self {
        Self::new(
            prefix,
            |prefix, sink| client(prefix, tags, sink),
            fanout,
            true,
        )
    }

    /// For outputs that carry none: they make the values of a line's tags part of
    /// its name, so there are no more of them than tell its series apart.
    pub(super) fn plain(prefix: &str, fanout: Fanout) -> Self {
        Self::new(prefix, StatsdClient::from_sink::<Sink>, fanout, false)
    }

    fn new(
        prefix: &str,
        client: impl Fn(&str, Sink) -> StatsdClient,
        fanout: Fanout,
        has_tags: bool,
    ) -> Self {
        let sink = Sink {
            outputs: Arc::new(Mutex::new(Lines {
                fanout,
                line: Vec::new(),
            })),
        };
        Self {
            conntrack: client(&text::clean_name(prefix), sink.clone()),
            own: client(own::PREFIX, sink),
            has_tags,
            sent: Vec::new(),
            spare: Vec::new(),
            port: String::new(),
            lines: 0,
        }
    }

    /// A line for each row, and a 0 for each series that vanished.
    pub(super) async fn connections(&mut self, rows: &[Row], now: Instant) {
        if self.has_tags {
            let full = rows.iter().map(|row| {
                let labels = Labels {
                    host: Arc::clone(&row.host),
                    way: Some((row.direction, row.protocol)),
                    port: row.port,
                    state: row.state,
                };
                (labels, row.connections)
            });
            self.update(full, now).await;
        } else {
            self.update(collapse(rows).into_iter(), now).await;
        }
    }

    /// Walks what was sent and what is now side by side; both are sorted.
    async fn update(&mut self, rows: impl Iterator<Item = (Labels, u64)>, now: Instant) {
        let mut before = mem::take(&mut self.sent);
        let mut kept = mem::take(&mut self.spare);
        let mut past = before.drain(..).peekable();
        for (labels, connections) in rows {
            while let Some(series) = past.next_if(|series| series.labels < labels) {
                self.fade(series, now, &mut kept);
                self.turn().await;
            }
            past.next_if(|series| series.labels == labels);
            self.send(&labels, connections);
            kept.push(Sent { labels, gone: None });
            self.turn().await;
        }
        for series in past {
            self.fade(series, now, &mut kept);
            self.turn().await;
        }
        self.sent = kept;
        self.spare = before;
    }

    /// Sends a 0 for a series that vanished, until its time is over.
    fn fade(&mut self, mut series: Sent, now: Instant, kept: &mut Vec<Sent>) {
        let gone = *series.gone.get_or_insert(now);
        if now.duration_since(gone) < ZERO_FOR {
            self.send(&series.labels, 0);
            kept.push(series);
        }
    }

    fn send(&mut self, labels: &Labels, connections: u64) {
        labels.send(&self.conntrack, connections, &mut self.port);
    }

    async fn turn(&mut self) {
        self.lines += 1;
        if self.lines >= LINES_PER_TURN {
            self.lines = 0;
            yield_now().await;
        }
    }

    pub(super) fn gauge(&self, name: &str, value: u64) {
        self.conntrack.gauge_with_tags(name, value).send();
    }

    pub(super) fn count(&self, name: &str, delta: u64) {
        self.conntrack.count_with_tags(name, delta).send();
    }

    pub(super) fn own_gauge(&self, name: &str, tags: &[(&str, &str)], value: u64) {
        send_tagged(self.own.gauge_with_tags(name, value), tags);
    }

    pub(super) fn own_count(&self, name: &str, tags: &[(&str, &str)], delta: u64) {
        send_tagged(self.own.count_with_tags(name, delta), tags);
    }
}

/// At most two tags: a source or an address, and a reason.
fn send_tagged<T: Metric + From<String>>(line: MetricBuilder<'_, '_, T>, tags: &[(&str, &str)]) {
    match tags {
        [] => line.send(),
        [(key, value)] => line.with_tag(key, &text::clean(value)).send(),
        [(key, value), (key2, value2), ..] => line
            .with_tag(key, &text::clean(value))
            .with_tag(key2, &text::clean(value2))
            .send(),
    }
}

/// Rows added up by host and state. Sorted as they are.
fn collapse(rows: &[Row]) -> Vec<(Labels, u64)> {
    let mut collapsed: Vec<(Labels, u64)> = Vec::new();
    for same_host in rows.chunk_by(|a, b| a.host == b.host) {
        let first = collapsed.len();
        for row in same_host {
            let known = collapsed
                .iter_mut()
                .skip(first)
                .find(|(labels, _)| labels.state == row.state);
            if let Some((_, connections)) = known {
                *connections += row.connections;
            } else {
                let labels = Labels {
                    host: Arc::clone(&row.host),
                    way: None,
                    port: None,
                    state: row.state,
                };
                collapsed.push((labels, row.connections));
            }
        }
        if let Some(host) = collapsed.get_mut(first..) {
            host.sort_unstable();
        }
    }
    collapsed
}
