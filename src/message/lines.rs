//! The lines of a frame.

use std::ops::Range;

use memchr::memchr;

use super::Malformed;
use super::places::{Fields, Places};
use super::plain::plain_metric;

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

/// A line of a frame, without its end. There is at least a byte of it.
struct Line<'a, F> {
    text: &'a [u8],
    verdict: Result<F, Malformed>,
    /// Whether just a newline follows.
    is_whole: bool,
    /// Where it begins in the frame.
    begin: usize,
    /// Where the next one does.
    end: usize,
}

/// Checks the lines of a frame, and shows them in runs as long as can be: a frame
/// of nothing but good lines that ends with a newline is one.
///
/// Empty lines are skipped. A carriage return before the newline belongs to the
/// line's end, as with the Agent.
pub fn check_lines<'a>(body: &'a [u8], see: impl FnMut(Run<'a>)) {
    let mut runs = Runs {
        body,
        run: 0..0,
        count: 0,
        see,
    };
    walk(body, |line| runs.take(&line));
    runs.show();
}

/// The run that is not shown yet, and its lines.
struct Runs<'a, F> {
    body: &'a [u8],
    run: Range<usize>,
    count: u64,
    see: F,
}

impl<'a, F: FnMut(Run<'a>)> Runs<'a, F> {
    #[inline]
    fn take(&mut self, line: &Line<'a, ()>) {
        if line.is_whole && line.verdict.is_ok() && line.begin == self.run.end {
            self.run.end = line.end;
            self.count += 1;
        } else {
            self.begin_anew(line);
        }
    }

    /// It is another kind of line, or empty ones stand between.
    fn begin_anew(&mut self, line: &Line<'a, ()>) {
        self.show();
        self.run = line.end..line.end;
        self.count = 0;
        match line.verdict {
            Ok(()) if line.is_whole => {
                self.run.start = line.begin;
                self.count = 1;
            }
            Ok(()) => (self.see)(Run::Bare(line.text)),
            Err(reason) => (self.see)(Run::Bad(line.text, reason)),
        }
    }

    #[inline]
    fn show(&mut self) {
        if self.count > 0 {
            let lines = self.body.get(self.run.clone()).unwrap_or_default();
            (self.see)(Run::Lines(lines, self.count));
        }
    }
}

/// Checks the lines of a frame as [`check_lines`] does, and shows one after the other
/// without its end: of a good one the places too.
pub(crate) fn check_each<'a>(
    body: &'a [u8],
    mut see: impl FnMut(&'a [u8], Result<Places, Malformed>),
) {
    walk(body, |line: Line<'a, Places>| see(line.text, line.verdict));
}

/// Walks the lines of a frame that are not empty.
#[inline]
fn walk<'a, F: Fields>(body: &'a [u8], mut see: impl FnMut(Line<'a, F>)) {
    let mut at = 0;
    while let Some(rest @ [_, ..]) = body.get(at..) {
        let begin = at;
        let mut fields = F::default();
        if let Some(length) = plain_metric(rest, |at, field| fields.note(at, field)) {
            at += length;
            see(Line {
                text: rest.get(..length - 1).unwrap_or_default(),
                verdict: Ok(fields),
                is_whole: true,
                begin,
                end: at,
            });
            continue;
        }
        let newline = memchr(b'\n', rest);
        let line = rest
            .get(..newline.unwrap_or(rest.len()))
            .unwrap_or_default();
        let text = line.strip_suffix(b"\r").unwrap_or(line);
        at += line.len() + usize::from(newline.is_some());
        if !text.is_empty() {
            see(Line {
                text,
                verdict: F::of(text),
                is_whole: newline.is_some() && text.len() == line.len(),
                begin,
                end: at,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::message::{check, line_strategy};

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

        /// What is found on the way is what a line by itself shows.
        #[test]
        fn prop_each_line_of_a_frame_has_its_places(body in bodies()) {
            let mut shown = Vec::new();
            check_each(&body, |line, verdict| shown.push((line.to_vec(), verdict)));
            let one_by_one: Vec<_> = (body.split(|&byte| byte == b'\n'))
                .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
                .filter(|line| !line.is_empty())
                .map(|line| (line.to_vec(), Places::of(line)))
                .collect();
            prop_assert_eq!(shown, one_by_one);
        }
    }
}
