//! Network namespaces: called by a name or a path, and entered by a thread.
//!
//! Everything that a thread opens belongs to the namespace that it is in, and so do the
//! threads that it starts. A thread that has entered one never goes back: it ends.
//!
//! See `setns(2)`, `network_namespaces(7)` and ip-netns(8).

use std::fmt;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::{Deserialize, Serialize};

use crate::report::text;

/// Where ip-netns(8) mounts namespaces under their names; the second on systems whose
/// `/var/run` is not yet the same.
const DIRECTORIES: [&str; 2] = ["/run/netns", "/var/run/netns"];

/// The namespace of the calling thread.
const CURRENT: &str = "/proc/thread-self/ns/net";

/// Why a text does not name a network namespace.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing.
    #[error("an empty name is no network namespace: write a name, as ip netns list shows it")]
    Empty,
    /// A path that does not begin at the root.
    #[error(
        "{0:?} is neither a name nor an absolute path: write a name, as ip netns list shows it, \
         or a path from the root, as in \"/run/docker/netns/1a2b3c\""
    )]
    Relative(String),
    /// A path without a last part, which would be the tag.
    #[error("{0:?} names no file: its last part is what the namespace is called by")]
    NoFile(String),
    /// A character that no tag can have.
    #[error(
        "{0:?} cannot be a tag with {1:?} in what it is called by: mount the namespace under \
         another name (ip netns attach NAME PID)"
    )]
    Character(String, char),
}

/// Why a network namespace could not be entered.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// There is none.
    #[error(
        "there is no network namespace {netns} ({}): make it first (ip netns add NAME), or leave \
         it out (collector.netns, --netns)", path.display()
    )]
    Missing {
        /// As it is called.
        netns: Netns,
        /// Where it was looked for.
        path: PathBuf,
    },
    /// `CAP_SYS_ADMIN` is missing.
    #[error(
        "the kernel lets no process without CAP_SYS_ADMIN enter the network namespace {0}: give \
         it to the unit by the drop-in conntally.service.d/netns.conf \
         (AmbientCapabilities=CAP_SYS_ADMIN) or to the program (setcap \
         cap_net_admin,cap_sys_admin+ep), or leave it out (collector.netns, --netns)"
    )]
    Permission(Netns),
    /// The file is something else.
    #[error(
        "{} is no network namespace: name one as ip netns list shows it, or by the path that it \
         is mounted at", path.display()
    )]
    Other {
        /// The file.
        path: PathBuf,
    },
    /// The file may not be opened, or something else went wrong.
    #[error("cannot enter the network namespace {netns} ({}): {source}", path.display())]
    System {
        /// As it is called.
        netns: Netns,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl NetnsError {
    /// Whether a capability or permission is what is missing.
    #[must_use]
    pub fn is_permission(&self) -> bool {
        match self {
            Self::Permission(_) => true,
            Self::System { source, .. } => source.kind() == io::ErrorKind::PermissionDenied,
            Self::Missing { .. } | Self::Other { .. } => false,
        }
    }
}

/// A network namespace as it is configured: `"blue"`, which ip-netns(8) keeps in
/// `/run/netns`, or the absolute path of a file that it is mounted at.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Netns {
    text: String,
    tag: Arc<str>,
}

impl FromStr for Netns {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        let is_relative = text.contains('/') || matches!(text, "." | "..");
        if is_relative && !text.starts_with('/') {
            return Err(NameError::Relative(text.to_owned()));
        }
        let tag = Path::new(text)
            .file_name()
            .and_then(|name| name.to_str())
            .ok_or_else(|| NameError::NoFile(text.to_owned()))?;
        if let Some(bad) = tag.chars().find(|&c| text::is_washed(c)) {
            return Err(NameError::Character(text.to_owned(), bad));
        }
        Ok(Self {
            tag: tag.into(),
            text: text.to_owned(),
        })
    }
}

impl TryFrom<String> for Netns {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<Netns> for String {
    fn from(netns: Netns) -> Self {
        netns.text
    }
}

impl fmt::Display for Netns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

/// Which namespace it is, as long as it lives: another under the same name is another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    /// That of the calling thread's namespace.
    ///
    /// # Errors
    /// Fails where there is no `/proc`.
    pub fn current() -> io::Result<Self> {
        Ok(Self::of(&fs::metadata(CURRENT)?))
    }

    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }
}

impl Netns {
    /// What its metrics are tagged with: its name, or the last part of its path.
    #[must_use]
    pub const fn tag(&self) -> &Arc<str> {
        &self.tag
    }

