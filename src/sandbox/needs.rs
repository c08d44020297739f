//! What a configuration needs of the system while it runs.

use std::path::{Path, PathBuf};

use rustix::thread::CapabilitySet;
use serde::{Deserialize, Serialize};

use super::real;
use crate::address::{Address, HostPort};
use crate::config::{Config, SourceChoice};

/// The first port that anybody may bind (`net.ipv4.ip_unprivileged_port_start`).
const FIRST_FREE_PORT: u16 = 1024;

/// What for a directory is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Use {
    /// Files in it are read.
    Read,
    /// Sockets are made and removed in it.
    Sockets,
    /// Files are made, read, written and removed in it.
    Spool,
}

/// A directory that a key needs.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Need {
    /// The key, as in `listener[0].address`, or the file that is read.
    pub(crate) key: String,
    /// The directory, without links.
    pub(crate) place: PathBuf,
    /// What it is for.
    pub(crate) r#use: Use,
}

impl Need {
    /// Whether who may do this may do that.
    pub(super) fn covers(&self, other: &Self) -> bool {
        other.place.starts_with(&self.place) && self.r#use == other.r#use
    }
}

/// What a configuration needs.
#[derive(Debug, Default)]
pub(crate) struct Needs {
    /// Directories, beside those that every configuration does.
    pub(crate) files: Vec<Need>,
    /// Capabilities, each with the key that asks for it.
    pub(super) capabilities: Vec<(CapabilitySet, String)>,
    /// Whether network namespaces are entered.
    pub(super) enters: bool,
}

impl Needs {
    /// Those of a configuration that was read from `files`.
    pub(crate) fn of(config: &Config, files: &[PathBuf]) -> Self {
        let mut needs = Self::default();
        for file in files {
            let key = file.display().to_string();
            // The directory that the name is in, and the one that the file is in.
            for path in [file.clone(), real(file)] {
                needs.directory_of(&path, &key, Use::Read);
            }
            let fragments = file.with_file_name("conf.d");
            needs.directory(&fragments, &key, Use::Read);
        }
        for (index, listener) in config.listeners.iter().enumerate() {
            let key = format!("listener[{index}].address");
            if let Some(path) = listener.address.path() {
                needs.directory_of(path, &key, Use::Sockets);
            }
            if let Address::Tcp(end) | Address::Udp(end) = &listener.address {
                needs.port(end, key);
            }
        }
        for (index, output) in config.outputs.iter().enumerate() {
            if !output.spool.is_empty() {
                let key = format!("output[{index}].spool");
                needs.directory_of(Path::new(&output.spool), &key, Use::Spool);
            }
        }
        let admin = &config.admin;
        if !admin.socket.is_empty() {
            needs.directory_of(Path::new(&admin.socket), "admin.socket", Use::Sockets);
        }
        if let Some(end) = &admin.http.0 {
            needs.port(end, "admin.http".to_owned());
        }
        needs.collector(config);
        needs
    }

    fn collector(&mut self, config: &Config) {
        let collector = &config.collector;
        if matches!(
            collector.source,
            SourceChoice::Auto | SourceChoice::Conntrack
        ) {
            let key = "collector.source".to_owned();
            self.capabilities.push((CapabilitySet::NET_ADMIN, key));
        }
        if collector.source == SourceChoice::Off || collector.netns.is_empty() {
            return;
        }
        self.enters = true;
        let key = "collector.netns".to_owned();
        self.capabilities.push((CapabilitySet::SYS_ADMIN, key));
        for (index, netns) in collector.netns.iter().enumerate() {
            let key = format!("collector.netns[{index}]");
            for path in netns.paths() {
                self.directory_of(&path, &key, Use::Read);
                // A link may lead into /proc, where the last part is no name.
                if let Ok(target) = path.read_link() {
                    self.directory_of(&target, &key, Use::Read);
                }
            }
        }
    }

    /// The directory that a path lies in.
    fn directory_of(&mut self, path: &Path, key: &str, r#use: Use) {
        if let Some(directory) = path.parent() {
            self.directory(directory, key, r#use);
        }
    }

    fn directory(&mut self, directory: &Path, key: &str, r#use: Use) {
        let directory = if directory.as_os_str().is_empty() {
            Path::new(".")
        } else {
            directory
        };
        let need = Need {
            key: key.to_owned(),
            place: real(directory),
            r#use,
        };
        if !self.files.iter().any(|one| one.covers(&need)) {
            self.files.push(need);
        }
    }

    fn port(&mut self, end: &HostPort, key: String) {
        if (1..FIRST_FREE_PORT).contains(&end.port) {
            self.capabilities
                .push((CapabilitySet::NET_BIND_SERVICE, key));
        }
    }

    /// All capabilities together.
    pub(super) fn capability_set(&self) -> CapabilitySet {
        let sets = self.capabilities.iter().map(|&(set, _)| set);
        sets.fold(CapabilitySet::empty(), CapabilitySet::union)
    }

    /// Whether links in other processes' directories are followed, which the kernel keeps
    /// from a process in a landlock domain.
    pub(super) fn looks_into_processes(&self) -> bool {
        self.files
            .iter()
            .any(|need| need.place.starts_with("/proc"))
    }
}
