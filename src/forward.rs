//! What happens to a checked line on its way from a listener to the outputs:
//! whether it passes, what is changed of it, the listener's tags, and whose line it is.

mod additions;
mod edit;
mod filter;

use std::cell::RefCell;
use std::sync::Arc;

use self::additions::Additions;
use self::edit::Edit;
pub(crate) use self::edit::{check_key, check_rename};
pub(crate) use self::filter::Filter;
use crate::config::{self, OriginChoice};
use crate::listen::origin::Origin;
use crate::message::Places;

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
    /// For lines that do not say whose they are.
    own: Option<Arc<Own>>,
}

/// What is added to lines of a sender that is known.
#[derive(Debug)]
struct Own {
    way: Way,
    additions: Additions,
}

/// How a line says whose it is.
#[derive(Debug)]
enum Way {
    /// By a `c:` or `e:` field.
    Field,
    /// By one of our tags.
    Tags,
}

/// Keys of the tags that tell it.
const CONTAINER_KEY: &str = "container_id";
const POD_KEY: &str = "pod_uid";

#[derive(Debug, Default)]
struct Rules {
    filter: Filter,
    edit: Option<Edit>,
    additions: Additions,
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
            additions: Additions::new(config.tags.join(","), String::new()),
        };
        Ok(Self {
            rules: Arc::new(rules),
            own: None,
        })
    }

    /// The same, and what is known of the sender for lines that do not say whose they are.
    #[must_use]
    pub fn with_origin(&self, origin: &Origin, choice: OriginChoice) -> Self {
        let tag = |key: &str, value: &str| format!("{key}:{value}");
        let container = origin.container.as_deref();
        let pod = origin.pod.as_deref();
        let tags = &*self.rules.additions.tags;
        let own = match choice {
            OriginChoice::None => None,
            OriginChoice::Field => container.map(|id| Own {
                way: Way::Field,
                additions: Additions::new(tags.to_owned(), format!("|c:ci-{id}")),
            }),
            OriginChoice::Tags if *origin == Origin::default() => None,
            OriginChoice::Tags => {
                let all = (Some(tags.to_owned()).filter(|tags| !tags.is_empty()))
                    .into_iter()
                    .chain(container.map(|id| tag(CONTAINER_KEY, id)))
                    .chain(pod.map(|uid| tag(POD_KEY, uid)));
                let all = all.collect::<Vec<_>>().join(",");
                Some(Own {
                    way: Way::Tags,
                    additions: Additions::new(all, String::new()),
                })
            }
        };
        Self {
            rules: Arc::clone(&self.rules),
            own: own.map(Arc::new),
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
        self.rules.additions.is_empty() && self.own.is_none()
    }

    /// Writes a line that passed the check and the filter, and its newline.
    pub fn write(&self, line: &[u8], to: &mut Vec<u8>) {
        self.write_at(line, &Places::of(line).unwrap_or_default(), to);
    }

    /// The same, where its places are known.
    #[inline]
    pub(crate) fn write_at(&self, line: &[u8], places: &Places, to: &mut Vec<u8>) {
        let Some(edit) = &self.rules.edit else {
            return self.add(line, places, to);
        };
        if self.adds_nothing() {
            edit.write(line, to);
            to.push(b'\n');
            return;
        }
        EDITED.with_borrow_mut(|edited| {
            edited.clear();
            edit.write(line, edited);
            self.add(edited, &Places::of(edited).unwrap_or_default(), to);
        });
    }

    #[inline]
    fn add(&self, line: &[u8], places: &Places, to: &mut Vec<u8>) {
        let own = (self.own.as_deref()).filter(|own| !own.way.is_taken(line, places));
        own.map_or(&self.rules.additions, |own| &own.additions)
            .write(line, places, to);
    }
}

impl Way {
    /// Whether a line says by it whose it is.
    fn is_taken(&self, line: &[u8], places: &Places) -> bool {
        match self {
            Self::Field => places.names_origin,
            Self::Tags => {
                let tags = places.tags.clone().and_then(|tags| line.get(tags));
                tags.and_then(|tags| tags.get(1..)).is_some_and(tell_whose)
            }
        }
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
