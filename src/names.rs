//! What lines are called, and the globs that pick them by it.
//!
//! A metric and a service check are called by their name, an event by its title.

use memchr::{memchr, memchr_iter};

use crate::message::{Part, scan};

/// Globs, of which a name has to match one: `*` stands for any text, `?` for one
/// character, all else for itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Globs(Box<[Glob]>);

impl Globs {
    pub(crate) fn new(globs: &[String]) -> Self {
        Self(globs.iter().map(|glob| Glob::new(glob)).collect())
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one of them is nothing but stars.
    pub(crate) fn match_all(&self) -> bool {
        self.0.iter().any(Glob::matches_all)
    }

    /// Whether one of them matches the whole name.
    pub(crate) fn match_name(&self, name: &[u8]) -> bool {
        self.0.iter().any(|glob| glob.matches(name))
    }
}

/// What a well-formed line is called, with its newline or without.
pub(crate) fn called(line: &[u8]) -> &[u8] {
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

/// Shows the lines that are taken, each with its newline, in runs as long as can be,
/// and how many each run has. Returns how many lines were not taken.
pub(crate) fn taken_runs<'a>(
    lines: &'a [u8],
    takes: impl Fn(&[u8]) -> bool,
    mut see: impl FnMut(&'a [u8], u64),
) -> u64 {
    let part = |from, to| lines.get(from..to).unwrap_or_default();
    // Where the line begins, and the run of lines taken that it may continue.
    let (mut begin, mut run, mut count) = (0, 0, 0);
    let mut left_out = 0;
    for end in memchr_iter(b'\n', lines).map(|newline| newline + 1) {
        if takes(part(begin, end)) {
            count += 1;
        } else {
            if count > 0 {
                see(part(run, begin), count);
            }
            (run, count) = (end, 0);
            left_out += 1;
        }
        begin = end;
    }
    if count > 0 {
        see(part(run, lines.len()), count);
    }
    left_out
}

#[derive(Clone, Debug)]
struct Glob(Box<[u8]>);

impl Glob {
    fn new(text: &str) -> Self {
        Self(text.as_bytes().into())
    }

    fn matches_all(&self) -> bool {
        !self.0.is_empty() && self.0.iter().all(|&byte| byte == b'*')
    }

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

    fn matches(glob: &str, name: &str) -> bool {
        Glob::new(glob).matches(name.as_bytes())
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
    fn lines_that_are_taken_come_in_runs() {
        let lines = b"x:1|c\na:1|c\nb:1|c\nx:2|c\nx:3|c\na:2|c\n";
        let mut runs = Vec::new();
        let left_out = taken_runs(
            lines,
            |line| called(line) != b"x",
            |run, count| {
                runs.push((run, count));
            },
        );
        assert_eq!(left_out, 3);
        assert_eq!(runs, [(&b"a:1|c\nb:1|c\n"[..], 2), (&b"a:2|c\n"[..], 1)]);
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
    }
}
