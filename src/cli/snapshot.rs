//! `conntally snapshot`: one look at the kernel's table, a row per remote host.

use std::cmp::Reverse;
use std::io::{self, Write};
use std::sync::Arc;

use clap::{Args, ValueEnum};

use super::columns::{Columns, Head};
use super::logging::{self, Role};
use super::watch::{Shape, WatchArgs};
use super::{CliError, ConfigArgs, Verbosity};
use crate::admin::snapshot::HostLine;
use crate::collector::{CollectorError, Count, Sources};
use crate::config::{Config, Environment, PublicInbound, SourceChoice};
use crate::flow::ConnectionState;
use crate::hosts::Hosts;
use crate::netns::Netns;
use crate::report;
use crate::tally::{HostRow, Series};

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
    #[command(flatten)]
    watch: WatchArgs,
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
    let mut config = prepare(args.config.load(environment)?.config);
    if let Some(netns) = &args.netns {
        // As `run` tags what it tells of another namespace.
        config.tags.push(format!("netns:{}", netns.tag()));
    }
    let shape = match args.format {
        SnapshotFormat::Table => Shape::Table,
        SnapshotFormat::Json | SnapshotFormat::Statsd => Shape::Lines,
    };
    args.watch.repeat(shape, |out| {
        let count = match &args.netns {
            None => look(&config)?,
            Some(netns) => {
                let looked = netns.within(|| look(&config));
                looked.map_err(CollectorError::from)??
            }
        };
        print(out, args, &config, &count).map_err(CliError::Output)
    })
}

/// The configuration that a look of one's own goes by.
pub(super) fn prepare(mut config: Config) -> Config {
    // One look shows every host; folding is for series that last.
    config.hosts.public_inbound = PublicInbound::Apart;
    if config.collector.source == SourceChoice::Off {
        config.collector.source = SourceChoice::Auto;
    }
    config
}

fn print(
    mut out: &mut dyn Write,
    args: &SnapshotArgs,
    config: &Config,
    count: &Count,
) -> io::Result<()> {
    let (tally, hosts) = (count.tally(), count.hosts());
    let mut rows = tally.host_rows();
    sort(&mut rows, args.sort, hosts);
    rows.truncate(args.top.unwrap_or(usize::MAX));
    match args.format {
        SnapshotFormat::Table => table(out, lines(&rows, hosts)),
        SnapshotFormat::Json => json(out, lines(&rows, hosts)),
        SnapshotFormat::Statsd => report::print(&mut out, &rows, tally, hosts, config),
    }
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

/// Rows as they are printed.
pub(super) fn lines<'a>(
    rows: &'a [HostRow],
    hosts: &'a Hosts,
) -> impl Iterator<Item = HostLine<'a>> {
    rows.iter().map(|row| {
        let Series {
            remote,
            direction,
            protocol,
            port,
        } = row.series;
        HostLine::new(hosts.name(remote), direction, protocol, port, row.states)
    })
}

fn json<'a>(out: &mut dyn Write, mut lines: impl Iterator<Item = HostLine<'a>>) -> io::Result<()> {
    lines.try_for_each(|line| {
        serde_json::to_writer(&mut *out, &line)?;
        out.write_all(b"\n")
    })
}

fn table<'a>(out: &mut dyn Write, lines: impl Iterator<Item = HostLine<'a>>) -> io::Result<()> {
    let mut columns = Columns::new([
        Head::Words("REMOTE HOST"),
        Head::Words("DIRECTION"),
        Head::Words("PROTOCOL"),
        Head::Number("PORT"),
        Head::Number("OPENING"),
        Head::Number("OPEN"),
        Head::Number("CLOSING"),
        Head::Number("CLOSED"),
    ]);
    for line in lines {
        let [opening, open, closing, closed] = line.states().map(|number| number.to_string());
        columns.add([
            line.host.into_owned(),
            line.direction.into_owned(),
            line.protocol.into_owned(),
            line.port.map_or_else(String::new, |port| port.to_string()),
            opening,
            open,
            closing,
            closed,
        ]);
    }
    columns.write(out)
}
