//! What happens to a checked line on its way from a listener to the outputs:
//! whether it passes, what is changed of it, the listener's tags, and whose line it is.

mod edit;
mod filter;

use std::cell::RefCell;
use std::sync::Arc;

use self::edit::Edit;
pub(crate) use self::edit::{check_key, check_rename};
pub(crate) use self::filter::Filter;
use crate::config::{self, OriginChoice};
use crate::listen::origin::Origin;
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
    whose: Option<Arc<Whose>>,
}

/// Whose lines they are.
#[derive(Debug)]
enum Whose {
    /// `|c:ci-…`, for lines that have neither `c:` nor `e:`.
    Field(Box<str>),
    /// The listener's tags and those that tell it, for lines that have none of the latter.
    Tags(Box<str>),
}

/// Keys of the tags that tell it.
const CONTAINER_KEY: &str = "container_id";
const POD_KEY: &str = "pod_uid";

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
            whose: None,
        })
    }

    /// The same, and what is known of the sender for lines that do not say whose they are.
    #[must_use]
    pub fn with_origin(&self, origin: &Origin, choice: OriginChoice) -> Self {
        let tag = |key: &str, value: &str| format!("{key}:{value}");
        let container = origin.container.as_deref();
        let pod = origin.pod.as_deref();
        let whose = match choice {
            OriginChoice::None => None,
            OriginChoice::Field => container.map(|id| Whose::Field(format!("|c:ci-{id}").into())),
            OriginChoice::Tags if *origin == Origin::default() => None,
            OriginChoice::Tags => {
                let listeners = Some(&*self.rules.tags).filter(|tags| !tags.is_empty());
                let all = listeners
                    .map(str::to_owned)
                    .into_iter()
                    .chain(container.map(|id| tag(CONTAINER_KEY, id)))
                    .chain(pod.map(|uid| tag(POD_KEY, uid)));
                Some(Whose::Tags(all.collect::<Vec<_>>().join(",").into()))
            }
        };
        Self {
            rules: Arc::clone(&self.rules),
            whose: whose.map(Arc::new),
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
        self.rules.tags.is_empty() && self.whose.is_none()
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
        let whose = self.whose.as_deref();
        let mut tags = None;
        let mut message = None;
        let mut says_whose = false;
        let kind = scan(line, |part| {
            if let Part::Field(at, field) = part {
                match field {
                    [b'#', inside @ ..] => {
                        tags = Some((at, at + field.len()));
                        says_whose |= matches!(whose, Some(Whose::Tags(_))) && tell_whose(inside);
                    }
                    [b'c' | b'e', b':', ..] => says_whose |= matches!(whose, Some(Whose::Field(_))),
                    [b'm', b':', ..] => message = message.or(Some(at - 1)),
                    _ => {}
                }
            }
        });
        let end = match kind {
            Ok(Kind::ServiceCheck) => message.unwrap_or(line.len()),
            _ => line.len(),
        };
        let (container, added) = match whose.filter(|_| !says_whose) {
            Some(Whose::Field(field)) => (field.as_bytes(), &*self.rules.tags),
            Some(Whose::Tags(all)) => (&[][..], &**all),
            None => (&[][..], &*self.rules.tags),
        };

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

/// Whether one of these tags tells whose line it is.
fn tell_whose(tags: &[u8]) -> bool {
    tags.split(|&byte| byte == b',').any(|tag| {
        let key = tag.split(|&byte| byte == b':').next();
        key.is_some_and(|key| key == CONTAINER_KEY.as_bytes() || key == POD_KEY.as_bytes())
    })
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
        container.map_or_else(|| forward.clone(), |id| in_container(&forward, id))
    }

    fn in_container(forward: &Forward, id: &str) -> Forward {
        let origin = Origin {
            container: Some(id.into()),
            pod: None,
        };
        forward.with_origin(&origin, OriginChoice::Field)
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
    fn an_origin_is_told_in_tags_where_no_tag_does() {
        let origin = |container: Option<&str>, pod: Option<&str>| Origin {
            container: container.map(Into::into),
            pod: pod.map(Into::into),
        };
        let told = |origin: &Origin, tags: &[&str], line: &str| {
            let forward = forward(tags, None).with_origin(origin, OriginChoice::Tags);
            written(&forward, line)
        };
        let both = origin(Some("abc"), Some("u-1"));
        for (line, expected) in [
            ("a:1|c", "a:1|c|#container_id:abc,pod_uid:u-1\n"),
            (
                "a:1|c|#x:y|@1",
                "a:1|c|#x:y,container_id:abc,pod_uid:u-1|@1\n",
            ),
            // A client says so of itself, to whoever understands it.
            (
                "a:1|c|c:ci-abc",
                "a:1|c|c:ci-abc|#container_id:abc,pod_uid:u-1\n",
            ),
            ("a:1|c|#container_id:z", "a:1|c|#container_id:z\n"),
            ("a:1|c|#x,pod_uid:z,y", "a:1|c|#x,pod_uid:z,y\n"),
            (
                "a:1|c|#my_container_id:z",
                "a:1|c|#my_container_id:z,container_id:abc,pod_uid:u-1\n",
            ),
            ("_sc|n|0|m:w", "_sc|n|0|#container_id:abc,pod_uid:u-1|m:w\n"),
        ] {
            assert_eq!(told(&both, &[], line), expected);
        }
        let tagged = told(&both, &["env:prod"], "a:1|c|#container_id:z");
        assert_eq!(tagged, "a:1|c|#container_id:z,env:prod\n");
        let tagged = told(&origin(Some("abc"), None), &["env:prod"], "a:1|c");
        assert_eq!(tagged, "a:1|c|#env:prod,container_id:abc\n");
        assert_eq!(
            told(&origin(None, Some("u")), &[], "a:1|c"),
            "a:1|c|#pod_uid:u\n"
        );
        assert_eq!(told(&Origin::default(), &[], "a:1|c"), "a:1|c\n");
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
        let edited = Forward::new(&config::Listener {
            tags: vec!["env:prod".to_owned()],
            rename: [("old.".to_owned(), "new.".to_owned())].into(),
            drop_tags: vec!["env".to_owned()],
            ..config::Listener::default()
        })
        .unwrap();
        let forward = in_container(&edited, "abc");
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
