//! Entering something into a map whose entries the kernel allocates one by one: it does not wait for
//! memory to be reclaimed then, and fails where that is all that is missing.

use std::io;
use std::thread::sleep;
use std::time::Duration;

use aya::maps::MapError;

use super::sys;

/// Takes about two seconds in all before it is given up.
const ATTEMPTS: u32 = 10;
const FIRST_PAUSE: Duration = Duration::from_millis(2);

/// Room for many entries at a time, and little beside what a policy takes anyway.
const ROOM: usize = 2 << 20;

/// Runs `insert`, and again for as long as the kernel has no memory for it, up to a limit. In a
/// memory cgroup that is full of page cache, as a container's often is, nothing else helps.
pub(super) fn with_room(insert: impl FnMut() -> Result<(), MapError>) -> Result<(), MapError> {
    retry(insert, |attempt| {
        sys::reclaim(ROOM);
        sleep(FIRST_PAUSE * 2u32.pow(attempt));
    })
}

fn retry(
    mut insert: impl FnMut() -> Result<(), MapError>,
    mut make_room: impl FnMut(u32),
) -> Result<(), MapError> {
    for attempt in 0..ATTEMPTS - 1 {
        match insert() {
            Err(error) if is_out_of_memory(&error) => make_room(attempt),
            other => return other,
        }
    }
    insert()
}

fn is_out_of_memory(error: &MapError) -> bool {
    let MapError::SyscallError(call) = error else {
        return false;
    };
    call.io_error.kind() == io::ErrorKind::OutOfMemory
}

#[cfg(test)]
mod tests {
    use aya::sys::SyscallError;

    use super::*;

    fn failure(number: i32) -> MapError {
        MapError::SyscallError(SyscallError {
            call: "bpf_map_update_elem",
            io_error: io::Error::from_raw_os_error(number),
        })
    }

    /// Inserts that fail `failures` times with the error `number`: whether it succeeded in the end,
    /// after how many calls, and how often room was made.
    fn run(failures: u32, number: i32) -> (bool, u32, Vec<u32>) {
        let (mut calls, mut made) = (0, Vec::new());
        let insert = || {
            calls += 1;
            match calls > failures {
                true => Ok(()),
                false => Err(failure(number)),
            }
        };
        let result = retry(insert, |attempt| made.push(attempt));
        (result.is_ok(), calls, made)
    }

    #[test]
    fn only_a_lack_of_memory_is_waited_out_and_not_for_ever() {
        assert_eq!(run(0, libc::ENOMEM), (true, 1, vec![]));
        assert_eq!(run(2, libc::ENOMEM), (true, 3, vec![0, 1]));
        let all: Vec<u32> = (0..ATTEMPTS - 1).collect();
        assert_eq!(
            run(ATTEMPTS - 1, libc::ENOMEM),
            (true, ATTEMPTS, all.clone())
        );
        assert_eq!(run(u32::MAX, libc::ENOMEM), (false, ATTEMPTS, all));
        assert_eq!(run(1, libc::ENOSPC), (false, 1, vec![]));
        assert_eq!(run(1, libc::EPERM), (false, 1, vec![]));
    }
}
