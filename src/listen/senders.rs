//! What is done with a process's lines: where it runs is looked up once, and taken for
//! known as long as it is the same process.
//!
//! A number is used again once its process is gone. So what is known is known of a number
//! and a start, and the start is compared every [`TURN`]. The kernel gives numbers out in
//! turn (`alloc_pid` in `kernel/pid.c`): one comes again when all the others have been given
//! out, tens of thousands of them, which takes longer than that.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use tokio::time::Instant;

use super::origin::{Origin, start_in};
use crate::config::OriginChoice;
use crate::forward::Forward;

/// How long a number surely stays one process's.
const TURN: Duration = Duration::from_millis(100);

/// The most processes that are remembered. What it takes to look one up again is little.
const MOST_KNOWN: usize = 1024;

/// A file of a process, by number and name.
trait Files: FnMut(u32, &str) -> Option<Vec<u8>> {}
impl<F: FnMut(u32, &str) -> Option<Vec<u8>>> Files for F {}

fn read(pid: u32, name: &str) -> Option<Vec<u8>> {
    fs::read(format!("/proc/{pid}/{name}")).ok()
}

/// The processes that send to a listener.
#[derive(Clone, Debug)]
pub(super) struct Senders {
    choice: OriginChoice,
    /// For those of whom nothing is to be told.
    plain: Forward,
    known: HashMap<u32, Known>,
    /// Counted, and when it began.
    turn: u64,
    turned: Instant,
}

#[derive(Clone, Debug)]
struct Known {
    /// None where it was gone before it could be looked at.
    start: Option<u64>,
    /// When that was compared last.
    turn: Option<u64>,
    forward: Forward,
}

impl Senders {
    pub(super) fn new(plain: Forward, choice: OriginChoice) -> Self {
        Self {
            choice,
            plain,
            known: HashMap::new(),
            turn: 0,
            turned: Instant::now(),
        }
    }

    /// For senders without a process.
    pub(super) const fn plain(&self) -> &Forward {
        &self.plain
    }

    /// Begins to read, now: whoever is asked for is compared once more, if it is time.
    pub(super) fn begin(&mut self, now: Instant) {
        if now.saturating_duration_since(self.turned) >= TURN {
            self.turn += 1;
            self.turned = now;
        }
    }

    /// What is done with this process's lines.
    pub(super) fn of(&mut self, pid: u32) -> &Forward {
        self.look_up(pid, &mut read)
    }

    fn look_up(&mut self, pid: u32, files: &mut impl Files) -> &Forward {
        let (choice, turn) = (self.choice, Some(self.turn));
        if choice == OriginChoice::None {
            return &self.plain;
        }
        if self.known.len() >= MOST_KNOWN && !self.known.contains_key(&pid) {
            self.known.retain(|_, known| known.turn == turn);
            if self.known.len() >= MOST_KNOWN {
                self.known.clear();
            }
        }
        let known = self.known.entry(pid).or_insert_with(|| Known {
            start: None,
            turn: None,
            forward: self.plain.clone(),
        });
        if known.turn != turn {
            known.turn = turn;
            known.compare(pid, &self.plain, choice, files);
        }
        &known.forward
    }
}

impl Known {
    /// Looks whether the number is that process's still, and else who has it now. Who is
    /// gone is who it was: nobody else has the number.
    fn compare(&mut self, pid: u32, plain: &Forward, choice: OriginChoice, files: &mut impl Files) {
        let before = start_of(pid, files);
        if before.is_none() || before == self.start {
            return;
        }
        let cgroup = files(pid, "cgroup").unwrap_or_default();
        let origin = Origin::in_cgroup(&String::from_utf8_lossy(&cgroup));
        // Between the two it may have become another's.
        let after = start_of(pid, files);
        (self.start, self.forward) = if after == before {
            (after, plain.with_origin(&origin, choice))
        } else {
            (None, plain.clone())
        };
    }
}

