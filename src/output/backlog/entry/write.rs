//! What an entry is written as.

use std::io::Write as _;

use super::{Entry, State};
use crate::message::MetricKind;
use crate::output::backlog::line::{Tick, fields, texts};
use crate::output::backlog::sum::write_number;
use crate::output::backlog::values::Coin;

impl Entry {
    /// Writes what it holds, with its tick or without, until `room` bytes are written or
    /// all is: returns how many lines that were, no more than it stands for, and whether
    /// it was all.
    pub(in crate::output::backlog) fn write(
        &mut self,
        with_tick: bool,
        line_bytes: usize,
        room: usize,
        coin: &mut Coin,
        to: &mut Vec<u8>,
    ) -> (u64, bool) {
        if with_tick && self.write_point(to) {
            return (1, true);
        }
        // Apart for the time being: what is written is framed by the rest of the entry.
        let mut state = std::mem::replace(&mut self.state, State::Whole);
        let start = to.len();
        let mut given = 0;
        let mut is_all = true;
        match &mut state {
            State::Alone | State::Whole => {
                to.extend_from_slice(&self.text);
                to.push(b'\n');
                given = 1;
            }
            State::Count(sum) => {
                self.write_line(to, &Suffix::without_rate(), |to| sum.write(false, to));
                given = 1;
            }
            State::Signed(signed) => {
                if signed.has_base {
                    to.extend_from_slice(&self.text);
                    to.push(b'\n');
                    given += 1;
                }
                if let Some(earlier) = signed.earlier {
                    self.write_line(to, &Suffix::AsItCame, |to| earlier.write(true, to));
                    given += 1;
                }
                self.write_line(to, &Suffix::AsItCame, |to| {
                    to.extend_from_slice(&signed.last);
                });
                given += 1;
            }
            State::Set(members) => {
                while to.len() - start < room
                    && let Some(member) = members.give()
                {
                    self.write_line(to, &Suffix::AsItCame, |to| to.extend_from_slice(member));
                    given += 1;
                }
                is_all = members.is_given();
            }
            State::Values(values) => {
                while !values.is_empty() && to.len() - start < room {
                    let suffix = Suffix::of(self.rate(), values.block());
                    let mut fit = line_bytes.saturating_sub(self.frame(&suffix));
                    if given + 1 >= self.lines && values.len() > fit {
                        // As long as the rate may yet become.
                        let longest = self.frame(&Suffix::AsItCame) + LONGEST_RATE_BYTES;
                        fit = line_bytes.saturating_sub(longest);
                        values.squeeze(fit, coin);
                    }
                    let suffix = Suffix::of(self.rate(), values.block());
                    let taken = values.take(fit);
                    self.write_line(to, &suffix, |to| to.extend_from_slice(taken));
                    given += 1;
                }
                is_all = values.is_empty();
            }
        }
        self.state = state;
        (given, is_all)
    }

    /// Writes its one value with its tick, if it has both.
    fn write_point(&self, to: &mut Vec<u8>) -> bool {
        let Some(Tick(tick)) = self.tick else {
            return false;
        };
        let start = to.len();
        if self.kind == MetricKind::Count {
            let Some(sum) = self.sum() else {
                return false;
            };
            self.write_line(to, &Suffix::without_rate(), |to| sum.write(false, to));
        } else {
            let last = texts(self.values()).last().unwrap_or_default();
            self.write_line(to, &Suffix::AsItCame, |to| to.extend_from_slice(last));
        }
        // Behind the last field.
        if to.len() > start {
            to.pop();
        }
        // Writing to a Vec does not fail.
        drop(writeln!(to, "|T{tick}"));
        true
    }

    /// The length of a line but for its values.
    fn frame(&self, suffix: &Suffix) -> usize {
        let rate = match suffix {
            Suffix::AsItCame => 0,
            Suffix::Rate(rate) => rate.len(),
        };
        self.name_bytes as usize + 2 + self.kind.as_str().len() + rate + self.fields().len()
    }

    fn write_line(&self, to: &mut Vec<u8>, suffix: &Suffix, values: impl FnOnce(&mut Vec<u8>)) {
        to.extend_from_slice(self.name());
        to.push(b':');
        values(to);
        to.push(b'|');
        to.extend_from_slice(self.kind.as_str().as_bytes());
        match suffix {
            Suffix::AsItCame => to.extend_from_slice(self.fields()),
            Suffix::Rate(rate) => {
                to.extend_from_slice(rate);
                for field in fields(self.fields()).filter(|field| !field.starts_with(b"@")) {
                    to.push(b'|');
                    to.extend_from_slice(field);
                }
            }
        }
        to.push(b'\n');
    }
}

/// A rate of 24 bytes, behind a bar and its sign.
const LONGEST_RATE_BYTES: usize = 26;

/// What becomes of the sample rate.
#[derive(Debug)]
enum Suffix {
    AsItCame,
    /// This instead, with the bar and the sign.
    Rate(Vec<u8>),
}

impl Suffix {
    const fn without_rate() -> Self {
        Self::Rate(Vec::new())
    }

    fn of(rate: f64, block: u64) -> Self {
        if block == 1 {
            return Self::AsItCame;
        }
        #[expect(clippy::cast_precision_loss, reason = "a power of two is exact")]
        let rate = rate / block as f64;
        let mut text = b"|@".to_vec();
        write_number(rate, &mut text);
        Self::Rate(text)
    }
}
