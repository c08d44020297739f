//! How a flow ended: the two ways, and why the second.

/// How a flow ended. Every flow ends exactly once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum End {
    /// Well, or so that nothing tells of a failure; by an RST behind a FIN too.
    Closed,
    /// Never established, or torn down.
    Failed(Failure),
}

impl End {
    /// "closed" or "failed".
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Failed(_) => "failed",
        }
    }

    /// Why it failed, if it did.
    #[must_use]
    pub const fn failure(self) -> Option<Failure> {
        match self {
            Self::Closed => None,
            Self::Failed(failure) => Some(failure),
        }
    }
}

/// Why a flow failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Failure {
    /// An RST, or an ICMP error, answered the first packet.
    Refused = 0,
    /// Nothing answered, or the answer was not completed, in time.
    Timeout = 1,
    /// An RST tore an established connection down.
    Reset = 2,
    /// The network or the host said that it cannot be reached.
    Unreachable = 3,
}

impl Failure {
    /// Every one, by number.
    pub const ALL: [Self; 4] = [Self::Refused, Self::Timeout, Self::Reset, Self::Unreachable];

    /// The value of the `reason` tag.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Reset => "reset",
            Self::Unreachable => "unreachable",
        }
    }
}
