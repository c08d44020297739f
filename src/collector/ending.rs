//! How a flow ended, by what it went through, and for how long it lasted.

use super::table::Marks;
use crate::flow::{ConnectionState, End, Failure, Protocol, State, Traffic};

/// How a flow ended whose last state is this one. What the kernel does not tell:
///
/// - An ICMP error in answer to the first packet leaves no trace in the entry: it
///   ends like one that nobody answered.
/// - An established connection whose entry expires, is evicted or deleted was closed
///   as far as anybody can tell.
pub(super) fn end_of(protocol: Protocol, state: State, marks: Marks) -> End {
    match state.general() {
        ConnectionState::Open | ConnectionState::Closing => End::Closed,
        ConnectionState::Opening if marks.has(Marks::OPENED) => End::Closed,
        ConnectionState::Opening => End::Failed(Failure::Timeout),
        ConnectionState::Closed if marks.has(Marks::GOODBYE) => End::Closed,
        ConnectionState::Closed if marks.has(Marks::OPENED) => End::Failed(Failure::Reset),
        // An SCTP ABORT leaves the entry standing, so that it counts as an answer.
        ConnectionState::Closed if marks.has(Marks::REPLIED) && protocol != Protocol::Sctp => {
            End::Failed(Failure::Reset)
        }
        ConnectionState::Closed => End::Failed(Failure::Refused),
    }
}

/// Whether a connection in this state is over, and its entry only waits to expire.
pub(super) fn is_over(state: State) -> bool {
    use crate::flow::{DccpState, SctpState, TcpState};
    matches!(
        state,
        State::Tcp(TcpState::TimeWait | TcpState::Close)
            | State::Sctp(SctpState::Closed)
            | State::Dccp(DccpState::TimeWait)
    )
}

/// What is kept of a flow beside its state, so that traffic and durations can be told.
pub(super) trait Detail: Copy + Default {
    /// Whether anything is.
    const IS_KEPT: bool;

    /// It began at this time, nanoseconds since the epoch.
    fn begin(&mut self, at: u64);

    /// It was over at this time, if it was not before.
    fn finish(&mut self, at: u64);

    /// When it began and when it was over, where known.
    fn life(&self) -> (Option<u64>, Option<u64>);

    /// What the entry has carried by now, original and reply way: what was added
    /// since the last time.
    fn carry(&mut self, now: [Traffic; 2]) -> [Traffic; 2];
}

/// Nothing: counts need no more than the state.
impl Detail for () {
    const IS_KEPT: bool = false;

    fn begin(&mut self, _at: u64) {}

    fn finish(&mut self, _at: u64) {}

    fn life(&self) -> (Option<u64>, Option<u64>) {
        (None, None)
    }

    fn carry(&mut self, _now: [Traffic; 2]) -> [Traffic; 2] {
        [Traffic::default(); 2]
    }
}

/// The counters as they were last, and the times.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Story {
    counted: [Traffic; 2],
    /// 0: unknown.
    began: u64,
    /// 0: it goes on.
    over: u64,
}

impl Detail for Story {
    const IS_KEPT: bool = true;

    fn begin(&mut self, at: u64) {
        self.began = at;
    }

    fn finish(&mut self, at: u64) {
        if self.over == 0 {
            self.over = at;
        }
    }

    fn life(&self) -> (Option<u64>, Option<u64>) {
        let known = |time: u64| (time > 0).then_some(time);
        (known(self.began), known(self.over))
    }

    fn carry(&mut self, now: [Traffic; 2]) -> [Traffic; 2] {
        let before = std::mem::replace(&mut self.counted, now);
        let mut added = now;
        for (added, before) in added.iter_mut().zip(before) {
            // Counters that went back were set to zero by someone (GET_CTRZERO).
            if before.packets <= added.packets && before.bytes <= added.bytes {
                added.packets -= before.packets;
                added.bytes -= before.bytes;
            }
        }
        added
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{SctpState, TcpState};

    #[test]
    fn an_end_is_told_by_the_last_state_and_what_came_before() {
        let tcp = State::Tcp;
        let none = Marks::default();
        let (replied, opened, goodbye) = (Marks::REPLIED, Marks::OPENED, Marks::GOODBYE);
        let closed = End::Closed;
        let refused = End::Failed(Failure::Refused);
        let timeout = End::Failed(Failure::Timeout);
        let reset = End::Failed(Failure::Reset);
        for (state, marks, end) in [
            (TcpState::SynSent, none, timeout),
            (TcpState::SynSent2, none, timeout),
            (TcpState::SynRecv, replied, timeout),
            (TcpState::Close, none, refused),
            (TcpState::Close, replied, reset),
            (TcpState::Close, replied | opened, reset),
            (TcpState::Close, replied | opened | goodbye, closed),
            (TcpState::TimeWait, replied | opened | goodbye, closed),
            (TcpState::LastAck, replied | opened | goodbye, closed),
            (TcpState::FinWait, replied | opened, closed),
            (TcpState::Established, replied | opened, closed),
            (TcpState::SynSent, replied | opened, closed),
        ] {
            assert_eq!(end_of(Protocol::Tcp, tcp(state), marks), end, "{state:?}");
        }
        let sctp = |state, marks| end_of(Protocol::Sctp, State::Sctp(state), marks);
        assert_eq!(sctp(SctpState::CookieWait, none), timeout);
        assert_eq!(sctp(SctpState::Closed, replied), refused);
        assert_eq!(sctp(SctpState::Closed, replied | opened), reset);
        assert_eq!(sctp(SctpState::Closed, replied | opened | goodbye), closed);
        let udp = |state, marks| end_of(Protocol::Udp, state, marks);
        assert_eq!(udp(State::Unreplied, none), timeout);
        assert_eq!(udp(State::Replied, replied), closed);
    }

    #[test]
    fn traffic_is_what_was_added_and_all_of_it_when_a_counter_went_back() {
        let of = |packets, bytes| Traffic { packets, bytes };
        let mut story = Story::default();
        assert_eq!(story.carry([of(1, 60), of(0, 0)]), [of(1, 60), of(0, 0)]);
        assert_eq!(story.carry([of(3, 90), of(2, 80)]), [of(2, 30), of(2, 80)]);
        assert_eq!(story.carry([of(3, 90), of(2, 80)]), [of(0, 0), of(0, 0)]);
        assert_eq!(story.carry([of(1, 40), of(4, 99)]), [of(1, 40), of(2, 19)]);
    }

    #[test]
    fn a_flow_with_its_story_takes_sixty_four_bytes() {
        assert_eq!(size_of::<super::super::table::Kept<Story>>(), 64);
    }
}
