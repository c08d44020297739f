//! Connections as lines of JSON: what the admin socket sends, and what the command
//! prints and reads. One object a line, told apart by `type`; a whole answer has
//! `end` as its last line.

use std::borrow::Cow;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Connection, Shown};
use crate::collector::journal::{Delta, Ended, Record, RolledUp};
use crate::flow::key::FlowKey;
use crate::flow::{Protocol, Traffic, Tuple};

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Line<'a> {
    /// A connection that is there now.
    #[serde(borrow)]
    Connection(Box<ConnectionLine<'a>>),
    /// One that ended.
    #[serde(borrow)]
    Ended(Box<EndedLine<'a>>),
    /// Many short-lived ones to one service, that ended.
    #[serde(borrow)]
    RolledUp(Box<RolledUpLine<'a>>),
    /// The last line of a whole answer.
    #[serde(borrow)]
    End(EndLine<'a>),
    /// The last line of one that is not whole.
    Error {
        /// What went wrong.
        #[serde(borrow)]
        message: Cow<'a, str>,
    },
    /// Of a daemon that is newer than the command.
    #[serde(other)]
    Unknown,
}

/// A connection that is there now.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[expect(missing_docs, reason = "as with `Connection`")]
pub struct ConnectionLine<'a> {
    pub key: FlowKey,
    pub protocol: Protocol,
    #[serde(borrow)]
    pub direction: Cow<'a, str>,
    #[serde(borrow)]
    pub host: Cow<'a, str>,
    pub address: IpAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// One of the four.
    #[serde(borrow)]
    pub state: Cow<'a, str>,
    /// The kernel's own.
    #[serde(borrow)]
    pub kernel_state: Cow<'a, str>,
    pub original: WayLine,
    pub reply: WayLine,
    pub zone: u16,
    pub mark: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age_ms: Option<u64>,
}

/// One way of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct WayLine {
    /// Where packets come from.
    pub src: IpAddr,
    /// Source port, if the protocol has ports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub src_port: Option<u16>,
    /// Where they go.
    pub dst: IpAddr,
    /// Destination port, if the protocol has ports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dst_port: Option<u16>,
    /// ICMP identifier or GRE key, where these take the place of ports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<u16>,
    /// Packets, where the kernel counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packets: Option<u64>,
    /// Bytes, where the kernel counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

impl WayLine {
    fn new(protocol: Protocol, tuple: &Tuple, traffic: Option<Traffic>) -> Self {
        let ports = protocol.has_ports();
        Self {
            src: tuple.src,
            src_port: ports.then_some(tuple.src_port),
            dst: tuple.dst,
            dst_port: ports.then_some(tuple.dst_port),
            id: (!ports).then_some(tuple.src_port),
            packets: traffic.map(|traffic| traffic.packets),
            bytes: traffic.map(|traffic| traffic.bytes),
        }
    }

    fn both(
        protocol: Protocol,
        [original, reply]: [&Tuple; 2],
        traffic: Option<[Traffic; 2]>,
    ) -> [Self; 2] {
        let [sent, answered] = traffic.map_or([None; 2], |both| both.map(Some));
        [
            Self::new(protocol, original, sent),
            Self::new(protocol, reply, answered),
        ]
    }
}

/// A connection that ended.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[expect(missing_docs, reason = "as with `Ended`")]
pub struct EndedLine<'a> {
    /// Milliseconds since the epoch.
    pub at: u64,
    pub key: FlowKey,
    #[serde(borrow)]
    pub end: Cow<'a, str>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Cow<'a, str>>,
    pub protocol: Protocol,
    #[serde(borrow)]
    pub direction: Cow<'a, str>,
    #[serde(borrow)]
    pub host: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub original: Option<WayLine>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply: Option<WayLine>,
    pub zone: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
}

/// Many connections that ended.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[expect(missing_docs, reason = "as with `RolledUp`")]
pub struct RolledUpLine<'a> {
    pub count: u64,
    /// Milliseconds since the epoch.
    pub first_at: u64,
    /// Milliseconds since the epoch.
    pub last_at: u64,
    #[serde(borrow)]
    pub end: Cow<'a, str>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Cow<'a, str>>,
    pub protocol: Protocol,
    #[serde(borrow)]
    pub direction: Cow<'a, str>,
    #[serde(borrow)]
    pub host: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    pub zone: u16,
    /// How many have a duration.
    pub timed: u64,
    /// The sum of these.
    pub duration_ms: u64,
    /// Packets and bytes of the original way, summed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub original: Option<TrafficLine>,
    /// Packets and bytes of the reply way, summed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply: Option<TrafficLine>,
}

