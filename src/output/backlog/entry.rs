//! One context, or one line that never merges: what it holds and what it takes in.

mod write;

use foldhash::fast::RandomState;

use super::Rules;
use super::line::{Context, Line, Tick, fields, texts};
use super::members::{MEMBER_BYTES, Members};
use super::slots::Links;
use super::sum::Sum;
use super::values::{Coin, Values};
use crate::config::LineSource;
use crate::message::{MetricKind, parse_number};
use crate::telemetry::LineDrop;

/// What an allocation of so many bytes takes (glibc: 8 more, in steps of 16, 32 at least).
pub(super) const fn allocated(length: usize) -> usize {
    let whole = (length + 8).next_multiple_of(16);
    if whole < 32 { 32 } else { whole }
}

/// What was taken in beside the line that is the entry's text.
#[derive(Debug)]
pub(super) enum State {
    /// Nothing, and nothing will be: in no index.
    Alone,
    /// Nothing, or the text is the last value.
    Whole,
    Count(Sum),
    Signed(Box<Signed>),
    Set(Box<Members>),
    Values(Box<Values>),
}

/// A gauge that was changed by its sign. A server that takes signs for changes
/// adds all of it up; one that does not sees the last value. Both are right.
#[derive(Debug)]
pub(super) struct Signed {
    /// Whether the entry's text came first, without a sign.
    has_base: bool,
    /// All changes but the last one.
    earlier: Option<Sum>,
    /// The last one as it came.
    last: Box<[u8]>,
}

/// What taking a line in came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Yes,
    /// It can't be added: the sum would be no number.
    No,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Entry {
    /// The first line that came, or a gauge's last one without a sign.
    pub(super) text: Box<[u8]>,
    pub(super) hash: u64,
    /// Lines that it stands for.
    pub(super) lines: u64,
    pub(super) state: State,
    name_bytes: u32,
    fields_at: u32,
    pub(super) kind: MetricKind,
    pub(super) source: LineSource,
    pub(super) sender: u32,
    /// The last of its period that a line came in.
    pub(super) tick: Option<Tick>,
    /// Among all, by age.
    pub(super) queue: Links,
    /// Among its sender's, by age.
    pub(super) own: Links,
}

impl Entry {
    /// One that merges. `None` if it is longer than 4 GiB.
    pub(super) fn context(line: &Line<'_>) -> Option<Self> {
        let mut entry = Self::alone(line.text, line.source);
        entry.hash = line.hash;
        entry.state = State::Whole;
        entry.kind = line.kind;
        entry.tick = line.tick;
        entry.place(line)?;
        Some(entry)
    }

    /// One that never does.
    pub(super) fn alone(text: &[u8], source: LineSource) -> Self {
        Self {
            text: text.into(),
            hash: 0,
            lines: 1,
            state: State::Alone,
            name_bytes: 0,
            fields_at: 0,
            kind: MetricKind::Count,
            source,
            sender: 0,
            tick: None,
            queue: Links::default(),
            own: Links::default(),
        }
    }

    fn place(&mut self, line: &Line<'_>) -> Option<()> {
        self.name_bytes = u32::try_from(line.name.len()).ok()?;
        self.fields_at = u32::try_from(line.text.len() - line.fields.len()).ok()?;
        Some(())
    }

    pub(super) const fn is_alone(&self) -> bool {
        matches!(self.state, State::Alone)
    }

    fn name(&self) -> &[u8] {
        self.text
            .get(..self.name_bytes as usize)
            .unwrap_or_default()
    }

    fn fields(&self) -> &[u8] {
        self.text.get(self.fields_at as usize..).unwrap_or_default()
    }

    fn values(&self) -> &[u8] {
        let end =
            self.fields_at as usize - (1 + self.kind.as_str().len()).min(self.fields_at as usize);
        let start = self.name_bytes as usize + 1;
        self.text.get(start..end).unwrap_or_default()
    }

    fn rate(&self) -> f64 {
        let rate = fields(self.fields())
            .filter_map(|field| field.strip_prefix(b"@"))
            .last();
        rate.and_then(parse_number).unwrap_or(1.0)
    }

