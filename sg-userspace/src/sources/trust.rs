//! Whether a policy or set file may decide what passes: nobody else than root and whoever became
//! root may be able to change it, or to put another one in its place (P11).
//!
//! Who is believed: root, the user of the process, and the person who became root, as `sudo` and
//! the kernel's login session name them. That person can apply any policy anyway. Looked at are the
//! file that is open, every directory on the way to it, and symbolic links where others may replace
//! them. A group that may write is believed if nobody else belongs to it, as with the groups of
//! one's own that many distributions give to each user.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{Gid, Group, Uid, User, geteuid};
use sg_policy::policy::Distrust;

use super::MOST_LINKS;
use crate::kernel::has_acl;

const GROUP_WRITES: u32 = 0o020;
const OTHERS_WRITE: u32 = 0o002;
const STICKY: u32 = 0o1000;

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

/// Where a policy is at home.
const HOME: &str = "/etc/sgctl";

/// Before a file counts as root's own: what others have written is in it already.
const LOOK: &str = "read it first, since others may have changed it";

/// What the flag does, for the end of a remedy.
const FLAG: &str = "where whoever can write it is to decide what passes, --trust-files reads it";

/// Says why the file that is open as `file`, and was opened by `path`, is not believed.
///
/// # Errors
/// If others may write it or replace it, or if that cannot be found out.
pub fn believe(path: &Path, file: &File) -> Result<(), Distrust> {
    Trust::here().look(path, file)
}

/// Whose files are believed.
struct Trust {
    users: BTreeSet<u32>,
}

/// A directory that has been looked at.
#[derive(Clone, Copy)]
struct Looked {
    /// Others may make entries in it, and each entry belongs to who made it (sticky).
    has_others: bool,
}

impl Trust {
    fn here() -> Trust {
        let ours = [0, geteuid().as_raw()];
        Trust {
            users: ours.into_iter().chain(person()).collect(),
        }
    }

    fn look(&self, path: &Path, file: &File) -> Result<(), Distrust> {
        let unknown = |e: io::Error| Distrust {
            why: format!("cannot be looked at: {e}"),
            help: format!("check the path and what leads to it; {FLAG}"),
        };
        let found = file.metadata().map_err(unknown)?;
        let place = self.walk(path).map_err(unknown)??;
        let there = fs::symlink_metadata(&place).map_err(unknown)?;
        if (there.dev(), there.ino()) != (found.dev(), found.ino()) {
            return Err(Distrust {
                why: "was replaced while it was looked at".to_owned(),
                help: "run the command again when nobody writes it".to_owned(),
            });
        }
        let shown = place.display();
        if !self.users.contains(&found.uid()) {
            let owner = user(found.uid());
            return Err(Distrust {
                why: format!("belongs to {owner}, who can change it at any time"),
                help: format!("{LOOK}, then `chown root: {shown} && chmod go-w {shown}`; {FLAG}"),
            });
        }
        match self.writers(&place, &found).map_err(unknown)? {
            None => Ok(()),
            Some(who) => Err(Distrust {
                why: format!("can be written by {who}"),
                help: format!("{LOOK}, then `chown root: {shown} && chmod go-w {shown}`; {FLAG}"),
            }),
        }
    }

    /// Who else may write what has this metadata, by its mode.
    fn writers(&self, path: &Path, found: &Metadata) -> io::Result<Option<String>> {
        let mode = found.mode();
        if mode & OTHERS_WRITE != 0 {
            return Ok(Some(format!("everybody (mode {:04o})", mode & 0o7777)));
        }
        if mode & GROUP_WRITES == 0 {
            return Ok(None);
        }
        // The bits of the group are then the most that the list allows to anybody in it.
        if has_acl(path)? {
            return Ok(Some(
                "those in its access control list (getfacl)".to_owned(),
            ));
        }
        let members = members(found.gid());
        let is_ours = members.is_some_and(|members| members.is_subset(&self.users));
        Ok((!is_ours).then(|| format!("{} (mode {:04o})", group(found.gid()), mode & 0o7777)))
    }

