//! Flows that are ended while packets of them are judged.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use sg_common::flow::{CUT, Timeout};
use sg_common::flow_entry::created_of;
use sg_policy::policy::rules_from_lines;
use sg_userspace::kernel::apply;
use sg_userspace::kernel::flow_tables::{FlowTable, key_of};
use sg_userspace::kernel::kill::{Chosen, kill};
use sg_userspace::observe::flows::{FlowState, flows};

use crate::frames::frame;
use crate::sandbox::{RawSender, sandbox};
use crate::watching::only;

/// How many flows have to be ended while they become established, on a machine with other work.
const ENOUGH: usize = 2000;
const SEEN_WITHIN: Duration = Duration::from_secs(120);

/// Proves K11: no packet that is judged while its flow is ended keeps the flow alive, be it about
/// to become established or not; a flow that has come since is left alone.
#[test]
fn a_flow_that_becomes_established_meanwhile_is_ended_too() {
    sandbox(|sandbox| {
        sandbox.veth("sg0", "sg1");
        let policy = rules_from_lines("in tcp 80 from any accept");
        apply(&policy, &sandbox.options("sg0")).unwrap_or_else(|e| panic!("apply: {e}"));
        let one = only(sandbox, "sg0");
        let table = FlowTable::open(&one.pins, &Timeout::defaults()).expect("it is pinned");
        let (is_over, sent) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (peer, node) = (RawSender::new("sg1"), RawSender::new("sg0"));
                for port in (1024..60_000u16).cycle() {
                    if is_over.load(SeqCst) {
                        return;
                    }
                    let there = format!("tcp 198.51.100.7:{port} > 192.0.2.1:80");
                    let back = format!("tcp 192.0.2.1:80 > 198.51.100.7:{port}");
                    peer.send(frame(&format!("{there} syn")).bytes());
                    node.send(frame(&format!("{back} syn ack")).bytes());
                    peer.send(frame(&format!("{there} ack")).bytes());
                    sent.fetch_add(1, SeqCst);
                }
            });
            let (mut ended, started) = (0, Instant::now());
            let mut rounds = 0;
            while ended < ENOUGH && started.elapsed() < SEEN_WITHIN {
                let listed = flows(&one).expect("the table can be read");
                let listed = listed.iter().filter(|flow| flow.state != FlowState::Cut);
                let chosen: Vec<Chosen> = listed.map(|flow| flow.chosen()).collect();
                let killed = kill(sandbox.bpffs(), &one.pins, &chosen).expect("it is permitted");
                let all = [
                    killed.cut,
                    killed.gone,
                    killed.forgotten,
                    killed.by_rules,
                    killed.busy,
                ];
                assert_eq!(all.iter().sum::<usize>(), chosen.len(), "{killed:?}");
                assert_eq!(all[2..], [0; 3], "{killed:?}");
                for it in &chosen {
                    let key = key_of(it.local, it.remote, it.ports, it.protocol);
                    let Some(found) = table.find(&key) else {
                        continue;
                    };
                    let contents = found.contents;
                    let is_cut = contents.head.state() == CUT;
                    assert!(
                        is_cut || created_of(contents.begun) != it.created,
                        "a flow lives on that was ended: {it:?} {contents:?}"
                    );
                }
                ended += killed.cut;
                rounds += 1;
            }
            is_over.store(true, SeqCst);
            assert!(
                ended >= ENOUGH,
                "nothing was shown: {ended} flows were ended in {rounds} rounds, of {} opened",
                sent.load(SeqCst)
            );
        });
        // One that is named by an earlier beginning than its own.
        let listed = flows(&one).expect("the table can be read");
        let mut by_state: HashMap<bool, Vec<Chosen>> = HashMap::new();
        for flow in &listed {
            let of = by_state.entry(flow.state == FlowState::Cut).or_default();
            of.push(flow.chosen());
        }
        let living = by_state.remove(&false).unwrap_or_default();
        let others: Vec<Chosen> = living
            .iter()
            .map(|it| Chosen {
                created: it.created.wrapping_sub(1),
                ..*it
            })
            .collect();
        let killed = kill(sandbox.bpffs(), &one.pins, &others).expect("it is permitted");
        assert_eq!((killed.cut, killed.gone), (0, others.len()));
    });
}
