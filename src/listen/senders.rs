//! What is done with a process's lines: where it runs is looked up once, and taken for
//! known as long as it is the same process.
//!
//! A number is used again once its process is gone, and a datagram may be read long after
//! it was sent: its sender may be gone by then, and another process have the number. So what
//! is known is known of a number and a span of time: from the process's start to when it was
//! last seen there, and a little longer. What was sent within the span is that process's,
//! whenever it is read; else the process is looked at once more. Who was gone by then, or
//! began after it was sent, is unknown.
//!
//! How much longer: the kernel gives numbers out in turn (`alloc_pid` in `kernel/pid.c`), so
//! that one comes again when all the others have been given out ([`reuse`]). That a host
//! starts no more than [`STARTS_PER_SECOND`] processes and threads is what is assumed. Two
//! more things are: that a number is not chosen on purpose (`ns_last_pid`, which takes
//! privileges), and that the clock was not set back while a datagram was queued.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use super::origin::{Origin, start_in};
use crate::config::OriginChoice;
use crate::forward::Forward;

/// More than a large host manages.
const STARTS_PER_SECOND: u32 = 200_000;

/// The longest that a number is taken for one process's without looking.
const LONGEST_TURN: Duration = Duration::from_secs(30);

/// The least of `kernel.pid_max` that is the kernel's own choice (`PID_MAX_DEFAULT` in
/// `linux/threads.h`).
const USUAL_NUMBERS: u32 = 32_768;

/// The most processes that are remembered. What it takes to look one up again is little.
const MOST_KNOWN: usize = 1024;

/// A file of a process, by number and name.
trait Files: FnMut(u32, &str) -> Option<Vec<u8>> {}
impl<F: FnMut(u32, &str) -> Option<Vec<u8>>> Files for F {}

fn read(pid: u32, name: &str) -> Option<Vec<u8>> {
    fs::read(format!("/proc/{pid}/{name}")).ok()
}

/// How long a number surely stays one process's, where so many are given out.
fn reuse(numbers: u32) -> Duration {
    (Duration::from_secs(1) * numbers / STARTS_PER_SECOND).min(LONGEST_TURN)
}

/// How many there are here (`proc_sys_kernel(5)`).
fn numbers() -> u32 {
    let told = fs::read_to_string("/proc/sys/kernel/pid_max").ok();
    let told = told.and_then(|text| text.trim().parse().ok());
    told.unwrap_or(USUAL_NUMBERS)
}

/// A moment, since the system started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Moment(Duration);

/// What two clocks of the system show at once.
#[derive(Clone, Copy, Debug)]
struct Clocks {
    since_boot: Duration,
    since_1970: Duration,
}

impl Clocks {
    fn now() -> Self {
        let of = |clock| Duration::try_from(clock_gettime(clock)).unwrap_or_default();
        Self {
            since_boot: of(ClockId::Boottime),
            since_1970: of(ClockId::Realtime),
        }
    }

    const fn moment(self) -> Moment {
        Moment(self.since_boot)
    }

    /// When that was, but not later than now.
    fn moment_of(self, since_1970: Duration) -> Moment {
        let ago = self.since_1970.saturating_sub(since_1970);
        Moment(self.since_boot.saturating_sub(ago))
    }
}

/// The processes that send to a listener.
#[derive(Clone, Debug)]
pub(super) struct Senders {
    choice: OriginChoice,
    /// For those of whom nothing is to be told.
    plain: Forward,
    known: HashMap<u32, Known>,
    clocks: Clocks,
    reuse: Duration,
}

#[derive(Clone, Debug)]
struct Known {
    /// When the process began; none where it was gone, or another, when it was looked at.
    start: Option<Moment>,
    /// When the number was its last.
    seen: Moment,
    forward: Forward,
}

impl Senders {
    pub(super) fn new(plain: Forward, choice: OriginChoice) -> Self {
        Self {
            choice,
            plain,
            known: HashMap::new(),
            clocks: Clocks::now(),
            reuse: reuse(numbers()),
        }
    }

    /// For senders without a process.
    pub(super) const fn plain(&self) -> &Forward {
        &self.plain
    }

