//! What a configuration needs of this host, and the host has not.

use std::path::Path;

use super::{Config, Mistake, Owner};
use crate::accounts::{Account, ids};

impl Config {
    /// Every mistake that shows on the host alone: users and groups that are not known, and
    /// directories that are not there.
    #[must_use]
    pub fn mistakes_on_host(&self) -> Vec<Mistake> {
        let mut found = Vec::new();
        let mut add = |key: String, message: Option<String>| {
            found.extend(message.map(|message| Mistake { key, message }));
        };
        let user = (!self.user.user.is_empty()).then(|| Account::of(&self.user));
        let user = user.and_then(Result::err);
        add("user".to_owned(), user.map(|error| error.to_string()));
        for (index, listener) in self.listeners.iter().enumerate() {
            let key = |name: &str| format!("listener[{index}].{name}");
            let owner = ids(&listener.owner).err();
            add(key("owner"), owner.map(|error| error.to_string()));
            let path = listener.address.path();
            add(
                key("address"),
                path.and_then(|path| self.no_directory(path)),
            );
        }
        for (index, output) in self.outputs.iter().enumerate() {
            let spool = Some(Path::new(&output.spool)).filter(|_| !output.spool.is_empty());
            let key = format!("output[{index}].spool");
            add(key, spool.and_then(|path| self.no_directory(path)));
        }
        // At its default path the daemon can do without.
        if !self.admin.socket.is_empty() && self.admin.socket != super::Admin::default().socket {
            let path = Path::new(&self.admin.socket);
            add("admin.socket".to_owned(), self.no_directory(path));
        }
        found
    }

    /// What is wrong where the directory of a path is missing, and is not made at the start.
    fn no_directory(&self, path: &Path) -> Option<String> {
        let directory = path.parent()?;
        let is_made = self.user != Owner::default()
            && directory.parent().is_some_and(Path::is_dir)
            && rustix::process::geteuid().is_root();
        (!directory.is_dir() && !is_made).then(|| {
            format!(
                "there is no directory {}: make it, or choose another path",
                directory.display()
            )
        })
    }
}
