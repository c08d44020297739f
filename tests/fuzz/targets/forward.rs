//! Any rules over any lines: what is written is still a message of the same kind, and one line.

use conntally::config::{Listener, OriginChoice};
use conntally::forward::Forward;
use conntally::listen::origin::Origin;
use conntally::message::{Run, check, check_lines};

/// A comma ends an entry, and an equals sign the first half of one of `rename`.
fn entries(line: &[u8]) -> Vec<String> {
    let entries = line.split(|&byte| byte == b',');
    let entries = entries.map(|entry| String::from_utf8_lossy(entry).into_owned());
    entries.filter(|entry| !entry.is_empty()).collect()
}

/// The first three lines are `tags`, `drop_tags` and `rename`, the others are sent.
pub(crate) fn run(input: &[u8]) {
    let mut lines = input.splitn(4, |&byte| byte == b'\n');
    let mut next = || lines.next().unwrap_or_default();
    let (tags, drop_tags, rename, body) = (next(), next(), next(), next());
    let rename = entries(rename).into_iter().filter_map(|entry| {
        let (from, to) = entry.split_once('=')?;
        Some((from.to_owned(), to.to_owned()))
    });
    let config = Listener {
        tags: entries(tags),
        drop_tags: entries(drop_tags),
        rename: rename.collect(),
        ..Listener::default()
    };
    // Rules that would break a line are refused.
    let Ok(plain) = Forward::new(&config) else {
        return;
    };
    let origin = Origin {
        container: Some("added".into()),
        pod: Some("added".into()),
    };
    let forwards = [OriginChoice::None, OriginChoice::Field, OriginChoice::Tags]
        .map(|choice| plain.with_origin(&origin, choice));
    let mut written = Vec::new();
    check_lines(body, |run| {
        let lines = match run {
            Run::Lines(lines, _) => lines.strip_suffix(b"\n").expect("a newline"),
            Run::Bare(line) => line,
            Run::Bad(..) => return,
        };
        for line in lines.split(|&byte| byte == b'\n') {
            for forward in &forwards {
                written.clear();
                forward.write(line, &mut written);
                let written = written.strip_suffix(b"\n").expect("a newline");
                assert!(!written.contains(&b'\n'), "more than one line");
                assert_eq!(check(written), check(line));
                if forward.is_identity() {
                    assert_eq!(written, line);
                }
            }
        }
    });
}
