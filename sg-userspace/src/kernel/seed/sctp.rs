//! Reads the host's SCTP associations as flows. They are in /proc, where the kernel lists them
//! without an additional module. An association has several addresses at each end, and each pair of
//! them is one flow.

use std::collections::HashSet;
use std::net::IpAddr;
use std::{fs, io};

use sg_common::flow::Timeout;
use sg_common::protocol::IPPROTO_SCTP;
use sg_common::verdict::Direction;

use super::existing::{Existing, Key};

// The files of the calling thread's network namespace, written by net/sctp/proc.c.
const ASSOCIATIONS: &str = "/proc/thread-self/net/sctp/assocs";
const ENDPOINTS: &str = "/proc/thread-self/net/sctp/eps";
/// Lists all protocols that have sockets.
const PROTOCOLS: &str = "/proc/thread-self/net/protocols";

/// States of an association (`enum sctp_state` in include/net/sctp/constants.h).
const COOKIE_WAIT: u8 = 1;
const SHUTDOWN_ACK_SENT: u8 = 7;

/// `SCTP_SS_LISTENING` (include/net/sctp/constants.h), the same as TCP_LISTEN.
const LISTENING: &str = "10";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Association {
    state: u8,
    ports: [u16; 2],
    local: Vec<IpAddr>,
    remote: Vec<IpAddr>,
}

/// The associations of the current network namespace, and the ports with a listener. Empty if the
/// kernel has no SCTP. An error if it has and does not list them.
pub(super) fn list() -> io::Result<(Vec<Association>, HashSet<u16>)> {
    let read = || -> io::Result<(String, String)> {
        Ok((
            fs::read_to_string(ASSOCIATIONS)?,
            fs::read_to_string(ENDPOINTS)?,
        ))
    };
    match read() {
        Ok((associations, endpoints)) => Ok((
            associations.lines().filter_map(association).collect(),
            endpoints.lines().filter_map(served).collect(),
        )),
        Err(e) if e.kind() == io::ErrorKind::NotFound && !kernel_has_sctp()? => {
            Ok(Default::default())
        }
        Err(e) => Err(e),
    }
}

fn kernel_has_sctp() -> io::Result<bool> {
    let protocols = fs::read_to_string(PROTOCOLS)?;
    Ok(protocols.lines().any(|line| line.starts_with("SCTP")))
}

/// Parses a line of the associations. `None` for the line with the names of the columns.
pub(super) fn association(line: &str) -> Option<Association> {
    // ASSOC SOCK STY SST ST HBKT ASSOC-ID TX_QUEUE RX_QUEUE UID INODE LPORT RPORT LADDRS <->
    // RADDRS …
    let mut words = line.split_ascii_whitespace().skip(4);
    let state = words.next()?.parse().ok()?;
    let mut words = words.skip(6);
    let ports = [words.next()?.parse().ok()?, words.next()?.parse().ok()?];
    // The primary address has an asterisk.
    let address = |word: &str| -> Option<IpAddr> { word.trim_start_matches('*').parse().ok() };
    let local = words.by_ref().take_while(|word| *word != "<->");
    let local: Vec<IpAddr> = local.filter_map(address).collect();
    let remote: Vec<IpAddr> = words.map_while(address).collect();
    Some(Association {
        state,
        ports,
        local,
        remote,
    })
}

/// Parses a line of the endpoints. Returns the port if the endpoint listens.
pub(super) fn served(line: &str) -> Option<u16> {
    // ENDPT SOCK STY SST HBKT LPORT UID INODE LADDRS
    let mut words = line.split_ascii_whitespace().skip(3);
    let state = words.next()?;
    let port = words.nth(1)?.parse().ok()?;
    (state == LISTENING).then_some(port)
}

