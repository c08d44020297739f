//! The name of a bound socket in the file system: whether it is still there, and whose it
//! is, as long as the socket is.
//!
//! A file that is gone is made anew, with a new socket behind it: a bound one cannot be given
//! another name. The old one may still be found, by a mount of the file in a container or by
//! who moved it, and goes on too. What somebody else has put at the path is left alone.

use std::fs;
use std::future::pending;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::Place;
use crate::address::FileId;
use crate::listen::ListenError;

/// How often it is looked whether the file is still there, and tried to make it anew.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Why a file is not made anew that a `.socket` unit has.
const SYSTEMD_MAKES_IT: &str =
    "systemd made it, and makes it anew when its .socket unit is restarted";

/// Sockets of one name at most: the one that its file leads to, and those before it.
pub(crate) const MOST_SOCKETS: usize = 4;

/// The name of a socket in the file system, taken away when this is dropped if it
/// is still ours.
#[derive(Debug)]
pub(crate) struct SocketFile {
    place: Place,
    /// Another than the place's while the file is put there.
    path: PathBuf,
    maker: Maker,
    /// Of each socket, the newest last. As long as a socket is open, nobody else has its.
    identities: Vec<FileId>,
    standing: Standing,
    looks: Interval,
}

/// Who made the file, and may make it anew and take it away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Maker {
    We,
    /// For a `.socket` unit.
    Systemd,
}

/// What stands where our file should.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Standing {
    Ours,
    /// Nothing, and why it stays so.
    Nothing(String),
    Other(&'static str),
}

/// What has become of the file.
#[derive(Debug)]
pub(crate) enum Change<T> {
    /// It was gone, and leads to this socket now.
    Made(T),
    /// Nobody comes by it any more.
    Lost,
    /// It is there again.
    Back,
}

/// Waits for [`SocketFile::changed`], for ever where there is no file.
pub(crate) async fn changed<T, F>(
    file: &mut Option<SocketFile>,
    bind: impl Fn(Place) -> F,
) -> Change<T>
where
    F: Future<Output = Result<(T, SocketFile), ListenError>>,
{
    match file {
        Some(file) => file.changed(bind).await,
        None => pending().await,
    }
}

impl Standing {
    fn tell(&self, path: &Path) {
        let path = path.display();
        match self {
            Self::Ours => tracing::info!(%path, "the socket file is back"),
            Self::Nothing(why) => tracing::warn!(
                %path, why,
                "the socket file was removed: who is connected stays, but nobody else can connect"
            ),
            Self::Other(what) => tracing::warn!(
                %path, what,
                "the socket file is not ours any more: left alone; who is connected stays, \
                 but nobody else comes to us until it is taken away"
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
    /// Of a socket that has just been bound to `path`, to be put at this place.
    pub(super) fn of(place: Place, path: &Path) -> io::Result<Self> {
        let identity = FileId::of(path)?;
        let mut file = Self::new(place, Maker::We, vec![identity]);
        path.clone_into(&mut file.path);
        Ok(file)
    }

    /// Of a socket that another process of ours bound, and of those before it; of systemd's,
    /// which we know nothing of, where `newest` is none.
    pub(in crate::listen) fn left(
        place: Place,
        newest: Option<FileId>,
        mut older: Vec<FileId>,
    ) -> Self {
        if let Some(newest) = newest {
            older.push(newest);
            return Self::new(place, Maker::We, older);
        }
        let identity = FileId::of(&place.path);
        Self::new(place, Maker::Systemd, identity.into_iter().collect())
    }

    fn new(place: Place, maker: Maker, identities: Vec<FileId>) -> Self {
        let mut looks = interval_at(Instant::now() + LOOK_INTERVAL, LOOK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            path: place.path.clone(),
            place,
            maker,
            identities,
            standing: Standing::Ours,
            looks,
        }
    }

    /// Leaves the file where it is, to the process that takes our place: the identities of
    /// its sockets, the newest last. Of what is systemd's there is nothing to leave.
    pub(in crate::listen) fn leave(mut self) -> Vec<FileId> {
        self.disown()
    }

    /// What is ours of it, which is not taken away any more.
    fn disown(&mut self) -> Vec<FileId> {
        let identities = std::mem::take(&mut self.identities);
        match self.maker {
            Maker::We => identities,
            Maker::Systemd => Vec::new(),
        }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
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

    /// Waits until something has become of the file, which is told in the log; makes it anew
    /// by `bind` where it is gone. Whoever takes a socket of [`Change::Made`] has no more than
    /// [`MOST_SOCKETS`] of them, and closes the oldest beyond that. May be dropped while it
    /// waits.
    pub(crate) async fn changed<T, F>(&mut self, bind: impl Fn(Place) -> F) -> Change<T>
    where
        F: Future<Output = Result<(T, Self), ListenError>>,
    {
        loop {
            self.looks.tick().await;
            let standing = match (self.look(), self.maker) {
                (Some(standing), _) => standing,
                (None, Maker::Systemd) => Standing::Nothing(SYSTEMD_MAKES_IT.to_owned()),
                (None, Maker::We) => match bind(self.place.clone()).await {
                    Ok((socket, file)) => {
                        self.take(file);
                        return Change::Made(socket);
                    }
                    Err(error) => Standing::Nothing(format!("trying again: {error}")),
                },
            };
            let (was, is) = (self.standing == Standing::Ours, standing == Standing::Ours);
            if self.note(standing) && was != is {
                return if is { Change::Back } else { Change::Lost };
            }
        }
    }

    /// The sockets before the newest are closed.
    pub(crate) fn keep_newest(&mut self) {
        self.keep(1);
    }

    fn keep(&mut self, most: usize) {
        let surplus = self.identities.len().saturating_sub(most);
        self.identities.drain(..surplus);
    }

    /// What stands there, if anything does.
    fn look(&self) -> Option<Standing> {
        match FileId::of(&self.path) {
            Ok(there) if self.identities.contains(&there) => Some(Standing::Ours),
            Ok(_) => Some(Standing::Other(kind_of(&self.path))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(_) => Some(Standing::Other("something that cannot be looked at")),
        }
    }

    /// Tells it, if it is news.
    fn note(&mut self, standing: Standing) -> bool {
        let is_news = self.standing != standing;
        if is_news {
            self.standing = standing;
            self.standing.tell(&self.path);
        }
        is_news
    }

    /// Goes on as this one, which was made anew.
    fn take(&mut self, mut anew: Self) {
        self.identities.append(&mut anew.disown());
        self.keep(MOST_SOCKETS);
        self.standing = Standing::Ours;
        tracing::warn!(
            path = %self.path.display(),
            "the socket file was removed: made anew; who is connected stays"
        );
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.maker == Maker::Systemd || self.identities.is_empty() {
            return;
        }
        match self.look() {
            Some(Standing::Ours) => {
                if let Err(error) = fs::remove_file(&self.path) {
                    tracing::warn!(path = %self.path.display(), %error, "the socket file stays behind");
                }
            }
            Some(other) => drop(self.note(other)),
            None => {}
        }
    }
}
