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
use crate::message::fields_of_checked;

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
        let is_check = fields_of_checked(line, |at, field| match field {
            [b'#', inside @ ..] => {
                tags = Some((at, at + field.len()));
                says_whose |= matches!(whose, Some(Whose::Tags(_))) && tell_whose(inside);
            }
            [b'c' | b'e', b':', ..] => says_whose |= matches!(whose, Some(Whose::Field(_))),
            [b'm', b':', ..] => message = message.or(Some(at - 1)),
            _ => {}
        });
        let end = message.filter(|_| is_check).unwrap_or(line.len());
        let (container, added) = match whose.filter(|_| !says_whose) {
            Some(Whose::Field(field)) => (field.as_bytes(), &*self.rules.tags),
            Some(Whose::Tags(all)) => (&[][..], &**all),
            None => (&[][..], &*self.rules.tags),
        };

        to.reserve(line.len() + added.len() + container.len() + "|#\n".len());
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
mod tests;
