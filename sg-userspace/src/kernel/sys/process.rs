//! What is not bpf(2): descriptors, leases and access control lists of files, random numbers, and
//! the cookie of a network namespace.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Numbers that nobody can guess.
pub(in crate::kernel) fn random<const N: usize>() -> io::Result<[u64; N]> {
    let mut words = [0; N];
    for word in &mut words {
        *word = getrandom::u64()?;
    }
    Ok(words)
}

/// Makes the number `descriptor` refer to what `other` refers to. Its owner stays the same.
pub(in crate::kernel) fn redirect(
    descriptor: BorrowedFd<'_>,
    other: BorrowedFd<'_>,
) -> io::Result<()> {
    let (from, to) = (other.as_raw_fd(), descriptor.as_raw_fd());
    // SAFETY: both are open. `descriptor` stays open and keeps its owner.
    let result = unsafe { libc::dup3(from, to, libc::O_CLOEXEC) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Whether a process has the file open for writing: only if none has, the kernel grants a read
/// lease (fcntl(2)). Fails if the file system has no leases, or the file belongs to another user.
///
/// While the lease is held, a process that opens the file for writing has to wait, and this process
/// gets a SIGIO, for which it must have a handler.
pub(crate) fn is_open_for_writing(file: BorrowedFd<'_>) -> io::Result<bool> {
    let lease = |kind: libc::c_int| {
        // SAFETY: no pointers, and the descriptor is open.
        let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind) };
        match result {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    match lease(libc::F_RDLCK) {
        Ok(()) => lease(libc::F_UNLCK).map(|()| false),
        Err(e) if e.raw_os_error() == Some(libc::EAGAIN) => Ok(true),
        Err(e) => Err(e),
    }
}

/// Where the kernel keeps the access control list of a file (acl(5)).
const ACL: &std::ffi::CStr = c"system.posix_acl_access";

/// Whether the file at `path` has an access control list beside its mode.
pub(crate) fn has_acl(path: &Path) -> io::Result<bool> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: both names end with a NUL, and nothing is written: the length of the buffer is zero.
    let length = unsafe { libc::getxattr(path.as_ptr(), ACL.as_ptr(), std::ptr::null_mut(), 0) };
    if length >= 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        // There is none, or the file system has none.
        Some(libc::ENODATA | libc::EOPNOTSUPP) => Ok(false),
        _ => Err(error),
    }
}

/// Gives a file an access control list, in the kernel's form.
#[cfg(test)]
pub(crate) fn set_acl(path: &Path, list: &[u8]) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: both names end with a NUL, and the list is as long as is said.
    let result = unsafe {
        libc::setxattr(
            path.as_ptr(),
            ACL.as_ptr(),
            list.as_ptr().cast(),
            list.len(),
            0,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The cookie of the current network namespace, unique until the machine is restarted
/// (`SO_NETNS_COOKIE`, include/uapi/asm-generic/socket.h; Linux 5.14).
pub(in crate::kernel) fn netns_cookie() -> io::Result<u64> {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0")
        .map(OwnedFd::from)
        .or_else(|_| {
            // If loopback is down, nothing can be bound. An unbound socket also has the cookie.
            // SAFETY: no pointers; the result is checked.
            let fd =
                unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            // SAFETY: the kernel has just returned this descriptor, and nothing else uses it.
            Ok(unsafe { OwnedFd::from_raw_fd(fd) })
        })?;
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let mut cookie = 0u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: `cookie` and `len` are valid for writes of the sizes that are passed.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(cookie)
}
