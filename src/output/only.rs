//! `only`: which lines an output takes, by what they are called.
//!
//! A metric and a service check are called by their name, an event by its title.
//! The name is that of the line as it comes, before the output's format makes
//! another of it.

use crate::names::{Globs, called, taken_runs};

/// Globs of the names that an output takes; none for all of them.
#[derive(Debug, Default)]
pub struct Only {
    globs: Globs,
}

/// The lines of a batch that an output takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Picked<'a> {
    /// Each with its newline.
    pub lines: &'a [u8],
    /// How many they are.
    pub count: u64,
    /// How many others there were.
    pub left_out: u64,
}

impl Only {
    /// Names that one of these globs matches: `*` stands for any text, `?` for one
    /// character, all else for itself. No glob at all takes every line.
    #[must_use]
    pub fn new(globs: &[String]) -> Self {
        let globs = Globs::new(globs);
        if globs.match_all() {
            return Self::default();
        }
        Self { globs }
    }

    /// Whether every line is taken, whatever it is called.
    #[must_use]
    pub fn takes_all(&self) -> bool {
        self.globs.is_empty()
    }

    /// Whether it takes this line, with its newline or without.
    #[must_use]
    pub fn takes(&self, line: &[u8]) -> bool {
        self.takes_all() || self.globs.match_name(called(line))
    }

    /// What it takes of `count` lines, each with its newline. They stay where they
    /// are if it takes them all, and are gathered in `gathered` if not.
    pub fn pick<'a>(&self, lines: &'a [u8], count: u64, gathered: &'a mut Vec<u8>) -> Picked<'a> {
        let whole = Picked {
            lines,
            count,
            left_out: 0,
        };
        if self.takes_all() {
            return whole;
        }
        gathered.clear();
        let left_out = taken_runs(
            lines,
            |line| self.takes(line),
            |run, _| {
                // A run of them all is the batch itself.
                if run.len() < lines.len() {
                    gathered.extend_from_slice(run);
                }
            },
        );
        if left_out == 0 {
            return whole;
        }
        Picked {
            lines: gathered,
            count: count.saturating_sub(left_out),
            left_out,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::message::{Message, line_strategy};

    fn only(globs: &[&str]) -> Only {
        let globs: Vec<String> = globs.iter().map(ToString::to_string).collect();
        Only::new(&globs)
    }

    #[test]
    fn a_line_goes_by_its_name_or_its_title() {
        let only = only(&["app.*", "deploy*"]);
        for (line, expected) in [
            ("app.requests:1|c|#app.x:y\n", true),
            ("requests:1|c|#app.x:y\n", false),
            ("_sc|app.up|0\n", true),
            ("_sc|db.up|0|m:app.up\n", false),
            ("_e{9,4}:deploy: x|text\n", true),
            ("_e{5,6}:start|deploy\n", false),
            ("_app.x:1|c\n", false),
        ] {
            assert_eq!(only.takes(line.as_bytes()), expected, "{line}");
        }
    }

    #[test]
    fn a_batch_stays_where_it_is_if_all_is_taken_and_is_gathered_if_not() {
        let only = only(&["a", "b"]);
        let mut gathered = Vec::new();
        let all = b"a:1|c\nb:1|c\n";
        let picked = only.pick(all, 2, &mut gathered);
        assert!(std::ptr::eq(picked.lines, all.as_slice()));
        assert_eq!((picked.count, picked.left_out), (2, 0));
        let picked = only.pick(b"x:1|c\na:1|c\nb:1|c\nx:2|c\na:2|c\n", 5, &mut gathered);
        assert_eq!(picked.lines, b"a:1|c\nb:1|c\na:2|c\n");
        assert_eq!((picked.count, picked.left_out), (3, 2));
        let picked = only.pick(b"x:1|c\n", 1, &mut gathered);
        assert_eq!(
            (picked.lines, picked.count, picked.left_out),
            (&[][..], 0, 1)
        );
    }

    #[test]
    fn no_glob_and_a_lone_star_take_all() {
        assert!(only(&[]).takes_all());
        assert!(only(&["a", "*"]).takes_all());
        assert!(!only(&["a*"]).takes_all());
    }

    proptest! {
        /// A batch is the sum of its lines, and a line is called as the grammar says.
        #[test]
        fn prop_a_batch_is_picked_line_by_line(
            lines in prop::collection::vec(line_strategy(), 0..8),
            first in "[a-zA-Z]",
        ) {
            let only = only(&[&format!("{first}*"), "*e*"]);
            let is_taken = |line: &&String| {
                let name = match Message::parse(line.as_bytes()).unwrap() {
                    Message::Metric(metric) => metric.name,
                    Message::Event(event) => event.title,
                    Message::ServiceCheck(check) => check.name,
                };
                name.starts_with(first.as_bytes()) || name.contains(&b'e')
            };
            let batch = lines.join("\n") + if lines.is_empty() { "" } else { "\n" };
            let taken: Vec<String> = lines.iter().filter(is_taken).cloned().collect();
            let expected = taken.join("\n") + if taken.is_empty() { "" } else { "\n" };
            let mut gathered = Vec::new();
            let picked = only.pick(batch.as_bytes(), lines.len() as u64, &mut gathered);
            prop_assert_eq!(picked.lines, expected.as_bytes());
            prop_assert_eq!(picked.count, taken.len() as u64);
            prop_assert_eq!(picked.left_out, (lines.len() - taken.len()) as u64);
        }
    }
}
