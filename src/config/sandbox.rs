//! `sandbox`: what the daemon gives up at its start.

use serde::{Deserialize, Serialize};

/// Whether the daemon restricts itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Sandbox {
    /// As far as the kernel lets it.
    #[default]
    Auto,
    /// No further than `user` asks for.
    Off,
}
