//! A metric line as the backlog sees it: what makes it one context with another.
//!
//! Two lines are of one context if source, name and type are the same, and the
//! fields behind the type are: tags in any order, known fields in any order, a
//! field that comes twice and fields nobody knows in the order they have. A sample
//! rate tells histograms, timings and distributions apart, as it is written.

use std::hash::BuildHasher;
use std::num::NonZeroU32;

use foldhash::fast::RandomState;
use memchr::{memchr, memchr_iter};

use crate::config::LineSource;
use crate::message::{Kind, MetricKind, Part, parse_number, scan};

/// Numbers with more digits than a float can mean are not merged.
pub(super) const NUMBER_BYTES: usize = 64;

/// More than what a merged line may have beyond a number that came: the bars, the
/// colon and the type, a sum of 24 bytes for it, a rate of 24 bytes.
const SPARE_BYTES: usize = 64;

/// Thinning divides a rate; one that is smaller than this might come to nothing.
const LEAST_RATE: f64 = 1e-200;

/// A metric that may merge.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line<'a> {
    pub(super) text: &'a [u8],
    pub(super) source: LineSource,
    pub(super) kind: MetricKind,
    pub(super) name: &'a [u8],
    pub(super) values: &'a [u8],
    /// What stands behind the type, with the bar before it.
    pub(super) fields: &'a [u8],
    /// Share of the samples that were sent.
    pub(super) rate: f64,
    /// The same for all lines of one context and period.
    pub(super) hash: u64,
    /// When it came, if it may be given back with that time.
    pub(super) tick: Option<Tick>,
}

/// The beginning of a time in which lines of one context merge, so that they can be given
/// back with it: seconds of the Unix clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tick(pub NonZeroU32);

/// Ticks that merge with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Period {
    /// Seconds.
    pub(super) span: u32,
}

impl Period {
    /// The number of the period that a tick lies in.
    pub(super) fn of(self, tick: Option<Tick>) -> u32 {
        tick.map_or(0, |Tick(tick)| 1 + tick.get() / self.span.max(1))
    }

    /// Makes of a context's hash that of one of its periods, and back.
    pub(super) fn mix(self, hash: u64, tick: Option<Tick>, hasher: &RandomState) -> u64 {
        match tick {
            Some(_) => hash ^ hasher.hash_one(self.of(tick)),
            None => hash,
        }
    }
}

impl<'a> Line<'a> {
    /// `None` for what never merges: events, service checks, lines with their own
    /// timestamp, and those to which there is no room to add within `line_bytes`.
    pub(super) fn parse(
        text: &'a [u8],
        source: LineSource,
        line_bytes: usize,
        hasher: &RandomState,
    ) -> Option<Self> {
        let mut name: &[u8] = &[];
        let mut values: &[u8] = &[];
        let mut rate = None;
        let mut is_dated = false;
        let mut hash: u64 = 0;
        let mut rates_hash: u64 = 0;
        // Added up, so that the order makes no difference.
        let Ok(Kind::Metric(kind)) = scan(text, |part| match part {
            Part::Name(part) => name = part,
            Part::Values(part) => values = part,
            Part::Field(_, [b'T', ..]) => is_dated = true,
            Part::Field(_, field @ [b'@', number @ ..]) => {
                rate = Some(number);
                rates_hash = rates_hash.wrapping_add(hasher.hash_one(field));
            }
            Part::Field(_, [b'#', tags @ ..]) => {
                for_each_tag(tags, |tag| hash = hash.wrapping_add(hasher.hash_one(tag)));
            }
            Part::Field(_, field) => hash = hash.wrapping_add(hasher.hash_one(field)),
            _ => {}
        }) else {
            return None;
        };
        let fields_at = name.len() + 1 + values.len() + 1 + kind.as_str().len();
        let fields = text.get(fields_at..)?;
        if is_packed(kind) {
            hash = hash.wrapping_add(rates_hash);
        }
        let line = Self {
            text,
            source,
            kind,
            name,
            values,
            fields,
            rate: rate.and_then(parse_number).unwrap_or(1.0),
            hash: hasher.hash_one((name, kind as u8, source as u8, hash)),
            tick: None,
        };
        (!is_dated && line.has_room(line_bytes)).then_some(line)
    }

