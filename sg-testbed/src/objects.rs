//! BPF objects of the kernel by their ids: what a test has made, and whether it is gone.
//!
//! As little as possible is opened by its id. The kernel never frees a program array that a process
//! opens by its id while it is being cleared: clearing it a second time takes a reference that
//! nothing gives back (`prog_array_map_clear` in kernel/bpf/arraymap.c).

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use aya::maps::MapData;
use aya::programs::{ProgramInfo, loaded_programs};

/// Kinds of objects. Each has ids of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Link,
    Map,
    Program,
}

impl Kind {
    /// What its id is called in /proc/PID/fdinfo. That of a link names its program as well.
    const BY_FDINFO: [(Kind, &'static str); 3] = [
        (Kind::Link, "link_id:"),
        (Kind::Map, "map_id:"),
        (Kind::Program, "prog_id:"),
    ];

    /// `BPF_…_GET_NEXT_ID` of bpf(2).
    const fn next_id(self) -> libc::c_long {
        match self {
            Kind::Program => 11,
            Kind::Map => 12,
            Kind::Link => 31,
        }
    }
}

/// One object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Object {
    pub kind: Kind,
    pub id: u32,
}

impl Object {
    /// What is pinned at `path`.
    pub fn pinned(path: &Path) -> io::Result<Object> {
        /// The arguments of `BPF_OBJ_GET`.
        #[repr(C)]
        struct Get {
            path: u64,
            descriptor: u32,
            flags: u32,
        }
        const BPF_OBJ_GET: libc::c_long = 7;
        let name = CString::new(path.as_os_str().as_bytes())?;
        let mut arguments = Get {
            path: name.as_ptr() as u64,
            descriptor: 0,
            flags: 0,
        };
        // SAFETY: the arguments have the length that is passed, and the path outlives the call.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                BPF_OBJ_GET,
                &raw mut arguments,
                size_of::<Get>(),
            )
        };
        let descriptor = i32::try_from(result).map_err(io::Error::other)?;
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just returned this descriptor, and nothing else has it.
        let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
        let info = format!("/proc/thread-self/fdinfo/{}", descriptor.as_raw_fd());
        of_fdinfo(&fs::read_to_string(info)?)
            .ok_or_else(|| io::Error::other(format!("{} is no BPF object", path.display())))
    }

    /// Whether the kernel still has it. It is not opened.
    pub fn exists(self) -> bool {
        let before = self.id.checked_sub(1);
        before.is_some_and(|before| next_id(self.kind, before) == Some(self.id))
    }

    /// Describes the object and who holds it, for the message of a test. The object is opened for
    /// it.
    pub fn described(self) -> String {
        let Object { kind, id } = self;
        let map = MapData::from_id(id).ok().filter(|_| kind == Kind::Map);
        let map = map.and_then(|map| map.info().ok());
        let map = map.map(|map| format!("{:?} {:?}", map.map_type().ok(), map.name_as_str()));
        let programs: Vec<String> = loaded_programs()
            .filter_map(Result::ok)
            .filter(|program| match kind {
                Kind::Program => program.id() == id,
                Kind::Map => maps_of(program).contains(&id),
                Kind::Link => false,
            })
            .map(|program| format!("{} {:?}", program.id(), program.name_as_str()))
            .collect();
        let processes: Vec<String> = fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .flatten()
            .filter(|process| self.is_open_in(&process.path()))
            .map(|process| {
                let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
                format!("{} {}", process.file_name().display(), name.trim())
            })
            .collect();
        format!("{kind:?} {id} (map: {map:?}, programs: {programs:?}, processes: {processes:?})")
    }

    /// Whether a process has a descriptor of it.
    fn is_open_in(self, process: &Path) -> bool {
        fs::read_dir(process.join("fdinfo"))
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|descriptor| fs::read_to_string(descriptor.path()).ok())
            .any(|info| of_fdinfo(&info) == Some(self))
    }
}