    /// The path without symbolic links, if nobody else can change what it leads to.
    fn walk(&self, path: &Path) -> io::Result<Result<PathBuf, Distrust>> {
        let mut todo = parts_of(path);
        let mut at = match path.is_absolute() {
            true => PathBuf::from("/"),
            false => std::env::current_dir()?,
        };
        let mut links = 0;
        // All directories above it, and then those on the way.
        let mut looked = Looked { has_others: false };
        for above in at.ancestors().collect::<Vec<_>>().into_iter().rev() {
            looked = match self.directory(above, &fs::symlink_metadata(above)?)? {
                Ok(looked) => looked,
                Err(distrust) => return Ok(Err(distrust)),
            };
        }
        while let Some(part) = todo.pop() {
            if part == ".." {
                at.pop();
                looked = match self.directory(&at, &fs::symlink_metadata(&at)?)? {
                    Ok(looked) => looked,
                    Err(distrust) => return Ok(Err(distrust)),
                };
                continue;
            }
            let next = at.join(&part);
            let found = fs::symlink_metadata(&next)?;
            if found.is_symlink() {
                links += 1;
                if links > MOST_LINKS {
                    return Err(io::Error::other("too many symbolic links"));
                }
                if looked.has_others && !self.users.contains(&found.uid()) {
                    return Ok(Err(Distrust {
                        why: format!(
                            "is named by the symbolic link {}, which belongs to {}",
                            next.display(),
                            user(found.uid())
                        ),
                        help: format!("name the file itself; {FLAG}"),
                    }));
                }
                let target = fs::read_link(&next)?;
                if target.is_absolute() {
                    at = PathBuf::from("/");
                    looked = match self.directory(&at, &fs::symlink_metadata(&at)?)? {
                        Ok(looked) => looked,
                        Err(distrust) => return Ok(Err(distrust)),
                    };
                }
                todo.extend(parts_of(&target));
            } else if todo.is_empty() {
                return Ok(Ok(next));
            } else {
                looked = match self.directory(&next, &found)? {
                    Ok(looked) => looked,
                    Err(distrust) => return Ok(Err(distrust)),
                };
                at = next;
            }
        }
        Ok(Ok(at))
    }

    /// Whether nobody else can replace what is in a directory.
    fn directory(&self, path: &Path, found: &Metadata) -> io::Result<Result<Looked, Distrust>> {
        let shown = path.display();
        if !self.users.contains(&found.uid()) {
            return Ok(Err(Distrust {
                why: format!(
                    "can be replaced by {}, to whom the directory {shown} belongs",
                    user(found.uid())
                ),
                help: format!(
                    "{LOOK}, then copy it to a directory of root's, such as {HOME}; {FLAG}"
                ),
            }));
        }
        let Some(who) = self.writers(path, found)? else {
            return Ok(Ok(Looked { has_others: false }));
        };
        // In a sticky directory only the owner of an entry can rename or remove it (rename(2)).
        if found.mode() & STICKY != 0 {
            return Ok(Ok(Looked { has_others: true }));
        }
        // A ConfigMap is mounted so, with the directory open to all.
        if statvfs(path)?.flags().contains(FsFlags::ST_RDONLY) {
            return Ok(Ok(Looked { has_others: false }));
        }
        Ok(Err(Distrust {
            why: format!("can be replaced: the directory {shown} can be written by {who}"),
            help: format!(
                "{LOOK}, then `chmod go-w {shown}`, or copy it to a directory of root's, such as {HOME}; {FLAG}"
            ),
        }))
    }
}

/// The parts of a path, the last one first.
fn parts_of(path: &Path) -> Vec<OsString> {
    let parts = path.components().filter_map(|part| match part {
        Component::Normal(_) | Component::ParentDir => Some(part.as_os_str().to_owned()),
        _ => None,
    });
    let mut parts: Vec<OsString> = parts.collect();
    parts.reverse();
    parts
}

