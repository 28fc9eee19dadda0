//! Who runs a command: the user of the login session, and the user that the process runs as.

use std::fmt;
use std::fs;

use nix::unistd::{Uid, User, getuid};
use serde::{Deserialize, Serialize};

/// Who applied a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Who {
    /// The user who logged in, which the kernel remembers through `sudo` and `su`
    /// (`/proc/self/loginuid`). `None` for what a service or the boot has started.
    pub login: Option<String>,
    /// What `sudo` says of its caller (`SUDO_USER`). A caller could have set it himself.
    pub sudo_user: Option<String>,
    /// The user of the process.
    pub user: String,
    pub uid: u32,
}

/// What `/proc/self/loginuid` holds where nobody has logged in.
const NOBODY: u32 = u32::MAX;

impl Who {
    /// Who runs this process.
    pub fn here() -> Who {
        let uid = getuid();
        let login = fs::read_to_string("/proc/self/loginuid").ok();
        let login = login.and_then(|text| text.trim().parse::<u32>().ok());
        Who {
            login: login
                .filter(|uid| *uid != NOBODY)
                .map(|uid| name_of(Uid::from_raw(uid))),
            sudo_user: std::env::var("SUDO_USER")
                .ok()
                .map(|name| name.chars().filter(|c| !c.is_control()).take(64).collect())
                .filter(|name: &String| !name.is_empty()),
            user: name_of(uid),
            uid: uid.as_raw(),
        }
    }
}

/// The name of a user, or the number of one without a name.
fn name_of(uid: Uid) -> String {
    let user = User::from_uid(uid).ok().flatten();
    user.map_or_else(|| uid.to_string(), |user| user.name)
}

/// `alice as root`, `root`.
impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let person = self.login.as_ref().or(self.sudo_user.as_ref());
        match person {
            Some(person) if *person != self.user => write!(f, "{person} as {}", self.user),
            _ => f.write_str(&self.user),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_person_is_named_before_the_user_of_the_process() {
        let who = |login: Option<&str>, sudo: Option<&str>| Who {
            login: login.map(str::to_owned),
            sudo_user: sudo.map(str::to_owned),
            user: "root".into(),
            uid: 0,
        };
        assert_eq!(who(None, None).to_string(), "root");
        assert_eq!(who(Some("root"), None).to_string(), "root");
        assert_eq!(who(Some("alice"), Some("bob")).to_string(), "alice as root");
        assert_eq!(who(None, Some("bob")).to_string(), "bob as root");
        let here = Who::here();
        assert_eq!(here.uid, getuid().as_raw());
        assert!(!here.user.is_empty());
    }
}
