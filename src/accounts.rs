//! Users and groups by their names, from `/etc/passwd` and `/etc/group`.
//!
//! See `passwd(5)` and `group(5)`. Other sources of names (`nsswitch.conf(5)`) are not asked:
//! a number stands for whatever they would tell.

use std::fs;
use std::io;

use crate::config::Owner;

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

/// Why a name stands for nobody.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// The file can't be read.
    #[error("cannot read {file}: {source}")]
    Unreadable {
        /// Which one.
        file: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// It has no such line.
    #[error("there is no {what} {name:?} in {file}")]
    Unknown {
        /// Of a user or a group.
        what: &'static str,
        /// As it is written.
        name: String,
        /// Where it was looked for.
        file: &'static str,
    },
    /// A number without a line of its own.
    #[error("user {0} has no line in {PASSWD} that tells its group: write \"{0}:group\"")]
    NoGroup(u32),
}

/// Who a process may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The user's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// The further groups that the user is a member of.
    pub groups: Vec<u32>,
}

impl Account {
    /// The user that is named, with the group that is, or else its own.
    ///
    /// # Errors
    /// When either is not known.
    pub fn of(owner: &Owner) -> Result<Self, AccountError> {
        let passwd = read(PASSWD)?;
        let groups = read(GROUP)?;
        Self::found(owner, &passwd, &groups)
    }

    fn found(owner: &Owner, passwd: &str, groups: &str) -> Result<Self, AccountError> {
        let line = passwd.lines().find(|line| {
            let mut columns = line.split(':');
            columns.next() == Some(&*owner.user) || columns.nth(1) == Some(&*owner.user)
        });
        let uid = id(&owner.user, "user", PASSWD, passwd)?;
        let gid = if owner.group.is_empty() {
            let own = line.and_then(|line| line.split(':').nth(3)?.parse().ok());
            own.ok_or(AccountError::NoGroup(uid))?
        } else {
            id(&owner.group, "group", GROUP, groups)?
        };
        let name = line.and_then(|line| line.split(':').next());
        let groups = name.map_or_else(Vec::new, |name| memberships(groups, name));
        Ok(Self { uid, gid, groups })
    }
}

/// The numbers of an owner's user and group; `None` where nobody is named.
///
/// # Errors
/// When either is not known.
pub fn ids(owner: &Owner) -> Result<(Option<u32>, Option<u32>), AccountError> {
    let number = |name: &str, what, file| {
        if name.is_empty() {
            return Ok(None);
        }
        // A number needs no file.
        match name.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => id(name, what, file, &read(file)?).map(Some),
        }
    };
    Ok((
        number(&owner.user, "user", PASSWD)?,
        number(&owner.group, "group", GROUP)?,
    ))
}

fn read(file: &'static str) -> Result<String, AccountError> {
    fs::read_to_string(file).map_err(|source| AccountError::Unreadable { file, source })
}

fn id(
    name: &str,
    what: &'static str,
    file: &'static str,
    table: &str,
) -> Result<u32, AccountError> {
    let unknown = || AccountError::Unknown {
        what,
        name: name.to_owned(),
        file,
    };
    name.parse()
        .ok()
        .or_else(|| find_id(table, name))
        .ok_or_else(unknown)
}

/// The third column of the line that begins with the name.
fn find_id(table: &str, name: &str) -> Option<u32> {
    table.lines().find_map(|line| {
        let mut columns = line.split(':');
        if columns.next() != Some(name) {
            return None;
        }
        columns.nth(1)?.parse().ok()
    })
}

/// The groups whose fourth column names the user.
fn memberships(groups: &str, user: &str) -> Vec<u32> {
    let of_line = |line: &str| {
        let mut columns = line.split(':').skip(2);
        let (gid, members) = (columns.next()?, columns.next()?);
        let is_member = members.split(',').any(|member| member == user);
        is_member.then(|| gid.parse().ok()).flatten()
    };
    groups.lines().filter_map(of_line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const USERS: &str = "root:x:0:0::/root:/bin/sh\nbroken\nweb:x:33:34::/:\n";
    const GROUPS: &str = "root:x:0:\nweb:x:34:\nlogs:x:4:root,web\nold:x:5:webmaster\n";

    #[test]
    fn an_owner_is_a_name_or_a_number_or_left_out() {
        for (text, user, group) in [
            ("", None, None),
            ("root", Some(0), None),
            ("root:root", Some(0), Some(0)),
            (":root", None, Some(0)),
            ("1000:1001", Some(1000), Some(1001)),
        ] {
            assert_eq!(
                ids(&text.parse().unwrap()).unwrap(),
                (user, group),
                "{text}"
            );
        }
        let error = ids(&"root:no-such-group".parse().unwrap()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "there is no group \"no-such-group\" in /etc/group"
        );
    }

    #[test]
    fn an_id_is_the_third_column() {
        assert_eq!(find_id(USERS, "web"), Some(33));
        assert_eq!(find_id(USERS, "broken"), None);
        assert_eq!(find_id(USERS, "we"), None);
    }

    #[test]
    fn an_account_has_the_groups_of_its_user() {
        let found = |text: &str| Account::found(&text.parse().unwrap(), USERS, GROUPS);
        let web = Account {
            uid: 33,
            gid: 34,
            groups: vec![4],
        };
        assert_eq!(found("web").unwrap(), web);
        assert_eq!(found("33").unwrap(), web);
        assert_eq!(found("web:logs").unwrap(), Account { gid: 4, ..web });
        let stranger = found("1000:web").unwrap();
        assert_eq!((stranger.uid, stranger.gid), (1000, 34));
        assert!(stranger.groups.is_empty());
        let error = found("1000").unwrap_err().to_string();
        assert!(error.ends_with("write \"1000:group\""), "{error}");
        let error = found("nobody").unwrap_err().to_string();
        assert_eq!(error, "there is no user \"nobody\" in /etc/passwd");
    }
}
