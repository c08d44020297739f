//! Durations as the values of one line, of as many as it may hold.

/// The longest that a connection may have lasted, seconds: 31 years. Beyond that,
/// a clock was set.
const LONGEST: f64 = 1e9;

/// The values of each line: `seconds` in milliseconds' precision, as many together
/// as take no more than `room` bytes with a colon before each, but at least one.
/// What is no duration is left out.
pub(super) fn packed(seconds: &[f32], room: usize) -> impl Iterator<Item = Vec<f64>> {
    let mut rest = seconds
        .iter()
        .filter(|seconds| seconds.is_finite())
        .map(|&seconds| rounded(seconds))
        .peekable();
    std::iter::from_fn(move || {
        let first = rest.next()?;
        let mut bytes = text_bytes(first);
        let left = rest.size_hint().1.unwrap_or_default();
        let mut line = Vec::with_capacity(1 + left.min(room / ":0".len()));
        line.push(first);
        while let Some(next) = rest.next_if(|&next| bytes + text_bytes(next) <= room) {
            bytes += text_bytes(next);
            line.push(next);
        }
        Some(line)
    })
}

/// A division of two whole numbers, so that its shortest text has no more than
/// three decimals.
fn rounded(seconds: f32) -> f64 {
    // Not by clamp: that leaves -0 as it is.
    let seconds = if seconds > 0.0 {
        f64::from(seconds).min(LONGEST)
    } else {
        0.0
    };
    (seconds * 1000.0).round() / 1000.0
}

/// Most bytes that a value takes: its digits, three decimals, and a colon.
fn text_bytes(value: f64) -> usize {
    let (mut digits, mut beyond) = (1, 10.0);
    while beyond <= value {
        digits += 1;
        beyond *= 10.0;
    }
    digits + ":.000".len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(values: &[f64]) -> String {
        let each: Vec<_> = values.iter().map(f64::to_string).collect();
        format!(":{}", each.join(":"))
    }

    #[test]
    fn values_are_rounded_to_milliseconds_and_nonsense_is_left_out() {
        let seconds = [0.0, 0.1, 0.0004, 1.2345, f32::NAN, f32::INFINITY, -0.0, 3e5];
        let lines: Vec<_> = packed(&seconds, 1000).map(|line| text(&line)).collect();
        assert_eq!(lines, [":0:0.1:0:1.235:0:300000"]);
        let lines: Vec<_> = packed(&[f32::MAX], 1000).map(|line| text(&line)).collect();
        assert_eq!(lines, [":1000000000"]);
    }

    #[test]
    fn a_line_without_room_still_takes_one_value() {
        let lines: Vec<_> = packed(&[1.0, 2.0], 0).collect();
        assert_eq!(lines, [[1.0], [2.0]]);
    }

    proptest! {
        /// Every value is on one line, in its order, to the millisecond; no line is
        /// longer than its room; and no two neighbours had place in one.
        #[test]
        fn prop_lines_hold_all_values_and_no_more_than_their_room(
            seconds in prop::collection::vec(0_f32..1e6, 0..300),
            room in 15_usize..500,
        ) {
            let lines: Vec<_> = packed(&seconds, room).collect();
            let values: Vec<_> = lines.iter().flatten().copied().collect();
            prop_assert_eq!(values.len(), seconds.len());
            for (value, &seconds) in values.iter().zip(&seconds) {
                prop_assert!((value - f64::from(seconds)).abs() <= 0.000_501, "{value}");
            }
            for line in &lines {
                prop_assert!(text(line).len() <= room);
            }
            for two in lines.windows(2) {
                let bound = |line: &[f64]| line.iter().map(|&value| text_bytes(value)).sum::<usize>();
                prop_assert!(bound(&two[0]) + text_bytes(two[1][0]) > room);
            }
        }
    }
}
