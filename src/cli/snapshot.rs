//! `conntally snapshot`: one look at the kernel's table, a row per remote host.

use std::cmp::Reverse;
use std::io::{self, BufWriter, Write};
use std::sync::Arc;

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::logging::{self, Role};
use super::{CliError, ConfigArgs, Verbosity};
use crate::collector::{CollectorError, Count, Sources};
use crate::config::{Config, Environment, PublicInbound, SourceChoice};
use crate::flow::ConnectionState;
use crate::hosts::Hosts;
use crate::netns::Netns;
use crate::report;
use crate::tally::HostRow;

/// Arguments of `snapshot`.
#[derive(Debug, Args)]
pub(super) struct SnapshotArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// How rows are printed.
    #[arg(short, long, value_enum, default_value_t)]
    format: SnapshotFormat,
    /// What rows are ordered by, the largest first.
    #[arg(short, long, value_enum, default_value_t)]
    sort: SortKey,
    /// Print this many rows at most.
    #[arg(short = 'n', long, value_name = "N")]
    top: Option<usize>,
    /// Look into this network namespace, by its name (ip netns list) or path.
    #[arg(long, value_name = "NAME")]
    netns: Option<Netns>,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum SnapshotFormat {
    /// Aligned columns.
    #[default]
    Table,
    /// One JSON object a line.
    Json,
    /// Metric lines, as `run` sends them.
    Statsd,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum SortKey {
    /// All connections.
    #[default]
    Total,
    /// Connections asked for, not yet answered.
    Opening,
    /// Established connections.
    Open,
    /// Connections that one side has ended.
    Closing,
    /// Connections torn down.
    Closed,
    /// The remote host's name, from a to z.
    Host,
}

pub(super) fn snapshot(
    args: &SnapshotArgs,
    verbosity: &Verbosity,
    environment: &Environment,
) -> Result<(), CliError> {
    logging::start(Role::Command, verbosity, environment)?;
    let mut config = args.config.load(environment)?.config;
    // One look shows every host; folding is for series that last.
    config.hosts.public_inbound = PublicInbound::Apart;
    if config.collector.source == SourceChoice::Off {
        config.collector.source = SourceChoice::Auto;
    }
    let count = match &args.netns {
        None => look(&config)?,
        Some(netns) => {
            // As `run` tags what it tells of another namespace.
            config.tags.push(format!("netns:{}", netns.tag()));
            netns
                .within(|| look(&config))
                .map_err(CollectorError::from)??
        }
    };
    let mut rows = count.tally().host_rows();
    sort(&mut rows, args.sort, count.hosts());
    rows.truncate(args.top.unwrap_or(usize::MAX));
    let mut out = BufWriter::new(io::stdout().lock());
    let written = match args.format {
        SnapshotFormat::Table => table(&mut out, &rows, count.hosts(), config.hosts.ports),
        SnapshotFormat::Json => json(&mut out, &rows, count.hosts()),
        SnapshotFormat::Statsd => {
            report::print(&mut out, &rows, count.tally(), count.hosts(), &config)
        }
    };
    written.and_then(|()| out.flush()).map_err(CliError::Output)
}

fn look(config: &Config) -> Result<Count, CliError> {
    let mut count = Count::new(config);
    if let Some(mut sources) = Sources::open(&config.collector, Arc::default())? {
        let look = sources.look(&mut count)?;
        tracing::debug!(source = look.source.as_str(), "looked");
    }
    Ok(count)
}

fn sort(rows: &mut [HostRow], key: SortKey, hosts: &Hosts) {
    let of = |row: &HostRow, state: ConnectionState| row.states[state as usize];
    // Rows come in a stable order of their own, which decides between equals.
    rows.sort_by_cached_key(|row| {
        let number = match key {
            SortKey::Total => row.states.iter().sum(),
            SortKey::Opening => of(row, ConnectionState::Opening),
            SortKey::Open => of(row, ConnectionState::Open),
            SortKey::Closing => of(row, ConnectionState::Closing),
            SortKey::Closed => of(row, ConnectionState::Closed),
            SortKey::Host => 0,
        };
        let name = match key {
            SortKey::Host => hosts.name(row.series.remote).into_owned(),
            _ => String::new(),
        };
        (Reverse(number), name)
    });
}

/// A row, as one JSON object.
#[derive(Serialize)]
struct JsonRow<'a> {
    host: &'a str,
    direction: &'static str,
    protocol: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    opening: u64,
    open: u64,
    closing: u64,
    closed: u64,
}

fn json(out: &mut impl Write, rows: &[HostRow], hosts: &Hosts) -> io::Result<()> {
    for row in rows {
        let [opening, open, closing, closed] = row.states;
        let object = JsonRow {
            host: &hosts.name(row.series.remote),
            direction: row.series.direction.as_str(),
            protocol: row.series.protocol.as_str(),
            port: row.series.port,
            opening,
            open,
            closing,
            closed,
        };
        serde_json::to_writer(&mut *out, &object)?;
        out.write_all(b"\n")?;
    }
    Ok(())
}

/// Columns as wide as their widest cell; hosts and words to the left, numbers to
/// the right.
fn table(out: &mut impl Write, rows: &[HostRow], hosts: &Hosts, ports: bool) -> io::Result<()> {
    const HOST: &str = "REMOTE HOST";
    let width = rows
        .iter()
        .map(|row| hosts.name(row.series.remote).chars().count())
        .fold(HOST.len(), usize::max);
    let line = |out: &mut dyn Write, host: &str, words: [&str; 3], numbers: [&str; 4]| {
        let [direction, protocol, port] = words;
        let [opening, open, closing, closed] = numbers;
        write!(out, "{host:width$}  {direction:9}  {protocol:8}")?;
        if ports {
            write!(out, "  {port:>5}")?;
        }
        writeln!(out, "  {opening:>8}  {open:>8}  {closing:>8}  {closed:>8}")
    };
    line(
        out,
        HOST,
        ["DIRECTION", "PROTOCOL", "PORT"],
        ["OPENING", "OPEN", "CLOSING", "CLOSED"],
    )?;
    for row in rows {
        let port = row
            .series
            .port
            .map_or_else(|| "-".to_owned(), |port| port.to_string());
        let numbers = row.states.map(|number| number.to_string());
        line(
            out,
            &hosts.name(row.series.remote),
            [
                row.series.direction.as_str(),
                row.series.protocol.as_str(),
                &port,
            ],
            numbers.each_ref().map(String::as_str),
        )?;
    }
    Ok(())
}