    /// What the lines of its context have in common.
    pub(super) fn context_of(&self) -> Context<'_> {
        Context {
            source: self.source,
            kind: self.kind,
            name: self.name(),
            fields: self.fields(),
        }
    }

    /// Bytes that it takes outside the slot it lies in.
    pub(super) fn bytes(&self) -> usize {
        let state = match &self.state {
            State::Alone | State::Whole | State::Count(_) => 0,
            State::Signed(signed) => signed_bytes(signed.last.len()),
            State::Set(members) => allocated(size_of::<Members>()) + members.bytes(),
            State::Values(values) => allocated(size_of::<Values>()) + values.bytes(),
        };
        allocated(self.text.len()) + state
    }

    /// How long what it would be written as is, about.
    pub(super) fn text_bytes(&self) -> usize {
        let values = match &self.state {
            State::Values(values) => values.len(),
            State::Set(members) => members.bytes(),
            _ => 0,
        };
        self.text.len() + values
    }

    /// The most that [`Entry::bytes`] can be when it has taken in this line of its
    /// context.
    ///
    /// # Errors
    /// If it can't take it in however much room there is.
    pub(super) fn bytes_with(&self, line: &Line<'_>, rules: &Rules) -> Result<usize, LineDrop> {
        let text = allocated(self.text.len());
        Ok(match (&self.state, self.kind) {
            (State::Alone, _) | (_, MetricKind::Count) => text,
            (_, MetricKind::Gauge) if line.is_signed() => text + signed_bytes(line.values.len()),
            (_, MetricKind::Gauge) => allocated(line.text.len()),
            (State::Set(members), _) => {
                let members = if members.contains(line.values, &rules.hasher) {
                    members.bytes()
                } else if members.is_full() {
                    return Err(LineDrop::BacklogSet);
                } else {
                    members.bytes_with(line.values.len())
                };
                text + allocated(size_of::<Members>()) + members
            }
            (_, MetricKind::Set) if self.values() == line.values => text,
            (_, MetricKind::Set) => {
                let members =
                    Members::default().bytes_with(self.values().len() + line.values.len());
                text + allocated(size_of::<Members>()) + members + MEMBER_BYTES
            }
            (State::Values(values), _) => {
                let values = values.bytes_with(line.values.len() + 1);
                text + allocated(size_of::<Values>()) + values
            }
            _ => {
                let more = self.values().len() + line.values.len() + 1;
                text + allocated(size_of::<Values>())
                    + Values::new(rules.values_bytes).bytes_with(more)
            }
        })
    }

    /// Takes in a line of its context. Without room it takes no more bytes than
    /// it has, for which there must be values to thin.
    pub(super) fn absorb(
        &mut self,
        line: &Line<'_>,
        has_room: bool,
        rules: &Rules,
        coin: &mut Coin,
    ) -> Taken {
        let taken = match self.kind {
            MetricKind::Count => self.add(line),
            MetricKind::Gauge if line.is_signed() => self.change(line),
            MetricKind::Gauge => self.replace(line),
            MetricKind::Set => {
                self.unite(line, &rules.hasher);
                Some(())
            }
            MetricKind::Histogram | MetricKind::Timing | MetricKind::Distribution => {
                self.pack(line, has_room, rules.values_bytes, coin);
                Some(())
            }
        };
        if taken.is_none() {
            return Taken::No;
        }
        self.lines += 1;
        self.tick = self.tick.max(line.tick);
        Taken::Yes
    }

    /// What it and a younger entry of its context come to, of counts or of gauges with a
    /// tick. `None` if that is no number.
    pub(super) fn united(&self, younger: &Self) -> Option<State> {
        Some(match self.kind {
            MetricKind::Count => State::Count(self.sum()?.plus(younger.sum()?)?),
            _ => State::Whole,
        })
    }

    /// Takes in a younger entry of its context, with which it comes to this.
    pub(super) fn unite_with(&mut self, younger: Self, united: State) {
        self.state = united;
        if self.kind == MetricKind::Gauge {
            self.text = younger.text;
            self.name_bytes = younger.name_bytes;
            self.fields_at = younger.fields_at;
        }
        self.lines += younger.lines;
        self.tick = self.tick.max(younger.tick);
    }

    /// What a count's lines come to.
    fn sum(&self) -> Option<Sum> {
        match self.state {
            State::Count(sum) => Some(sum),
            _ => Sum::of(texts(self.values()), self.rate()),
        }
    }

    fn add(&mut self, line: &Line<'_>) -> Option<()> {
        let before = self.sum()?;
        self.state = State::Count(before.plus(Sum::of(line.texts(), line.rate)?)?);
        Some(())
    }

    fn replace(&mut self, line: &Line<'_>) -> Option<()> {
        self.place(line)?;
        if self.text.len() == line.text.len() {
            self.text.copy_from_slice(line.text);
        } else {
            self.text = line.text.into();
        }
        self.state = State::Whole;
        Some(())
    }

    fn change(&mut self, line: &Line<'_>) -> Option<()> {
        fn sum_of(text: &[u8]) -> Option<Sum> {
            Sum::of([text].into_iter(), 1.0)
        }
        if let State::Signed(signed) = &mut self.state {
            let last = sum_of(&signed.last)?;
            signed.earlier = Some(match signed.earlier {
                Some(earlier) => earlier.plus(last)?,
                None => last,
            });
            signed.last = line.values.into();
            return Some(());
        }
        // A gauge's text has one value with a sign, or is as good as without.
        let is_signed = matches!(self.values(), [b'+' | b'-', rest @ ..] if !rest.contains(&b':'));
        let earlier = if is_signed {
            Some(sum_of(self.values())?)
        } else {
            None
        };
        self.state = State::Signed(Box::new(Signed {
            has_base: !is_signed,
            earlier,
            last: line.values.into(),
        }));
        Some(())
    }

    fn unite(&mut self, line: &Line<'_>, hasher: &RandomState) {
        if let State::Set(members) = &mut self.state {
            if !members.contains(line.values, hasher) {
                members.push(line.values, hasher);
            }
        } else if self.values() != line.values {
            let mut members = Members::default();
            members.push(self.values(), hasher);
            members.push(line.values, hasher);
            self.state = State::Set(Box::new(members));
        }
    }

    fn pack(&mut self, line: &Line<'_>, has_room: bool, most_bytes: usize, coin: &mut Coin) {
        if !matches!(self.state, State::Values(_)) {
            let mut values = Values::new(most_bytes);
            for value in texts(self.values()) {
                values.push(value, usize::MAX, coin);
            }
            self.state = State::Values(Box::new(values));
        }
        if let State::Values(values) = &mut self.state {
            let max_bytes = if has_room { usize::MAX } else { values.bytes() };
            for value in line.texts() {
                values.push(value, max_bytes, coin);
            }
        }
    }
}

fn signed_bytes(last: usize) -> usize {
    allocated(size_of::<Signed>()) + allocated(last)
}

const _: () = assert!(size_of::<Entry>() <= 96);