/// Packets and bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct TrafficLine {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// What a whole answer came to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct EndLine<'a> {
    /// Where the connections were read.
    #[serde(borrow)]
    pub source: Cow<'a, str>,
    /// How many were shown.
    pub connections: u64,
    /// Whether some may be missing or double: the table changed under the look.
    pub interrupted: bool,
    /// What ended, for a client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delta: Option<DeltaLine>,
}

/// What ended since a client last asked, in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct DeltaLine {
    /// Connections that ended and were shown, rolled up ones by their count.
    pub ended: u64,
    /// Those that there was no room for.
    pub dropped: u64,
    /// Those of which too little is known for the filter to tell.
    pub undecided: u64,
    /// Milliseconds since it last asked; left out the first time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<u64>,
}

impl Line<'_> {
    /// Of a connection.
    #[must_use]
    pub fn connection(connection: &Connection) -> Self {
        let Connection {
            flow, placement, ..
        } = connection;
        let tuples = [&flow.original, &flow.reply];
        let [original, reply] = WayLine::both(flow.protocol, tuples, connection.traffic);
        Self::Connection(Box::new(ConnectionLine {
            key: connection.key,
            protocol: flow.protocol,
            direction: placement.direction.as_str().into(),
            host: connection.host.to_string().into(),
            address: placement.address,
            port: placement.port,
            state: flow.state.general().as_str().into(),
            kernel_state: flow.state.as_str().into(),
            original,
            reply,
            zone: flow.zone,
            mark: flow.mark,
            age_ms: connection.age.map(millis),
        }))
    }

    /// Of what ended.
    #[must_use]
    pub fn ended(record: &Record) -> Self {
        match record {
            Record::One(ended) => Self::Ended(Box::new(one(ended))),
            Record::Many(rolled) => Self::RolledUp(Box::new(many(rolled))),
        }
    }

    /// The last one.
    #[must_use]
    pub fn end(shown: Shown, delta: Option<&Delta>) -> Self {
        Self::End(EndLine {
            source: shown.source.as_str().into(),
            connections: shown.connections,
            interrupted: shown.interrupted,
            delta: delta.map(|delta| DeltaLine {
                ended: delta.ended.iter().map(Record::count).sum(),
                dropped: delta.dropped,
                undecided: delta.undecided,
                since_ms: delta.since.map(millis),
            }),
        })
    }

    /// Writes it with its line break.
    ///
    /// # Errors
    /// When the writer fails.
    pub fn write(&self, out: &mut impl io::Write) -> io::Result<()> {
        serde_json::to_writer(&mut *out, self)?;
        out.write_all(b"\n")
    }
}

fn one(ended: &Ended) -> EndedLine<'static> {
    let ways = ended
        .tuples
        .as_ref()
        .map(|(original, reply)| WayLine::both(ended.protocol, [original, reply], ended.traffic));
    EndedLine {
        at: ended.at,
        key: ended.key,
        end: ended.end.as_str().into(),
        reason: ended.end.failure().map(|failure| failure.as_str().into()),
        protocol: ended.protocol,
        direction: ended.direction.as_str().into(),
        host: ended.host.to_string().into(),
        address: ended.address,
        port: ended.port,
        original: ways.map(|[original, _]| original),
        reply: ways.map(|[_, reply]| reply),
        zone: ended.zone,
        duration_ms: ended.duration.map(millis),
    }
}

