//! One `DogStatsD` line: a borrowed, checked view.
//!
//! There is one grammar, `scan`. [`check`] runs it and keeps nothing, [`Message::parse`]
//! runs it and keeps what it points out, so they cannot disagree. It takes what
//! the Datadog Agent takes (protocol 1.0 to 1.6) but for numbers that are not
//! finite, rates that are not above 0, and control characters in names. A field that the
//! grammar does not know is let through.
//!
//! Like the Agent, it does not ask for the bars at the ends of an event's title and text: a
//! client that counts characters where the protocol counts bytes has both cut short there, and
//! what is left of the text taken for a field that nobody knows. It goes on as it came.
//!
//! A line here has neither its newline nor a carriage return before that.

mod lines;
mod number;
mod places;
mod plain;
mod view;

use memchr::memchr;

pub(crate) use self::lines::check_each;
pub use self::lines::{Run, check_lines};
pub(crate) use self::number::parse as parse_number;
pub(crate) use self::places::Places;
pub use self::view::{Event, Message, Metric, ServiceCheck, Status, Tags};
use crate::telemetry::reasons;

reasons! {
    /// Why a line is not a message.
    Malformed {
        /// No name before the first colon.
        Name = "name",
        /// A control character in the name.
        NameControl = "name_control",
        /// No colon behind the name, or nothing behind the colon.
        NoValue = "no_value",
        /// A value that is no finite number.
        Value = "value",
        /// No type behind the value.
        NoType = "no_type",
        /// A type that is none of c, g, h, ms, d, s.
        UnknownType = "unknown_type",
        /// A sample rate that is no finite number above 0.
        Rate = "rate",
        /// A timestamp that is no whole number of seconds above 0.
        Timestamp = "timestamp",
        /// An event without `_e{title bytes,text bytes}:`, or whose title is empty.
        EventHeader = "event_header",
        /// An event that is shorter than it says its title and text are.
        EventLength = "event_length",
        /// A service check without a name.
        CheckName = "check_name",
        /// A service check whose status is none of 0, 1, 2, 3.
        CheckStatus = "check_status",
    }
}

/// The type of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MetricKind {
    /// `c`
    Count,
    /// `g`
    Gauge,
    /// `s`
    Set,
    /// `h`
    Histogram,
    /// `ms`
    Timing,
    /// `d`
    Distribution,
}

impl MetricKind {
    /// As in a line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Count => "c",
            Self::Gauge => "g",
            Self::Set => "s",
            Self::Histogram => "h",
            Self::Timing => "ms",
            Self::Distribution => "d",
        }
    }
}

/// What a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A metric.
    Metric(MetricKind),
    /// `_e{…}:…`
    Event,
    /// `_sc|…`
    ServiceCheck,
}

/// Whether a line is a message, and of what kind.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn check(line: &[u8]) -> Result<Kind, Malformed> {
    scan(line, |_| {})
}

