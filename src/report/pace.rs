//! A long report goes in portions, so that it does not overrun a UDP receiver.
//!
//! What a short report takes goes at once. A longer one takes up to half of its tick, as
//! evenly as its length is known beforehand: from what it tells of, and from the report
//! before. A longer one than was thought goes on without pauses once its time is over.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// What goes at once, bytes: in payloads of 1432 they are half of a UDP receiver's default
/// buffer (`net.core.rmem_default`, 212,992, of which such a datagram takes 2,304).
const AT_ONCE: u64 = 64 << 10;
/// Bytes between two pauses.
const PORTION: u64 = 32 << 10;
/// The timer's tick.
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);
/// A pause in a hurry: the scheduler's slice on a busy host. 100,000 lines take 1.2 s.
const HURRIED_PAUSE: Duration = Duration::from_millis(4);
/// A receiver that a portion overruns in this time keeps up with nothing.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// How the report under way is paced.
#[derive(Debug)]
pub(super) struct Pace {
    /// The longest that a report may take.
    most: Duration,
    /// Cancelled when there is no more time.
    hurry: CancellationToken,
    /// Lines of this report so far.
    lines: AtomicU64,
    /// Bytes of this report so far.
    bytes: AtomicU64,
    /// How many there are to be at the next pause.
    next: AtomicU64,
    course: Mutex<Course>,
}

/// When the report under way began, and how long it will be.
#[derive(Clone, Copy, Debug)]
struct Course {
    begun: Instant,
    /// Lines.
    expected: u64,
}

impl Pace {
    pub(super) fn new(most: Duration, hurry: CancellationToken) -> Self {
        Self {
            most,
            hurry,
            lines: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            next: AtomicU64::new(AT_ONCE),
            course: Mutex::new(Course {
                begun: Instant::now(),
                expected: 0,
            }),
        }
    }

    /// A report of some `lines` begins.
    pub(super) fn begin(&self, lines: usize) {
        let before = self.lines.swap(0, Ordering::Relaxed);
        self.bytes.store(0, Ordering::Relaxed);
        self.next.store(AT_ONCE, Ordering::Relaxed);
        let course = Course {
            begun: Instant::now(),
            expected: before.max(lines as u64),
        };
        *self.course.lock().unwrap_or_else(PoisonError::into_inner) = course;
    }

    /// A line of so many bytes went.
    pub(super) fn count(&self, bytes: usize) {
        self.lines.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Whether a portion has gone.
    pub(super) fn is_due(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) >= self.next.load(Ordering::Relaxed)
    }

    /// Waits until the next portion may go.
    pub(super) async fn pause(&self) {
        let bytes = self.bytes.load(Ordering::Relaxed);
        self.next.store(bytes + PORTION, Ordering::Relaxed);
        let until = self.until(Instant::now());
        tokio::select! {
            biased;
            () = self.hurry.cancelled() => sleep_until(until.min(Instant::now() + HURRIED_PAUSE)).await,
            () = sleep_until(until) => {}
        }
    }

    /// When the next portion may go.
    fn until(&self, now: Instant) -> Instant {
        let lines = self.lines.load(Ordering::Relaxed);
        let course = *self.course.lock().unwrap_or_else(PoisonError::into_inner);
        #[expect(
            clippy::cast_precision_loss,
            reason = "a report is far below 2^53 lines"
        )]
        let part = lines as f64 / course.expected.max(1) as f64;
        let even = course.begun + self.most.mul_f64(part.min(1.0));
        even.clamp(now + SHORTEST_PAUSE, now + LONGEST_PAUSE)
            .min(course.begun + self.most)
    }
}
