//! Connections in columns. Widths are fixed, since rows are printed before the next
//! ones are known: room for IPv4 addresses; a longer one pushes the rest of its row
//! aside, and the widest columns stand last.

use std::fmt;
use std::io::{self, Write};
use std::net::IpAddr;
use std::time::Duration;

use crate::connections::line::{Line, WayLine};
use crate::flow::Protocol;

/// "255.255.255.255:65535"
const END_WIDTH: usize = 21;

/// Where a table is.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// Whether the part of what ended has begun.
    has_ended: bool,
}

/// The columns of one row.
struct Row<'a> {
    state: &'a str,
    protocol: &'a str,
    direction: &'a str,
    host: &'a str,
    from: &'a str,
    to: &'a str,
}

impl Row<'_> {
    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let Self {
            state,
            protocol,
            direction,
            host,
            from,
            to,
        } = self;
        writeln!(
            out,
            "{state:11}  {protocol:8}  {direction:9}  {host:15}  {from:END_WIDTH$}  {to}"
        )
    }
}

const HEADER: Row<'static> = Row {
    state: "STATE",
    protocol: "PROTOCOL",
    direction: "DIRECTION",
    host: "REMOTE HOST",
    from: "FROM",
    to: "TO",
};

impl Table {
    pub(super) fn begin(out: &mut impl Write) -> io::Result<()> {
        HEADER.write(out)
    }

    pub(super) fn row(&mut self, out: &mut impl Write, line: &Line<'_>) -> io::Result<()> {
        let ended = matches!(line, Line::Ended(_) | Line::RolledUp(_));
        if ended && !std::mem::replace(&mut self.has_ended, true) {
            writeln!(out)?;
            let header = Row {
                state: "ENDED",
                ..HEADER
            };
            header.write(out)?;
        }
        match line {
            Line::Connection(line) => {
                let [from, to] = ends(line.protocol, &line.original, &line.reply);
                Row {
                    state: &line.kernel_state,
                    protocol: line.protocol.as_str(),
                    direction: &line.direction,
                    host: &line.host,
                    from: &from,
                    to: &to,
                }
                .write(out)
            }
            Line::Ended(line) => {
                let [from, mut to] = match (&line.original, &line.reply) {
                    (Some(original), Some(reply)) => ends(line.protocol, original, reply),
                    _ => ["-".to_owned(), "-".to_owned()],
                };
                if let Some(millis) = line.duration_ms {
                    to = format!("{to} after {:?}", Duration::from_millis(millis));
                }
                Row {
                    state: line.reason.as_ref().unwrap_or(&line.end),
                    protocol: line.protocol.as_str(),
                    direction: &line.direction,
                    host: &line.host,
                    from: &from,
                    to: &to,
                }
                .write(out)
            }
            Line::RolledUp(line) => {
                let to = line
                    .port
                    .map_or_else(|| "-".to_owned(), |port| format!("port {port}"));
                Row {
                    state: line.reason.as_ref().unwrap_or(&line.end),
                    protocol: line.protocol.as_str(),
                    direction: &line.direction,
                    host: &line.host,
                    from: &format!("{} connections", line.count),
                    to: &to,
                }
                .write(out)
            }
            Line::End(_) | Line::Error { .. } | Line::Unknown => Ok(()),
        }
    }
}

/// Where it came from and where to, with what a translation made of either.
fn ends(protocol: Protocol, original: &WayLine, reply: &WayLine) -> [String; 2] {
    let caller = End(original.src, original.src_port);
    let dialled = End(original.dst, original.dst_port);
    let (answers, answered) = (
        End(reply.src, reply.src_port),
        End(reply.dst, reply.dst_port),
    );
    let from = match original.id {
        Some(id) if protocol != Protocol::Gre => format!("{caller} id {id}"),
        _ => caller.to_string(),
    };
    let mut to = dialled.to_string();
    if answers != dialled {
        to = format!("{to} answered by {answers}");
    }
    if answered != caller {
        to = format!("{to} seen as {answered}");
    }
    [from, to]
}

/// An address, with its port where the protocol has ports.
#[derive(PartialEq, Eq)]
struct End(IpAddr, Option<u16>);

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0, self.1) {
            (address, None) => address.fmt(f),
            (IpAddr::V4(address), Some(port)) => write!(f, "{address}:{port}"),
            (IpAddr::V6(address), Some(port)) => write!(f, "[{address}]:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(lines: &[&str]) -> String {
        let mut out = Vec::new();
        let mut table = Table::default();
        Table::begin(&mut out).unwrap();
        for line in lines {
            let line: Line<'_> = serde_json::from_str(line).unwrap();
            table.row(&mut out, &line).unwrap();
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_is_there_stands_before_what_ended_in_the_same_columns() {
        let text = rows(&[
            r#"{"type":"connection","key":"0000000000000001","protocol":"tcp","direction":"outbound","host":"db","address":"10.0.0.2","port":443,"state":"closing","kernel_state":"time_wait","original":{"src":"10.0.0.1","src_port":40000,"dst":"10.0.0.2","dst_port":443},"reply":{"src":"10.9.0.2","src_port":8443,"dst":"10.0.0.1","dst_port":40000},"zone":0,"mark":0}"#,
            r#"{"type":"ended","at":1,"key":"0000000000000002","end":"failed","reason":"refused","protocol":"tcp","direction":"outbound","host":"10.0.0.3","original":{"src":"fd00::1","src_port":40001,"dst":"fd00::3","dst_port":80},"reply":{"src":"fd00::3","src_port":80,"dst":"fd00::1","dst_port":40001},"zone":0,"duration_ms":1500}"#,
            r#"{"type":"rolled_up","count":7,"first_at":1,"last_at":2,"end":"closed","protocol":"tcp","direction":"inbound","host":"public","port":22,"zone":0,"timed":0,"duration_ms":0}"#,
            r#"{"type":"end","source":"conntrack","connections":1,"interrupted":false}"#,
        ]);
        let expected = "\
STATE        PROTOCOL  DIRECTION  REMOTE HOST      FROM                   TO
time_wait    tcp       outbound   db               10.0.0.1:40000         10.0.0.2:443 answered by 10.9.0.2:8443

ENDED        PROTOCOL  DIRECTION  REMOTE HOST      FROM                   TO
refused      tcp       outbound   10.0.0.3         [fd00::1]:40001        [fd00::3]:80 after 1.5s
closed       tcp       inbound    public           7 connections          port 22
";
        assert_eq!(text, expected);
    }
}
