//! `rename` and `drop_tags`: what is changed of a line. All else of it stays byte for
//! byte.

use memchr::memchr;

use super::ForwardError;
use crate::config;
use crate::message::{Part, scan};
use crate::names::Globs;

/// What is changed of a listener's lines.
#[derive(Debug)]
pub(super) struct Edit {
    /// Prefixes of names and what stands in their place, the longest first.
    renames: Box<[(Box<str>, Box<str>)]>,
    /// Keys of the tags that go.
    keys: Globs,
}

/// How an event begins, and so no metric.
const EVENT: &[u8] = b"_e{";

/// How a service check begins.
const CHECK: &[u8] = b"_sc|";

/// Checks an entry of `rename`.
///
/// # Errors
/// Where one of the texts cannot be the beginning of a name.
pub(crate) fn check_rename(from: &str, to: &str) -> Result<(), ForwardError> {
    for text in [from, to] {
        if text.contains(|letter: char| ":|".contains(letter) || letter.is_control()) {
            return Err(ForwardError::Rename(text.to_owned()));
        }
    }
    Ok(())
}

/// Checks an entry of `drop_tags`.
///
/// # Errors
/// Where no tag has such a key.
pub(crate) fn check_key(key: &str) -> Result<(), ForwardError> {
    let ends = |letter: char| ":,|".contains(letter) || letter.is_control();
    if key.is_empty() || key.contains(ends) {
        return Err(ForwardError::Key(key.to_owned()));
    }
    Ok(())
}

impl Edit {
    /// What the keys ask for; `None` where that is nothing.
    pub(super) fn new(config: &config::Listener) -> Result<Option<Self>, ForwardError> {
        for (from, to) in &config.rename {
            check_rename(from, to)?;
        }
        for key in &config.drop_tags {
            check_key(key)?;
        }
        if config.rename.is_empty() && config.drop_tags.is_empty() {
            return Ok(None);
        }
        let mut renames: Vec<(Box<str>, Box<str>)> = config
            .rename
            .iter()
            .map(|(from, to)| (from.as_str().into(), to.as_str().into()))
            .collect();
        renames.sort_by_key(|(from, _)| std::cmp::Reverse(from.len()));
        Ok(Some(Self {
            renames: renames.into(),
            keys: Globs::new(&config.drop_tags),
        }))
    }

    /// Writes a line that passed the check, changed, without a newline.
    pub(super) fn write(&self, line: &[u8], to: &mut Vec<u8>) {
        let prefix = if line.starts_with(CHECK) { CHECK } else { &[] };
        let mut rest = 0;
        let mut has_tags = false;
        let copy = |to: &mut Vec<u8>, from: usize, end: usize| {
            to.extend_from_slice(line.get(from..end).unwrap_or_default());
        };
        scan(line, |part| match part {
            Part::Name(name) => {
                if let Some((gone, new)) = self.rename(prefix, name) {
                    to.extend_from_slice(prefix);
                    to.extend_from_slice(new);
                    rest = prefix.len() + gone;
                }
            }
            Part::Field(at, field @ [b'#', tags @ ..]) => {
                if self.keeps_all(tags) {
                    has_tags = true;
                    return;
                }
                copy(to, rest, at);
                rest = at + field.len();
                let bar = to.len() - 1;
                to.push(b'#');
                if self.write_kept(tags, to) {
                    has_tags = true;
                } else if !has_tags {
                    to.truncate(bar);
                }
                // Else it stays, empty: of several such fields the last one counts.
            }
            _ => {}
        })
        .ok();
        copy(to, rest, line.len());
    }

    /// How many bytes of a name go, and what stands in their place. A name stays as it
    /// is where nothing would be left of it, or a line that is no metric any more.
    fn rename(&self, prefix: &[u8], name: &[u8]) -> Option<(usize, &[u8])> {
        let (from, to) =
            (self.renames.iter()).find(|(from, _)| name.starts_with(from.as_bytes()))?;
        let rest = name.get(from.len()..)?;
        let mut new = prefix.iter().chain(to.as_bytes()).chain(rest);
        let is_event = EVENT.iter().all(|byte| new.next() == Some(byte));
        let is_empty = to.is_empty() && rest.is_empty();
        (!is_event && !is_empty).then_some((from.len(), to.as_bytes()))
    }