fn start_of(pid: u32, files: &mut impl Files) -> Option<u64> {
    start_in(&files(pid, "stat")?)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Processes of which each has this start, and runs in a container of that number.
    struct System {
        starts: HashMap<u32, u64>,
        reads: Cell<usize>,
    }

    const ZEROES: &str = "000000000000000000000000000000000000000000000000000000000000";

    impl System {
        fn of(starts: &[(u32, u64)]) -> Self {
            Self {
                starts: starts.iter().copied().collect(),
                reads: Cell::new(0),
            }
        }

        fn file(&self, pid: u32, name: &str) -> Option<Vec<u8>> {
            self.reads.set(self.reads.get() + 1);
            let start = self.starts.get(&pid)?;
            let text = match name {
                "stat" => format!("{pid} (app) S{} {start} 1", " 0".repeat(18)),
                _ => format!("0::/docker/{ZEROES}{start:04}\n"),
            };
            Some(text.into_bytes())
        }
    }

    fn senders(choice: OriginChoice) -> Senders {
        Senders::new(Forward::default(), choice)
    }

    fn next_turn(senders: &mut Senders) {
        senders.begin(senders.turned + TURN);
    }

    /// The line of a sender, of which only the container's number is left.
    fn written(senders: &mut Senders, system: &System, pid: u32) -> String {
        let mut out = Vec::new();
        senders
            .look_up(pid, &mut |pid, name: &str| system.file(pid, name))
            .write(b"a:1|c", &mut out);
        String::from_utf8(out).unwrap().replace(ZEROES, "")
    }

    #[test]
    fn a_process_is_looked_up_once_and_compared_once_a_turn() {
        let system = System::of(&[(7, 1111)]);
        let mut senders = senders(OriginChoice::Field);
        for (turn, reads) in [(0, 3), (1, 4), (2, 5)] {
            for _ in 0..10 {
                let began = senders.turned;
                senders.begin(began + TURN / 2);
                assert_eq!(written(&mut senders, &system, 7), "a:1|c|c:ci-1111\n");
            }
            assert_eq!(system.reads.get(), reads, "{turn}");
            next_turn(&mut senders);
        }
    }

    #[test]
    fn a_number_that_another_process_has_is_not_mistaken() {
        let mut senders = senders(OriginChoice::Field);
        assert_eq!(
            written(&mut senders, &System::of(&[(7, 1111)]), 7),
            "a:1|c|c:ci-1111\n"
        );
        next_turn(&mut senders);
        assert_eq!(
            written(&mut senders, &System::of(&[(7, 2222)]), 7),
            "a:1|c|c:ci-2222\n"
        );
    }

    #[test]
    fn who_is_gone_is_who_it_was_and_a_stranger_stays_one() {
        let mut senders = senders(OriginChoice::Field);
        written(&mut senders, &System::of(&[(7, 1111)]), 7);
        next_turn(&mut senders);
        let nobody = System::of(&[]);
        assert_eq!(written(&mut senders, &nobody, 7), "a:1|c|c:ci-1111\n");
        assert_eq!(written(&mut senders, &nobody, 8), "a:1|c\n");
        next_turn(&mut senders);
        assert_eq!(
            written(&mut senders, &System::of(&[(8, 1)]), 8),
            "a:1|c|c:ci-0001\n"
        );
    }

    #[test]
    fn who_changes_while_it_is_looked_at_is_nobody() {
        let mut senders = senders(OriginChoice::Field);
        let (before, after) = (System::of(&[(7, 1)]), System::of(&[(7, 2)]));
        let mut reads = 0;
        let forward = senders.look_up(7, &mut |pid, name: &str| {
            reads += 1;
            let system = if reads == 1 { &before } else { &after };
            system.file(pid, name)
        });
        assert!(forward.is_identity());
    }

    #[test]
    fn nothing_is_looked_up_that_is_not_to_be_told() {
        let system = System::of(&[(7, 1)]);
        assert_eq!(
            written(&mut senders(OriginChoice::None), &system, 7),
            "a:1|c\n"
        );
        assert_eq!(system.reads.get(), 0);
    }

    #[test]
    fn no_more_than_so_many_are_remembered() {
        let mut senders = senders(OriginChoice::Tags);
        let all: Vec<(u32, u64)> = (1..5000).map(|pid| (pid, u64::from(pid))).collect();
        let system = System::of(&all);
        for &(pid, start) in &all {
            let expected = format!("a:1|c|#container_id:{start:04}\n");
            assert_eq!(written(&mut senders, &system, pid), expected);
            assert!(senders.known.len() <= MOST_KNOWN);
            if pid % 7 == 0 {
                next_turn(&mut senders);
            }
        }
    }
}
