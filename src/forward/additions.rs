//! What is added to a line: tags, and a field that says whose it is.

use crate::message::Places;

/// Texts to be added. All else of a line stays byte for byte.
#[derive(Debug)]
pub(super) struct Additions {
    /// Separated by commas.
    pub(super) tags: Box<str>,
    /// With the bar before it.
    field: Box<str>,
    /// Both behind tags that end a line, and behind a line without tags: nearly every
    /// line is one or the other.
    behind_tags: Box<[u8]>,
    behind_line: Box<[u8]>,
}

impl Default for Additions {
    fn default() -> Self {
        Self::new(String::new(), String::new())
    }
}

impl Additions {
    pub(super) fn new(tags: String, field: String) -> Self {
        let behind = |before: &str| {
            let before = if tags.is_empty() { "" } else { before };
            format!("{before}{tags}{field}\n").into_bytes().into()
        };
        Self {
            behind_tags: behind(","),
            behind_line: behind("|#"),
            tags: tags.into(),
            field: field.into(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tags.is_empty() && self.field.is_empty()
    }

    /// Writes a line with them, and its newline.
    ///
    /// Tags go to the end of the last `#` field, the one that counts; a field that
    /// is new goes to the end of the line, but not behind a service check's
    /// message, which must be last.
    #[inline]
    pub(super) fn write(&self, line: &[u8], places: &Places, to: &mut Vec<u8>) {
        let ending = match &places.tags {
            _ if places.message.is_some() => None,
            None => Some(&self.behind_line),
            Some(tags) if tags.end == line.len() && !is_open(line) => Some(&self.behind_tags),
            Some(_) => None,
        };
        if let Some(ending) = ending {
            to.reserve(line.len() + ending.len());
            to.extend_from_slice(line);
            to.extend_from_slice(ending);
        } else {
            self.write_within(line, places, to);
        }
    }

    fn write_within(&self, line: &[u8], places: &Places, to: &mut Vec<u8>) {
        let end = places.message.unwrap_or(line.len());
        let mut rest = 0;
        let mut copy_until = |to: &mut Vec<u8>, end: usize| {
            to.extend_from_slice(line.get(rest..end).unwrap_or_default());
            rest = end;
        };
        // A message may have a `#` field behind it all the same.
        let tags_are_behind = (places.tags.as_ref()).is_some_and(|tags| tags.end > end);
        if tags_are_behind {
            copy_until(to, end);
            to.extend_from_slice(self.field.as_bytes());
        }
        if let (false, Some(tags)) = (self.tags.is_empty(), &places.tags) {
            copy_until(to, tags.end);
            if !is_open(line.get(tags.clone()).unwrap_or_default()) {
                to.push(b',');
            }
            to.extend_from_slice(self.tags.as_bytes());
        }
        if !tags_are_behind {
            copy_until(to, end);
            if places.tags.is_none() && !self.tags.is_empty() {
                to.extend_from_slice(b"|#");
                to.extend_from_slice(self.tags.as_bytes());
            }
            to.extend_from_slice(self.field.as_bytes());
        }
        copy_until(to, line.len());
        to.push(b'\n');
    }
}

/// Whether the tags that end here need no comma before another.
fn is_open(tags: &[u8]) -> bool {
    matches!(tags, [.., b','] | [.., b'|', b'#'] | [b'#'])
}
