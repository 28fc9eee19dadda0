//! bpf(2) itself, and what it reports about an object.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use aya_obj::generated::{bpf_attr, bpf_cmd};

pub(super) fn bpf(cmd: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i64> {
    // SAFETY: `attr` is a complete, zero-padded attribute union, and the pointers in it outlive the
    // call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            cmd as libc::c_long,
            std::ptr::from_mut(attr),
            size_of::<bpf_attr>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

pub(super) fn zeroed() -> bpf_attr {
    // SAFETY: the union has integers and pointers as integers, for which zero is valid.
    unsafe { std::mem::zeroed() }
}

/// What the kernel reports about an object.
///
/// # Safety
///
/// `T` must be the structure of plain integers that the kernel fills in for this kind of object.
pub(super) unsafe fn info<T>(object: BorrowedFd<'_>) -> io::Result<T> {
    // SAFETY: the structure has plain integers, for which zero is valid; and see above.
    unsafe { info_into(object, std::mem::zeroed()) }
}

/// As [`info`]. `asked` has the addresses of arrays that the kernel fills in too, and their
/// lengths.
///
/// # Safety
///
/// As for [`info`], and the arrays must be there.
pub(super) unsafe fn info_into<T>(object: BorrowedFd<'_>, mut asked: T) -> io::Result<T> {
    let mut attr = zeroed();
    attr.info.bpf_fd = object.as_raw_fd() as u32;
    attr.info.info_len = size_of::<T>() as u32;
    attr.info.info = &raw mut asked as u64;
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(asked)
}
