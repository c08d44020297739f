//! `conntally status`: what the running daemon says of itself, its sources, outputs and
//! listeners.

use std::io::{self, Write};

use clap::{Args, ValueEnum};

use super::columns::{Columns, Head, span};
use super::logging::{self, Role};
use super::watch::{Shape, WatchArgs};
use super::{CliError, ConfigArgs, Verbosity, runtime};
use crate::admin::client::{self, ClientError};
use crate::admin::status::{CollectorLine, Condition, Counters, DaemonLine, ListenerLine};
use crate::admin::status::{OutputLine, StatusLine};
use crate::config::Environment;

/// Arguments of `status`.
#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// How it is printed.
    #[arg(short, long, value_enum, default_value_t)]
    format: StatusFormat,
    #[command(flatten)]
    watch: WatchArgs,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum StatusFormat {
    /// Aligned columns.
    #[default]
    Table,
    /// One JSON object a line, with every counter.
    Json,
}

pub(super) fn status(
    args: &StatusArgs,
    verbosity: &Verbosity,
    environment: &Environment,
) -> Result<(), CliError> {
    logging::start(Role::Command, verbosity, environment)?;
    let config = args.config.load(environment)?.config;
    let runtime = runtime()?;
    let shape = match args.format {
        StatusFormat::Table => Shape::Table,
        StatusFormat::Json => Shape::Lines,
    };
    args.watch.repeat(shape, |out| {
        let text = runtime.block_on(async {
            let answer = client::status(&config.admin.socket).await?;
            answer.whole().await
        })?;
        let written = match args.format {
            StatusFormat::Json => out.write_all(&text),
            StatusFormat::Table => Tables::read(&text)?.write(out),
        };
        written.map_err(CliError::Output)
    })
}

/// What is printed, in this order.
struct Tables {
    daemons: Vec<String>,
    sources: Part<7>,
    outputs: Part<10>,
    listeners: Part<8>,
}

/// A table, and what its rows have no column for.
struct Part<const N: usize> {
    columns: Columns<N>,
    remarks: Vec<String>,
}

impl<const N: usize> Part<N> {
    const fn new(heads: [Head; N]) -> Self {
        Self {
            columns: Columns::new(heads),
            remarks: Vec::new(),
        }
    }

    fn remark(&mut self, of: &str, text: &str) {
        self.remarks.push(format!("{of}: {text}"));
    }

    /// Notes what was counted by reason, if anything was.
    fn reasons(&mut self, of: &str, what: &str, counters: &Counters, name: &str) {
        let counted: Vec<_> = counters
            .reasons(name)
            .map(|(reason, count)| format!("{count} {reason}"))
            .collect();
        if !counted.is_empty() {
            self.remark(of, &format!("{what}: {}", counted.join(", ")));
        }
    }

    /// Notes one number, if it is any.
    fn number(&mut self, of: &str, what: &str, counters: &Counters, name: &str) {
        let count = counters.get(name);
        if count > 0 {
            self.remark(of, &format!("{count} {what}"));
        }
    }

    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.columns.is_empty() {
            return Ok(());
        }
        writeln!(out)?;
        self.columns.write(out)?;
        for remark in &self.remarks {
            writeln!(out, "  {remark}")?;
        }
        Ok(())
    }
}

impl Tables {
    const fn new() -> Self {
        use Head::{Number, Words};
        Self {
            daemons: Vec::new(),
            sources: Part::new([
                Words("SOURCE"),
                Words("NETNS"),
                Words("MODE"),
                Number("ENTRIES"),
                Number("FLOWS"),
                Number("DUMP US"),
                Number("ERRORS"),
            ]),
            outputs: Part::new([
                Words("OUTPUT"),
                Words("GROUP"),
                Words("STATE"),
                Number("LINES"),
                Number("SENT"),
                Number("MERGED"),
                Number("DROPPED"),
                Number("HELD"),
                Number("BACKLOG"),
                Number("BACKLOG BYTES"),
            ]),
            listeners: Part::new([
                Words("LISTENER"),
                Number("CONNECTIONS"),
                Number("ACCEPTED"),
                Number("REFUSED"),
                Number("FRAMES"),
                Number("LINES"),
                Number("DROPPED"),
                Number("BYTES"),
            ]),
        }
    }