/// The flows of associations that were opened and not closed. `own` are the host's addresses.
pub(super) fn flows(
    associations: &[Association],
    served: &HashSet<u16>,
    own: &HashSet<IpAddr>,
) -> Vec<Existing> {
    let mut flows = Vec::new();
    for association in associations {
        if !(COOKIE_WAIT..=SHUTDOWN_ACK_SENT).contains(&association.state) {
            continue;
        }
        let [local_port, remote_port] = association.ports;
        let originator = match served.contains(&local_port) {
            true => Direction::Inbound,
            false => Direction::Outbound,
        };
        for &local in &association.local {
            for &remote in &association.remote {
                // IPv4 on an IPv6 socket is IPv4 on the wire.
                let key = Key {
                    local: local.to_canonical(),
                    remote: remote.to_canonical(),
                    local_port,
                    remote_port,
                    protocol: IPPROTO_SCTP,
                };
                let is_one_family = key.local.is_ipv4() == key.remote.is_ipv4();
                if is_one_family && key.can_be_on_the_wire(own) {
                    flows.push(Existing {
                        key,
                        originator,
                        // A listening socket can also open associations, so its port shows nothing.
                        is_originator_known: originator == Direction::Outbound
                            && association.state == COOKIE_WAIT,
                        state: Timeout::Sctp,
                        // Only the end that sent the first chunk is in COOKIE_WAIT.
                        has_seen_reply: association.state != COOKIE_WAIT,
                        is_ours: association.state == COOKIE_WAIT
                            || originator == Direction::Outbound,
                        recency: u32::MAX,
                    });
                }
            }
        }
    }
    flows
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The files as Linux 6.12 writes them: an association of a client with two addresses in each
    /// family, and one that a server has accepted.
    const LISTED: &str = " ASSOC     SOCK   STY SST ST HBKT ASSOC-ID TX_QUEUE RX_QUEUE UID INODE LPORT RPORT \
        LADDRS <-> RADDRS HBINT INS OUTS MAXRT T1X T2X RTXC wmema wmemq sndbuf rcvbuf\n\
        0000000000000000 0000000000000000 2   1   3  0       5        0        0       0 21377 40000  9899  \
        *192.0.2.1 127.0.0.1 2001:0db8:0000:0000:0000:0000:0000:0001 <-> \
        *198.51.100.7 2001:0db8:0000:0000:0000:0000:0000:0007 \t    7500    10    10   10    0    0        0        \
        1        0   212992   212992\n\
        0000000000000000 0000000000000000 2   1   1  0       6        0        0       0 21378 36412  5000  \
        *192.0.2.1 <-> *198.51.100.7 \t    7500    10    10   10    0    0        0        1        0   212992   \
        212992\n";
    const SERVED: &str = " ENDPT     SOCK   STY SST HBKT LPORT   UID INODE LADDRS\n\
        0000000000000000 0000000000000000 2   10  17   36412     0 21379 0.0.0.0 \n\
        0000000000000000 0000000000000000 2   7   18   40000     0 21377 192.0.2.1 127.0.0.1 \n";

    /// Proves K12: each pair of addresses of an association becomes a flow.
    #[test]
    fn associations_are_flows() {
        let associations: Vec<Association> = LISTED.lines().filter_map(association).collect();
        assert_eq!(associations.len(), 2);
        let served: HashSet<u16> = SERVED.lines().filter_map(served).collect();
        assert_eq!(served, HashSet::from([36412]));
        let own = ["192.0.2.1", "2001:db8::1", "127.0.0.1"].map(|a| a.parse().unwrap());
        let found: Vec<String> = flows(&associations, &served, &own.into())
            .iter()
            .map(|f| {
                let originator = f.originator.name();
                let replied = if f.has_seen_reply { " replied" } else { "" };
                let Key {
                    local,
                    remote,
                    local_port,
                    remote_port,
                    protocol,
                } = f.key;
                format!(
                    "{originator} {protocol} {local} {local_port} {remote} {remote_port}{replied}"
                )
            })
            .collect();
        assert_eq!(
            found,
            [
                "outbound 132 192.0.2.1 40000 198.51.100.7 9899 replied",
                "outbound 132 2001:db8::1 40000 2001:db8::7 9899 replied",
                "inbound 132 192.0.2.1 36412 198.51.100.7 5000",
            ]
        );
    }

    #[test]
    fn cut_lines_are_no_associations_with_other_ends() {
        let line = LISTED.lines().nth(1).unwrap();
        let whole = association(line).unwrap();
        for end in 0..line.len() {
            let Some(found) = association(&line[..end]) else {
                continue;
            };
            assert!(found.local.len() <= whole.local.len(), "{end} bytes");
            assert!(found.remote.len() <= whole.remote.len(), "{end} bytes");
        }
    }
}
