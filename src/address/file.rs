//! Which file a path leads to.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// A file by its device and inode. Systems give an inode's number anew once nobody uses
/// the file any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    /// Of what stands at the path itself, be it a link.
    ///
    /// # Errors
    /// When there is nothing, or it may not be looked at.
    pub fn of(path: &Path) -> io::Result<Self> {
        fs::symlink_metadata(path).map(|metadata| Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        })
    }
}

/// A file as it was at one moment: two that stood at one path one after the other differ,
/// and so does one whose mode or owner was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileStamp {
    device: u64,
    inode: u64,
    /// Seconds and nanoseconds.
    changed: (i64, i64),
}

impl FileStamp {
    /// Of the file that the path leads to through links.
    ///
    /// # Errors
    /// As for [`FileId::of`].
    pub fn of(path: &Path) -> io::Result<Self> {
        fs::metadata(path).map(|metadata| Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}
