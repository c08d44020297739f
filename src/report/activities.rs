//! What happened since the last tick: `opened`, `closed`, `failed`, `bytes`,
//! `packets`, `duration`.
//!
//! A counter that is zero has no line. What a metric's tags do not tell apart is
//! added up, host by host, in the order of the activities.

use cadence::ext::ToDistributionValue;
use cadence::prelude::*;
use cadence::{Distribution, Metric, MetricBuilder, StatsdClient};

use super::name;
use super::namespace::Namespace;
use super::packed::packed;
use crate::config;
use crate::flow::{Direction, Failure, Protocol, Traffic};
use crate::hosts::select::HostActivity;
use crate::tally::Activity;

/// A tag, unless it is left out.
type Tag<'a> = Option<(&'a str, &'a str)>;

impl Namespace {
    /// The lines that `settings` ask for of activities sorted by host, direction
    /// and protocol.
    pub(super) async fn activities(
        &mut self,
        activities: &[HostActivity],
        settings: &config::Report,
    ) {
        for of_host in activities.chunk_by(|a, b| a.host == b.host) {
            let Some(HostActivity { host, .. }) = of_host.first() else {
                continue;
            };
            if settings.rates {
                self.ends(host, of_host).await;
                self.failures(host, of_host).await;
            }
            if settings.traffic {
                self.traffic(host, of_host).await;
            }
            if settings.durations {
                self.durations(host, of_host).await;
            }
        }
    }

    /// `opened` and `closed`, by direction and protocol where there are tags.
    async fn ends(&mut self, host: &str, activities: &[HostActivity]) {
        let has_tags = self.has_tags;
        let same = |a: &HostActivity, b: &HostActivity| {
            !has_tags || (a.direction, a.protocol) == (b.direction, b.protocol)
        };
        for group in activities.chunk_by(same) {
            let (direction, protocol) = self.way(group);
            let tags = [Some(("remote_host", host)), protocol, direction];
            let opened = sum(group, |activity| activity.opened);
            self.increment(name::OPENED, opened, tags).await;
            let closed = sum(group, |activity| activity.closed);
            self.increment(name::CLOSED, closed, tags).await;
        }
    }

    /// `failed`, by direction where there are tags, and by reason.
    async fn failures(&mut self, host: &str, activities: &[HostActivity]) {
        let has_tags = self.has_tags;
        let same = |a: &HostActivity, b: &HostActivity| !has_tags || a.direction == b.direction;
        for group in activities.chunk_by(same) {
            let (direction, _) = self.way(group);
            for failure in Failure::ALL {
                let reason = Some(("reason", failure.as_str()));
                let failed = sum(group, |activity| activity.failed[failure as usize]);
                let tags = [Some(("remote_host", host)), direction, reason];
                self.increment(name::FAILED, failed, tags).await;
            }
        }
    }

    /// `bytes` and `packets` of a host, each way.
    async fn traffic(&mut self, host: &str, activities: &[HostActivity]) {
        let (mut sent, mut received) = (Traffic::default(), Traffic::default());
        for HostActivity { activity, .. } in activities {
            sent.add(activity.sent);
            received.add(activity.received);
        }
        for (name, sent, received) in [
            (name::BYTES, sent.bytes, received.bytes),
            (name::PACKETS, sent.packets, received.packets),
        ] {
            for (way, number) in [("sent", sent), ("received", received)] {
                let tags = [Some(("remote_host", host)), Some(("way", way))];
                self.increment(name, number, tags).await;
            }
        }
    }

    /// `duration`, by protocol where there are tags.
    async fn durations(&mut self, host: &str, activities: &[HostActivity]) {
        if !self.has_tags {
            return self.pack(host, None, activities.iter()).await;
        }
        for protocol in Protocol::ALL {
            let of_protocol = activities
                .iter()
                .filter(|activity| activity.protocol == protocol);
            self.pack(host, Some(protocol), of_protocol).await;
        }
    }

    /// Packs each sample into lines of its own, since a line has but one rate.
    async fn pack(
        &mut self,
        host: &str,
        protocol: Option<Protocol>,
        activities: impl Iterator<Item = &HostActivity>,
    ) {
        let tags = [
            Some(("remote_host", host)),
            protocol.map(|protocol| ("protocol", protocol.as_str())),
        ];
        let samples = activities.flat_map(|each| each.activity.durations.samples());
        for (kept, of) in samples {
            let rate = rate(kept.len(), of);
            let one = distribution(&self.measure, 0_u64, rate, tags).try_send();
            let frame = one.map_or(0, |line| line.as_metric_str().len() - ":0".len());
            for values in packed(kept, self.most_bytes.saturating_sub(frame)) {
                distribution(&self.client, values, rate, tags).send();
                self.turn().await;
            }
        }
    }

    /// Adds to a counter; nothing to add, no line.
    async fn increment<const N: usize>(&mut self, name: &str, number: u64, tags: [Tag<'_>; N]) {
        if number > 0 {
            tagged(self.client.count_with_tags(name, number), tags).send();
            self.turn().await;
        }
    }

    /// The tags that only outputs with tags get: those of a group's first.
    fn way(&self, group: &[HostActivity]) -> (Tag<'static>, Tag<'static>) {
        let first = group.first().filter(|_| self.has_tags);
        first.map_or(
            (None, None),
            |&HostActivity {
                 direction,
                 protocol,
                 ..
             }| {
                (
                    Some(("direction", Direction::as_str(direction))),
                    Some(("protocol", Protocol::as_str(protocol))),
                )
            },
        )
    }
}

fn sum(group: &[HostActivity], of: impl Fn(&Activity) -> u64) -> u64 {
    group.iter().map(|each| of(&each.activity)).sum()
}

/// The part of all that a sample is, unless it is all of them.
fn rate(kept: usize, of: u64) -> Option<f64> {
    #[expect(
        clippy::cast_precision_loss,
        reason = "beyond 2^53 connections in a tick, a rate may be off by 1e-16 of itself"
    )]
    let (rate, whole) = (kept as f64 / of as f64, kept as u64 >= of);
    (!whole).then_some(rate)
}

fn distribution<'a>(
    client: &'a StatsdClient,
    values: impl ToDistributionValue,
    rate: Option<f64>,
    tags: [Tag<'a>; 2],
) -> MetricBuilder<'a, 'a, Distribution> {
    let line = client.distribution_with_tags(name::DURATION, values);
    let line = match rate {
        Some(rate) => line.with_sampling_rate(rate),
        None => line,
    };
    tagged(line, tags)
}

/// Names of hosts are as [`crate::hosts::Hosts::name`] makes them: washed.
fn tagged<'a, T: Metric + From<String>, const N: usize>(
    line: MetricBuilder<'a, 'a, T>,
    tags: [Tag<'a>; N],
) -> MetricBuilder<'a, 'a, T> {
    tags.into_iter()
        .flatten()
        .fold(line, |line, (key, value)| line.with_tag(key, value))
}