    /// Begins to read, now.
    pub(super) fn begin(&mut self) {
        if self.choice != OriginChoice::None {
            self.clocks = Clocks::now();
        }
    }

    /// What is done with this process's lines, which it sent at that time since 1970; now, if
    /// that is not known.
    pub(super) fn of(&mut self, pid: u32, sent: Option<Duration>) -> &Forward {
        if self.choice == OriginChoice::None {
            return &self.plain;
        }
        let now = self.clocks.moment();
        let sent = sent.map_or(now, |sent| self.clocks.moment_of(sent));
        self.look_up(pid, sent, now, &mut read)
    }

    fn look_up(&mut self, pid: u32, sent: Moment, now: Moment, files: &mut impl Files) -> &Forward {
        if self.known.len() >= MOST_KNOWN && !self.known.contains_key(&pid) {
            let reuse = self.reuse;
            self.known.retain(|_, known| known.is_fresh(now, reuse));
            if self.known.len() >= MOST_KNOWN {
                self.known.clear();
            }
        }
        let known = self.known.entry(pid).or_insert_with(|| Known {
            start: None,
            seen: Moment::default(),
            forward: self.plain.clone(),
        });
        if !known.is_fresh(sent, self.reuse) {
            known.compare(pid, now, &self.plain, self.choice, files);
        }
        if known.start.is_some_and(|start| start <= sent) && known.is_fresh(sent, self.reuse) {
            &known.forward
        } else {
            &self.plain
        }
    }
}

impl Known {
    /// Whether the number cannot have been given out again between when it was seen last and
    /// this moment.
    fn is_fresh(&self, at: Moment, reuse: Duration) -> bool {
        at.0 <= self.seen.0.saturating_add(reuse)
    }

    /// Looks whether the number is that process's still, and else who has it now.
    fn compare(
        &mut self,
        pid: u32,
        now: Moment,
        plain: &Forward,
        choice: OriginChoice,
        files: &mut impl Files,
    ) {
        self.seen = now;
        let before = start_of(pid, files);
        if before.is_some() && before == self.start {
            return;
        }
        self.start = None;
        let Some(start) = before else { return };
        let cgroup = files(pid, "cgroup").unwrap_or_default();
        let origin = Origin::in_cgroup(&String::from_utf8_lossy(&cgroup));
        // Between the two it may have become another's.
        if start_of(pid, files) == before {
            self.start = Some(start);
            self.forward = plain.with_origin(&origin, choice);
        }
    }
}

