//! What happens to a checked line on its way from a listener to the outputs:
//! whether it passes, what is changed of it, the listener's tags, and whose line it is.

mod edit;
mod filter;

use std::cell::RefCell;
use std::sync::Arc;

use self::edit::Edit;
pub(crate) use self::edit::{check_key, check_rename};
pub(crate) use self::filter::Filter;
use crate::config;
use crate::message::{Kind, Part, scan};

thread_local! {
    /// Where a line is changed that something is added to after that.
    static EDITED: RefCell<Vec<u8>> = RefCell::default();
}

/// Why a listener's lines can't be made what its keys ask for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForwardError {
    /// A text that can't be one of its tags.
    #[error("{0:?} is not a tag: write key:value, without commas, bars and control characters")]
    Tag(String),
    /// A text that no name begins with.
    #[error("{0:?} is not the beginning of a name: leave out colons, bars and control characters")]
    Rename(String),
    /// A text that is no tag's key.
    #[error("{0:?} is not a tag's key: write what stands before the colon, as in \"pod_uid\"")]
    Key(String),
}

impl ForwardError {
    /// The key that it is about.
    #[must_use]
    pub const fn key(&self) -> &'static str {
        match self {
            Self::Tag(_) => "tags",
            Self::Rename(_) => "rename",
            Self::Key(_) => "drop_tags",
        }
    }
}

/// What becomes of the lines of one sender.
#[derive(Clone, Debug, Default)]
pub struct Forward {
    /// The same for all of a listener.
    rules: Arc<Rules>,
    /// `|c:ci-…`
    container: Option<Box<str>>,
}

#[derive(Debug, Default)]
struct Rules {
    filter: Filter,
    edit: Option<Edit>,
    /// Separated by commas.
    tags: Box<str>,
}

impl Forward {
    /// As a listener's keys say.
    ///
    /// # Errors
    /// When a tag would not stay one within a line, or a name would not stay a name.
    pub fn new(config: &config::Listener) -> Result<Self, ForwardError> {
        let stays = |tag: &&String| {
            !tag.is_empty()
                && !tag.contains(|letter: char| ",|".contains(letter) || letter.is_control())
        };
        if let Some(tag) = config.tags.iter().find(|tag| !stays(tag)) {
            return Err(ForwardError::Tag(tag.clone()));
        }
        let rules = Rules {
            filter: Filter::new(config),
            edit: Edit::new(config)?,
            tags: config.tags.join(",").into(),
        };
        Ok(Self {
            rules: Arc::new(rules),
            container: None,
        })
    }

    /// The same, and the sender's container for lines that do not say whose they
    /// are: that have neither `c:` nor `e:`.
    #[must_use]
    pub fn with_container(&self, id: &str) -> Self {
        Self {
            rules: Arc::clone(&self.rules),
            container: Some(format!("|c:ci-{id}").into()),
        }
    }

    /// Which lines pass.
    pub(crate) fn filter(&self) -> &Filter {
        &self.rules.filter
    }

    /// Whether every line that passes goes as it came.
    #[must_use]
    pub fn is_identity(&self) -> bool {
        self.rules.edit.is_none() && self.adds_nothing()
    }

    fn adds_nothing(&self) -> bool {
        self.rules.tags.is_empty() && self.container.is_none()
    }

    /// Writes a line that passed the check and the filter, and its newline.
    pub fn write(&self, line: &[u8], to: &mut Vec<u8>) {
        match &self.rules.edit {
            None if self.adds_nothing() => to.extend_from_slice(line),
            None => self.add(line, to),
            Some(edit) if self.adds_nothing() => edit.write(line, to),
            Some(edit) => EDITED.with_borrow_mut(|edited| {
                edited.clear();
                edit.write(line, edited);
                self.add(edited, to);
            }),
        }
        to.push(b'\n');
    }

