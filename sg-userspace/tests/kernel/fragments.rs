//! For how long, and how many, first fragments are remembered.

use std::thread::sleep;
use std::time::{Duration, Instant};

use sg_common::flow::Timeout;
use sg_common::verdict::Direction::Inbound;
use sg_policy::policy::rules_from_lines;
use sg_userspace::kernel::programs::FRAGMENT_ENTRIES;

use crate::frames::{Frame, frame};
use crate::support::Enforcer;

const RULES: &str = "in udp 53 from any accept";

/// A fragment of datagram `id` in each family. The first one has the UDP header, the last one has
/// none.
fn fragments(id: u16, is_first: bool) -> [Frame; 2] {
    let (units, more) = if is_first { (0, true) } else { (4, false) };
    [
        frame("udp 198.51.100.1:4000 > 192.0.2.1:53").fragment4(id, units, more),
        frame("udp [2001:db8::9]:4000 > [2001:db8::1]:53").fragment6(id.into(), units, more),
    ]
}

/// Proves K4: a later fragment is dropped if the first one was seen too long ago.
#[test]
fn a_first_fragment_is_forgotten_after_a_while() {
    let mut policy = rules_from_lines(RULES);
    policy.timeouts[Timeout::Fragment as usize] = 1;
    let mut enforcer = Enforcer::of(policy);
    let counters = |enforcer: &mut Enforcer, is_first: bool| {
        fragments(7, is_first).map(|frame| enforcer.send(Inbound, frame.bytes()).counter)
    };
    // On a busy machine the two fragments may be further apart than the timeout; then the attempt
    // is repeated.
    let both_at_once = |enforcer: &mut Enforcer, when: &str| {
        loop {
            let started = Instant::now();
            assert_eq!(counters(enforcer, true), ["in 1"; 2], "{when}");
            let last = counters(enforcer, false);
            if started.elapsed() < Duration::from_millis(900) {
                assert_eq!(last, ["in 1"; 2], "what follows {when}");
                return;
            }
        }
    };
    both_at_once(&mut enforcer, "the first");
    sleep(Duration::from_millis(1300));
    assert_eq!(counters(&mut enforcer, false), ["fragment"; 2], "too late");
    both_at_once(&mut enforcer, "another datagram of that name");
}

/// Proves K4: a flood of first fragments takes no more memory than the table has. The latest of
/// them are remembered, and none is dropped for lack of space.
#[test]
fn a_flood_of_first_fragments_is_bounded() {
    const FLOOD: u16 = 4 * FRAGMENT_ENTRIES as u16;
    let mut enforcer = Enforcer::new(RULES);
    for id in 0..FLOOD {
        for frame in fragments(id, true) {
            assert!(enforcer.run(Inbound, frame.bytes()), "first of {id}");
        }
    }
    for frame in fragments(FLOOD - 1, false) {
        assert!(enforcer.run(Inbound, frame.bytes()), "the last one");
    }
    let mut remembered = [0; 2];
    for id in 0..FLOOD {
        for (count, frame) in remembered.iter_mut().zip(fragments(id, false)) {
            *count += u32::from(enforcer.run(Inbound, frame.bytes()));
        }
    }
    for count in remembered {
        assert!(
            (FRAGMENT_ENTRIES / 4..=FRAGMENT_ENTRIES).contains(&count),
            "{count} remembered"
        );
    }
}
