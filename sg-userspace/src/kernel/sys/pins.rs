//! Pins: making one, and opening what is pinned, also for reading only, which works on a read-only
//! mount and without capabilities.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use aya::pin::PinError;
use aya_obj::generated::bpf_cmd;

use super::call::{bpf, zeroed};

/// The kernel's own error in one of aya's.
pub(in crate::kernel) fn pin_error(error: PinError) -> io::Error {
    match error {
        PinError::SyscallError(error) => error.io_error,
        other => io::Error::other(other),
    }
}

/// Pins `object` at `path`, where nothing may exist.
pub(in crate::kernel) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = zeroed();
    // SAFETY: plain fields of the union's pin view are written.
    let view = unsafe { &mut attr.__bindgen_anon_4 };
    view.pathname = path.as_ptr() as u64;
    view.bpf_fd = object.as_raw_fd() as u32;
    bpf(bpf_cmd::BPF_OBJ_PIN, &mut attr).map(drop)
}

/// Opens what is pinned at `path`.
pub(in crate::kernel) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    open_pin_with(path, 0)
}

/// Opens the map or program pinned at `path` for reading only. That takes only the right to read
/// the pin, and works on a read-only file system. Links cannot be opened in this way.
pub(in crate::kernel) fn open_pin_to_read(path: &Path) -> io::Result<OwnedFd> {
    open_pin_with(path, aya_obj::generated::BPF_F_RDONLY)
}

fn open_pin_with(path: &Path, flags: u32) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = zeroed();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    attr.__bindgen_anon_4.file_flags = flags;
    let fd = bpf(bpf_cmd::BPF_OBJ_GET, &mut attr)?;
    // SAFETY: the kernel has just returned this descriptor, and nothing else uses it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