fn many(rolled: &RolledUp) -> RolledUpLine<'static> {
    let service = &rolled.service;
    let traffic = rolled.traffic.map(|both| {
        both.map(|traffic| TrafficLine {
            packets: traffic.packets,
            bytes: traffic.bytes,
        })
    });
    RolledUpLine {
        count: rolled.count,
        first_at: rolled.first_at,
        last_at: rolled.last_at,
        end: service.end.as_str().into(),
        reason: service.end.failure().map(|failure| failure.as_str().into()),
        protocol: service.protocol,
        direction: service.direction.as_str().into(),
        host: service.host.to_string().into(),
        address: rolled.address,
        port: service.port,
        zone: service.zone,
        timed: rolled.timed,
        duration_ms: millis(rolled.duration),
        original: traffic.map(|[original, _]| original),
        reply: traffic.map(|[_, reply]| reply),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::journal::Service;
    use crate::flow::{Direction, End, Failure};
    use crate::hosts::HostName;
    use crate::report::Source;

    #[test]
    fn what_ended_is_written_as_documented_and_reads_back() {
        let tuple = Tuple {
            src: [10, 0, 0, 1].into(),
            dst: [10, 0, 0, 2].into(),
            src_port: 40_000,
            dst_port: 443,
        };
        let traffic = Traffic {
            packets: 3,
            bytes: 180,
        };
        let service = Service {
            host: HostName::Name("db".into()),
            protocol: Protocol::Tcp,
            zone: 0,
            direction: Direction::Outbound,
            port: Some(443),
            end: End::Failed(Failure::Refused),
        };
        let delta = Delta {
            ended: vec![
                Record::One(Box::new(Ended {
                    at: 1_700_000_000_000,
                    key: FlowKey(10),
                    tuples: Some((tuple, tuple)),
                    host: service.host.clone(),
                    address: Some(tuple.dst),
                    protocol: Protocol::Tcp,
                    zone: 0,
                    direction: Direction::Outbound,
                    port: None,
                    end: End::Closed,
                    duration: Some(Duration::from_millis(1500)),
                    traffic: Some([traffic; 2]),
                })),
                Record::Many(Box::new(RolledUp {
                    service,
                    address: None,
                    count: 7,
                    first_at: 1,
                    last_at: 2,
                    timed: 0,
                    duration: Duration::ZERO,
                    traffic: None,
                })),
            ],
            dropped: 4,
            undecided: 0,
            since: Some(Duration::from_secs(10)),
        };
        let shown = Shown {
            source: Source::Conntrack,
            connections: 0,
            interrupted: false,
        };
        let mut text = Vec::new();
        let lines: Vec<_> = (delta.ended.iter().map(Line::ended))
            .chain([Line::end(shown, Some(&delta))])
            .collect();
        for line in &lines {
            line.write(&mut text).unwrap();
        }
        let text = String::from_utf8(text).unwrap();
        let way = r#"{"src":"10.0.0.1","src_port":40000,"dst":"10.0.0.2","dst_port":443,"packets":3,"bytes":180}"#;
        let expected = [
            format!(
                r#"{{"type":"ended","at":1700000000000,"key":"000000000000000a","end":"closed","protocol":"tcp","direction":"outbound","host":"db","address":"10.0.0.2","original":{way},"reply":{way},"zone":0,"duration_ms":1500}}"#
            ),
            r#"{"type":"rolled_up","count":7,"first_at":1,"last_at":2,"end":"failed","reason":"refused","protocol":"tcp","direction":"outbound","host":"db","port":443,"zone":0,"timed":0,"duration_ms":0}"#.to_owned(),
            r#"{"type":"end","source":"conntrack","connections":0,"interrupted":false,"delta":{"ended":8,"dropped":4,"undecided":0,"since_ms":10000}}"#.to_owned(),
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
        for (line, text) in lines.iter().zip(text.lines()) {
            assert_eq!(&serde_json::from_str::<Line<'_>>(text).unwrap(), line);
        }
    }
}
