//! `conntally clients`: who is connected to the running daemon's listeners.

use std::cmp::Reverse;
use std::io::{self, Write};

use clap::{Args, ValueEnum};

use super::columns::{Columns, Head, span};
use super::logging::{self, Role};
use super::watch::{Shape, WatchArgs};
use super::{CliError, ConfigArgs, Verbosity, runtime};
use crate::admin::client::{self, Answer, ClientError};
use crate::admin::clients::{ClientLine, ClientsLine};
use crate::config::Environment;

/// Arguments of `clients`.
#[derive(Debug, Args)]
pub(super) struct ClientsArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// How rows are printed.
    #[arg(short, long, value_enum, default_value_t)]
    format: ClientsFormat,
    /// What rows are ordered by, the largest first.
    #[arg(short, long, value_enum, default_value_t)]
    sort: SortKey,
    /// Print this many rows at most.
    #[arg(short = 'n', long, value_name = "N")]
    top: Option<usize>,
    #[command(flatten)]
    watch: WatchArgs,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum ClientsFormat {
    /// Aligned columns.
    #[default]
    Table,
    /// One JSON object a line.
    Json,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum SortKey {
    /// Bytes that came.
    #[default]
    Bytes,
    /// Lines that passed the check.
    Lines,
    /// Frames, or lines where they are not framed.
    Frames,
    /// Lines that did not pass.
    BadLines,
    /// How long ago it connected.
    Age,
    /// How long ago the last byte came.
    Idle,
    /// The listener and the order of coming.
    Listener,
    /// The program's name, from a to z.
    Program,
}

pub(super) fn clients(
    args: &ClientsArgs,
    verbosity: &Verbosity,
    environment: &Environment,
) -> Result<(), CliError> {
    logging::start(Role::Command, verbosity, environment)?;
    let config = args.config.load(environment)?.config;
    let runtime = runtime()?;
    let shape = match args.format {
        ClientsFormat::Table => Shape::Table,
        ClientsFormat::Json => Shape::Lines,
    };
    args.watch.repeat(shape, |out| {
        let mut rows = runtime.block_on(async {
            let answer = client::clients(&config.admin.socket).await?;
            read(answer).await
        })?;
        sort(&mut rows, args.sort);
        rows.truncate(args.top.unwrap_or(usize::MAX));
        let written = match args.format {
            ClientsFormat::Table => table(out, rows),
            ClientsFormat::Json => rows.iter().try_for_each(|row| out.write_all(&row.text)),
        };
        written.map_err(CliError::Output)
    })
}

/// A client, and the text that it came as.
struct Row {
    client: ClientLine,
    text: Vec<u8>,
}

async fn read(mut answer: Answer) -> Result<Vec<Row>, ClientError> {
    let mut rows = Vec::new();
    let mut is_whole = false;
    while let Some(lines) = answer.lines().await? {
        for line in client::read(&lines) {
            let (text, line) = line?;
            match line {
                ClientsLine::Client(client) => rows.push(Row {
                    client,
                    text: text.to_owned(),
                }),
                ClientsLine::End { .. } => is_whole = true,
                ClientsLine::Unknown => {}
            }
        }
    }
    if is_whole {
        Ok(rows)
    } else {
        Err(ClientError::BrokeOff("its last line is missing".to_owned()))
    }
}

/// Between equals, the order of their coming decides.
fn sort(rows: &mut [Row], key: SortKey) {
    rows.sort_by_cached_key(|Row { client, .. }| {
        let number = match key {
            SortKey::Bytes => client.bytes,
            SortKey::Lines => client.lines,
            SortKey::Frames => client.frames,
            SortKey::BadLines => client.bad_lines,
            SortKey::Age => client.age_seconds,
            SortKey::Idle => client.idle_seconds,
            SortKey::Listener | SortKey::Program => 0,
        };
        let name = match key {
            SortKey::Program => client.program.clone(),
            _ => String::new(),
        };
        (Reverse(number), name)
    });
}

fn table(out: &mut dyn Write, rows: Vec<Row>) -> io::Result<()> {
    let mut columns = Columns::new([
        Head::Words("LISTENER"),
        Head::Number("ID"),
        Head::Number("PID"),
        Head::Number("UID"),
        Head::Number("GID"),
        Head::Words("PROGRAM"),
        Head::Words("REMOTE"),
        Head::Number("AGE"),
        Head::Number("IDLE"),
        Head::Number("FRAMES"),
        Head::Number("LINES"),
        Head::Number("BYTES"),
        Head::Number("BAD LINES"),
    ]);
    let number = |number: Option<u32>| number.map_or_else(String::new, |n| n.to_string());
    for Row { client, .. } in rows {
        columns.add([
            client.listener,
            client.id.to_string(),
            number(client.pid),
            number(client.uid),
            number(client.gid),
            client.program,
            client.remote.map_or_else(String::new, |to| to.to_string()),
            span(client.age_seconds),
            span(client.idle_seconds),
            client.frames.to_string(),
            client.lines.to_string(),
            client.bytes.to_string(),
            client.bad_lines.to_string(),
        ]);
    }
    columns.write(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: u64, program: &str, bytes: u64, bad_lines: u64) -> Row {
        Row {
            client: ClientLine {
                listener: "unixstream:///run/a".to_owned(),
                id,
                pid: Some(40),
                uid: Some(0),
                gid: None,
                program: program.to_owned(),
                remote: None,
                since: 1_000,
                age_seconds: 3_600,
                idle_seconds: 5,
                frames: 1,
                lines: 2,
                bytes,
                bad_lines,
            },
            text: Vec::new(),
        }
    }

    fn order(key: SortKey) -> Vec<u64> {
        let mut rows = [row(1, "b", 10, 0), row(2, "a", 10, 7), row(3, "c", 99, 1)];
        sort(&mut rows, key);
        rows.map(|row| row.client.id).into()
    }

    #[test]
    fn the_largest_come_first_and_equals_as_they_came() {
        assert_eq!(order(SortKey::Bytes), [3, 1, 2]);
        assert_eq!(order(SortKey::BadLines), [2, 3, 1]);
        assert_eq!(order(SortKey::Age), [1, 2, 3]);
        assert_eq!(order(SortKey::Program), [2, 1, 3]);
        assert_eq!(order(SortKey::Listener), [1, 2, 3]);
    }

    #[test]
    fn what_no_client_has_takes_no_column() {
        let mut out = Vec::new();
        table(
            &mut out,
            vec![row(1, "python3", 1_000, 0), row(12, "", 7, 3)],
        )
        .unwrap();
        let expected = "\
LISTENER             ID  PID  UID  PROGRAM    AGE  IDLE  FRAMES  LINES  BYTES  BAD LINES
unixstream:///run/a   1   40    0  python3  1h 0m    5s       1      2   1000          0
unixstream:///run/a  12   40    0  -        1h 0m    5s       1      2      7          3
";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
