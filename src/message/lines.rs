//! The lines of a frame.

use memchr::memchr;

use super::plain::plain_metric;
use super::{Malformed, check};

/// Part of a frame, as far as its lines share a fate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run<'a> {
    /// Good lines, each with its newline.
    Lines(&'a [u8], u64),
    /// One good line that lacks its newline, or had a carriage return before it.
    Bare(&'a [u8]),
    /// One bad line.
    Bad(&'a [u8], Malformed),
}

/// Checks the lines of a frame, and shows them in runs as long as can be: a frame
/// of nothing but good lines that ends with a newline is one.
///
/// Empty lines are skipped. A carriage return before the newline belongs to the
/// line's end, as with the Agent.
pub fn check_lines<'a>(body: &'a [u8], mut see: impl FnMut(Run<'a>)) {
    // What is not looked at yet; and the run that ends there.
    let mut rest = body;
    let mut run = body;
    let mut count = 0;
    while !rest.is_empty() {
        if let Some(next) = plain_metric(rest).and_then(|length| rest.get(length..)) {
            count += 1;
            rest = next;
            continue;
        }
        let newline = memchr(b'\n', rest);
        let (line, next) = match newline {
            Some(newline) => {
                let (line, next) = rest.split_at(newline);
                (line, next.get(1..).unwrap_or_default())
            }
            None => (rest, &[][..]),
        };
        let stripped = line.strip_suffix(b"\r").unwrap_or(line);
        let whole = newline.is_some() && stripped.len() == line.len();
        let verdict = check(stripped);
        if whole && verdict.is_ok() {
            count += 1;
        } else {
            show_run(run, rest, count, &mut see);
            match verdict {
                _ if stripped.is_empty() => {}
                Ok(_) => see(Run::Bare(stripped)),
                Err(reason) => see(Run::Bad(stripped, reason)),
            }
            run = next;
            count = 0;
        }
        rest = next;
    }
    show_run(run, rest, count, &mut see);
}

/// Shows `run` without `rest`, its end.
fn show_run<'a>(run: &'a [u8], rest: &[u8], count: u64, see: &mut impl FnMut(Run<'a>)) {
    if count > 0 {
        see(Run::Lines(
            run.get(..run.len() - rest.len()).unwrap_or_default(),
            count,
        ));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::message::line_strategy;

    fn runs(body: &[u8]) -> Vec<Run<'_>> {
        let mut runs = Vec::new();
        check_lines(body, |run| runs.push(run));
        runs
    }

    #[test]
    fn a_frame_of_good_lines_is_one_run() {
        let body = b"a:1|c\nb:2|g\nc:3|ms\n";
        assert_eq!(runs(body), [Run::Lines(body, 3)]);
    }

    #[test]
    fn a_bad_line_costs_only_itself() {
        assert_eq!(
            runs(b"a:1|c\nb:2|g\nnonsense\nc:3|ms\n"),
            [
                Run::Lines(b"a:1|c\nb:2|g\n", 2),
                Run::Bad(b"nonsense", Malformed::NoValue),
                Run::Lines(b"c:3|ms\n", 1),
            ]
        );
    }

    #[test]
    fn the_last_line_may_lack_its_newline() {
        assert_eq!(
            runs(b"a:1|c\nb:2|g"),
            [Run::Lines(b"a:1|c\n", 1), Run::Bare(b"b:2|g")]
        );
        assert_eq!(runs(b"b:2|g"), [Run::Bare(b"b:2|g")]);
        assert_eq!(runs(b"a:1|x"), [Run::Bad(b"a:1|x", Malformed::UnknownType)]);
    }

    #[test]
    fn a_carriage_return_belongs_to_the_end_of_its_line() {
        assert_eq!(
            runs(b"a:1|c\r\nb:2|g\n"),
            [Run::Bare(b"a:1|c"), Run::Lines(b"b:2|g\n", 1)]
        );
        assert_eq!(runs(b"a:1|c\r"), [Run::Bare(b"a:1|c")]);
    }

    #[test]
    fn empty_lines_are_skipped() {
        assert_eq!(runs(b"\n\r\n\n"), []);
        assert_eq!(runs(b""), []);
        assert_eq!(
            runs(b"a:1|c\n\nb:2|g\n"),
            [Run::Lines(b"a:1|c\n", 1), Run::Lines(b"b:2|g\n", 1)]
        );
    }

    /// Lines that a grammar makes, damaged in places, with all kinds of ends.
    fn bodies() -> impl Strategy<Value = Vec<u8>> {
        let end = prop::sample::select(&["\n", "\n", "\n", "\r\n", "\n\n", ""][..]);
        let line = prop_oneof![
            4 => line_strategy(),
            1 => "[a:|#@T1.\r\n]{0,12}",
            1 => "a:[0-9.]{0,3}\\|(c|ms|s|x)(\\|[#@Tc|][a1\r]{0,3}){0,3}",
        ];
        prop::collection::vec((line, end), 0..8).prop_map(|lines| {
            lines
                .into_iter()
                .flat_map(|(line, end)| [line.into_bytes(), end.as_bytes().to_vec()].concat())
                .collect()
        })
    }

    proptest! {
        /// Lines come out of a frame exactly as they do one by one.
        #[test]
        fn prop_a_frame_is_the_sum_of_its_lines(body in bodies()) {
            let mut good = Vec::new();
            let mut bad = Vec::new();
            check_lines(&body, |run| match run {
                Run::Lines(lines, count) => {
                    let before = good.len();
                    let lines = lines.strip_suffix(b"\n").unwrap();
                    good.extend(lines.split(|&byte| byte == b'\n').map(<[u8]>::to_vec));
                    assert_eq!((good.len() - before) as u64, count);
                }
                Run::Bare(line) => good.push(line.to_vec()),
                Run::Bad(line, reason) => bad.push((line.to_vec(), reason)),
            });
            let mut one_by_one = (Vec::new(), Vec::new());
            for line in body.split(|&byte| byte == b'\n') {
                let line = line.strip_suffix(b"\r").unwrap_or(line);
                match check(line) {
                    _ if line.is_empty() => {}
                    Ok(_) => one_by_one.0.push(line.to_vec()),
                    Err(reason) => one_by_one.1.push((line.to_vec(), reason)),
                }
            }
            prop_assert_eq!((good, bad), one_by_one);
        }
    }
}
