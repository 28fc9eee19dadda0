//! The BPF links of the two hooks: creating, updating, detaching, pinning and reading them. A link
//! counts as missing only if the kernel says that the pin does not exist. Any other error is
//! returned.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use sg_common::verdict::Direction;

use super::error::KernelError;
use super::faults::step;
use super::link_kind::{Kind, Link};
use super::sys;

/// An open link, with what the kernel reports about it.
pub(super) struct OpenLink {
    pub(super) fd: OwnedFd,
    pub(super) info: Link,
}

/// Opens the link pinned at `path`. `None` if nothing is pinned there.
pub(super) fn open(path: &Path) -> Result<Option<OpenLink>, KernelError> {
    let failed = |e| KernelError::io(format!("opening the link pinned at {}", path.display()), e);
    let fd = match sys::open_pin(path) {
        Ok(fd) => fd,
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
        // The kernel opens links for writing only.
        Err(e) if e.raw_os_error() == Some(libc::EROFS) => {
            return Err(KernelError::ReadOnly {
                path: path.to_owned(),
            });
        }
        Err(e) => return Err(failed(e)),
    };
    let info = sys::link_info(fd.as_fd()).map_err(failed)?;
    Ok(Some(OpenLink { fd, info }))
}

/// What the kernel reports about the link pinned at `path`.
pub(super) fn info(path: &Path) -> Result<Option<Link>, KernelError> {
    Ok(open(path)?.map(|link| link.info))
}

/// Attaches `program` to the interface. The link ends with its descriptor, unless it is pinned.
pub(super) fn create(kind: Kind, program: BorrowedFd<'_>, ifindex: u32) -> io::Result<OwnedFd> {
    let name = || format!("making the {} link", kind.direction().name());
    step(name, || sys::link_create(kind, program, ifindex))
}

/// Makes a link run `program` from now on.
pub(super) fn update(
    link: BorrowedFd<'_>,
    direction: Direction,
    program: BorrowedFd<'_>,
) -> io::Result<()> {
    let name = || format!("updating the {} link", direction.name());
    step(name, || sys::link_update(link, program))
}

/// Detaches a link from its interface at once, even if other processes have it open. A severed link
/// stays severed.
pub(super) fn detach(link: BorrowedFd<'_>, direction: Direction) -> io::Result<()> {
    let name = || format!("detaching the {} link", direction.name());
    step(name, || sys::link_detach(link))
}

/// Pins a link at `path`, where nothing may be pinned.
pub(super) fn pin(link: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    step(
        || format!("pinning {}", name_of(path)),
        || sys::pin(link, path),
    )
}

/// Renames a pin, replacing what is pinned at `to`, if anything is.
pub(super) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    step(
        || format!("renaming {}", name_of(from)),
        || fs::rename(from, to),
    )
}

/// Removes a pin. It is a success if there is none.
pub(super) fn unpin(path: &Path) -> io::Result<()> {
    let remove = || match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    };
    step(|| format!("unpinning {}", name_of(path)), remove)
}

/// The last part of a path, for the name of a step.
pub(super) fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.into_owned()
}