/// The person who became root: what `sudo` says of its caller, and whom the kernel remembers as
/// logged in. Whoever could set the former for a process of root's has won already.
fn person() -> Vec<u32> {
    let sudo = std::env::var("SUDO_UID").ok();
    let login = fs::read_to_string("/proc/self/loginuid").ok();
    let number = |text: Option<String>| text?.trim().parse::<u32>().ok();
    [number(sudo), number(login)]
        .into_iter()
        .flatten()
        // Nobody is logged in.
        .filter(|uid| *uid != u32::MAX)
        .collect()
}

/// All users of a group, as far as the files of the machine name them. `None` for a group that they
/// do not have, so that nothing is known of it.
fn members(gid: u32) -> Option<BTreeSet<u32>> {
    let (passwd, group) = (
        fs::read_to_string(PASSWD).ok()?,
        fs::read_to_string(GROUP).ok()?,
    );
    members_in(&passwd, &group, gid)
}

fn members_in(passwd: &str, group: &str, gid: u32) -> Option<BTreeSet<u32>> {
    // NAME:PASSWORD:UID:GID:…, and NAME:PASSWORD:GID:MEMBER,MEMBER (passwd(5), group(5)).
    let users: Vec<(&str, u32, u32)> = passwd
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(':');
            let (name, _) = (fields.next()?, fields.next()?);
            Some((
                name,
                fields.next()?.parse().ok()?,
                fields.next()?.parse().ok()?,
            ))
        })
        .collect();
    let mut found: BTreeSet<u32> = users
        .iter()
        .filter(|(_, _, primary)| *primary == gid)
        .map(|(_, uid, _)| *uid)
        .collect();
    let mut is_there = false;
    for line in group.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        let [_, _, number, members] = fields[..] else {
            continue;
        };
        if number.parse() != Ok(gid) {
            continue;
        }
        is_there = true;
        for member in members.split(',').filter(|member| !member.is_empty()) {
            let user = users.iter().find(|(name, ..)| *name == member.trim());
            found.insert(user?.1);
        }
    }
    is_there.then_some(found)
}

/// The name of a user for a message.
fn user(uid: u32) -> String {
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    match user {
        Some(user) => format!("the user {}", user.name),
        None => format!("the user with the number {uid}"),
    }
}

