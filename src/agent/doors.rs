//! Where the daemon can be asked: the admin socket and the HTTP endpoint.

use std::path::Path;

use tracing::warn;

use crate::admin::{self, Admin, Endpoint};
use crate::config::Config;
use crate::listen::ListenError;
use crate::telemetry::Telemetry;

/// Those that the configuration asks for, bound.
pub(super) struct Doors {
    pub(super) admin: Option<Admin>,
    pub(super) http: Option<Endpoint>,
}

impl Doors {
    /// Binds them, and adds what the endpoint counts to `telemetry`.
    pub(super) async fn bind(
        config: &Config,
        telemetry: &mut Telemetry,
    ) -> Result<Self, ListenError> {
        let admin = admin_socket(config).await?;
        let http = match &config.admin.http.0 {
            Some(address) => Some(Endpoint::bind(address).await?),
            None => None,
        };
        telemetry.http = http.as_ref().map(Endpoint::counters);
        Ok(Self { admin, http })
    }
}

/// Binds the admin socket, if there is to be one.
async fn admin_socket(config: &Config) -> Result<Option<Admin>, ListenError> {
    let path = &config.admin.socket;
    if path.is_empty() {
        return Ok(None);
    }
    match Admin::bind(Path::new(path), admin::Limits::default()).await {
        Ok(admin) => Ok(Some(admin)),
        Err(error) if admin::is_dispensable(config, &error) => {
            warn!(%error, "no admin socket: name another in admin.socket, or turn it off (\"\")");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
