//! Consistent hashing: which output of a group a line's context belongs to.
//!
//! Rendezvous hashing (Thaler and Ravishankar, 1998): each output draws a number
//! for a context, and the highest has it. With one output less, only what was its
//! own goes elsewhere. The numbers depend on the outputs' addresses and the context
//! alone: every agent of a fleet that writes the addresses alike agrees, in any
//! order, and so must every version.
//!
//! A context is a metric's name and type, an event's title or a check's name; its
//! tags; and the fields that tell of its origin: `c:`, `e:`, `card:`, `h:`. The
//! order of tags and fields does not matter, nor does one that comes twice.

use memchr::memchr_iter;

use crate::message::{Kind, Part, scan};

/// The outputs of a group.
#[derive(Debug)]
pub struct Shards {
    /// A number for each, of its address.
    members: Vec<u64>,
}

/// A batch, cut by output.
#[derive(Debug, Default)]
pub(super) struct Cut {
    parts: Vec<(Vec<u8>, u64)>,
    marks: Vec<u64>,
}

impl Shards {
    /// Outputs by their addresses.
    #[must_use]
    pub fn new<'a>(addresses: impl IntoIterator<Item = &'a str>) -> Self {
        let number = |address: &str| hash(Seed::Address, address.as_bytes());
        Self {
            members: addresses.into_iter().map(number).collect(),
        }
    }

    /// The place of the output that a line belongs to, with its newline or without.
    #[must_use]
    pub fn place(&self, line: &[u8]) -> usize {
        self.place_by(line, &mut Vec::new())
    }

    fn place_by(&self, line: &[u8], marks: &mut Vec<u64>) -> usize {
        let context = context(line.strip_suffix(b"\n").unwrap_or(line), marks);
        let numbers = self.members.iter().map(|member| mix(member ^ context));
        let highest = numbers.enumerate().max_by_key(|&(_, number)| number);
        highest.map_or(0, |(place, _)| place)
    }

    /// Cuts lines, each with its newline, and shows to each output what is its own.
    pub(super) fn cut(&self, lines: &[u8], cut: &mut Cut, mut see: impl FnMut(usize, &[u8], u64)) {
        let Cut { parts, marks } = cut;
        parts.resize_with(parts.len().max(self.members.len()), Default::default);
        let mut begin = 0;
        for end in memchr_iter(b'\n', lines).map(|newline| newline + 1) {
            let line = lines.get(begin..end).unwrap_or_default();
            if let Some((part, count)) = parts.get_mut(self.place_by(line, marks)) {
                part.extend_from_slice(line);
                *count += 1;
            }
            begin = end;
        }
        for (place, (part, count)) in parts.iter_mut().enumerate() {
            if *count > 0 {
                see(place, part, *count);
            }
            part.clear();
            *count = 0;
        }
    }
}

/// What is hashed: so that a tag does not stand for a field.
#[derive(Clone, Copy, Debug)]
enum Seed {
    Address = 1,
    Name,
    Tag,
    Field,
}

/// A number for a line's context. `marks` is used on the way.
fn context(line: &[u8], marks: &mut Vec<u64>) -> u64 {
    marks.clear();
    let mut name = 0;
    let kind = scan(line, |part| match part {
        Part::Name(bytes) | Part::Title(bytes) => name = hash(Seed::Name, bytes),
        Part::Field(_, [b'#', tags @ ..]) => {
            let tags = tags.split(|&byte| byte == b',');
            let tags = tags.filter(|tag| !tag.is_empty());
            marks.extend(tags.map(|tag| hash(Seed::Tag, tag)));
        }
        Part::Field(_, field) => {
            let origins: [&[u8]; 4] = [b"c:", b"e:", b"card:", b"h:"];
            if origins.iter().any(|origin| field.starts_with(origin)) {
                marks.push(hash(Seed::Field, field));
            }
        }
        Part::Values(_) | Part::Text(_) | Part::Status(_) => {}
    });
    let kind: &[u8] = match kind {
        Ok(Kind::Metric(kind)) => kind.as_str().as_bytes(),
        Ok(Kind::Event) => b"_e",
        Ok(Kind::ServiceCheck) => b"_sc",
        Err(_) => line,
    };
    marks.sort_unstable();
    marks.dedup();
    let start = name ^ hash(Seed::Field, kind);
    marks.iter().fold(start, |sum, &mark| fold(sum, mark))
}

/// Eight bytes at a time. The constant is the golden ratio's, as in Fibonacci hashing.
fn hash(seed: Seed, bytes: &[u8]) -> u64 {
    let (words, tail) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    for (byte, &value) in last.iter_mut().zip(tail) {
        *byte = value;
    }
    let start = fold(bytes.len() as u64, seed as u64);
    let words = words.iter().chain(std::iter::once(&last));
    let sum = words.fold(start, |sum, word| fold(sum, u64::from_le_bytes(*word)));
    mix(sum)
}