    fn read(text: &[u8]) -> Result<Self, ClientError> {
        let mut tables = Self::new();
        for line in client::read(text) {
            match line?.1 {
                StatusLine::Daemon(line) => tables.daemon(&line),
                StatusLine::Collector(line) => tables.collector(line),
                StatusLine::Output(line) => tables.output(line),
                StatusLine::Listener(line) => tables.listener(&line),
                StatusLine::Unknown => {}
            }
        }
        if tables.daemons.is_empty() {
            return Err(ClientError::BrokeOff("it is no status".to_owned()));
        }
        Ok(tables)
    }

    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        for daemon in &self.daemons {
            writeln!(out, "{daemon}")?;
        }
        self.sources.write(out)?;
        self.outputs.write(out)?;
        self.listeners.write(out)
    }

    fn daemon(&mut self, line: &DaemonLine) {
        let DaemonLine { version, pid, .. } = line;
        let up = span(line.uptime_seconds);
        let mut text = format!("conntally {version}, pid {pid}, up {up}");
        if let Some(bytes) = line.resident_bytes {
            let tenths = bytes.saturating_mul(10) >> 20;
            text = format!("{text}, {}.{} MiB resident", tenths / 10, tenths % 10);
        }
        self.daemons.push(text);
    }

    fn collector(&mut self, line: CollectorLine) {
        let part = &mut self.sources;
        if line.paused == Some(true) {
            part.remark(&line.source, "paused: nothing is read until it is resumed");
        }
        if let Some(why) = &line.why {
            part.remark(&line.source, why);
        }
        part.columns.add([
            line.source,
            line.netns.unwrap_or_default(),
            line.mode.unwrap_or_default(),
            line.entries.to_string(),
            line.flows.to_string(),
            line.dump_us.to_string(),
            line.errors.to_string(),
        ]);
    }

    fn output(&mut self, line: OutputLine) {
        let (address, counters) = (&line.address, &line.counters);
        let part = &mut self.outputs;
        part.reasons(address, "lines dropped", counters, "lines_dropped");
        part.reasons(address, "errors", counters, "errors");
        part.number(address, "lines spooled", counters, "lines_spooled");
        let at_risk = "lines of lost connections, perhaps not read";
        part.number(address, at_risk, counters, "lines_at_risk");
        let number = |name| counters.get(name).to_string();
        part.columns.add([
            address.clone(),
            line.group,
            line.health.map_or("", Condition::as_str).to_owned(),
            number("lines"),
            number("lines_sent"),
            number("lines_merged"),
            number("lines_dropped"),
            number("lines_held"),
            number("backlog_contexts"),
            number("backlog_bytes"),
        ]);
    }

    fn listener(&mut self, line: &ListenerLine) {
        let (address, counters) = (&line.address, &line.counters);
        let part = &mut self.listeners;
        part.reasons(address, "lines dropped", counters, "lines_dropped");
        part.reasons(address, "frames dropped", counters, "frames_dropped");
        part.reasons(address, "connections refused", counters, "refused");
        let kernel = "datagrams dropped by the kernel, for want of room";
        part.number(address, kernel, counters, "kernel_drops");
        let lost = "nobody finds the socket by its path: see the log";
        part.number(address, lost, counters, "path_lost");
        let number = |name| counters.get(name).to_string();
        part.columns.add([
            line.address.clone(),
            number("connections"),
            number("accepted"),
            number("refused"),
            number("frames"),
            number("lines"),
            number("lines_dropped"),
            number("bytes"),
        ]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_well_is_a_row_and_what_is_not_has_a_remark() {
        let text = r#"{"type":"daemon","version":"1.2.3","pid":42,"started":1,"uptime_seconds":273600,"resident_bytes":6500000}
{"type":"collector","source":"sockets","why":"tracking is off","paused":false,"entries":12,"dump_us":345,"flows":0,"errors":0}
{"type":"output","address":"udp://127.0.0.1:8125","format":"dogstatsd","health":"well","lines":9000,"lines_sent":9000,"lines_dropped":{"queue_full":0},"errors":{"connect":0}}
{"type":"output","address":"tcp://10.0.0.1:9125","format":"statsd","health":"away","lines":100,"lines_sent":10,"lines_dropped":{"oversized":2,"queue_full":70},"lines_held":18,"backlog_contexts":3,"backlog_bytes":900,"errors":{"connect":5}}
{"type":"listener","address":"unixgram:///run/a","connections":0,"accepted":0,"refused":{"limit":0},"frames":7,"lines":8,"bytes":999,"lines_dropped":{"value":1},"kernel_drops":4}
{"type":"spool","bytes":1}
"#;
        let mut out = Vec::new();
        Tables::read(text.as_bytes())
            .unwrap()
            .write(&mut out)
            .unwrap();
        let expected = "\
conntally 1.2.3, pid 42, up 3d 4h, 6.1 MiB resident

SOURCE   ENTRIES  FLOWS  DUMP US  ERRORS
sockets       12      0      345       0
  sockets: tracking is off

OUTPUT                STATE  LINES  SENT  MERGED  DROPPED  HELD  BACKLOG  BACKLOG BYTES
udp://127.0.0.1:8125  well    9000  9000       0        0     0        0              0
tcp://10.0.0.1:9125   away     100    10       0       72    18        3            900
  tcp://10.0.0.1:9125: lines dropped: 2 oversized, 70 queue_full
  tcp://10.0.0.1:9125: errors: 5 connect

LISTENER           CONNECTIONS  ACCEPTED  REFUSED  FRAMES  LINES  DROPPED  BYTES
unixgram:///run/a            0         0        0       7      8        1    999
  unixgram:///run/a: lines dropped: 1 value
  unixgram:///run/a: 4 datagrams dropped by the kernel, for want of room
";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn an_answer_that_is_no_status_is_an_error() {
        for text in ["", "{\"type\":\"end\"}\n", "no json\n"] {
            assert!(Tables::read(text.as_bytes()).is_err(), "{text:?}");
        }
    }
}
