//! How an output writes a line: `DogStatsD` as it is, or in another dialect.
//!
//! | | statsd | graphite | influx |
//! |---|---|---|---|
//! | tags of the agent's own lines | their values become parts of the name, in order: `name.value.value` | `name;key=value` | `name,key=value` |
//! | tags of relayed lines | left out | `name;key=value` | `name,key=value` |
//! | a tag without a value | as a value | `key=true` | `key=true` |
//! | host name | the name's first part, on the agent's own lines | tag `host`, unless there is one | tag `host`, unless there is one |
//! | `h`, `d` | `ms` | `ms` | `h` |
//! | `d` of the agent's own lines | `ms`, in milliseconds | `ms`, in milliseconds | `h`, in seconds |
//!
//! In all of them: packed values become a line each; sample rates stay on
//! counters and timings; container, origin, cardinality and timestamp are left
//! out; events and service checks have no form and are dropped. A gauge with a
//! sign means a change here, and in `DogStatsD` it does not: `+5` is written `5`,
//! and `-5` as `0` and then `-5`. What the dialect reserves is replaced by `_`.
//!
//! The agent's own distributions are durations in seconds, which a server that
//! knows timings alone would take for milliseconds. What relayed values measure
//! nobody knows: they go as they come.
//!
//! Since every tag value of the agent's own lines becomes a part of the name
//! under statsd, whoever makes those lines leaves constant tags out for an
//! output whose format [has no tags](Format::has_tags).

use std::io::Write as _;

use memchr::memchr;

use crate::config::{Format, LineSource};

#[cfg(test)]
mod tests;

/// What encoding a run of lines came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    /// Lines written. A line with several values is written as several.
    pub lines: u64,
    /// Lines that the dialect has no form for.
    pub dropped: u64,
}

/// An output's dialect.
#[derive(Clone, Debug)]
pub struct Encoding {
    format: Format,
    /// The host's name as the dialect has it; empty for none.
    hostname: Vec<u8>,
}

/// The parts of a well-formed metric line that a dialect may have a form for.
#[derive(Clone, Copy, Debug)]
struct Metric<'a> {
    name: &'a [u8],
    values: &'a [u8],
    kind: Kind,
    rate: Option<&'a [u8]>,
    tags: &'a [u8],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Set,
    Timing,
    Histogram,
    Distribution,
}

impl Kind {
    const fn has_rate(self) -> bool {
        !matches!(self, Self::Gauge | Self::Set)
    }
}

impl<'a> Metric<'a> {
    /// `None` for events, service checks, and what is no metric at all.
    fn split(line: &'a [u8]) -> Option<Self> {
        if line.starts_with(b"_e{") || line.starts_with(b"_sc|") {
            return None;
        }
        let (name, rest) = split_at(line, b':')?;
        let mut fields = rest.split(|&byte| byte == b'|');
        let mut metric = Self {
            name,
            values: fields.next()?,
            kind: match fields.next()? {
                b"c" => Kind::Counter,
                b"g" => Kind::Gauge,
                b"s" => Kind::Set,
                b"ms" => Kind::Timing,
                b"h" => Kind::Histogram,
                b"d" => Kind::Distribution,
                _ => return None,
            },
            rate: None,
            tags: &[],
        };
        for field in fields {
            match field.split_first() {
                Some((b'@', rate)) if is_number(rate) => metric.rate = Some(rate),
                Some((b'#', tags)) => metric.tags = tags,
                _ => {}
            }
        }
        Some(metric)
    }

    /// Each tag's key, and its value if it has one.
    fn tags(&self) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> {
        self.tags
            .split(|&byte| byte == b',')
            .filter(|tag| !tag.is_empty())
            .map(|tag| match split_at(tag, b':') {
                Some((key, value)) => (key, Some(value)),
                None => (tag, None),
            })
    }
}

fn split_at(text: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let (before, rest) = text.split_at_checked(memchr(separator, text)?)?;
    Some((before, rest.get(1..)?))
}

/// Whether every statsd server reads it as a number: no hexadecimal, no infinity.
fn is_number(text: &[u8]) -> bool {
    str::from_utf8(text)
        .ok()
        .and_then(|text| text.parse::<f64>().ok())
        .is_some_and(f64::is_finite)
}

/// Appends seconds as whole milliseconds.
fn write_milliseconds(seconds: &[u8], to: &mut Vec<u8>) {
    let seconds = str::from_utf8(seconds).ok();
    let seconds: Option<f64> = seconds.and_then(|text| text.parse().ok());
    // Writing to a Vec does not fail.
    write!(to, "{}", (seconds.unwrap_or_default() * 1000.0).round()).unwrap_or_default();
}

/// What may stand in a name: the characters that carbon and the statsd servers
/// keep as they are.
const fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')
}

const fn is_name(byte: u8) -> bool {
    is_plain(byte) || byte == b'.'
}

/// What may stand in a tag: neither graphite's `; ! ^ = ~`, influx's `, =`, nor
/// what statsd cuts a line at.
const fn is_tag(byte: u8) -> bool {
    !byte.is_ascii()
        || (byte.is_ascii_graphic()
            && !matches!(
                byte,
                b';' | b'!' | b'^' | b'=' | b'~' | b',' | b':' | b'|' | b'@' | b'#'
            ))
}

