//! Numbers as the Datadog Agent reads them: those of Go's `strconv.ParseFloat`,
//! which has hexadecimal floats and underscores between digits, as long as they
//! are finite.

use std::str;

/// A decimal of no more digits than this is finite without looking: `f64::MAX` has 309.
const SURELY_FINITE_DIGITS: usize = 300;

/// Digits of a hexadecimal mantissa that fit into 64 bits.
const HEX_MANTISSA_DIGITS: u32 = 16;

/// Whether each of the values packed with colons is a finite number, and there
/// is one. Empty ones do not count, as with the Agent.
pub(super) fn are_finite(values: &[u8]) -> bool {
    let mut any = false;
    for value in values.split(|&byte| byte == b':') {
        if value.is_empty() {
            continue;
        }
        if parse(value).is_none() {
            return false;
        }
        any = true;
    }
    any
}

/// The length of the span before the first bar, and whether it is one value of
/// digits and at most a point, which needs no further look.
#[inline]
pub(super) fn scan_values(text: &[u8]) -> (usize, bool) {
    let mut length = 0;
    let mut points = 0;
    let mut others = 0;
    for &byte in text {
        match byte {
            b'0'..=b'9' => {}
            b'|' => break,
            b'.' => points += 1,
            _ => others += 1,
        }
        length += 1;
    }
    let is_plain = others == 0 && points <= 1 && length > points && length <= SURELY_FINITE_DIGITS;
    (length, is_plain)
}

/// Whether this is digits and at most a point, and surely above 0.
#[inline]
pub(super) fn is_plain_rate(text: &[u8]) -> bool {
    // Of more places behind the point it might be too small to be told from 0.
    const MOST_BYTES: usize = 20;
    let mut points = 0;
    let mut above = false;
    for &byte in text {
        match byte {
            b'0' => {}
            b'1'..=b'9' => above = true,
            b'.' => points += 1,
            _ => return false,
        }
    }
    above && points <= 1 && text.len() <= MOST_BYTES
}

fn unsigned(text: &[u8]) -> &[u8] {
    match text {
        [b'+' | b'-', rest @ ..] => rest,
        _ => text,
    }
}

/// The number, if it is one and finite.
pub(crate) fn parse(text: &[u8]) -> Option<f64> {
    let number = if text.contains(&b'_') {
        if !underscores_separate_digits(text) {
            return None;
        }
        let digits: Vec<u8> = text.iter().copied().filter(|&byte| byte != b'_').collect();
        parse_bare(&digits)?
    } else {
        parse_bare(text)?
    };
    number.is_finite().then_some(number)
}

fn parse_bare(text: &[u8]) -> Option<f64> {
    if let [b'0', b'x' | b'X', digits @ ..] = unsigned(text) {
        let magnitude = parse_hex(digits)?;
        return Some(if text.first() == Some(&b'-') {
            -magnitude
        } else {
            magnitude
        });
    }
    str::from_utf8(text).ok()?.parse().ok()
}

/// A hexadecimal float behind its `0x`: digits, perhaps a point among them, and a
/// power of two, which may not be left out.
fn parse_hex(text: &[u8]) -> Option<f64> {
    let power = text.iter().position(|byte| matches!(byte, b'p' | b'P'))?;
    let (digits, power) = text.split_at(power);
    let power: i64 = match power {
        [_, b'+', b'0'..=b'9', ..] | [_, b'-' | b'0'..=b'9', ..] => {
            let power = str::from_utf8(power.get(1..)?).ok()?;
            // A power that does not fit is as good as the largest that does.
            match power.parse() {
                Ok(power) => power,
                Err(_) if !power_has_digits_only(power) => return None,
                Err(_) if power.starts_with('-') => i64::MIN / 2,
                Err(_) => i64::MAX / 2,
            }
        }
        _ => return None,
    };

    let mut mantissa: u64 = 0;
    let mut kept = 0;
    let mut shift: i64 = 0;
    let mut any = false;
    let mut point = false;
    for &byte in digits {
        if byte == b'.' {
            if point {
                return None;
            }
            point = true;
            continue;
        }
        let digit = char::from(byte).to_digit(16)?;
        any = true;
        if kept < HEX_MANTISSA_DIGITS {
            mantissa = mantissa << 4 | u64::from(digit);
            kept += u32::from(mantissa != 0);
            shift -= if point { 4 } else { 0 };
        } else if !point {
            shift += 4;
        }
    }
    if !any {
        return None;
    }
    if mantissa == 0 {
        return Some(0.0);
    }
    // In two steps, so that neither overflows where the whole does not.
    let power = power.saturating_add(shift).clamp(-4_000, 4_000);
    let half = i32::try_from(power / 2).ok()?;
    let other = i32::try_from(power).ok()? - half;
    #[expect(
        clippy::cast_precision_loss,
        reason = "rounding is what a float does with its digits"
    )]
    let mantissa = mantissa as f64;
    Some(mantissa * 2_f64.powi(half) * 2_f64.powi(other))
}

