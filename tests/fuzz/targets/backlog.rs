//! Any lines merged and given back: every line is accounted for, and what comes back is still
//! a message.

use std::num::NonZeroU32;

use conntally::config::LineSource;
use conntally::message::{Run, check, check_lines};
use conntally::output::backlog::{Backlog, Limits, Portion, Sender, SenderId, Tick};

/// So little that each of them is met.
const LIMITS: Limits = Limits {
    contexts: 12,
    bytes: 8 << 10,
    line_bytes: 160,
    values_bytes: 256,
    tick_seconds: 10,
};

/// What went in and came out.
#[derive(Debug, Default)]
struct Account {
    came: u64,
    gone: u64,
}

/// Gives back so much, and checks it; what never merges comes back however long it is.
fn give_back(backlog: &mut Backlog, bytes: usize, longest: usize, account: &mut Account) {
    let mut to = Vec::new();
    let portion = Portion {
        entries: usize::MAX,
        bytes,
    };
    let mut told = 0;
    let given = backlog.drain(portion, &mut to, |_| true, |run| told += run.lines);
    account.gone += given.lines + given.merged_away;
    let lines = to.split_inclusive(|&byte| byte == b'\n');
    let mut count = 0;
    for line in lines {
        let line = line.strip_suffix(b"\n").expect("a newline");
        assert!(check(line).is_ok(), "{}", line.escape_ascii());
        // A tick's time may be added.
        let most = longest.max(LIMITS.line_bytes) + "|T4294967295".len();
        assert!(line.len() <= most, "{} of {most}", line.len());
        count += 1;
    }
    assert_eq!((given.lines, told), (count, count));
}

/// Each two bytes of 0xff begin another portion, whose first byte says who sends it and when,
/// and what is given back before it.
pub(crate) fn run(input: &[u8]) {
    let mut backlog = Backlog::new(LIMITS);
    let mut account = Account::default();
    let mut longest = 0;
    let mut rest = input;
    loop {
        let end = rest.windows(2).position(|two| two == [0xff; 2]);
        let (part, behind) = rest.split_at(end.unwrap_or(rest.len()));
        let (&how, body) = part.split_first().unwrap_or((&0, &[]));
        let from = Sender {
            source: [LineSource::Listeners, LineSource::Collector][usize::from(how & 1)],
            id: SenderId::of_process(1 + u32::from(how >> 1 & 1)),
        };
        let tick = (how & 4 != 0).then(|| Tick(NonZeroU32::MIN.saturating_add(how.into())));
        if how & 8 != 0 {
            give_back(&mut backlog, how.into(), longest, &mut account);
        }
        check_lines(body, |run| {
            let lines = match run {
                Run::Lines(lines, _) => lines.to_vec(),
                Run::Bare(line) => [line, b"\n"].concat(),
                Run::Bad(..) => return,
            };
            let lengths = lines.split(|&byte| byte == b'\n').map(<[u8]>::len);
            longest = lengths.max().unwrap_or_default().max(longest);
            let merged = backlog.merge(&lines, from, tick);
            account.came += merged.lines;
            account.gone += merged.dropped.total();
            assert_eq!(account.came, account.gone + backlog.len());
        });
        let Some(next) = behind.get(2..) else {
            break;
        };
        rest = next;
    }
    while !backlog.is_empty() {
        give_back(&mut backlog, 1, longest, &mut account);
    }
    assert_eq!((backlog.len(), backlog.bytes()), (0, 0));
    assert_eq!(account.came, account.gone);
}
