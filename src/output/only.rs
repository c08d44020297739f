//! `only`: which lines an output takes, by what they are called.
//!
//! A metric and a service check are called by their name, an event by its title.
//! The name is that of the line as it comes, before the output's format makes
//! another of it.

use memchr::{memchr, memchr_iter};

use crate::message::{Part, scan};

/// Globs of the names that an output takes; none for all of them.
#[derive(Debug, Default)]
pub struct Only {
    globs: Box<[Glob]>,
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
        let matches_all = |glob: &String| !glob.is_empty() && glob.bytes().all(|byte| byte == b'*');
        if globs.iter().any(matches_all) {
            return Self::default();
        }
        let globs = globs.iter().map(|glob| Glob(glob.as_bytes().into()));
        Self {
            globs: globs.collect(),
        }
    }

    /// Whether every line is taken, whatever it is called.
    #[must_use]
    pub fn takes_all(&self) -> bool {
        self.globs.is_empty()
    }

    /// Whether it takes this line, with its newline or without.
    #[must_use]
    pub fn takes(&self, line: &[u8]) -> bool {
        self.takes_all() || {
            let name = called(line);
            self.globs.iter().any(|glob| glob.matches(name))
        }
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
        let part = |from, to| lines.get(from..to).unwrap_or_default();
        // Where the line begins, and the run of lines taken that it may continue.
        let (mut begin, mut run) = (0, 0);
        let mut left_out = 0;
        for end in memchr_iter(b'\n', lines).map(|newline| newline + 1) {
            if !self.takes(part(begin, end)) {
                gathered.extend_from_slice(part(run, begin));
                run = end;
                left_out += 1;
            }
            begin = end;
        }
        if left_out == 0 {
            return whole;
        }
        gathered.extend_from_slice(part(run, lines.len()));
        Picked {
            lines: gathered,
            count: count.saturating_sub(left_out),
            left_out,
        }
    }
}

/// What a well-formed line is called.
fn called(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    if let [b'_', ..] = line {
        // An event's title may hold a colon, and a check's name another.
        let mut found: &[u8] = &[];
        let scanned = scan(line, |part| {
            if let Part::Name(name) | Part::Title(name) = part {
                found = name;
            }
        });
        if scanned.is_ok() {
            return found;
        }
    }
    let end = memchr(b':', line).unwrap_or(line.len());
    line.get(..end).unwrap_or_default()
}

#[derive(Debug)]
struct Glob(Box<[u8]>);

impl Glob {
    /// Only the last star is ever gone back to: what stands before it has matched
    /// as early as it can, which leaves the most to the rest.
    fn matches(&self, name: &[u8]) -> bool {
        let (mut glob, mut name) = (&*self.0, name);
        // What follows the last star, and the text of which it may take one more.
        let mut star: Option<(&[u8], &[u8])> = None;
        loop {
            match (glob, name) {
                ([b'*'], _) | ([], []) => return true,
                ([b'*', rest @ ..], _) => {
                    star = Some((rest, name));
                    glob = rest;
                    continue;
                }
                ([b'?', rest @ ..], [_, ..]) => {
                    (glob, name) = (rest, behind_char(name));
                    continue;
                }
                ([wanted, glob_rest @ ..], [byte, name_rest @ ..]) if wanted == byte => {
                    (glob, name) = (glob_rest, name_rest);
                    continue;
                }
                _ => {}
            }
            match star {
                Some((rest, text @ [_, ..])) => {
                    (glob, name) = (rest, behind_char(text));
                    star = Some((glob, name));
                }
                _ => return false,
            }
        }
    }
}

/// A text without its first character; of what is no UTF-8, without some bytes.
fn behind_char(text: &[u8]) -> &[u8] {
    let is_inside = |byte: &u8| byte & 0xc0 == 0x80;
    let length = text
        .iter()
        .skip(1)
        .take_while(|&byte| is_inside(byte))
        .count();
    text.get(1 + length..).unwrap_or_default()
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

    fn matches(glob: &str, name: &str) -> bool {
        Glob(glob.as_bytes().into()).matches(name.as_bytes())
    }

    #[test]
    fn a_glob_matches_the_whole_name() {
        for (glob, name, expected) in [
            ("app.*", "app.requests", true),
            ("app.*", "app.", true),
            ("app.*", "app", false),
            ("app.*", "my.app.requests", false),
            ("*.errors", "app.http.errors", true),
            ("*.errors", "app.errors.total", false),
            ("a*b*c", "a.b.b.c", true),
            ("a*b*c", "a.c.b", false),
            ("app.?", "app.1", true),
            ("app.?", "app.é", true),
            ("app.?", "app.12", false),
            ("app.?", "app.", false),
            ("*?", "", false),
            ("[ab]", "a", false),
            ("App", "app", false),
            ("", "", true),
        ] {
            assert_eq!(matches(glob, name), expected, "{glob} {name}");
        }
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

    /// The definition, as short as it can be written.
    fn reference(glob: &[char], name: &[char]) -> bool {
        match (glob, name) {
            ([], []) => true,
            (['*', rest @ ..], _) => (0..=name.len()).any(|at| reference(rest, &name[at..])),
            (['?', rest @ ..], [_, name @ ..]) => reference(rest, name),
            ([wanted, rest @ ..], [char, name @ ..]) => wanted == char && reference(rest, name),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn prop_a_glob_matches_what_its_definition_says(glob in "[ab.é*?]{0,8}", name in "[ab.é]{0,10}") {
            let chars = |text: &str| text.chars().collect::<Vec<_>>();
            prop_assert_eq!(matches(&glob, &name), reference(&chars(&glob), &chars(&name)));
        }

        #[test]
        fn prop_a_star_matches_all_and_a_literal_itself_alone(name in "[^*?]{0,20}", other in "[^*?]{0,20}") {
            prop_assert!(matches("*", &name));
            prop_assert!(matches(&name, &name));
            prop_assert_eq!(matches(&name, &other), name == other);
        }

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