fn start_of(pid: u32, files: &mut impl Files) -> Option<Moment> {
    let ticks = start_in(&files(pid, "stat")?)?;
    let per_second = rustix::param::clock_ticks_per_second();
    // Cut to a tick, and so not after it began.
    Some(Moment(Duration::from_millis(
        ticks.saturating_mul(1000) / per_second,
    )))
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

    const REUSE: Duration = Duration::from_millis(100);

    fn senders(choice: OriginChoice) -> Senders {
        Senders {
            reuse: REUSE,
            ..Senders::new(Forward::default(), choice)
        }
    }

    fn at(millis: u64) -> Moment {
        Moment(Duration::from_millis(millis))
    }

    /// The line of a sender, sent and read at these milliseconds, of which only the
    /// container's number is left.
    fn written(senders: &mut Senders, system: &System, pid: u32, sent: u64, now: u64) -> String {
        let mut out = Vec::new();
        senders
            .look_up(pid, at(sent), at(now), &mut |pid, name: &str| {
                system.file(pid, name)
            })
            .write(b"a:1|c", &mut out);
        String::from_utf8(out).unwrap().replace(ZEROES, "")
    }

    #[test]
    fn a_process_is_looked_up_once_and_seen_again_once_in_a_while() {
        let system = System::of(&[(7, 1111)]);
        let mut senders = senders(OriginChoice::Field);
        for (now, reads) in [(20_000, 3), (20_101, 4), (30_000, 5)] {
            for millis in 0..=100 {
                let line = written(&mut senders, &system, 7, now + millis, now + millis);
                assert_eq!(line, "a:1|c|c:ci-1111\n");
            }
            assert_eq!(system.reads.get(), reads, "{now}");
        }
    }

    #[test]
    fn a_number_that_another_process_has_by_now_is_not_mistaken() {
        let mut senders = senders(OriginChoice::Field);
        let (before, after) = (System::of(&[(7, 1111)]), System::of(&[(7, 2222)]));
        written(&mut senders, &before, 7, 20_000, 20_000);
        // Whenever it is read.
        for (sent, told) in [
            (20_000, "a:1|c|c:ci-1111\n"),
            (20_100, "a:1|c|c:ci-1111\n"),
            // Before the other began, and after the one was seen last.
            (20_101, "a:1|c\n"),
            (22_219, "a:1|c\n"),
            (22_220, "a:1|c|c:ci-2222\n"),
            (60_000, "a:1|c|c:ci-2222\n"),
        ] {
            assert_eq!(
                written(&mut senders, &after, 7, sent, 60_000),
                told,
                "{sent}"
            );
        }
    }

    #[test]
    fn who_is_gone_is_who_it_was_for_a_while_and_a_stranger_stays_one() {
        let mut senders = senders(OriginChoice::Field);
        let nobody = System::of(&[]);
        written(&mut senders, &System::of(&[(7, 1111)]), 7, 20_000, 20_000);
        for (pid, sent, told) in [
            (7, 20_100, "a:1|c|c:ci-1111\n"),
            (7, 20_101, "a:1|c\n"),
            (8, 20_101, "a:1|c\n"),
        ] {
            let line = written(&mut senders, &nobody, pid, sent, 25_000);
            assert_eq!(line, told, "{pid} {sent}");
        }
        let system = System::of(&[(8, 1)]);
        let line = written(&mut senders, &system, 8, 25_101, 25_101);
        assert_eq!(line, "a:1|c|c:ci-0001\n");
    }

    #[test]
    fn who_changes_while_it_is_looked_at_is_nobody() {
        let mut senders = senders(OriginChoice::Field);
        let (before, after) = (System::of(&[(7, 1)]), System::of(&[(7, 2)]));
        let mut reads = 0;
        let forward = senders.look_up(7, at(9000), at(9000), &mut |pid, name: &str| {
            reads += 1;
            let system = if reads == 1 { &before } else { &after };
            system.file(pid, name)
        });
        assert!(forward.is_identity());
    }

    #[test]
    fn nothing_is_looked_up_that_is_not_to_be_told() {
        let mut senders = senders(OriginChoice::None);
        assert!(senders.of(std::process::id(), None).is_identity());
        assert!(senders.known.is_empty());
    }

    #[test]
    fn a_process_begins_between_the_looks_at_the_clock_before_and_after() {
        let before = Clocks::now();
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let after = Clocks::now();
        let start = start_of(child.id(), &mut read).unwrap();
        drop(child.stdin.take());
        child.wait().unwrap();
        // Cut to a tick.
        let tick = Duration::from_millis(1000 / rustix::param::clock_ticks_per_second());
        assert!(start.0 + tick >= before.since_boot, "{start:?} {before:?}");
        assert!(start <= after.moment(), "{start:?} {after:?}");
        assert_eq!(after.moment_of(after.since_1970), after.moment());
        let later = after.since_1970 + tick;
        assert_eq!(after.moment_of(later), after.moment(), "not later than now");
    }

    #[test]
    fn the_more_numbers_there_are_the_longer_one_stays_a_processs() {
        for (numbers, millis) in [(32_768, 163), (4_194_304, 20_971), (u32::MAX, 30_000)] {
            assert_eq!(reuse(numbers).as_millis(), millis, "{numbers}");
        }
    }

    #[test]
    fn no_more_than_so_many_are_remembered() {
        let mut senders = senders(OriginChoice::Tags);
        let all: Vec<(u32, u64)> = (1..5000).map(|pid| (pid, u64::from(pid))).collect();
        let system = System::of(&all);
        for &(pid, start) in &all {
            let expected = format!("a:1|c|#container_id:{start:04}\n");
            let now = 60_000 + u64::from(pid / 7) * 101;
            let line = written(&mut senders, &system, pid, now, now);
            assert_eq!(line, expected);
            assert!(senders.known.len() <= MOST_KNOWN);
        }
    }
}
