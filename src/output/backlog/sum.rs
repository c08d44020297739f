//! Adding up what lines say.

use std::io::Write as _;

use crate::message::parse_number;

/// Whole numbers below this are exact as floats: 2^53.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// A sum: whole numbers exactly, the rest as well as a float can.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Sum {
    whole: i64,
    rest: f64,
}

impl Sum {
    /// The sum of what is written here, each divided by `rate`. `None` if it is
    /// beyond what a float can say.
    pub(super) fn of<'a>(texts: impl Iterator<Item = &'a [u8]>, rate: f64) -> Option<Self> {
        let mut sum = Self::default();
        for text in texts {
            // A rate is written, and read, as a number: 1 is 1.
            let one = match parse_whole(text) {
                Some(whole) if rate.to_bits() == 1_f64.to_bits() => Self { whole, rest: 0.0 },
                _ => Self::of_number(parse_number(text)? / rate),
            };
            sum = sum.plus(one)?;
        }
        Some(sum)
    }

    fn of_number(number: f64) -> Self {
        if number.abs() < EXACT && number.fract().to_bits() << 1 == 0 {
            #[expect(clippy::cast_possible_truncation, reason = "it is whole, and small")]
            let whole = number as i64;
            return Self { whole, rest: 0.0 };
        }
        Self {
            whole: 0,
            rest: number,
        }
    }

    /// `None` if it is beyond what a float can say.
    pub(super) fn plus(self, other: Self) -> Option<Self> {
        let rest = self.rest + other.rest;
        let sum = match self.whole.checked_add(other.whole) {
            Some(whole) => Self { whole, rest },
            None => Self {
                whole: 0,
                rest: rest + to_float(self.whole) + to_float(other.whole),
            },
        };
        (to_float(sum.whole) + sum.rest).is_finite().then_some(sum)
    }

    /// Appends it, with a plus before it where `is_signed` and it is not negative.
    pub(super) fn write(self, is_signed: bool, to: &mut Vec<u8>) {
        let number = to_float(self.whole) + self.rest;
        let is_negative = number < 0.0 || (self.is_whole() && self.whole < 0);
        if is_signed && !is_negative {
            to.push(b'+');
        }
        if self.is_whole() {
            // Writing to a Vec does not fail.
            drop(write!(to, "{}", self.whole));
        } else {
            // No negative zero: its sign would make it a change.
            write_number(if is_negative { number } else { number.abs() }, to);
        }
    }

    fn is_whole(self) -> bool {
        self.rest.to_bits() << 1 == 0
    }
}

#[expect(clippy::cast_precision_loss, reason = "a float is what readers read")]
const fn to_float(whole: i64) -> f64 {
    whole as f64
}

/// The commonest values: up to 18 digits.
fn parse_whole(text: &[u8]) -> Option<i64> {
    let (is_negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] | digits => (false, digits),
    };
    if digits.is_empty() || digits.len() > 18 {
        return None;
    }
    let mut whole: i64 = 0;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        whole = whole * 10 + i64::from(digit - b'0');
    }
    Some(if is_negative { -whole } else { whole })
}

/// The shortest text that reads as this number: 24 bytes at most.
pub(super) fn write_number(number: f64, to: &mut Vec<u8>) {
    let is_plain = (1e-5..1e17).contains(&number.abs());
    // Writing to a Vec does not fail.
    drop(if is_plain {
        write!(to, "{number}")
    } else {
        write!(to, "{number:e}")
    });
}
