//! Lines for the outputs of one kind: with tags, or with names alone.

use std::collections::HashMap;
use std::io;
use std::panic::RefUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};

use cadence::prelude::*;
use cadence::{Metric, MetricBuilder, MetricSink, StatsdClient};
use foldhash::fast::RandomState;
use tokio::time::Instant;

use super::namespace::Namespace;
use super::pace::Pace;
use super::sent::SentSeries;
use super::{clients, own, text};
use crate::output::Fanout;

/// The longest line of packed values, its newline included, so that it fits any
/// payload of the usual sizes (1432 bytes for UDP) with others.
const MAX_PACKED: usize = 1024;

/// Where cadence writes to: every output of the lane, through one reused buffer.
#[derive(Clone, Debug)]
struct Sink {
    outputs: Arc<Mutex<Lines>>,
    pace: Option<Arc<Pace>>,
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
        if let Some(pace) = &self.pace {
            pace.count(line.len());
        }
        Ok(metric.len())
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

/// The clients over one kind of outputs, and what was sent to them.
#[derive(Debug)]
pub(super) struct Lane {
    own: StatsdClient,
    /// For what Datadog's dashboards read, which tell by its tags what it is.
    dogstatsd: Option<StatsdClient>,
    namespaces: HashMap<Option<Arc<str>>, Namespace, RandomState>,
    sink: Sink,
    prefix: String,
    /// On every line.
    tags: Vec<String>,
    has_tags: bool,
    /// The longest line of packed values.
    most_bytes: usize,
}

impl Lane {
    /// For outputs that carry tags: `tags` on every line.
    pub(super) fn tagged(prefix: &str, tags: &[String], fanout: Fanout) -> Self {
        Self::new(prefix, tags, fanout, true)
    }

    /// For outputs that carry none: they make the values of a line's tags part of
    /// its name, so there are no more of them than tell its series apart.
    pub(super) fn plain(prefix: &str, fanout: Fanout) -> Self {
        Self::new(prefix, &[], fanout, false)
    }

    fn new(prefix: &str, tags: &[String], fanout: Fanout, has_tags: bool) -> Self {
        // A payload holds a line with its newline.
        let most_bytes = fanout.payload_limit().min(MAX_PACKED).saturating_sub(1);
        let sink = Sink {
            outputs: Arc::new(Mutex::new(Lines {
                fanout,
                line: Vec::new(),
            })),
            pace: None,
        };
        let dogstatsd = has_tags.then(|| {
            let mut tags = tags.to_vec();
            tags.extend(clients::TAGS.map(str::to_owned));
            client(clients::PREFIX, &tags, sink.clone())
        });
        Self {
            own: client(own::PREFIX, tags, sink.clone()),
            dogstatsd,
            namespaces: HashMap::default(),
            sink,
            prefix: text::clean_name(prefix),
            tags: tags.to_vec(),
            has_tags,
            most_bytes,
        }
    }

    /// Sends what there may be many lines of at this pace. To be called before any is.
    pub(super) fn keep(&mut self, pace: &Arc<Pace>) {
        self.sink.pace = Some(Arc::clone(pace));
    }

    /// What is sent of a network namespace; `None` is the daemon's own.
    pub(super) fn namespace(&mut self, netns: Option<&Arc<str>>) -> &mut Namespace {
        let Self {
            namespaces,
            sink,
            prefix,
            tags,
            has_tags,
            most_bytes,
            ..
        } = self;
        namespaces
            .entry(netns.cloned())
            .or_insert_with_key(|netns| {
                let mut tags = tags.clone();
                if let Some(netns) = netns {
                    // Behind the configured ones, and before those of a line: without
                    // tags, the first part behind the metric's name.
                    tags.push(format!("netns:{}", text::clean(netns)));
                }
                Namespace::new(
                    client(prefix, &tags, sink.clone()),
                    client(prefix, &tags, cadence::NopMetricSink),
                    *has_tags,
                    *most_bytes,
                    sink.pace.clone(),
                )
            })
    }

    /// Goes on with what another process sent to outputs of this kind.
    pub(super) fn remember(&mut self, sent: &SentSeries, now: Instant) {
        for (netns, series) in sent.of(self.has_tags) {
            let netns = netns.map(Arc::from);
            let connections = &mut self.namespace(netns.as_ref()).connections;
            connections.remember(series, now);
        }
    }

    /// Tells what it sent of late.
    pub(super) fn tell_sent(&self, sent: &mut SentSeries, now: Instant) {
        for (netns, namespace) in &self.namespaces {
            let series = namespace.connections.tell(now);
            sent.insert(self.has_tags, netns.as_deref(), series);
        }
    }

    pub(super) fn own_gauge(&self, name: &str, tags: &[(&str, &str)], value: u64) {
        send_tagged(self.own.gauge_with_tags(name, value), tags);
    }

    pub(super) fn own_count(&self, name: &str, tags: &[(&str, &str)], delta: u64) {
        send_tagged(self.own.count_with_tags(name, delta), tags);
    }

    /// Sends it if the outputs carry tags.
    pub(super) fn client_count(&self, name: &str, tags: &[(&str, &str)], delta: u64) {
        if let Some(client) = &self.dogstatsd {
            send_tagged(client.count_with_tags(name, delta), tags);
        }
    }
}

/// At most two tags: a namespace or an address, and a source or a reason.
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
