//! Where the daemon can be asked: the admin socket and the HTTP endpoint.

use std::path::Path;

use tracing::warn;

use crate::address::Address;
use crate::admin::{self, Admin, Endpoint};
use crate::config::Config;
use crate::handover::{self, Inherited};
use crate::listen::ListenError;
use crate::telemetry::Telemetry;

/// Those that the configuration asks for, bound.
#[derive(Debug, Default)]
pub(super) struct Doors {
    pub(super) admin: Option<Admin>,
    pub(super) http: Option<Endpoint>,
}

impl Doors {
    /// Binds them, or goes on with those that are left, and adds what the endpoint counts to
    /// `telemetry`.
    ///
    /// # Errors
    /// When one cannot be bound; one before it is.
    pub(super) async fn open(
        &mut self,
        config: &Config,
        inherited: &mut Inherited,
        telemetry: &mut Telemetry,
    ) -> Result<(), ListenError> {
        self.admin = admin_socket(config, inherited).await?;
        if let Some(host) = &config.admin.http.0 {
            let left = inherited.take_listener(&Address::Tcp(host.clone()));
            let http = Endpoint::open(host, left).await?;
            telemetry.http = Some(http.counters());
            self.http = Some(http);
        }
        Ok(())
    }

    /// Leaves them without having been asked.
    pub(super) fn leave(self) -> impl Iterator<Item = handover::Listener> {
        let admin = self.admin.and_then(Admin::leave);
        admin.into_iter().chain(self.http.and_then(Endpoint::leave))
    }
}

/// Binds the admin socket, if there is to be one.
async fn admin_socket(
    config: &Config,
    inherited: &mut Inherited,
) -> Result<Option<Admin>, ListenError> {
    let path = &config.admin.socket;
    if path.is_empty() {
        return Ok(None);
    }
    let path = Path::new(path);
    let left = inherited.take_listener(&Address::UnixStream(path.to_owned()));
    match Admin::open(path, admin::Limits::default(), left).await {
        Ok(admin) => Ok(Some(admin)),
        Err(error) if admin::is_dispensable(config, &error) => {
            warn!(%error, "no admin socket: name another in admin.socket, or turn it off (\"\")");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
