//! The name of a bound socket in the file system: whether it is still there, and whose it
//! is, as long as the socket is.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags};
use tokio::task::AbortHandle;
use tokio::time::{MissedTickBehavior, interval};

use crate::address::FileId;

/// How often it is looked whether the file is still there.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// The name of a socket in the file system, taken away when this is dropped if it
/// is still ours.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    identity: FileId,
    watch: Option<Watch>,
}

/// A task that tells when the file is not what it was.
#[derive(Debug)]
struct Watch {
    task: AbortHandle,
    told: Arc<Mutex<Standing>>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What stands where our file should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Ours,
    Nothing,
    Other(&'static str),
}

impl Standing {
    fn of(path: &Path, identity: FileId) -> Self {
        match FileId::of(path) {
            Ok(there) if there == identity => Self::Ours,
            Ok(_) => Self::Other(kind_of(path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::Nothing,
            Err(_) => Self::Other("something that cannot be looked at"),
        }
    }

    fn tell(self, path: &Path) {
        let path = path.display();
        match self {
            Self::Ours => tracing::info!(%path, "the socket file is back"),
            Self::Nothing => tracing::warn!(
                %path,
                "the socket file was removed: who is connected stays, but nobody else can \
                 connect; restart conntally to have it again"
            ),
            Self::Other(what) => tracing::warn!(
                %path, what,
                "the socket file is not ours any more: left alone; who is connected stays, \
                 but nobody else comes to us"
            ),
        }
    }
}

fn kind_of(path: &Path) -> &'static str {
    match fs::symlink_metadata(path).map(|found| found.file_type()) {
        Ok(kind) if kind.is_socket() => "another socket",
        Ok(kind) if kind.is_dir() => "a directory",
        Ok(kind) if kind.is_symlink() => "a link",
        Ok(kind) if kind.is_file() => "a file",
        _ => "something else",
    }
}

impl SocketFile {
    /// Of a socket that has just been bound to this path.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        Ok(Self {
            identity: FileId::of(path)?,
            path: path.to_owned(),
            watch: None,
        })
    }

    /// Of a socket that another process bound. Must be called within a runtime.
    pub(in crate::listen) fn inherited(path: &Path, identity: FileId) -> Self {
        let file = Self {
            identity,
            path: path.to_owned(),
            watch: None,
        };
        file.watched()
    }

    /// Leaves the file where it is, to the process that takes our place.
    pub(in crate::listen) fn leave(mut self) -> FileId {
        drop((self.watch.take(), std::mem::take(&mut self.path)));
        let identity = self.identity;
        // What is left of it has nothing to free.
        std::mem::forget(self);
        identity
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Changes names with what stands at `path`, in one step; returns the name that this
    /// has now.
    ///
    /// # Errors
    /// Where the file system cannot, or nothing stands there.
    pub(super) fn exchange(&mut self, path: PathBuf) -> io::Result<PathBuf> {
        rustix::fs::renameat_with(CWD, &self.path, CWD, &path, RenameFlags::EXCHANGE)?;
        Ok(std::mem::replace(&mut self.path, path))
    }

    /// Takes a name from whatever has it.
    pub(super) fn rename(&mut self, path: &Path) -> io::Result<()> {
        fs::rename(&self.path, path)?;
        path.clone_into(&mut self.path);
        Ok(())
    }

    /// The same, telling in the log, once, when the file is removed or replaced. Must be
    /// called within a runtime.
    pub(super) fn watched(mut self) -> Self {
        let told = Arc::new(Mutex::new(Standing::Ours));
        let task = tokio::spawn(watch(self.path.clone(), self.identity, Arc::clone(&told)));
        self.watch = Some(Watch {
            task: task.abort_handle(),
            told,
        });
        self
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let standing = Standing::of(&self.path, self.identity);
        if standing == Standing::Ours {
            if let Err(error) = fs::remove_file(&self.path) {
                tracing::warn!(path = %self.path.display(), %error, "the socket file stays behind");
            }
        } else if let Some(watch) = &self.watch
            && standing != Standing::Nothing
        {
            tell_once(&watch.told, standing, &self.path);
        }
    }
}

async fn watch(path: PathBuf, identity: FileId, told: Arc<Mutex<Standing>>) {
    let mut looks = interval(LOOK_INTERVAL);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        tell_once(&told, Standing::of(&path, identity), &path);
    }
}

fn tell_once(told: &Mutex<Standing>, standing: Standing, path: &Path) {
    let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
    if *told != standing {
        *told = standing;
        standing.tell(path);
    }
}
