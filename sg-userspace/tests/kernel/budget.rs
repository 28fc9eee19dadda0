//! What the programs cost to load: instructions that the verifier walks, and the time it takes.
//! Run with `--nocapture` for the figures.

use sg_userspace::kernel::programs::OBJECT;
use sg_userspace::policy::rules_from_lines;

use crate::stack::depths;
use crate::support::Enforcer;

/// What entering a flow from the long way takes. The kernel's limit for a whole chain of calls is 512
/// (MAX_BPF_STACK in include/linux/filter.h).
const STACK_BYTES: u32 = 480;

/// More than this and a kernel with a slower verifier makes `apply` a thing to wait for. Linux 6.1 walks
/// the most. The programs themselves have about 5,000 instructions; what is walked more than once is
/// mostly the loops over the ways of the flow table.
const VERIFIED_INSTRUCTIONS: u32 = 7600;

/// Proves K1, as far as both programs are small enough to be loaded at any time.
#[test]
fn programs_stay_within_their_budget() {
    let both = rules_from_lines(
        "in tcp 22,80-90 from 2001:db8::/32 accept\nin udp 53 from any drop\n\
         in all from 10.0.0.0/8 accept\nout all to any accept",
    );
    let logging = {
        let mut policy = both.clone();
        policy.rules[0].log = true;
        policy
    };
    let policies = [
        ("no rules", rules_from_lines("")),
        (
            "IPv4 only",
            rules_from_lines("in tcp 22 from 10.0.0.0/8 accept\nout all to 0.0.0.0/0 accept"),
        ),
        ("both families", both),
        ("logging", logging),
    ];
    println!("policy          inbound  outbound  load");
    for (name, policy) in policies {
        let mut enforcer = Enforcer::of(policy);
        let [inbound, outbound] = enforcer.verified_instructions();
        let load = enforcer.load_time().as_secs_f64() * 1000.0;
        println!("{name:<15} {inbound:>7}  {outbound:>8}  {load:.1} ms");
        for (program, count) in [("inbound", inbound), ("outbound", outbound)] {
            assert!(
                (1..=VERIFIED_INSTRUCTIONS).contains(&count),
                "{name}: the verifier walks {count} instructions of the {program} program"
            );
        }
    }
}

/// Proves K1, as far as the kernel's limit of 512 bytes is not far away by luck.
#[test]
fn stacks_stay_within_their_budget() {
    let depths = depths(OBJECT);
    let names: Vec<&str> = depths.keys().map(String::as_str).collect();
    assert_eq!(names, ["sg_inbound", "sg_outbound"]);
    for (program, bytes) in depths {
        println!("{program:<12} {bytes} bytes of stack");
        assert!((64..=STACK_BYTES).contains(&bytes), "{program}: {bytes}");
    }
}