fn group(gid: u32) -> String {
    let group = Group::from_gid(Gid::from_raw(gid)).ok().flatten();
    match group {
        Some(group) => format!("the group {}", group.name),
        None => format!("the group with the number {gid}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

    /// A user whom nobody believes, and one who is believed.
    const OTHER: u32 = 65_533;
    const PERSON: u32 = 65_532;

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn why(path: &Path) -> Option<String> {
        let trust = Trust {
            users: [0, geteuid().as_raw(), PERSON].into_iter().collect(),
        };
        let looked = trust.look(path, &File::open(path).unwrap());
        looked.err().map(|Distrust { why, help }| {
            assert!(
                help.contains("--trust-files") || help.contains("again"),
                "{help}"
            );
            why
        })
    }

    #[track_caller]
    fn refuses(path: &Path, says: &str) {
        let why = why(path).unwrap_or_else(|| panic!("believed, and not `{says}`"));
        assert!(why.contains(says), "{why}");
    }

    /// Proves P11.
    #[test]
    fn a_file_is_believed_if_nobody_else_can_write_or_replace_it() {
        sg_testbed::require_root();
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        mode(&root, 0o755);
        let inner = root.join("inner");
        fs::create_dir(&inner).unwrap();
        mode(&inner, 0o755);
        let file = inner.join("policy.yaml");
        fs::write(&file, "inbound: []\n").unwrap();
        mode(&file, 0o644);
        assert_eq!(why(&file), None);

        // The file itself.
        mode(&file, 0o666);
        refuses(&file, "written by everybody (mode 0666)");
        mode(&file, 0o664);
        chown(&file, Some(0), Some(OTHER)).unwrap();
        refuses(
            &file,
            "written by the group with the number 65533 (mode 0664)",
        );
        mode(&file, 0o644);
        assert_eq!(why(&file), None);
        chown(&file, Some(OTHER), Some(0)).unwrap();
        refuses(&file, "belongs to the user with the number 65533");
        chown(&file, Some(PERSON), Some(0)).unwrap();
        assert_eq!(why(&file), None);
        chown(&file, Some(0), Some(0)).unwrap();

        // Directories on the way, the nearest and one above it.
        for above in [&inner, &root] {
            mode(above, 0o777);
            refuses(
                &file,
                &format!("the directory {} can be written", above.display()),
            );
            mode(above, 0o1777);
            assert_eq!(why(&file), None, "sticky");
            mode(above, 0o755);
            chown(above, Some(OTHER), None).unwrap();
            refuses(
                &file,
                &format!("to whom the directory {} belongs", above.display()),
            );
            chown(above, Some(0), None).unwrap();
        }
        assert_eq!(why(&file), None);
    }

    /// Proves P11.
    #[test]
    fn links_are_followed_as_the_kernel_follows_them() {
        sg_testbed::require_root();
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        mode(&root, 0o755);
        let make = |name: &str| {
            let path = root.join(name);
            fs::create_dir(&path).unwrap();
            mode(&path, 0o755);
            path
        };
        let (good, open, shared) = (make("good"), make("open"), make("shared"));
        let file = good.join("policy.yaml");
        fs::write(&file, "inbound: []\n").unwrap();
        // What a ConfigMap looks like: links in links.
        symlink("good", root.join("data")).unwrap();
        symlink("../data/policy.yaml", open.join("policy.yaml")).unwrap();
        let named = open.join("policy.yaml");
        assert_eq!(why(&named), None);
        mode(&open, 0o777);
        refuses(&named, "can be replaced: the directory");
        // In a directory that all may write to, a link is whose it is.
        mode(&shared, 0o1777);
        let link = shared.join("link");
        symlink(&file, &link).unwrap();
        assert_eq!(why(&link), None);
        std::os::unix::fs::lchown(&link, Some(OTHER), None).unwrap();
        refuses(&link, "is named by the symbolic link");
        // The target counts too.
        std::os::unix::fs::lchown(&link, Some(0), None).unwrap();
        mode(&good, 0o777);
        refuses(&link, "can be replaced: the directory");
    }

    #[test]
    fn a_group_is_all_who_are_in_it() {
        let passwd = "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/:/bin/sh\nbob:x:1001:50::/:\n\
                      broken\neve:x:1002:1000::/:/bin/sh\n";
        let group = "root:x:0:\nann:x:1000:\nstaff:x:50:ann\nempty:x:60:\nlost:x:70:nobody-known\n";
        let of = |gid| members_in(passwd, group, gid);
        let users = |users: &[u32]| Some(users.iter().copied().collect::<BTreeSet<u32>>());
        assert_eq!(of(0), users(&[0]));
        assert_eq!(of(1000), users(&[1000, 1002]), "by their primary group");
        assert_eq!(of(50), users(&[1000, 1001]));
        assert_eq!(of(60), users(&[]));
        assert_eq!(of(70), None, "a member of whom nothing is known");
        assert_eq!(of(99), None, "a group of which nothing is known");
    }

    /// With a list of its own a file may be open to somebody whom neither owner nor group shows.
    ///
    /// Proves P11.
    #[test]
    fn a_list_of_access_is_seen() {
        sg_testbed::require_root();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("policy.yaml");
        fs::write(&file, "inbound: []\n").unwrap();
        assert!(!has_acl(&file).unwrap());
        // user::rw-, user:65533:rw-, group::r--, mask::rw-, other::r-- (acl(5), version 2).
        let mut list = 2u32.to_le_bytes().to_vec();
        for (tag, permissions, id) in [
            (0x01u16, 6u16, u32::MAX),
            (0x02, 6, OTHER),
            (0x04, 4, u32::MAX),
            (0x10, 6, u32::MAX),
            (0x20, 4, u32::MAX),
        ] {
            list.extend(tag.to_le_bytes());
            list.extend(permissions.to_le_bytes());
            list.extend(id.to_le_bytes());
        }
        crate::kernel::set_acl(&file, &list).expect("the file system has access control lists");
        assert!(has_acl(&file).unwrap());
        refuses(&file, "access control list");
    }
}
