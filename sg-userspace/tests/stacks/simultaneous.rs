//! Simultaneous open: both ends open a connection at once, from and to the same two ports (RFC
//! 9293, figure 7).

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread::scope;

use sg_policy::policy::rules_from_lines;

use crate::line::{Family, Line};
use crate::sandbox::sandbox;
use crate::service::{PATIENCE, again, connect_from};
use sg_testbed::wait_for;

const NODE: u16 = 5000;
const REMOTE: u16 = 6000;

/// Proves K6 and K9 if the rules admit only the node's SYN. The remote's SYN is dropped, with and
/// without a flow. The connection succeeds, because the remote replies to the node's SYN.
#[test]
fn both_open_and_only_one_may() {
    for family in Family::BOTH {
        sandbox(|sandbox| {
            let line = Line::new(0);
            let rules = format!("out tcp {REMOTE} to any accept");
            let enforced = line.enforce(sandbox, &rules_from_lines(&rules));
            let node = SocketAddr::new(line.node_address(family), NODE);
            let remote = SocketAddr::new(line.remote_address(family), REMOTE);
            let (line, enforced) = (&line, &enforced);
            let [mut ours, mut theirs] = scope(|scope| {
                let opening = scope
                    .spawn(move || line.remote.inside(|| connect_from(REMOTE, node, PATIENCE)));
                wait_for("the remote's SYN", PATIENCE, || {
                    enforced.reason("in no-match") > 0
                });
                let ours = line.node.inside(|| connect_from(NODE, remote, PATIENCE));
                let theirs = opening.join().expect("the opening thread ends");
                [ours, theirs].map(|stream| stream.unwrap_or_else(|e| panic!("{family:?}: {e}")))
            });
            // There is one connection, although both ends have opened it and neither had a
            // listener.
            speak(&mut ours, &mut theirs);
            speak(&mut theirs, &mut ours);
            let rule = enforced.rule("out 1");
            assert!(rule.packets >= 3 && rule.reply_packets >= 2, "{rule:?}");
            enforced.assert_adds_up();
        });
    }
}

fn speak(from: &mut TcpStream, to: &mut TcpStream) {
    to.set_read_timeout(Some(PATIENCE)).expect("an option");
    from.write_all(b"hello").expect("the connection is open");
    let mut heard = [0; 5];
    again(|| to.read_exact(&mut heard)).expect("the connection is open");
    assert_eq!(&heard, b"hello");
}
