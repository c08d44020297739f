//! Durations, sizes, rates, modes, owners and marks, as text: quantities with a unit.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{HttpAddress, MemoryLimit, ReceiveBuffer};

/// Why a text is not the quantity that its key asks for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Not a number with a unit of time.
    #[error("{0:?} is not a duration: write a number and a unit (ms, s, m, h), as in \"10s\"")]
    Duration(String),
    /// Not a number with a unit of size.
    #[error("{0:?} is not a size: write a number and a unit (B, KiB, MiB, GiB), as in \"8KiB\"")]
    Size(String),
    /// Not a size per second.
    #[error("{0:?} is not a rate: write a size per second, as in \"2MiB/s\", or \"\" for no limit")]
    Rate(String),
    /// Not a size, for a burst.
    #[error(
        "{0:?} is not a burst: write a size, as in \"64KiB\", or \"\" for what the rate lets go in a second"
    )]
    Burst(String),
    /// Not a size, for a socket's buffer.
    #[error(
        "{0:?} is not a buffer: write a size, as in \"4MiB\", or \"\" for the system's default"
    )]
    Buffer(String),
    /// Not a size, for memory.
    #[error("{0:?} is not a limit: write \"auto\" for the cgroup's, or a size, as in \"64MiB\"")]
    Memory(String),
    /// Not a duration, for what is merged.
    #[error("{0:?} is not a time to merge for: write a duration, as in \"10s\", or \"\" for none")]
    Aggregate(String),
    /// Not an octal file mode.
    #[error("{0:?} is not a file mode: write it in octal, as in \"0722\"")]
    Mode(String),
    /// Not an owner.
    #[error(
        "{0:?} is not an owner: write \"user:group\", \"user\" or \":group\", or \"\" for the process's"
    )]
    Owner(String),
    /// Not a mark.
    #[error("{0:?} is not a mark: write a value and a mask, as in \"0x10/0xff\", or \"\" for any")]
    Mark(String),
    /// Not a host and a port.
    #[error(
        "{0:?} is not where HTTP can be served: write an address and a port, as in \"127.0.0.1:9318\" or \"[::1]:9318\", or \"\" for none"
    )]
    Http(String),
}

macro_rules! through_text {
    ($($type:ty),+) => {$(
        impl TryFrom<String> for $type {
            type Error = UnitError;

            fn try_from(text: String) -> Result<Self, UnitError> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.to_string()
            }
        }
    )+};
}
through_text!(
    Interval,
    ByteSize,
    ByteRate,
    Burst,
    Aggregate,
    FileMode,
    Owner,
    MarkFilter,
    MemoryLimit,
    ReceiveBuffer,
    HttpAddress
);

/// A number and what follows it.
fn split_number(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    Some((number.parse().ok()?, unit.trim_start()))
}

/// A duration: `"10s"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Interval(pub Duration);

impl Interval {
    /// So many seconds.
    #[must_use]
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// So many milliseconds.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }
}

/// Longer is surely a mistake, and would overflow timers.
const MAX_INTERVAL: Duration = Duration::from_secs(366 * 24 * 3600);

impl FromStr for Interval {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let wrong = || UnitError::Duration(text.to_owned());
        let (number, unit) = split_number(text).ok_or_else(wrong)?;
        let millis = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(wrong()),
        };
        let duration = Duration::from_millis(number.checked_mul(millis).ok_or_else(wrong)?);
        if duration > MAX_INTERVAL {
            return Err(wrong());
        }
        Ok(Self(duration))
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        if millis.is_multiple_of(1_000) {
            write!(f, "{}s", millis / 1_000)
        } else {
            write!(f, "{millis}ms")
        }
    }
}

/// A number of bytes: `"8KiB"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// So many KiB.
    #[must_use]
    pub const fn kib(number: u64) -> Self {
        Self(number << 10)
    }

    /// So many MiB.
    #[must_use]
    pub const fn mib(number: u64) -> Self {
        Self(number << 20)
    }

    /// As an amount of memory on this machine.
    #[must_use]
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let wrong = || UnitError::Size(text.to_owned());
        let (number, unit) = split_number(text).ok_or_else(wrong)?;
        let bytes: u64 = match unit {
            "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            "kB" | "KB" => 1_000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            _ => return Err(wrong()),
        };
        number.checked_mul(bytes).map(Self).ok_or_else(wrong)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, shift) in [("GiB", 30), ("MiB", 20), ("KiB", 10)] {
            if self.0 != 0 && self.0.is_multiple_of(1 << shift) {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}B", self.0)
    }
}

/// Bytes per second, or no limit: `"2MiB/s"`, `""`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct ByteRate(pub Option<ByteSize>);

impl FromStr for ByteRate {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        let wrong = || UnitError::Rate(text.to_owned());
        let size: ByteSize = text
            .strip_suffix("/s")
            .ok_or_else(wrong)?
            .parse()
            .map_err(|_| wrong())?;
        if size.0 == 0 {
            return Err(wrong());
        }
        Ok(Self(Some(size)))
    }
}

impl fmt::Display for ByteRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(size) => write!(f, "{size}/s"),
            None => Ok(()),
        }
    }
}

/// Bytes that may go at once, or what the rate lets go in a second: `"64KiB"`, `""`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Burst(pub Option<ByteSize>);

/// How long everything is merged before it is sent: `"10s"`, or `""` for not at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Aggregate(pub Option<Interval>);

