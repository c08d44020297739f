//! Metrics as text: Prometheus' format 0.0.4, and `OpenMetrics` 1.0.
//!
//! Written by hand, and not by `prometheus-client`: that one writes `OpenMetrics` alone,
//! and puts `_total` behind the names of counters itself, while a drop-in for
//! `conntrack_exporter` needs gauges that end so, and to leave them out where they may not
//! be. What remains is escaping and the order of lines, which is what its tests look at.
//!
//! - <https://prometheus.io/docs/instrumenting/exposition_formats/>
//! - <https://prometheus.io/docs/specs/om/open_metrics_spec/>

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use crate::telemetry::Kind;

/// What counters' samples end in, and in `OpenMetrics` nothing else's.
const TOTAL: &str = "_total";
const MICROS_PER_SECOND: u64 = 1_000_000;

/// How it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Text format 0.0.4, which every reader knows.
    Prometheus,
    /// 1.0.
    OpenMetrics,
}

impl Format {
    /// The one that an `Accept` header (RFC 9110, 12.5.1) likes best; `OpenMetrics` only
    /// where it is named and liked no less, and the other where none is liked.
    pub(crate) fn accepted(header: &str) -> Self {
        let (mut open, mut plain) = (0, 0);
        for range in header.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
            let parameters = || parts.clone().filter_map(|part| part.split_once('='));
            let named = |name: &str| {
                let found = parameters().find(|(key, _)| key.trim().eq_ignore_ascii_case(name));
                found.map(|(_, value)| value.trim().trim_matches('"'))
            };
            let weight = named("q").map_or(1000, thousandths);
            let version = named("version");
            match &*kind {
                "application/openmetrics-text"
                    if version.is_none_or(|version| version == "1.0.0") =>
                {
                    open = open.max(weight);
                }
                "text/plain" if version.is_none_or(|version| version == "0.0.4") => {
                    plain = plain.max(weight);
                }
                "text/*" | "*/*" => plain = plain.max(weight),
                _ => {}
            }
        }
        if open > 0 && open >= plain {
            Self::OpenMetrics
        } else {
            Self::Prometheus
        }
    }

    /// What a response says of it.
    pub(crate) const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// What stands behind the last family.
    pub(crate) const fn end(self) -> &'static str {
        match self {
            Self::Prometheus => "",
            Self::OpenMetrics => "# EOF\n",
        }
    }
}

/// A quality value, from 0 to 1 with three digits at most; none where it is no such thing.
fn thousandths(quality: &str) -> u32 {
    let quality: f32 = quality.parse().unwrap_or_default();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and 1000, and what is no number becomes 0"
    )]
    let thousandths = (quality.clamp(0.0, 1.0) * 1000.0) as u32;
    thousandths
}

/// What the numbers of a family count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// As they are.
    One,
    /// Microseconds, which are written as seconds.
    Micros,
}

/// Families of metrics, in the order of their first mention.
#[derive(Debug, Default)]
pub(crate) struct Families {
    list: Vec<Family>,
    places: HashMap<String, usize>,
}

/// Samples of one name.
#[derive(Debug)]
pub(crate) struct Family {
    /// Of the samples, but for a counter's `_total`.
    name: String,
    kind: Kind,
    unit: Unit,
    help: String,
    /// Whether it is told a second time, with `_total` behind its name.
    has_twin: bool,
    /// By their labels, as they are written: none twice.
    samples: BTreeMap<String, u64>,
}

impl Families {
    /// The family of this name, made if there is none; of a counter, without `_total`.
    /// Characters that a name can't have become `_`.
    pub(crate) fn family(&mut self, name: &str, kind: Kind, help: &str) -> &mut Family {
        let name = clean(name);
        let next = self.list.len();
        let place = *self.places.entry(name.clone()).or_insert(next);
        if place == next {
            self.list.push(Family {
                name,
                kind,
                unit: Unit::One,
                help: help.to_owned(),
                has_twin: false,
                samples: BTreeMap::new(),
            });
        }
        &mut self.list[place]
    }

    /// Writes all of them.
    pub(crate) fn write(&self, format: Format, out: &mut String) {
        for family in &self.list {
            family.write("", format, out);
            // In OpenMetrics, a gauge may not end so.
            if family.has_twin && format == Format::Prometheus {
                family.write(TOTAL, format, out);
            }
        }
    }
}

impl Family {
    /// Its numbers are of this unit.
    pub(crate) fn of(&mut self, unit: Unit) -> &mut Self {
        self.unit = unit;
        self
    }

    /// It is told a second time, with `_total` behind its name, where the format lets a
    /// gauge end so.
    pub(crate) fn with_twin(&mut self) -> &mut Self {
        self.has_twin = true;
        self
    }

    /// Adds a sample. What has the same labels is added up: a series comes once.
    pub(crate) fn add<'a>(
        &mut self,
        labels: impl IntoIterator<Item = (&'a str, &'a str)>,
        value: u64,
    ) {
        let mut text = String::new();
        for (name, value) in labels {
            text.push(if text.is_empty() { '{' } else { ',' });
            text.push_str(name);
            text.push_str("=\"");
            escape(value, &['\\', '"'], &mut text);
            text.push('"');
        }
        if !text.is_empty() {
            text.push('}');
        }
        let sum = self.samples.entry(text).or_default();
        *sum = sum.saturating_add(value);
    }

    fn write(&self, suffix: &str, format: Format, out: &mut String) {
        let Self { name, kind, .. } = self;
        let (kind, end) = match kind {
            Kind::Count => ("counter", TOTAL),
            Kind::Gauge => ("gauge", suffix),
        };
        // Where the formats differ is what a counter's family is called.
        let of_family = match format {
            Format::Prometheus => end,
            Format::OpenMetrics => suffix,
        };
        for part in ["# HELP ", name, of_family, " "] {
            out.push_str(part);
        }
        let escaped: &[char] = match format {
            Format::Prometheus => &['\\'],
            Format::OpenMetrics => &['\\', '"'],
        };
        escape(&self.help, escaped, out);
        for part in ["\n# TYPE ", name, of_family, " ", kind, "\n"] {
            out.push_str(part);
        }
        for (labels, &value) in &self.samples {
            for part in [name, end, labels, " "] {
                out.push_str(part);
            }
            self.unit.write(value, out);
            out.push('\n');
        }
    }
}

impl Unit {
    fn write(self, value: u64, out: &mut String) {
        // Writing to a String does not fail.
        let written = match self {
            Self::One => write!(out, "{value}"),
            Self::Micros => {
                let (whole, rest) = (value / MICROS_PER_SECOND, value % MICROS_PER_SECOND);
                write!(out, "{whole}.{rest:06}")
            }
        };
        written.unwrap_or_default();
    }
}

/// A name with `_` for what it can't have: a digit in front too.
fn clean(name: &str) -> String {
    let is_fit = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let begins = name.starts_with(|first: char| first.is_ascii_digit());
    let rest = name.chars().map(|c| if is_fit(c) { c } else { '_' });
    begins.then_some('_').into_iter().chain(rest).collect()
}

/// Writes text with a backslash before each of `escaped`, and `\n` for a line's end.
fn escape(text: &str, escaped: &[char], out: &mut String) {
    for c in text.chars() {
        if c == '\n' {
            out.push_str("\\n");
            continue;
        }
        if escaped.contains(&c) {
            out.push('\\');
        }
        out.push(c);
    }
}

#[cfg(test)]
mod tests;