/// The object of a descriptor, by what /proc/PID/fdinfo says of it.
fn of_fdinfo(text: &str) -> Option<Object> {
    Kind::BY_FDINFO.into_iter().find_map(|(kind, key)| {
        let id = text.lines().find_map(|line| line.strip_prefix(key))?;
        Some(Object {
            kind,
            id: id.trim().parse().ok()?,
        })
    })
}

/// The lowest id of a kind above this one. `None` if there is none, or that cannot be known.
fn next_id(kind: Kind, id: u32) -> Option<u32> {
    // The call reads the first number and writes the next id to the second.
    let mut arguments = [id, 0, 0];
    // SAFETY: the arguments have the length that is passed, and live during the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            kind.next_id(),
            arguments.as_mut_ptr(),
            size_of_val(&arguments),
        )
    };
    (result == 0).then_some(arguments[1])
}

/// All ids of a kind. Nothing is opened.
pub fn ids(kind: Kind) -> BTreeSet<u32> {
    std::iter::successors(next_id(kind, 0), |id| next_id(kind, *id)).collect()
}

fn maps_of(program: &ProgramInfo) -> Vec<u32> {
    program.map_ids().ok().flatten().unwrap_or_default()
}

/// Objects that are to disappear.
#[derive(Clone, Debug, Default)]
pub struct Objects(BTreeSet<Object>);

impl Objects {
    /// What is pinned in a folder and those in it, and these objects; all programs that use one of
    /// the maps, and all maps that one of the programs uses.
    pub fn below(folder: &Path, others: impl IntoIterator<Item = Object>) -> Objects {
        let mut found: BTreeSet<Object> = others.into_iter().collect();
        let mut folders = vec![folder.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                match entry.path().is_dir() {
                    true => folders.push(entry.path()),
                    // Another process may have removed it.
                    false => found.extend(Object::pinned(&entry.path()).ok()),
                }
            }
        }
        let has = |found: &BTreeSet<Object>, kind, id| found.contains(&Object { kind, id });
        for program in loaded_programs().flatten() {
            let (id, maps) = (program.id(), maps_of(&program));
            if has(&found, Kind::Program, id) || maps.iter().any(|id| has(&found, Kind::Map, *id)) {
                let of = |kind| move |id| Object { kind, id };
                found.insert(of(Kind::Program)(id));
                found.extend(maps.into_iter().map(of(Kind::Map)));
            }
        }
        Objects(found)
    }

    /// These and others.
    #[must_use]
    pub fn join(mut self, other: Objects) -> Objects {
        self.0.extend(other.0);
        self
    }

    /// Waits until the kernel has freed them all, which it does some time after the last reference
    /// is gone. Fails with a description of those that are left.
    pub fn wait_until_gone(&self, patience: Duration) -> Result<(), String> {
        let deadline = Instant::now() + patience;
        loop {
            let left: Vec<Object> = self.0.iter().copied().filter(|it| it.exists()).collect();
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                let left: Vec<String> = left.into_iter().map(Object::described).collect();
                return Err(left.join(", "));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_known_by_its_kind_and_id() {
        let of = |kind, id| Some(Object { kind, id });
        for (text, expected) in [
            (
                "pos:\t0\nmap_type:\t3\nmap_id:\t17\nfrozen:\t0\nowner_prog_type:\t6\n",
                of(Kind::Map, 17),
            ),
            (
                "prog_type:\t6\nmemlock:\t4096\nprog_id:\t9\n",
                of(Kind::Program, 9),
            ),
            (
                "link_type:\txdp\nlink_id:\t5\nprog_tag:\t00\nprog_id:\t9\nifindex:\t2\n",
                of(Kind::Link, 5),
            ),
            ("pos:\t0\nflags:\t02\n", None),
        ] {
            assert_eq!(of_fdinfo(text), expected, "{text}");
        }
    }
}
