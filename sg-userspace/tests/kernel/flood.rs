//! Floods of spoofed packets against a flow table of the default size: no kind of flood evicts an
//! idle connection.

use sg_common::flow::{FlowKind, FlowValue, Timeout};
use sg_common::verdict::{Direction, FIRST_RULE_SLOT};
use sg_policy::compile::Budget;
use sg_policy::compile_policy;
use sg_policy::policy::rules_from_lines;
use sg_userspace::kernel::DEFAULT_MAX_FLOWS;
use sg_userspace::kernel::flow_tables::{FlowTable, key_of, monotonic_now};
use sg_userspace::kernel::generation::Generation;
use sg_userspace::kernel::programs::Programs;

use crate::frames::{Frame, frame};
use crate::sandbox::sandbox;
use crate::support::{is_guest, pinned_maps, run_hook};
use crate::world::tables::Tables;

const FLOOD: u32 = 400_000;
/// Enough to fill every word of the small table that is used in a guest, whose processors are
/// emulated.
const FLOOD_OF_A_GUEST: u32 = 6_000;
const CONNECTIONS: u16 = 25;
const SECOND: u64 = 1_000_000_000;

/// A frame whose spoofed address and port are rewritten for each packet.
struct Spoofed {
    bytes: Vec<u8>,
    /// The offsets of the spoofed address and port in the frame.
    at: [usize; 2],
}

impl Spoofed {
    /// The spoofed end is the source of an inbound `frame`, and the destination of an outbound one.
    fn new(frame: &Frame, direction: Direction) -> Self {
        let at = match direction {
            Direction::Inbound => [26, 34],
            Direction::Outbound => [30, 36],
        };
        Spoofed {
            bytes: frame.bytes().to_vec(),
            at,
        }
    }

    fn of(&mut self, number: u32) -> &[u8] {
        let [address, port] = self.at;
        // Consecutive numbers become scattered addresses, so that only the table's own hash decides
        // where their flows go.
        let mixed = number.wrapping_mul(0x9e37_79b1);
        self.bytes[address + 1..address + 4].copy_from_slice(&mixed.to_be_bytes()[1..]);
        let number = (1024 + number % 60_000) as u16;
        self.bytes[port..port + 2].copy_from_slice(&number.to_be_bytes());
        &self.bytes
    }
}

/// Proves K9 and K10: 400,000 spoofed SYNs, as many with a blind ACK after each, and as many
/// datagrams to a service that replies evict none of 50 connections, which have been idle since
/// before the flood.
#[test]
fn a_spoofed_flood_evicts_no_idle_connection() {
    let (flood, max_flows) = match is_guest() {
        true => (FLOOD_OF_A_GUEST, 512),
        false => (FLOOD, DEFAULT_MAX_FLOWS),
    };
    sandbox(|sandbox| {
        let mut policy = rules_from_lines("in tcp 80 from any accept\nin udp 53 from any accept");
        // Longer than the flood takes, also on a busy machine.
        policy.timeouts[Timeout::UdpStream as usize] = 3600;
        let slots = [FIRST_RULE_SLOT, FIRST_RULE_SLOT + 1];
        let compiled = compile_policy(&policy, &slots, Budget::default()).expect("tables fit");
        let (shared, pins) = pinned_maps(sandbox, max_flows);
        let mut programs = Programs::load(&compiled, &Generation::of(&policy, 1), &shared)
            .unwrap_or_else(|e| panic!("{e}"));
        let mut hook = |direction, bytes: &[u8]| {
            run_hook(&mut programs, direction, bytes, 1).unwrap_or_else(|e| panic!("{e:?}"))
        };
        use Direction::{Inbound, Outbound};

        let client = |n| format!("198.51.100.{n}:4000");
        for n in 0..CONNECTIONS {
            let (client, node) = (client(n), "192.0.2.1:80");
            assert!(hook(
                Inbound,
                frame(&format!("tcp {client} > {node} syn")).bytes()
            ));
            assert!(hook(
                Outbound,
                frame(&format!("tcp {node} > {client} syn ack")).bytes()
            ));
            assert!(hook(
                Inbound,
                frame(&format!("tcp {client} > {node} ack")).bytes()
            ));
        }
        let table = FlowTable::open(&pins, &policy.timeouts).unwrap_or_else(|e| panic!("{e}"));
        let value = FlowValue {
            created: monotonic_now() - 3 * SECOND,
            last_seen: monotonic_now(),
            slot: FIRST_RULE_SLOT + 1,
            generation: 1,
            originator: Inbound as u8,
            state: Timeout::Udp as u8,
            ..FlowValue::EMPTY
        };
        for n in 0..CONNECTIONS {
            let remote = format!("198.51.100.{n}").parse().expect("an address");
            let local = "192.0.2.1".parse().expect("an address");
            let key = key_of(local, remote, (53, 4000), 17);
            table.enter(&key, &value, FlowKind::HalfOpen, monotonic_now());
            let answer = frame(&format!("udp 192.0.2.1:53 > {}", client(n)));
            assert!(hook(Outbound, answer.bytes()));
        }
        let established = || {
            let flows = Tables::open(&pins).flows();
            flows
                .iter()
                .filter(|(_, flow, _)| flow.kind == FlowKind::Established)
                .count()
        };
        assert_eq!(established(), 2 * usize::from(CONNECTIONS));

        let (spoofer, web, dns) = ("203.0.113.1:9", "192.0.2.1:80", "192.0.2.1:53");
        let spoofed = |text: &str, direction| Spoofed::new(&frame(text), direction);
        let mut syn = spoofed(&format!("tcp {spoofer} > {web} syn"), Inbound);
        let mut syn_ack = spoofed(&format!("tcp {web} > {spoofer} syn ack"), Outbound);
        let mut ack = spoofed(&format!("tcp {spoofer} > {web} ack blind"), Inbound);
        let mut question = spoofed(&format!("udp {spoofer} > {dns}"), Inbound);
        let mut answer = spoofed(&format!("udp {dns} > {spoofer}"), Outbound);
        let mut refused = 0;
        for number in 0..flood {
            assert!(hook(Inbound, syn.of(number)));
        }
        for number in flood..2 * flood {
            assert!(hook(Inbound, syn.of(number)));
            refused += u32::from(!hook(Outbound, syn_ack.of(number)));
            assert!(hook(Inbound, ack.of(number)));
        }
        for number in 0..flood {
            assert!(hook(Inbound, question.of(number)));
            refused += u32::from(!hook(Outbound, answer.of(number)));
        }
        assert_eq!(
            refused, 0,
            "a flow that has just been opened admits its reply"
        );
        let moves = Tables::open(&pins).moves();
        println!("{moves:?}");
        assert!(moves[FlowKind::HalfOpen as usize].evicted > u64::from(flood));
        assert_eq!(moves[FlowKind::Established as usize].evicted, 0);
        assert_eq!(established(), 2 * usize::from(CONNECTIONS));
        for n in 0..CONNECTIONS {
            let said = frame(&format!("tcp {web} > {} ack", client(n)));
            assert!(hook(Outbound, said.bytes()), "connection {n} was cut off");
            let said = frame(&format!("udp {dns} > {}", client(n)));
            assert!(
                hook(Outbound, said.bytes()),
                "datagrams of {n} were cut off"
            );
        }
    });
}
