//! A message's parts, borrowed from its line.

use super::{Kind, Malformed, MetricKind, Part, number, scan};

/// The tags of a message: what stands behind `#`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tags<'a>(pub &'a [u8]);

impl<'a> Tags<'a> {
    /// One after the other; empty ones are left out.
    pub fn iter(self) -> impl Iterator<Item = &'a [u8]> {
        self.0
            .split(|&byte| byte == b',')
            .filter(|tag| !tag.is_empty())
    }
}

/// A metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric<'a> {
    /// Name.
    pub name: &'a [u8],
    /// Value, or values packed with colons; a set's is any text.
    pub values: &'a [u8],
    /// Type.
    pub kind: MetricKind,
    /// `@`: share of the samples that were sent, as written.
    pub rate: Option<&'a [u8]>,
    /// `#`
    pub tags: Tags<'a>,
    /// `T`: seconds since the epoch.
    pub timestamp: Option<i64>,
    /// `c:`: container id or cgroup inode.
    pub container: Option<&'a [u8]>,
    /// `e:`: what the cluster says of the sender.
    pub external: Option<&'a [u8]>,
    /// `card:`: which origin tags are wanted.
    pub cardinality: Option<&'a [u8]>,
}

impl<'a> Metric<'a> {
    /// The values as numbers; none for a set.
    pub fn numbers(self) -> impl Iterator<Item = f64> + 'a {
        let values = match self.kind {
            MetricKind::Set => &[],
            _ => self.values,
        };
        values.split(|&byte| byte == b':').filter_map(number::parse)
    }

    /// Share of the samples that were sent; 1 where the line says nothing.
    #[must_use]
    pub fn sample_rate(&self) -> f64 {
        self.rate.and_then(number::parse).unwrap_or(1.0)
    }
}

/// An event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event<'a> {
    /// Title, line ends written as `\n`.
    pub title: &'a [u8],
    /// Text, line ends written as `\n`.
    pub text: &'a [u8],
    /// `d:`: seconds since the epoch.
    pub timestamp: Option<&'a [u8]>,
    /// `h:`
    pub hostname: Option<&'a [u8]>,
    /// `k:`
    pub aggregation_key: Option<&'a [u8]>,
    /// `p:`
    pub priority: Option<&'a [u8]>,
    /// `s:`
    pub source_type: Option<&'a [u8]>,
    /// `t:`
    pub alert_type: Option<&'a [u8]>,
    /// `#`
    pub tags: Tags<'a>,
    /// `c:`: container id or cgroup inode.
    pub container: Option<&'a [u8]>,
    /// `e:`: what the cluster says of the sender.
    pub external: Option<&'a [u8]>,
    /// `card:`: which origin tags are wanted.
    pub cardinality: Option<&'a [u8]>,
}

/// What a service check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// 0
    Ok,
    /// 1
    Warning,
    /// 2
    Critical,
    /// 3
    Unknown,
}

/// A service check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceCheck<'a> {
    /// Name.
    pub name: &'a [u8],
    /// Status.
    pub status: Status,
    /// `d:`: seconds since the epoch.
    pub timestamp: Option<&'a [u8]>,
    /// `h:`
    pub hostname: Option<&'a [u8]>,
    /// `#`
    pub tags: Tags<'a>,
    /// `m:`
    pub message: Option<&'a [u8]>,
    /// `c:`: container id or cgroup inode.
    pub container: Option<&'a [u8]>,
    /// `e:`: what the cluster says of the sender.
    pub external: Option<&'a [u8]>,
    /// `card:`: which origin tags are wanted.
    pub cardinality: Option<&'a [u8]>,
}

/// A line, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// A metric.
    Metric(Metric<'a>),
    /// An event.
    Event(Event<'a>),
    /// A service check.
    ServiceCheck(ServiceCheck<'a>),
}

impl<'a> Message<'a> {
    /// Takes a line apart. Of a field that comes twice the last one counts.
    ///
    /// # Errors
    /// As [`check`](super::check).
    pub fn parse(line: &'a [u8]) -> Result<Self, Malformed> {
        let mut metric = Metric {
            name: &[],
            values: &[],
            kind: MetricKind::Count,
            rate: None,
            tags: Tags::default(),
            timestamp: None,
            container: None,
            external: None,
            cardinality: None,
        };
        let mut event = Event::default();
        let mut status = Status::Ok;
        let mut message = None;
        let kind = scan(line, |part| match part {
            Part::Name(name) => metric.name = name,
            Part::Values(values) => metric.values = values,
            Part::Title(title) => event.title = title,
            Part::Text(text) => event.text = text,
            Part::Status(found) => status = found,
            Part::Field(_, field) => match field {
                [b'#', tags @ ..] => metric.tags = Tags(tags),
                [b'@', rate @ ..] => metric.rate = Some(rate),
                [b'T', seconds @ ..] => metric.timestamp = number::parse_seconds(seconds),
                [b'c', b':', container @ ..] => metric.container = Some(container),
                [b'e', b':', external @ ..] => metric.external = Some(external),
                [b'c', b'a', b'r', b'd', b':', cardinality @ ..] => {
                    metric.cardinality = Some(cardinality);
                }
                [b'd', b':', timestamp @ ..] => event.timestamp = Some(timestamp),
                [b'h', b':', hostname @ ..] => event.hostname = Some(hostname),
                [b'k', b':', key @ ..] => event.aggregation_key = Some(key),
                [b'p', b':', priority @ ..] => event.priority = Some(priority),
                [b's', b':', source @ ..] => event.source_type = Some(source),
                [b't', b':', alert @ ..] => event.alert_type = Some(alert),
                [b'm', b':', text @ ..] => message = Some(text),
                _ => {}
            },
        })?;
        let Metric {
            name,
            tags,
            container,
            external,
            cardinality,
            ..
        } = metric;
        Ok(match kind {
            Kind::Metric(kind) => Self::Metric(Metric { kind, ..metric }),
            Kind::Event => Self::Event(Event {
                tags,
                container,
                external,
                cardinality,
                ..event
            }),
            Kind::ServiceCheck => Self::ServiceCheck(ServiceCheck {
                name,
                status,
                timestamp: event.timestamp,
                hostname: event.hostname,
                tags,
                message,
                container,
                external,
                cardinality,
            }),
        })
    }

    /// What it is.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Metric(metric) => Kind::Metric(metric.kind),
            Self::Event(_) => Kind::Event,
            Self::ServiceCheck(_) => Kind::ServiceCheck,
        }
    }

    /// Its tags.
    #[must_use]
    pub const fn tags(&self) -> Tags<'a> {
        match self {
            Self::Metric(metric) => metric.tags,
            Self::Event(event) => event.tags,
            Self::ServiceCheck(check) => check.tags,
        }
    }
}
