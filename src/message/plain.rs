//! The commonest metrics, recognised in one forward pass that ends at the newline:
//! looking for the newline first would read every line twice.

use memchr::memchr2;

use super::{end_of_name, number};

/// The length of the first line of `text`, newline included, if it is surely a
/// metric; what is rarer, wrong or unfinished is left to [`super::check`]. Shows its
/// fields on the way, of one that turns out not to be plain too.
#[inline]
pub(super) fn plain_metric<'a>(
    text: &'a [u8],
    mut see: impl FnMut(usize, &'a [u8]),
) -> Option<usize> {
    // An underscore may begin an event or a service check.
    let end = end_of_name(text).filter(|&end| end > 0 && text.first() != Some(&b'_'))?;
    let rest = text.get(end..)?.strip_prefix(b":")?;
    let (length, is_plain) = number::scan_values(rest);
    let mut rest = match rest.get(length..) {
        Some([b'|', b'c' | b'g' | b'h' | b'd' | b's', rest @ ..]) if is_plain => rest,
        Some([b'|', b'm', b's', rest @ ..]) if is_plain => rest,
        _ => return None,
    };
    loop {
        match rest {
            [b'\n', ..] => break,
            // Not often seen, and a number to be checked.
            [b'|', b'T', ..] => return None,
            [b'|', fields @ ..] => {
                let (field, next) = fields.split_at_checked(memchr2(b'|', b'\n', fields)?)?;
                if let [b'@', rate @ ..] = field
                    && !number::is_plain_rate(rate)
                {
                    return None;
                }
                see(text.len() - fields.len(), field);
                rest = next;
            }
            _ => return None,
        }
    }
    let length = text.len() - rest.len();
    let has_return = text.get(length - 1) == Some(&b'\r');
    (!has_return).then_some(length + 1)
}