impl FromStr for Aggregate {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        let interval: Interval = text
            .parse()
            .map_err(|_| UnitError::Aggregate(text.to_owned()))?;
        Ok(Self((!interval.0.is_zero()).then_some(interval)))
    }
}

impl fmt::Display for Aggregate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |interval| interval.fmt(f))
    }
}

impl FromStr for Burst {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        let size = text
            .parse()
            .map_err(|_| UnitError::Burst(text.to_owned()))?;
        Ok(Self(Some(size)))
    }
}

impl fmt::Display for Burst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(size) => size.fmt(f),
            None => Ok(()),
        }
    }
}

/// Permission bits of a socket file: `"0722"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct FileMode(pub u32);

impl FromStr for FileMode {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        match u32::from_str_radix(text, 8) {
            Ok(mode) if mode <= 0o777 && text.len() >= 3 => Ok(Self(mode)),
            _ => Err(UnitError::Mode(text.to_owned())),
        }
    }
}

impl fmt::Display for FileMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

/// Who a socket file belongs to, by names or numbers: `"user:group"`, `"user"`,
/// `":group"`. What is empty is the process's own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Owner {
    /// The user.
    pub user: String,
    /// The group.
    pub group: String,
}

impl FromStr for Owner {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let (user, group) = text.split_once(':').unwrap_or((text, ""));
        if group.contains(':') || text.contains(char::is_whitespace) {
            return Err(UnitError::Owner(text.to_owned()));
        }
        Ok(Self {
            user: user.to_owned(),
            group: group.to_owned(),
        })
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.user)?;
        if self.group.is_empty() {
            Ok(())
        } else {
            write!(f, ":{}", self.group)
        }
    }
}

/// Which conntrack marks count: `"0x10/0xff"`, `"16"`, or `""` for all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct MarkFilter(pub Option<Mark>);

/// A mark's value under a mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The bits to find.
    pub value: u32,
    /// The bits to look at.
    pub mask: u32,
}

impl MarkFilter {
    /// Whether an entry with this mark counts.
    #[must_use]
    pub const fn admits(self, mark: u32) -> bool {
        match self.0 {
            Some(filter) => mark & filter.mask == filter.value,
            None => true,
        }
    }
}

impl FromStr for MarkFilter {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        let wrong = || UnitError::Mark(text.to_owned());
        let number = |text: &str| match text.strip_prefix("0x") {
            Some(hex) => u32::from_str_radix(hex, 16).ok(),
            None => text.parse().ok(),
        };
        let (value, mask) = match text.split_once('/') {
            Some((value, mask)) => (number(value), number(mask)),
            None => (number(text), Some(u32::MAX)),
        };
        match (value, mask) {
            (Some(value), Some(mask)) if value & !mask == 0 => Ok(Self(Some(Mark { value, mask }))),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for MarkFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(Mark { value, mask }) => write!(f, "{value:#x}/{mask:#x}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_print_back_in_a_form_that_reads_the_same() {
        for text in ["10s", "100ms", "0s"] {
            assert_eq!(text.parse::<Interval>().unwrap().to_string(), text);
        }
        assert_eq!("2m".parse::<Interval>().unwrap().to_string(), "120s");
        for text in ["1432B", "8KiB", "4MiB", "1GiB", "0B"] {
            assert_eq!(text.parse::<ByteSize>().unwrap().to_string(), text);
        }
        for text in ["", "2MiB/s"] {
            assert_eq!(text.parse::<ByteRate>().unwrap().to_string(), text);
        }
        for text in ["", "64KiB"] {
            assert_eq!(text.parse::<Burst>().unwrap().to_string(), text);
        }
        for text in ["", "0x10/0xff"] {
            assert_eq!(text.parse::<MarkFilter>().unwrap().to_string(), text);
        }
        assert_eq!("0722".parse::<FileMode>().unwrap().to_string(), "0722");
        for text in ["", "root", "root:adm", ":adm", "1000:1001"] {
            assert_eq!(text.parse::<Owner>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_number_without_its_unit_is_refused_with_an_example() {
        for text in [
            "10",
            "ten",
            "",
            "-1s",
            "10 parsecs",
            "99999999999999999999s",
            "9999999h",
        ] {
            let error = text.parse::<Interval>().unwrap_err().to_string();
            assert!(error.contains("\"10s\""), "{error}");
        }
        for text in ["10", "8KiBs", "", "18446744073709551615GiB"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
        for text in ["2MiB", "0B/s", "/s"] {
            assert!(text.parse::<ByteRate>().is_err(), "{text}");
        }
        let error = "64".parse::<Burst>().unwrap_err().to_string();
        assert!(error.contains("\"64KiB\""), "{error}");
        for text in ["0999", "7", "rw", "01777"] {
            assert!(text.parse::<FileMode>().is_err(), "{text}");
        }
        for text in ["a:b:c", "a b", ":a:"] {
            assert!(text.parse::<Owner>().is_err(), "{text}");
        }
        for text in ["0x100/0xff", "mark", "0x", "/0xff"] {
            assert!(text.parse::<MarkFilter>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_mark_is_compared_under_its_mask() {
        let filter: MarkFilter = "0x10/0xf0".parse().unwrap();
        assert!(filter.admits(0x1f));
        assert!(!filter.admits(0x2f));
        assert!(MarkFilter::default().admits(7));
    }
}