    /// Writes a line with what is added.
    ///
    /// Tags go to the end of the last `#` field, the one that counts; a field that
    /// is new goes to the end of the line, but not behind a service check's
    /// message, which must be last. All else stays byte for byte.
    fn add(&self, line: &[u8], to: &mut Vec<u8>) {
        let added = &self.rules.tags;
        let mut tags = None;
        let mut message = None;
        let mut has_origin = false;
        let kind = scan(line, |part| {
            if let Part::Field(at, field) = part {
                match field {
                    [b'#', ..] => tags = Some((at, at + field.len())),
                    [b'c' | b'e', b':', ..] => has_origin = true,
                    [b'm', b':', ..] => message = message.or(Some(at - 1)),
                    _ => {}
                }
            }
        });
        let end = match kind {
            Ok(Kind::ServiceCheck) => message.unwrap_or(line.len()),
            _ => line.len(),
        };
        let container = self.container.as_deref().filter(|_| !has_origin);
        let container = container.unwrap_or_default().as_bytes();

        let mut rest = 0;
        let mut copy_until = |to: &mut Vec<u8>, end: usize| {
            to.extend_from_slice(line.get(rest..end).unwrap_or_default());
            rest = end;
        };
        // A message may have a `#` field behind it all the same.
        let tags_are_behind = tags.is_some_and(|(_, tags_end)| tags_end > end);
        if tags_are_behind {
            copy_until(to, end);
            to.extend_from_slice(container);
        }
        if let (false, Some((start, end))) = (added.is_empty(), tags) {
            copy_until(to, end);
            let is_open = end - start == 1 || line.get(end - 1) == Some(&b',');
            if !is_open {
                to.push(b',');
            }
            to.extend_from_slice(added.as_bytes());
        }
        if !tags_are_behind {
            copy_until(to, end);
            if tags.is_none() && !added.is_empty() {
                to.extend_from_slice(b"|#");
                to.extend_from_slice(added.as_bytes());
            }
            to.extend_from_slice(container);
        }
        copy_until(to, line.len());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::message::{Message, check, line_strategy};

    fn forward(tags: &[&str], container: Option<&str>) -> Forward {
        let forward = Forward::new(&config::Listener {
            tags: tags.iter().map(ToString::to_string).collect(),
            ..config::Listener::default()
        })
        .unwrap();
        container.map_or_else(|| forward.clone(), |id| forward.with_container(id))
    }

    fn written(forward: &Forward, line: &str) -> String {
        let mut out = Vec::new();
        forward.write(line.as_bytes(), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn tags_are_merged_or_appended() {
        let forward = forward(&["env:prod", "team:a"], None);
        for (line, expected) in [
            ("a:1|c", "a:1|c|#env:prod,team:a\n"),
            ("a:1|c|#x:y", "a:1|c|#x:y,env:prod,team:a\n"),
            ("a:1|c|#", "a:1|c|#env:prod,team:a\n"),
            ("a:1|c|#x,", "a:1|c|#x,env:prod,team:a\n"),
            ("a:1|c|#x:y|@0.5|zz", "a:1|c|#x:y,env:prod,team:a|@0.5|zz\n"),
            ("a:1|c|#x|#y|T1", "a:1|c|#x|#y,env:prod,team:a|T1\n"),
            (
                "_e{1,3}:t|a|#|p:low",
                "_e{1,3}:t|a|#|p:low|#env:prod,team:a\n",
            ),
            (
                "_sc|n|0|m:all well",
                "_sc|n|0|#env:prod,team:a|m:all well\n",
            ),
            (
                "_sc|n|0|#x|m:all well",
                "_sc|n|0|#x,env:prod,team:a|m:all well\n",
            ),
            (
                "_sc|n|0|m:well|#x|d:1",
                "_sc|n|0|m:well|#x,env:prod,team:a|d:1\n",
            ),
            ("_sc|n|0", "_sc|n|0|#env:prod,team:a\n"),
        ] {
            assert_eq!(written(&forward, line), expected);
        }
    }

    #[test]
    fn the_container_is_named_where_the_line_does_not_say_whose_it_is() {
        let forward = forward(&[], Some("abc"));
        for (line, expected) in [
            ("a:1|c", "a:1|c|c:ci-abc\n"),
            ("a:1|c|#x:y", "a:1|c|#x:y|c:ci-abc\n"),
            ("a:1|c|card:low", "a:1|c|card:low|c:ci-abc\n"),
            ("a:1|c|c:in-7", "a:1|c|c:in-7\n"),
            ("a:1|c|e:it-false|#x", "a:1|c|e:it-false|#x\n"),
            ("_sc|n|0|m:well", "_sc|n|0|c:ci-abc|m:well\n"),
            ("_sc|n|0|m:well|#x", "_sc|n|0|c:ci-abc|m:well|#x\n"),
            ("_e{1,1}:t|a", "_e{1,1}:t|a|c:ci-abc\n"),
        ] {
            assert_eq!(written(&forward, line), expected);
        }
    }

    #[test]
    fn both_are_added_in_one_go() {
        let forward = forward(&["env:prod"], Some("abc"));
        assert_eq!(
            written(&forward, "a:1|c|#x|@1"),
            "a:1|c|#x,env:prod|@1|c:ci-abc\n"
        );
        assert_eq!(
            written(&forward, "_sc|n|0|m:w|#x"),
            "_sc|n|0|c:ci-abc|m:w|#x,env:prod\n"
        );
        assert_eq!(
            written(&forward, "_sc|n|0|m:w"),
            "_sc|n|0|#env:prod|c:ci-abc|m:w\n"
        );
    }

    #[test]
    fn a_text_that_would_not_stay_a_tag_is_refused() {
        for tag in ["", "a,b", "a|b", "a\nb"] {
            let config = config::Listener {
                tags: vec![tag.to_owned()],
                ..config::Listener::default()
            };
            let error = Forward::new(&config).unwrap_err().to_string();
            assert!(error.contains("is not a tag"), "{error}");
        }
    }

    #[test]
    fn what_is_dropped_is_dropped_of_the_senders_tags_alone() {
        let forward = Forward::new(&config::Listener {
            tags: vec!["env:prod".to_owned()],
            rename: [("old.".to_owned(), "new.".to_owned())].into(),
            drop_tags: vec!["env".to_owned()],
            ..config::Listener::default()
        })
        .unwrap()
        .with_container("abc");
        assert!(!forward.is_identity());
        for (line, expected) in [
            ("old.a:1|c", "new.a:1|c|#env:prod|c:ci-abc\n"),
            ("old.a:1|c|#env:dev", "new.a:1|c|#env:prod|c:ci-abc\n"),
            ("a:1|c|#env:dev,x|@1", "a:1|c|#x,env:prod|@1|c:ci-abc\n"),
        ] {
            assert_eq!(written(&forward, line), expected);
        }
    }

    proptest! {
        /// A line without anything to add goes byte for byte.
        #[test]
        fn prop_nothing_to_add_changes_nothing(line in line_strategy()) {
            prop_assert_eq!(written(&forward(&[], None), &line), format!("{line}\n"));
        }

        /// What is written is still a message of the same kind, and without the
        /// additions it is the line that came.
        #[test]
        fn prop_all_but_the_additions_stays_byte_for_byte(line in line_strategy()) {
            let written = written(&forward(&["added:1"], Some("added")), &line);
            let written = written.strip_suffix('\n').unwrap();
            prop_assert_eq!(check(written.as_bytes()), check(line.as_bytes()));
            let message = Message::parse(written.as_bytes()).unwrap();
            prop_assert!(message.tags().iter().any(|tag| tag == b"added:1"), "{}", written);
            let without = written.replacen("|c:ci-added", "", 1);
            let taken_out = [",added:1", "added:1", "|#added:1"]
                .iter()
                .any(|added| without.replacen(added, "", 1) == line);
            prop_assert!(taken_out, "{:?} became {:?}", line, written);
        }
    }
}