    /// The same, of a time, if it is one of a kind that can be given back with it.
    pub(super) fn at(self, tick: Option<Tick>, period: Period, hasher: &RandomState) -> Self {
        if !matches!(self.kind, MetricKind::Count | MetricKind::Gauge) {
            return self;
        }
        let hash = period.mix(self.hash, tick, hasher);
        Self { hash, tick, ..self }
    }

    fn has_room(&self, line_bytes: usize) -> bool {
        if self.text.len() > line_bytes {
            return false;
        }
        if self.kind == MetricKind::Set {
            return true;
        }
        let least = self.name.len() + self.fields.len() + NUMBER_BYTES + SPARE_BYTES;
        let is_short = self.values.len() <= NUMBER_BYTES
            || (self.values.split(|&byte| byte == b':')).all(|value| value.len() <= NUMBER_BYTES);
        least <= line_bytes && is_short && self.rate >= LEAST_RATE
    }

    /// The values as they are written; empty ones do not count.
    pub(super) fn texts(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        texts(self.values)
    }

    /// Whether the value is a change, where a sign makes it one. Packed values and times
    /// are `DogStatsD`'s alone, where it never does.
    pub(super) fn is_signed(&self) -> bool {
        self.tick.is_none()
            && matches!(self.values, [b'+' | b'-', ..])
            && memchr(b':', self.values).is_none()
    }

    /// What makes it one context with another.
    pub(super) const fn context(&self) -> Context<'a> {
        Context {
            source: self.source,
            kind: self.kind,
            name: self.name,
            fields: self.fields,
        }
    }
}

/// What lines of one context have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Context<'a> {
    pub(super) source: LineSource,
    pub(super) kind: MetricKind,
    pub(super) name: &'a [u8],
    /// Whatever order they are in.
    pub(super) fields: &'a [u8],
}

impl Context<'_> {
    pub(super) fn is(&self, other: &Context<'_>) -> bool {
        self.source == other.source
            && self.kind == other.kind
            && self.name == other.name
            && (self.fields == other.fields
                || are_same(self.fields, other.fields, is_packed(self.kind)))
    }
}

/// Values packed with colons, whatever is between the colons.
pub(super) fn texts(values: &[u8]) -> impl Iterator<Item = &[u8]> {
    values
        .split(|&byte| byte == b':')
        .filter(|value| !value.is_empty())
}

/// Whether values of this type stay values of their own.
pub(super) const fn is_packed(kind: MetricKind) -> bool {
    matches!(
        kind,
        MetricKind::Histogram | MetricKind::Timing | MetricKind::Distribution
    )
}

/// What the bars divide.
pub(super) fn fields(fields: &[u8]) -> impl Iterator<Item = &[u8]> {
    fields.split(|&byte| byte == b'|').skip(1)
}

/// Empty ones too: lines of one context are to be of one length.
fn for_each_tag<'a>(tags: &'a [u8], mut see: impl FnMut(&'a [u8])) {
    let mut start = 0;
    for end in memchr_iter(b',', tags).chain([tags.len()]) {
        see(tags.get(start..end).unwrap_or_default());
        start = end + 1;
    }
}

/// Whether fields that are not written the same mean the same.
fn are_same(one: &[u8], other: &[u8], with_rates: bool) -> bool {
    let sorted = |text| {
        let mut sorted: Vec<(u8, &[u8])> = fields(text)
            .map(|field| (rank(field), field))
            .filter(|&(rank, _)| with_rates || rank != RATE)
            .collect();
        sorted.sort_by_key(|&(rank, _)| rank);
        sorted
    };
    let (one, other) = (sorted(one), sorted(other));
    one.len() == other.len()
        && one
            .iter()
            .zip(&other)
            .all(|(one, other)| match (one, other) {
                ((TAGS, one), (TAGS, other)) => {
                    one.len() == other.len() && sorted_tags(one) == sorted_tags(other)
                }
                _ => one == other,
            })
}

const TAGS: u8 = 0;
const RATE: u8 = 1;

fn rank(field: &[u8]) -> u8 {
    match field {
        [b'#', ..] => TAGS,
        [b'@', ..] => RATE,
        [b'c', b':', ..] => 2,
        [b'e', b':', ..] => 3,
        [b'c', b'a', b'r', b'd', b':', ..] => 4,
        _ => 5,
    }
}

fn sorted_tags(field: &[u8]) -> Vec<&[u8]> {
    let mut tags = Vec::new();
    for_each_tag(field.get(1..).unwrap_or_default(), |tag| tags.push(tag));
    tags.sort_unstable();
    tags
}
