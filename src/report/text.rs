//! What may stand in a line: checks for the configuration, and a wash for what
//! comes from elsewhere.

use std::borrow::Cow;

/// The tag that a Datadog Agent takes for the reporting host.
const HOST_TAG: &str = "host";

/// Why a configured tag can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TagError {
    /// Nothing, or nothing before the colon.
    #[error("the tag {0:?} has no name: write name:value")]
    Empty(String),
    /// A character that ends a tag or a line.
    #[error("the tag {0:?} has {1:?} in it, which ends a tag on the wire: leave it out")]
    Character(String, char),
    /// `host`.
    #[error("the tag {0:?} would replace the reporting host: set hostname instead")]
    Host(String),
}

/// Whether a tag of the configuration, `name:value` or `name`, can stand on a line.
///
/// # Errors
///
/// When it is empty, has a character that ends a tag, or is called `host`.
pub fn check_tag(tag: &str) -> Result<(), TagError> {
    let name = tag.split(':').next().unwrap_or_default().trim();
    if name.is_empty() {
        return Err(TagError::Empty(tag.to_owned()));
    }
    if let Some(bad) = tag.chars().find(|&c| ends_tag(c)) {
        return Err(TagError::Character(tag.to_owned(), bad));
    }
    if name.eq_ignore_ascii_case(HOST_TAG) {
        return Err(TagError::Host(tag.to_owned()));
    }
    Ok(())
}

fn ends_tag(c: char) -> bool {
    matches!(c, '|' | ',' | '#') || c.is_control()
}

/// Whether a tag's value has `_` for it.
#[must_use]
pub fn is_washed(c: char) -> bool {
    ends_tag(c) || c.is_whitespace()
}

/// A tag's value (or a whole tag) with `_` for what would end it, and for white
/// space. Colons stay: only the first of a tag separates.
#[must_use]
pub fn clean(value: &str) -> Cow<'_, str> {
    if value.is_empty() {
        Cow::Borrowed("_")
    } else if value.contains(is_washed) {
        Cow::Owned(value.replace(is_washed, "_"))
    } else {
        Cow::Borrowed(value)
    }
}

/// A metric name, or the first part of one, with `_` for what no server takes.
#[must_use]
pub fn clean_name(name: &str) -> String {
    let keep = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    name.trim_matches('.')
        .chars()
        .map(|c| if keep(c) { c } else { '_' })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_of_every_form_pass() {
        for tag in ["env:prod", "canary", "url:http://x:1/y", "team:größe", "a:"] {
            assert_eq!(check_tag(tag), Ok(()), "{tag}");
        }
    }

    #[test]
    fn tags_that_break_a_line_are_refused_with_the_character() {
        for (tag, bad) in [
            ("a:b|c", '|'),
            ("a,b", ','),
            ("a\nb", '\n'),
            ("a:#b", '#'),
            ("a\0", '\0'),
        ] {
            assert_eq!(
                check_tag(tag),
                Err(TagError::Character(tag.to_owned(), bad))
            );
        }
    }

    #[test]
    fn a_tag_without_name_or_called_host_is_refused() {
        for tag in ["", ":x", " "] {
            assert_eq!(check_tag(tag), Err(TagError::Empty(tag.to_owned())));
        }
        for tag in ["host:a", "host", "HOST:a"] {
            assert_eq!(check_tag(tag), Err(TagError::Host(tag.to_owned())));
        }
        assert_eq!(check_tag("hostess:a"), Ok(()));
    }

    #[test]
    fn what_ends_a_tag_is_washed_out_of_values() {
        assert_eq!(clean("a|b,c\n#d e"), "a_b_c__d_e");
        assert_eq!(clean("fd00::1"), "fd00::1");
        assert_eq!(clean(""), "_");
    }

    #[test]
    fn names_keep_letters_digits_and_dots() {
        assert_eq!(clean_name(".my prefix:x|y.z."), "my_prefix_x_y.z");
    }
}