fn fold(sum: u64, word: u64) -> u64 {
    (sum.rotate_left(23) ^ mix(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Spreads every bit over all: the finaliser of `MurmurHash3`.
fn mix(mut word: u64) -> u64 {
    word ^= word >> 33;
    word = word.wrapping_mul(0xff51_afd7_ed55_8ccd);
    word ^= word >> 33;
    word = word.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    word ^ (word >> 33)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::message::line_strategy;

    const ADDRESSES: [&str; 4] = [
        "udp://10.0.0.1:8125",
        "udp://10.0.0.2:8125",
        "udp://10.0.0.3:8125",
        "udp://10.0.0.4:8125",
    ];
    const CONTEXTS: usize = 10_000;

    fn line(n: usize) -> String {
        format!("app.requests:1|c|#route:{n},env:prod")
    }

    #[test]
    fn contexts_are_spread_evenly() {
        let shards = Shards::new(ADDRESSES);
        let mut counts = [0; ADDRESSES.len()];
        for n in 0..CONTEXTS {
            counts[shards.place(line(n).as_bytes())] += 1;
        }
        // Each is binomial: 2500, and 43 its standard deviation.
        assert!(
            counts.iter().all(|count| (2_285..=2_715).contains(count)),
            "{counts:?}"
        );
    }

    #[test]
    fn an_output_that_is_taken_away_moves_its_own_share_alone() {
        let all = Shards::new(ADDRESSES);
        for gone in 0..ADDRESSES.len() {
            let left: Vec<&str> = (0..ADDRESSES.len())
                .filter(|&place| place != gone)
                .map(|place| ADDRESSES[place])
                .collect();
            let fewer = Shards::new(left.iter().copied());
            for n in 0..CONTEXTS / 10 {
                let before = all.place(line(n).as_bytes());
                if before != gone {
                    assert_eq!(left[fewer.place(line(n).as_bytes())], ADDRESSES[before]);
                }
            }
        }
    }

    #[test]
    fn the_order_of_tags_fields_and_outputs_does_not_matter_and_the_value_does_not() {
        let marks = &mut Vec::new();
        let one = context(b"a:1|c|#x:1,y:2|c:ci-1", marks);
        for same in [
            "a:7|c|#y:2,x:1|c:ci-1",
            "a:1:2|c|c:ci-1|#y:2,x:1,x:1|T1700000000",
            "a:1|c|@0.5|#x:1,,y:2|c:ci-1",
        ] {
            assert_eq!(context(same.as_bytes(), marks), one, "{same}");
        }
        for other in [
            "b:1|c|#x:1,y:2|c:ci-1",
            "a:1|g|#x:1,y:2|c:ci-1",
            "a:1|c|#x:1|c:ci-1",
            "a:1|c|#x:1,y:2|c:ci-2",
            "a:1|c|#x:1,y:2,c:ci-1",
        ] {
            assert_ne!(context(other.as_bytes(), marks), one, "{other}");
        }
        let backwards = Shards::new(ADDRESSES.into_iter().rev());
        let forwards = Shards::new(ADDRESSES);
        for n in 0..100 {
            let (one, other) = (
                forwards.place(line(n).as_bytes()),
                backwards.place(line(n).as_bytes()),
            );
            assert_eq!(one, ADDRESSES.len() - 1 - other);
        }
    }

    /// Another version in the same fleet must not send a context elsewhere.
    #[test]
    fn places_are_the_same_in_every_version() {
        let shards = Shards::new(ADDRESSES);
        let places: Vec<usize> = (0..16).map(|n| shards.place(line(n).as_bytes())).collect();
        assert_eq!(places, [1, 1, 3, 2, 3, 1, 1, 0, 3, 2, 0, 3, 2, 3, 3, 3]);
    }

    proptest! {
        #[test]
        fn prop_a_batch_is_cut_line_by_line(lines in prop::collection::vec(line_strategy(), 0..8)) {
            let shards = Shards::new(ADDRESSES);
            let mut expected: [String; ADDRESSES.len()] = Default::default();
            let mut batch = String::new();
            for line in lines {
                let line = line + "\n";
                expected[shards.place(line.as_bytes())] += &line;
                batch += &line;
            }
            let mut seen: [String; ADDRESSES.len()] = Default::default();
            let mut cut = Cut::default();
            shards.cut(batch.as_bytes(), &mut cut, |place, lines, count| {
                seen[place] += std::str::from_utf8(lines).unwrap();
                assert_eq!(lines.split_inclusive(|&byte| byte == b'\n').count() as u64, count);
            });
            prop_assert_eq!(seen, expected);
        }
    }
}
