//! `[memory]`: when to slow senders down for memory's sake.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{ByteSize, UnitError};

/// How much memory there may be: `"auto"`, `"64MiB"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub enum MemoryLimit {
    /// What the cgroup is allowed, else any amount.
    #[default]
    Auto,
    /// So much of the process's own.
    Bytes(ByteSize),
}

impl FromStr for MemoryLimit {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        match text.parse::<ByteSize>() {
            Ok(size) if size.0 > 0 => Ok(Self::Bytes(size)),
            _ => Err(UnitError::Memory(text.to_owned())),
        }
    }
}

impl fmt::Display for MemoryLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Bytes(size) => size.fmt(f),
        }
    }
}

/// `[memory]`
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Memory {
    /// Defaults to auto.
    pub limit: MemoryLimit,
    /// Share of the limit from which reads are delayed.
    pub low: f64,
    /// Share of the limit beyond which they stop.
    pub high: f64,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            limit: MemoryLimit::Auto,
            low: 0.7,
            high: 0.8,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_prints_back_in_a_form_that_reads_the_same() {
        for text in ["auto", "64MiB"] {
            assert_eq!(text.parse::<MemoryLimit>().unwrap().to_string(), text);
        }
        for text in ["", "64", "0B", "none", "50%"] {
            let error = text.parse::<MemoryLimit>().unwrap_err().to_string();
            assert!(error.contains("\"64MiB\""), "{error}");
        }
    }
}
