//! The packet counts that an interface keeps by itself, whatever is attached to it.

use std::fs;
use std::io;

/// How many packets an interface has received and sent since it was created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct NicCounts {
    pub(super) received: u64,
    pub(super) sent: u64,
}

/// Reads the counts of an interface in the calling thread's network namespace.
pub(super) fn read(interface: &str) -> io::Result<NicCounts> {
    // /proc/net is that of the process's first thread, and /sys that of the process that mounted
    // it. Neither need be this thread's namespace.
    let table = fs::read_to_string("/proc/thread-self/net/dev")?;
    parse(&table, interface)
        .ok_or_else(|| io::Error::other(format!("no counts of {interface} in /proc")))
}

fn parse(table: &str, interface: &str) -> Option<NicCounts> {
    let counts = table.lines().find_map(|line| {
        let (name, counts) = line.split_once(':')?;
        (name.trim() == interface).then_some(counts)
    })?;
    let mut columns = counts.split_whitespace().map(|word| word.parse().ok());
    // The columns: bytes and packets, six more for receiving, then bytes and packets sent.
    Some(NicCounts {
        received: columns.nth(1)??,
        sent: columns.nth(7)??,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_and_the_tenth_column_count_packets() {
        let table = "Inter-|   Receive\n face |bytes    packets\n    lo: 1 2 3 4 5 6 7 8 9 10 11\n  \
                     eth0: 100 7 0 0 0 0 0 0 200 9 0 0 0 0 0 0\n";
        let expected = NicCounts {
            received: 7,
            sent: 9,
        };
        assert_eq!(parse(table, "eth0"), Some(expected));
        assert_eq!(parse(table, "eth1"), None);
        assert_eq!(parse("eth0: 1 2 3", "eth0"), None);
    }
}