    fn drops(&self, tag: &[u8]) -> bool {
        let end = memchr(b':', tag).unwrap_or(tag.len());
        self.keys.match_name(tag.get(..end).unwrap_or_default())
    }

    fn keeps_all(&self, tags: &[u8]) -> bool {
        self.keys.is_empty() || !tags.split(|&byte| byte == b',').any(|tag| self.drops(tag))
    }

    /// Writes the tags that stay. Returns whether there are any.
    fn write_kept(&self, tags: &[u8], to: &mut Vec<u8>) -> bool {
        let begin = to.len();
        let mut kept = tags
            .split(|&byte| byte == b',')
            .filter(|tag| !self.drops(tag));
        to.extend_from_slice(kept.next().unwrap_or_default());
        for tag in kept {
            to.push(b',');
            to.extend_from_slice(tag);
        }
        to.len() > begin
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::message::{Message, Tags, check, line_strategy};

    fn config(renames: &[(&str, &str)], keys: &[&str]) -> config::Listener {
        let pair = |(from, to): &(&str, &str)| ((*from).to_owned(), (*to).to_owned());
        config::Listener {
            rename: renames.iter().map(pair).collect(),
            drop_tags: keys.iter().map(ToString::to_string).collect(),
            ..config::Listener::default()
        }
    }

    fn edit(renames: &[(&str, &str)], keys: &[&str]) -> Edit {
        Edit::new(&config(renames, keys)).unwrap().unwrap()
    }

    fn written(edit: &Edit, line: &str) -> String {
        let mut out = Vec::new();
        edit.write(line.as_bytes(), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_longest_prefix_of_a_name_is_replaced_once() {
        let edit = edit(
            &[
                ("a.", "b."),
                ("a.a.", ""),
                ("b.", "c."),
                ("gone", ""),
                ("_sc", "x"),
            ],
            &[],
        );
        for (line, expected) in [
            ("a.x:1|c|#a.x:a.|zz", "b.x:1|c|#a.x:a.|zz"),
            ("a.a.a.x:1:2|d", "a.x:1:2|d"),
            ("b.a.:1|c", "c.a.:1|c"),
            ("x.a.:1|c", "x.a.:1|c"),
            ("_sc|a.up|0|m:a.up", "_sc|b.up|0|m:a.up"),
            ("_sc|_sc|0", "_sc|x|0"),
            ("_e{4,3}:a.up|a.b|#a.", "_e{4,3}:a.up|a.b|#a."),
            // Nothing would be left of it.
            ("gone:1|c", "gone:1|c"),
            ("_sc|gone|0", "_sc|gone|0"),
            ("gone.by:1|c", ".by:1|c"),
        ] {
            assert_eq!(written(&edit, line), expected);
        }
    }

    #[test]
    fn an_empty_prefix_begins_every_name() {
        let edit = edit(&[("", "host7."), ("app.", "app.")], &[]);
        assert_eq!(written(&edit, "x:1|c"), "host7.x:1|c");
        assert_eq!(written(&edit, "app.x:1|c"), "app.x:1|c");
    }

    #[test]
    fn no_metric_becomes_an_event() {
        let edit = edit(&[("x", ""), ("y", "_e")], &[]);
        for line in ["x_e{1,1}:1|c", "y{1,1}:1|c"] {
            assert!(check(line.as_bytes()).is_ok());
            assert_eq!(written(&edit, line), line);
        }
        assert_eq!(written(&edit, "_sc|x_e{|0"), "_sc|_e{|0");
    }

    #[test]
    fn tags_go_by_key_and_take_their_comma_along() {
        let edit = edit(&[], &["pod_uid", "bare", "k8s_*"]);
        for (line, expected) in [
            ("a:1|c|#pod_uid:1,b:2|@1", "a:1|c|#b:2|@1"),
            ("a:1|c|#b:2,pod_uid:1", "a:1|c|#b:2"),
            ("a:1|c|#b:2,pod_uid:1,c,bare", "a:1|c|#b:2,c"),
            ("a:1|c|#pod_uid:1|@1|zz", "a:1|c|@1|zz"),
            ("a:1|c|#pod_uid:1,k8s_node:n:7,bare", "a:1|c"),
            (
                "a:1|c|#pod_uid_of:1,pod,bare_bones",
                "a:1|c|#pod_uid_of:1,pod,bare_bones",
            ),
            ("a:1|c|#,,b,", "a:1|c|#,,b,"),
            ("a:1|c|#bare,,b,", "a:1|c|#,b,"),
            ("a:1|c|#", "a:1|c|#"),
            ("pod_uid:1|c|x:pod_uid:1", "pod_uid:1|c|x:pod_uid:1"),
            // Of several fields the last one counts.
            ("a:1|c|#b|#bare", "a:1|c|#b|#"),
            ("a:1|c|#bare|#b", "a:1|c|#b"),
            ("a:1|c|#bare|#pod_uid:1", "a:1|c"),
            ("_e{1,9}:t|x|#bare,y|#bare", "_e{1,9}:t|x|#bare,y"),
            ("_sc|up|0|#pod_uid:1|m:#bare", "_sc|up|0|m:#bare"),
        ] {
            assert_eq!(check(line.as_bytes()), check(expected.as_bytes()), "{line}");
            assert_eq!(written(&edit, line), expected);
        }
    }

    #[test]
    fn what_would_break_a_line_is_refused() {
        for (renames, keys) in [
            (&[("a:", "b")][..], &[][..]),
            (&[("a", "b|c")], &[]),
            (&[("a", "b\n")], &[]),
            (&[], &[""]),
            (&[], &["a:b"]),
            (&[], &["a,b"]),
        ] {
            let error = Edit::new(&config(renames, keys)).unwrap_err().to_string();
            assert!(error.contains("is not"), "{error}");
        }
        assert!(Edit::new(&config(&[], &[])).unwrap().is_none());
    }

    /// The tags that stay, as a receiver sees them.
    fn kept(tags: Tags<'_>, without: Option<&str>) -> Vec<Vec<u8>> {
        tags.iter()
            .filter(|tag| tag.split(|&byte| byte == b':').next() != without.map(str::as_bytes))
            .map(<[u8]>::to_vec)
            .collect()
    }

    /// A name, and a line without it and without tags.
    fn parts<'a>(message: &Message<'a>) -> (Option<&'a [u8]>, Message<'a>) {
        let mut rest = *message;
        let name = match &mut rest {
            Message::Metric(metric) => {
                metric.tags = Tags::default();
                Some(std::mem::take(&mut metric.name))
            }
            Message::Event(event) => {
                event.tags = Tags::default();
                None
            }
            Message::ServiceCheck(check) => {
                check.tags = Tags::default();
                Some(std::mem::take(&mut check.name))
            }
        };
        (name, rest)
    }

    proptest! {
        /// A line with nothing to change goes byte for byte.
        #[test]
        fn prop_what_nothing_fits_stays_byte_for_byte(line in line_strategy()) {
            let edit = edit(&[("\u{10ffff}", "new.")], &["\u{10ffff}"]);
            prop_assert_eq!(written(&edit, &line), line);
        }

        /// Name and tags change as asked for, and the message is else the one that came.
        #[test]
        fn prop_only_the_name_and_the_tags_change(line in line_strategy(), first in "[a-zA-Z]", key in "[a-z]{1,2}") {
            let edit = edit(&[(&first, "new.")], &[&key]);
            let written = written(&edit, &line);
            let before = Message::parse(line.as_bytes()).unwrap();
            let after = Message::parse(written.as_bytes()).unwrap();
            let (name, rest) = parts(&before);
            let expected = name.map(|name| match name.strip_prefix(first.as_bytes()) {
                Some(rest) => [b"new.", rest].concat(),
                None => name.to_vec(),
            });
            let (new_name, new_rest) = parts(&after);
            prop_assert_eq!(new_name.map(<[u8]>::to_vec), expected);
            prop_assert_eq!(new_rest, rest);
            prop_assert_eq!(kept(after.tags(), None), kept(before.tags(), Some(&key)));
        }

        /// Fields that are no tags stay byte for byte and in order, unknown ones too.
        #[test]
        fn prop_other_fields_stay_byte_for_byte(line in line_strategy(), key in "[a-z]{1,2}") {
            let others = |line: &str| {
                let mut others = Vec::new();
                scan(line.as_bytes(), |part| {
                    if let Part::Field(_, field) = part && !field.starts_with(b"#") {
                        others.push(field.to_vec());
                    }
                })
                .unwrap();
                others
            };
            let edit = edit(&[], &[&key, "env"]);
            prop_assert_eq!(others(&written(&edit, &line)), others(&line));
        }
    }
}
