//! What the keys of `[admin]` may say.

use std::path::Path;

use super::{Mistakes, same_file, same_port};
use crate::address::{Address, HostPort};
use crate::config::Config;

impl Config {
    pub(super) fn check_admin(&self, found: &mut Mistakes) {
        if let Some(http) = &self.admin.http.0 {
            self.check_http(http, found);
        }
        let socket = &self.admin.socket;
        if socket.is_empty() {
            return;
        }
        // The same rules as for a listener's path.
        if let Err(error) = format!("unixstream://{socket}").parse::<Address>() {
            found.add("admin.socket", error.to_string());
        } else if (self.listeners.iter())
            .filter_map(|listener| listener.address.path())
            .any(|path| same_file(path, Path::new(socket)))
        {
            found.add("admin.socket", "is the socket of a listener already");
        }
    }

    fn check_http(&self, http: &HostPort, found: &mut Mistakes) {
        // The system gives each that asks for port 0 another.
        if http.port == 0 {
            return;
        }
        let http = Address::Tcp(http.clone());
        let collides = |bound| same_port(&http, bound) || same_port(bound, &http);
        if (self.listeners.iter()).any(|listener| collides(&listener.address)) {
            found.add("admin.http", "is the port of a listener already");
        }
    }
}
