//! Settings of a network namespace below /proc/sys, which shows those of whoever reads it.

use std::io;
use std::path::Path;

/// Writes what `sysctl` writes, in the calling thread's namespace: `net/ipv4/ip_forward`.
pub fn set_sysctl(name: &str, value: &str) -> io::Result<()> {
    let path = Path::new("/proc/sys").join(name);
    std::fs::write(&path, value)
        .map_err(|e| io::Error::new(e.kind(), format!("writing {}: {e}", path.display())))
}

/// Settings with which the interfaces that come into the namespace afterwards begin: their IPv6
/// addresses can be used at once, and they say nothing unasked.
pub(crate) const QUIET: [(&str, &str); 4] = [
    ("accept_ra", "0"),
    ("router_solicitations", "0"),
    ("dad_transmits", "0"),
    ("mldv2_unsolicited_report_interval", "10"),
];

/// Makes the calling thread's namespace quiet.
pub fn make_quiet() -> io::Result<()> {
    for (name, value) in QUIET {
        set_sysctl(&format!("net/ipv6/conf/default/{name}"), value)?;
    }
    Ok(())
}