/// A piece of a line, as [`scan`] comes to it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Part<'a> {
    /// A metric's or service check's name.
    Name(&'a [u8]),
    /// A metric's value or values.
    Values(&'a [u8]),
    /// An event's title.
    Title(&'a [u8]),
    /// An event's text.
    Text(&'a [u8]),
    /// A service check's status.
    Status(Status),
    /// What stands behind a bar: its place in the line, and its bytes.
    Field(usize, &'a [u8]),
}

/// Walks a line once, showing its pieces in order.
pub(crate) fn scan<'a>(line: &'a [u8], see: impl FnMut(Part<'a>)) -> Result<Kind, Malformed> {
    match line {
        [b'_', b'e', b'{', rest @ ..] => event(line, rest, see).map(|()| Kind::Event),
        [b'_', b's', b'c', b'|', rest @ ..] => {
            service_check(line, rest, see).map(|()| Kind::ServiceCheck)
        }
        _ => metric(line, see).map(Kind::Metric),
    }
}

/// Where a metric's name ends: at a colon, a bar, or a control character.
///
/// Eight bytes at a time; finding a byte in a word is
/// <https://graphics.stanford.edu/~seander/bithacks.html#ZeroInWord>, exact for
/// the lowest one.
#[inline]
fn end_of_name(line: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::MAX / 0xff;
    const HIGH_BITS: u64 = ONES << 7;
    let (words, tail) = line.as_chunks::<8>();
    for (number, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let has = |byte: u8| {
            let zero = word ^ (ONES * u64::from(byte));
            zero.wrapping_sub(ONES) & !zero
        };
        let control = word.wrapping_sub(ONES * 0x20) & !word;
        let ends = (has(b':') | has(b'|') | has(0x7f) | control) & HIGH_BITS;
        if ends != 0 {
            return Some(number * 8 + ends.trailing_zeros() as usize / 8);
        }
    }
    tail.iter()
        .position(|&byte| matches!(byte, b':' | b'|') || byte.is_ascii_control())
        .map(|end| words.len() * 8 + end)
}

/// Splits at the first bar, byte by byte: for spans that are short.
fn until_bar(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    bytes
        .iter()
        .position(|&byte| byte == b'|')
        .and_then(|bar| bytes.split_at_checked(bar))
}

#[inline]
fn metric<'a>(line: &'a [u8], mut see: impl FnMut(Part<'a>)) -> Result<MetricKind, Malformed> {
    let end = end_of_name(line).ok_or(Malformed::NoValue)?;
    let (name, rest) = line.split_at(end);
    let rest = match rest {
        [b':', rest @ ..] => rest,
        [b'|', ..] => return Err(Malformed::NoValue),
        _ => return Err(Malformed::NameControl),
    };
    if name.is_empty() {
        return Err(Malformed::Name);
    }
    see(Part::Name(name));

    let (length, is_plain) = number::scan_values(rest);
    let (values, rest) = rest.split_at(length);
    if rest.is_empty() {
        return Err(Malformed::NoType);
    }
    if values.is_empty() {
        return Err(Malformed::NoValue);
    }
    see(Part::Values(values));

    let (kind, rest) = match rest {
        [b'|', b'c', rest @ ..] => (MetricKind::Count, rest),
        [b'|', b'g', rest @ ..] => (MetricKind::Gauge, rest),
        [b'|', b'm', b's', rest @ ..] => (MetricKind::Timing, rest),
        [b'|', b'h', rest @ ..] => (MetricKind::Histogram, rest),
        [b'|', b'd', rest @ ..] => (MetricKind::Distribution, rest),
        [b'|', b's', rest @ ..] => (MetricKind::Set, rest),
        [b'|'] | [b'|', b'|', ..] => return Err(Malformed::NoType),
        _ => return Err(Malformed::UnknownType),
    };
    if !matches!(rest, [] | [b'|', ..]) {
        return Err(Malformed::UnknownType);
    }
    if !is_plain && kind != MetricKind::Set && !number::are_finite(values) {
        return Err(Malformed::Value);
    }

    for_each_field(line, rest, |at, field| {
        match field {
            [b'@', rate @ ..] if !number::parse(rate).is_some_and(|rate| rate > 0.0) => {
                return Err(Malformed::Rate);
            }
            [b'T', seconds @ ..] if number::parse_seconds(seconds).is_none() => {
                return Err(Malformed::Timestamp);
            }
            _ => {}
        }
        see(Part::Field(at, field));
        Ok(())
    })?;
    Ok(kind)
}

/// Shows the fields of `rest`, the end of `line`, each behind a bar.
#[inline]
fn for_each_field<'a>(
    line: &[u8],
    mut rest: &'a [u8],
    mut see: impl FnMut(usize, &'a [u8]) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    while let [b'|', fields @ ..] = rest {
        let at = line.len() - fields.len();
        let bar = match fields {
            // Tags and origin fields are long.
            [b'#' | b'c' | b'e' | b'm', ..] => memchr(b'|', fields),
            _ => fields.iter().position(|&byte| byte == b'|'),
        };
        let (field, next) = fields.split_at(bar.unwrap_or(fields.len()));
        see(at, field)?;
        rest = next;
    }
    Ok(())
}

/// `rest` is what follows `_e{`.
fn event<'a>(
    line: &'a [u8],
    rest: &'a [u8],
    mut see: impl FnMut(Part<'a>),
) -> Result<(), Malformed> {
    let (title_bytes, rest) = number::split_length(rest).ok_or(Malformed::EventHeader)?;
    let [b',', rest @ ..] = rest else {
        return Err(Malformed::EventHeader);
    };
    let (text_bytes, rest) = number::split_length(rest).ok_or(Malformed::EventHeader)?;
    let [b'}', b':', rest @ ..] = rest else {
        return Err(Malformed::EventHeader);
    };
    if title_bytes == 0 {
        return Err(Malformed::EventHeader);
    }
    let Some((title, [_, rest @ ..])) = rest.split_at_checked(title_bytes) else {
        return Err(Malformed::EventLength);
    };
    let Some((text, rest)) = rest.split_at_checked(text_bytes) else {
        return Err(Malformed::EventLength);
    };
    see(Part::Title(title));
    see(Part::Text(text));
    let (_left_of_text, fields) = rest.split_at(memchr(b'|', rest).unwrap_or(rest.len()));
    for_each_field(line, fields, |at, field| {
        see(Part::Field(at, field));
        Ok(())
    })
}

/// `rest` is what follows `_sc|`.
fn service_check<'a>(
    line: &'a [u8],
    rest: &'a [u8],
    mut see: impl FnMut(Part<'a>),
) -> Result<(), Malformed> {
    let (name, rest) = until_bar(rest).ok_or(Malformed::CheckStatus)?;
    if name.is_empty() {
        return Err(Malformed::CheckName);
    }
    let (status, rest) = match rest {
        [b'|', b'0', rest @ ..] => (Status::Ok, rest),
        [b'|', b'1', rest @ ..] => (Status::Warning, rest),
        [b'|', b'2', rest @ ..] => (Status::Critical, rest),
        [b'|', b'3', rest @ ..] => (Status::Unknown, rest),
        _ => return Err(Malformed::CheckStatus),
    };
    if !matches!(rest, [] | [b'|', ..]) {
        return Err(Malformed::CheckStatus);
    }
    see(Part::Name(name));
    see(Part::Status(status));
    for_each_field(line, rest, |at, field| {
        see(Part::Field(at, field));
        Ok(())
    })
}

#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) use self::tests::lines as line_strategy;
