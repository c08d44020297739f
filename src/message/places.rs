//! Where in a checked line stands what a relay adds to.

use std::ops::Range;

use super::{Kind, Malformed, Part, scan};

/// What is to be known of a line's fields, in order, as the check comes to them.
pub(super) trait Fields: Default {
    /// A field: its place in the line, and its bytes.
    fn note(&mut self, at: usize, field: &[u8]);

    /// That of a line of which nothing is known yet.
    ///
    /// # Errors
    /// When the line is no message.
    fn of(line: &[u8]) -> Result<Self, Malformed>;
}

/// Nothing.
impl Fields for () {
    #[inline]
    fn note(&mut self, _at: usize, _field: &[u8]) {}

    fn of(line: &[u8]) -> Result<Self, Malformed> {
        scan(line, |_| {}).map(|_| ())
    }
}

/// Places in a line that passed the check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Places {
    /// The last `#` field, that sign included: the one that counts.
    pub(crate) tags: Option<Range<usize>>,
    /// The bar before a service check's message, which must be last.
    pub(crate) message: Option<usize>,
    /// Whether there is a `c:` or `e:` field.
    pub(crate) names_origin: bool,
}

impl Fields for Places {
    #[inline]
    fn note(&mut self, at: usize, field: &[u8]) {
        match field {
            [b'#', ..] => self.tags = Some(at..at + field.len()),
            [b'c' | b'e', b':', ..] => self.names_origin = true,
            [b'm', b':', ..] => self.message = self.message.or_else(|| at.checked_sub(1)),
            _ => {}
        }
    }

    fn of(line: &[u8]) -> Result<Self, Malformed> {
        let mut places = Self::default();
        let kind = scan(line, |part| {
            if let Part::Field(at, field) = part {
                places.note(at, field);
            }
        })?;
        // To anything else it is a field like others.
        places.message = places.message.filter(|_| kind == Kind::ServiceCheck);
        Ok(places)
    }
}

impl Places {
    /// Those of a line by itself.
    ///
    /// # Errors
    /// When it is no message.
    pub(crate) fn of(line: &[u8]) -> Result<Self, Malformed> {
        Fields::of(line)
    }
}
