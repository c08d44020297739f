//! The lines of one look, for a terminal or a pipe.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use cadence::MetricSink;

use super::connections::Labels;
use super::lane::client;
use super::text;
use crate::config::Config;
use crate::hosts::Hosts;
use crate::tally::{HostRow, Series, SeriesState, Tally};

/// Lines that wait to be written.
#[derive(Clone, Debug, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl MetricSink for Sink {
    fn emit(&self, metric: &str) -> io::Result<usize> {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.extend_from_slice(metric.as_bytes());
        lines.push(b'\n');
        Ok(metric.len())
    }
}

/// Writes a `connections` line for each series of `tally` that `rows` are made of, in
/// the order of the rows.
///
/// # Errors
/// Fails when `out` does.
pub fn print(
    out: &mut impl Write,
    rows: &[HostRow],
    tally: &Tally,
    hosts: &Hosts,
    config: &Config,
) -> io::Result<()> {
    let sink = Sink::default();
    let prefix = text::clean_name(&config.report.prefix);
    let client = client(&prefix, &config.tags, sink.clone());
    let order: HashMap<Series, usize> = rows.iter().map(|row| row.series).zip(0..).collect();
    let mut sums: BTreeMap<(usize, SeriesState), (Series, u64)> = BTreeMap::new();
    for (series, state, connections) in tally.series_counts() {
        let series = series.folded();
        if let Some(&place) = order.get(&series) {
            let (_, sum) = sums.entry((place, state)).or_insert((series, 0));
            *sum += connections;
        }
    }
    let mut port = String::new();
    for ((_, state), (series, connections)) in sums {
        let labels = Labels {
            host: hosts.name(series.remote).into(),
            way: Some((series.direction, series.protocol)),
            port: series.port,
            state: state.as_str(),
        };
        labels.send(&client, connections, &mut port);
        let mut lines = sink.0.lock().unwrap_or_else(PoisonError::into_inner);
        out.write_all(&lines)?;
        lines.clear();
    }
    Ok(())
}
