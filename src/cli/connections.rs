//! `conntally connections`: the connections themselves, by one look of its own or, for
//! a client, from the running daemon: what is there, and what ended since it last asked.
//!
//! Rows are printed as they come and none is kept: JSON as lines, the table in columns
//! of fixed width, which a longer address pushes aside.

mod table;

use std::collections::HashSet;
use std::io::{self, Write};
use std::ops::ControlFlow;

use clap::{Args, ValueEnum};

use self::table::Table;
use super::logging::{self, Role};
use super::watch::{Shape, WatchArgs};
use super::{CliError, ConfigArgs, Verbosity, runtime, tell};
use crate::admin::client::{self, Answer, ClientError};
use crate::collector::CollectorError;
use crate::collector::journal::ClientId;
use crate::config::Environment;
use crate::connections::Reader;
use crate::connections::filter::{self, ConnectionFilter, HostFilter, StateFilter};
use crate::connections::line::{EndLine, Line};
use crate::flow::key::KeyHasher;
use crate::flow::{Direction, Protocol};
use crate::netns::Netns;

/// Arguments of `connections`.
#[derive(Debug, Args)]
pub(super) struct ConnectionsArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// How connections are printed.
    #[arg(short, long, value_enum, default_value_t)]
    format: ConnectionsFormat,
    /// Ask the running daemon as this client: also prints what ended since it last asked.
    #[arg(long, value_name = "ID")]
    client: Option<ClientId>,
    /// Make every end visible first that the kernel holds back.
    #[arg(long, requires = "client")]
    flush: bool,
    /// Look into this network namespace, by its name (ip netns list) or path.
    #[arg(long, value_name = "NAME", conflicts_with = "client")]
    netns: Option<Netns>,
    /// Only with these remote hosts: addresses, networks, names of groups and aliases.
    #[arg(long, value_delimiter = ',')]
    host: Vec<HostFilter>,
    /// Only to these ports of a service.
    #[arg(long, value_delimiter = ',', value_parser = filter::port)]
    port: Vec<u16>,
    /// Only in these states: opening, open, closing, closed; the kernel's own, such as
    /// `time_wait`; failed; refused, timeout, reset, unreachable.
    #[arg(long, value_delimiter = ',')]
    state: Vec<StateFilter>,
    /// Only in these directions: outbound, inbound, forwarded, local.
    #[arg(long, value_delimiter = ',', value_parser = filter::direction)]
    direction: Vec<Direction>,
    /// Only of these protocols.
    #[arg(long, value_delimiter = ',', value_parser = filter::protocol)]
    protocol: Vec<Protocol>,
    #[command(flatten)]
    watch: WatchArgs,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum ConnectionsFormat {
    /// Columns.
    #[default]
    Table,
    /// One JSON object a line.
    Json,
}

pub(super) fn connections(
    args: &ConnectionsArgs,
    verbosity: &Verbosity,
    environment: &Environment,
) -> Result<(), CliError> {
    logging::start(Role::Command, verbosity, environment)?;
    let config = args.config.load(environment)?.config;
    let filter = ConnectionFilter {
        hosts: args.host.clone(),
        ports: args.port.clone(),
        states: args.state.clone(),
        directions: args.direction.clone(),
        protocols: args.protocol.clone(),
    };
    let shape = match args.format {
        ConnectionsFormat::Table => Shape::Table,
        ConnectionsFormat::Json => Shape::Lines,
    };
    let Some(client) = &args.client else {
        let open = || Reader::open(&config, KeyHasher::default());
        // What is opened inside stays there.
        let mut reader = match &args.netns {
            None => open()?,
            Some(netns) => netns.within(open).map_err(CollectorError::from)??,
        };
        if let Some(reason) = reader.fallback() {
            tell(&format!("conntally: {reason}"));
        }
        let look = |out: &mut dyn Write| look(&mut reader, &filter, &mut Print::new(out, shape));
        return args.watch.repeat(shape, look);
    };
    let (runtime, socket) = (runtime()?, &config.admin.socket);
    args.watch.repeat(shape, |out| {
        let mut print = Print::new(out, shape);
        let end = runtime.block_on(async {
            let answer = client::connections(socket, &filter, client, args.flush).await?;
            follow(answer, &mut print).await
        })?;
        // Behind the rows, also where both go to a terminal.
        print.out.flush().map_err(CliError::Output)?;
        remark(client, &end);
        Ok(())
    })
}

fn look(
    reader: &mut Reader,
    filter: &ConnectionFilter,
    print: &mut Print<'_>,
) -> Result<(), CliError> {
    let mut printed = print.begin();
    let shown = reader.read(filter, &HashSet::new(), &mut |connection| {
        if printed.is_ok() {
            printed = print.line(&Line::connection(connection), None);
        }
        match printed {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    })?;
    printed.map_err(CliError::Output)?;
    if shown.interrupted {
        tell(
            "conntally: the kernel's table changed meanwhile: connections may be missing or double",
        );
    }
    Ok(())
}

/// Prints an answer as it comes; its last line.
async fn follow(mut answer: Answer, print: &mut Print<'_>) -> Result<EndLine<'static>, CliError> {
    print.begin().map_err(CliError::Output)?;
    let mut end = None;
    while let Some(lines) = answer.lines().await? {
        for line in client::read(&lines) {
            let (text, line) = line?;
            if let Line::Error { message } = line {
                return Err(ClientError::BrokeOff(message.into_owned()).into());
            }
            print.line(&line, Some(text)).map_err(CliError::Output)?;
            if let Line::End(line) = line {
                end = Some(EndLine {
                    source: line.source.into_owned().into(),
                    ..line
                });
            }
        }
        // Whoever looks on sees what came, not what fills a buffer.
        print.out.flush().map_err(CliError::Output)?;
    }
    end.ok_or_else(|| ClientError::BrokeOff("its last line is missing".to_owned()).into())
}

/// What the rows do not say.
fn remark(client: &ClientId, end: &EndLine<'_>) {
    if end.interrupted {
        tell(
            "conntally: the kernel's table changed meanwhile: connections may be missing or double",
        );
    }
    let Some(delta) = end.delta else {
        return;
    };
    if delta.since_ms.is_none() {
        tell(&format!(
            "conntally: the first question of {client}: what ends from now on is told the next \
             time, if that is within two minutes"
        ));
    }
    if delta.dropped > 0 {
        tell(&format!(
            "conntally: {} more ended, but too many to be kept until now: ask more often",
            delta.dropped
        ));
    }
    if delta.undecided > 0 {
        tell(&format!(
            "conntally: {} more ended of which too little is known to filter them",
            delta.undecided
        ));
    }
}

struct Print<'a> {
    out: &'a mut dyn Write,
    /// `None` prints JSON.
    table: Option<Table>,
}

impl<'a> Print<'a> {
    fn new(out: &'a mut dyn Write, shape: Shape) -> Self {
        let table = match shape {
            Shape::Table => Some(Table::default()),
            Shape::Lines => None,
        };
        Self { out, table }
    }

    fn begin(&mut self) -> io::Result<()> {
        match &self.table {
            Some(_) => Table::begin(&mut self.out),
            None => Ok(()),
        }
    }

    /// Prints a line, which came as this text.
    fn line(&mut self, line: &Line<'_>, text: Option<&[u8]>) -> io::Result<()> {
        match (&mut self.table, text) {
            (Some(table), _) => table.row(&mut self.out, line),
            (None, Some(text)) => self.out.write_all(text),
            (None, None) => line.write(&mut self.out),
        }
    }
}