/// Appends `text` with an underscore for each character that is not kept, or
/// one for no text at all.
fn write_kept(text: &[u8], keep: impl Fn(u8) -> bool, to: &mut Vec<u8>) {
    if text.is_empty() {
        to.push(b'_');
    }
    let mut rest = text;
    while !rest.is_empty() {
        let kept = rest.iter().position(|&byte| !keep(byte));
        let (kept, others) = rest.split_at(kept.unwrap_or(rest.len()));
        to.extend_from_slice(kept);
        rest = others;
        if let Some((&byte, others)) = rest.split_first() {
            let continues = byte & 0b1100_0000 == 0b1000_0000;
            if !continues {
                to.push(b'_');
            }
            rest = others;
        }
    }
}

impl Encoding {
    /// The dialect of an output on the host named `hostname`; empty for no name.
    #[must_use]
    pub fn new(format: Format, hostname: &str) -> Self {
        let mut kept = Vec::new();
        if !hostname.is_empty() {
            if format == Format::Statsd {
                write_kept(hostname.as_bytes(), is_plain, &mut kept);
            } else {
                write_kept(hostname.as_bytes(), is_tag, &mut kept);
            }
        }
        Self {
            format,
            hostname: kept,
        }
    }

    /// Whether lines go as they come.
    #[must_use]
    pub fn is_identity(&self) -> bool {
        self.format == Format::Dogstatsd
    }

    /// Writes `lines`, each with its newline, to `to`.
    pub fn encode(&self, lines: &[u8], source: LineSource, to: &mut Vec<u8>) -> Encoded {
        let mut outcome = Encoded::default();
        for line in lines.split_inclusive(|&byte| byte == b'\n') {
            if self.is_identity() {
                to.extend_from_slice(line);
                outcome.lines += 1;
                continue;
            }
            let start = to.len();
            let line = line.strip_suffix(b"\n").unwrap_or(line);
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let written = Metric::split(line).and_then(|metric| self.write(&metric, source, to));
            if let Some(lines) = written {
                outcome.lines += lines;
            } else {
                to.truncate(start);
                outcome.dropped += 1;
            }
        }
        outcome
    }

    /// Writes a metric, one line for each of its values. `None` when one of them
    /// is no number.
    fn write(&self, metric: &Metric<'_>, source: LineSource, to: &mut Vec<u8>) -> Option<u64> {
        let start = to.len();
        self.write_name(metric, source, to);
        let is_timing = self.format != Format::Influx;
        let own_seconds =
            is_timing && source == LineSource::Collector && metric.kind == Kind::Distribution;
        let mut out = Lines {
            name: start..to.len(),
            kind: match metric.kind {
                Kind::Counter => b"|c",
                Kind::Gauge => b"|g",
                Kind::Set => b"|s",
                Kind::Histogram | Kind::Distribution if !is_timing => b"|h",
                Kind::Timing | Kind::Histogram | Kind::Distribution => b"|ms",
            },
            rate: metric.rate.filter(|_| metric.kind.has_rate()),
            written: 0,
            to,
        };
        if metric.kind == Kind::Set {
            out.line(|to| write_kept(metric.values, is_tag, to));
            return Some(out.written);
        }
        let values = metric.values.split(|&byte| byte == b':');
        for value in values.filter(|value| !value.is_empty()) {
            if !is_number(value) {
                return None;
            }
            let value = match value.split_first() {
                Some((b'+', value)) if metric.kind == Kind::Gauge => value,
                Some((b'-', _)) if metric.kind == Kind::Gauge => {
                    out.line(|to| to.push(b'0'));
                    value
                }
                _ => value,
            };
            if own_seconds {
                out.line(|to| write_milliseconds(value, to));
            } else {
                out.line(|to| to.extend_from_slice(value));
            }
        }
        (out.written > 0).then_some(out.written)
    }

    fn write_name(&self, metric: &Metric<'_>, source: LineSource, to: &mut Vec<u8>) {
        let tag = match self.format {
            Format::Statsd | Format::Dogstatsd => {
                let own = source == LineSource::Collector;
                if own && !self.hostname.is_empty() {
                    to.extend_from_slice(&self.hostname);
                    to.push(b'.');
                }
                write_kept(metric.name, is_name, to);
                for (key, value) in metric.tags().filter(|_| own) {
                    to.push(b'.');
                    write_kept(value.unwrap_or(key), is_plain, to);
                }
                return;
            }
            Format::Graphite => b';',
            Format::Influx => b',',
        };
        write_kept(metric.name, is_name, to);
        if !self.hostname.is_empty() && !metric.tags().any(|(key, _)| key == b"host") {
            to.push(tag);
            to.extend_from_slice(b"host=");
            to.extend_from_slice(&self.hostname);
        }
        for (key, value) in metric.tags() {
            to.push(tag);
            write_kept(key, is_tag, to);
            to.push(b'=');
            write_kept(value.unwrap_or(b"true"), is_tag, to);
        }
    }
}

/// Lines of one name, the first of which begins with it already.
struct Lines<'a> {
    name: std::ops::Range<usize>,
    kind: &'static [u8],
    rate: Option<&'a [u8]>,
    written: u64,
    to: &'a mut Vec<u8>,
}

impl Lines<'_> {
    fn line(&mut self, value: impl FnOnce(&mut Vec<u8>)) {
        if self.written > 0 {
            self.to.extend_from_within(self.name.clone());
        }
        self.to.push(b':');
        value(self.to);
        self.to.extend_from_slice(self.kind);
        if let Some(rate) = self.rate {
            self.to.extend_from_slice(b"|@");
            self.to.extend_from_slice(rate);
        }
        self.to.push(b'\n');
        self.written += 1;
    }
}