fn power_has_digits_only(power: &str) -> bool {
    let digits = unsigned(power.as_bytes());
    !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
}

/// Whether every underscore stands between two digits, or between `0x` and one.
fn underscores_separate_digits(text: &[u8]) -> bool {
    let text = unsigned(text);
    let hex = matches!(text, [b'0', b'x' | b'X', ..]);
    let is_digit = |byte: &u8| {
        if hex {
            byte.is_ascii_hexdigit()
        } else {
            byte.is_ascii_digit()
        }
    };
    text.iter()
        .enumerate()
        .filter(|&(_, &byte)| byte == b'_')
        .all(|(at, _)| {
            let before = at.checked_sub(1).and_then(|at| text.get(at));
            let separates = before.is_some_and(is_digit) || (hex && at == 2);
            separates && text.get(at + 1).is_some_and(is_digit)
        })
}

/// Whole seconds above 0.
pub(super) fn parse_seconds(text: &[u8]) -> Option<i64> {
    let seconds = str::from_utf8(text).ok()?.parse().ok()?;
    (seconds > 0).then_some(seconds)
}

/// A length in decimal, and what follows it.
pub(super) fn split_length(text: &[u8]) -> Option<(usize, &[u8])> {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (digits, rest) = text.split_at(digits);
    let length = str::from_utf8(digits).ok()?.parse().ok()?;
    Some((length, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_go_reads_them() {
        for (text, number) in [
            ("5", 5.0),
            ("+5", 5.0),
            ("-5", -5.0),
            ("5.", 5.0),
            (".5", 0.5),
            ("1e3", 1e3),
            ("1E-3", 1e-3),
            ("1_000.5_0", 1000.5),
            ("0x1p4", 16.0),
            ("-0X1.8p+1", -3.0),
            ("0x_1_0p0", 16.0),
            ("0x.8p0", 0.5),
            ("0x0p99999999999999999999", 0.0),
            ("0x1p-99999999999999999999", 0.0),
            ("0x1.fffffffffffffffffffp0", 2.0),
            ("0x10000000000000000000p-76", 1.0),
        ] {
            assert_eq!(parse(text.as_bytes()), Some(number), "{text}");
            assert!(are_finite(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn what_is_no_finite_number_is_refused() {
        for text in [
            "",
            "+",
            ".",
            "-.",
            "e5",
            "1e",
            "1e+",
            "1.2.3",
            "five",
            "5 ",
            " 5",
            "NaN",
            "nan",
            "Inf",
            "-inf",
            "infinity",
            "1e999",
            "-1e999",
            "0x1",
            "0xp1",
            "0x1p",
            "0x1p+",
            "0x1p1024",
            "0x1.2.3p1",
            "0x1p99999999999999999999",
            "0x1p9999999999999999999x",
            "_1",
            "1_",
            "1__0",
            "1_.5",
            "1._5",
            "1e_5",
            "--5",
            "+-5",
            "0x1p--1",
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
            assert!(!are_finite(text.as_bytes()), "{text}");
        }
        assert!(!are_finite("9".repeat(400).as_bytes()));
        assert!(are_finite("0".repeat(400).as_bytes()));
    }

    #[test]
    fn an_empty_value_among_packed_ones_does_not_count() {
        assert!(are_finite(b"21::22"));
        assert!(are_finite(b"1:2.5:-3e2"));
        assert!(!are_finite(b":"));
        assert!(!are_finite(b"1:x"));
    }
}