    /// Where it may be, the likeliest first.
    pub(crate) fn paths(&self) -> impl Iterator<Item = PathBuf> + use<'_> {
        let is_path = self.text.starts_with('/');
        let directories = DIRECTORIES.iter().map(Path::new);
        is_path
            .then(|| PathBuf::from(&self.text))
            .into_iter()
            .chain(
                directories
                    .filter(move |_| !is_path)
                    .map(|directory| directory.join(&self.text)),
            )
    }

    /// Which namespace is there now; `None` where none is.
    #[must_use]
    pub fn identity(&self) -> Option<Identity> {
        self.paths()
            .find_map(|path| Some(Identity::of(&fs::metadata(path).ok()?)))
    }

    /// Moves the calling thread into it, for good.
    ///
    /// # Errors
    /// Fails where it is missing, or without `CAP_SYS_ADMIN` in the user namespace that
    /// owns it. The thread is then where it was.
    pub fn enter(&self) -> Result<Identity, NetnsError> {
        let (path, file) = self.open()?;
        let kind = Some(LinkNameSpaceType::Network);
        let entered = move_into_link_name_space(file.as_fd(), kind)
            .map_err(io::Error::from)
            .and_then(|()| file.metadata());
        match entered {
            Ok(metadata) => Ok(Identity::of(&metadata)),
            Err(error) => Err(match error.raw_os_error() {
                Some(libc::EPERM) => NetnsError::Permission(self.clone()),
                Some(libc::EINVAL) => NetnsError::Other { path },
                _ => self.failed(path, error),
            }),
        }
    }

    /// Runs something in it, on a thread of its own.
    ///
    /// # Errors
    /// As for [`Netns::enter`]; then nothing was run.
    pub fn within<T: Send>(&self, body: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
        thread::scope(|scope| {
            let inside = thread::Builder::new()
                .spawn_scoped(scope, || {
                    self.enter()?;
                    Ok(body())
                })
                .map_err(|error| self.failed(self.likeliest(), error))?;
            inside
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn open(&self) -> Result<(PathBuf, File), NetnsError> {
        for path in self.paths() {
            // Whatever the file turns out to be, opening it must not wait.
            let opened = OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_NONBLOCK)
                .open(&path);
            match opened {
                Ok(file) => return Ok((path, file)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(self.failed(path, error)),
            }
        }
        Err(NetnsError::Missing {
            netns: self.clone(),
            path: self.likeliest(),
        })
    }

    fn likeliest(&self) -> PathBuf {
        self.paths().next().unwrap_or_default()
    }

    fn failed(&self, path: PathBuf, source: io::Error) -> NetnsError {
        NetnsError::System {
            netns: self.clone(),
            path,
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn netns(text: &str) -> Netns {
        text.parse().unwrap()
    }

    #[test]
    fn a_name_is_looked_for_where_ip_netns_keeps_it_and_a_path_where_it_says() {
        let blue = netns("blue");
        assert_eq!(&**blue.tag(), "blue");
        let paths: Vec<_> = blue.paths().collect();
        assert_eq!(
            paths,
            ["/run/netns/blue", "/var/run/netns/blue"].map(PathBuf::from)
        );
        let path = netns("/run/docker/netns/1a2b3c");
        assert_eq!(&**path.tag(), "1a2b3c");
        let paths: Vec<_> = path.paths().collect();
        assert_eq!(paths, [PathBuf::from("/run/docker/netns/1a2b3c")]);
    }

    #[test]
    fn what_names_no_namespace_is_refused_with_what_would_be_right() {
        for (text, part) in [
            ("", "an empty name"),
            ("net/blue", "absolute path"),
            ("./blue", "absolute path"),
            ("..", "absolute path"),
            ("/", "names no file"),
            ("/run/netns/..", "names no file"),
            ("blue|red", "'|'"),
            ("blue red", "' '"),
            ("/run/netns/a,b", "','"),
        ] {
            let error = text.parse::<Netns>().unwrap_err().to_string();
            assert!(error.contains(part), "{text:?}: {error}");
        }
        // Only the last part is a tag.
        assert_eq!(&**netns("/my namespaces/blue").tag(), "blue");
    }

    #[test]
    fn a_missing_namespace_is_told_with_its_file_and_how_to_make_it() {
        let missing = netns("no-such-namespace");
        assert_eq!(missing.identity(), None);
        let told = missing.within(|| ()).unwrap_err().to_string();
        for part in ["/run/netns/no-such-namespace", "ip netns add"] {
            assert!(told.contains(part), "{told}");
        }
    }

    #[test]
    fn a_file_that_is_no_namespace_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "").unwrap();
        for path in [path.as_path(), directory.path()] {
            let netns = netns(path.to_str().unwrap());
            let told = netns.within(|| ()).unwrap_err().to_string();
            assert!(told.contains("is no network namespace"), "{told}");
            assert!(told.starts_with(path.to_str().unwrap()), "{told}");
        }
    }
}
