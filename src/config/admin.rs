//! `[admin]`: where the daemon can be asked.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::UnitError;
use crate::address::HostPort;

/// `[admin]`
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// Path of the control socket; empty means none.
    pub socket: String,
    /// Address of the HTTP endpoint. Defaults to none.
    pub http: HttpAddress,
}

impl Default for Admin {
    fn default() -> Self {
        Self {
            socket: "/run/conntally/admin.sock".to_owned(),
            http: HttpAddress::default(),
        }
    }
}

/// A host and a port, `"127.0.0.1:9318"`, or `""` for none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct HttpAddress(pub Option<HostPort>);

impl FromStr for HttpAddress {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        let wrong = || UnitError::Http(text.to_owned());
        // No port is as good as another here, so that there is no default.
        let (host, _) = text.rsplit_once(':').ok_or_else(wrong)?;
        if host.starts_with('[') && !host.ends_with(']') {
            return Err(wrong());
        }
        text.parse().map(Some).map(Self).map_err(|_| wrong())
    }
}

impl fmt::Display for HttpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_ref().map_or(Ok(()), |address| address.fmt(f))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_back_as_it_is_written() {
        for text in ["", "127.0.0.1:9318", "[::1]:0", "localhost:80"] {
            assert_eq!(text.parse::<HttpAddress>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_names_no_host_or_no_port_says_what_would_be_right() {
        for text in [
            "9318",
            ":9318",
            "127.0.0.1",
            "127.0.0.1:",
            "127.0.0.1:x",
            "127.0.0.1:65536",
            "::1:9318",
            "[::1]",
            "http://127.0.0.1:9318",
            "127.0.0.1:9318/metrics",
        ] {
            let error = text.parse::<HttpAddress>().unwrap_err().to_string();
            assert!(error.contains("127.0.0.1:9318\" or"), "{text}: {error}");
        }
    }
}
