//! Two interfaces of one attachment whose outbound hook is a clsact filter, as on kernels before
//! 6.6.

use sg_userspace::kernel::{ApplyOptions, EgressHook, Outcome, detach};
use sg_userspace::observe::status::Health;

use super::{UPLINKS, health, on, programs, put, uplinks};
use crate::frames::frame;
use crate::sandbox::{RawSender, Sandbox, run, sandbox};
use crate::watching::{assert_adds_up, only, read_when};

fn with_filters(options: ApplyOptions) -> ApplyOptions {
    ApplyOptions {
        egress_hook: EgressHook::Clsact,
        ..options
    }
}

fn has_qdisc(interface: &str) -> bool {
    run("tc", &["qdisc", "show", "dev", interface]).contains("clsact")
}

fn filters(interface: &str) -> usize {
    let filters = run("tc", &["filter", "show", "dev", interface, "egress"]);
    filters.matches("handle 0x1").count()
}

fn take_out(sandbox: &Sandbox, interface: &str) {
    let pins = only(sandbox, interface).pins;
    detach(sandbox.bpffs(), &pins).unwrap_or_else(|e| panic!("{e}"));
}

/// Proves K1, A2 and C12 with filters on both interfaces: they share flows, are replaced in place,
/// join and leave one by one, and one that is removed by somebody else is found and put back.
#[test]
fn filters_of_two_interfaces_serve_one_policy() {
    const RULES: &str = "out tcp 443 to any accept\nout udp 53 to any accept";
    sandbox(|sandbox| {
        let options = with_filters(uplinks(sandbox));
        put(RULES, &with_filters(on(sandbox, &["up0"])));
        let before = programs(sandbox, "up0");
        put(RULES, &options);
        assert_eq!(programs(sandbox, "up0"), before, "up1 has joined");
        for name in ["up0", "up1"] {
            let hook = only(sandbox, name).state().expect("a record").egress_hook;
            assert_eq!(hook, EgressHook::Clsact);
            assert_eq!(
                (filters(name), health(sandbox, name)),
                (1, Health::Enforcing)
            );
        }
        let near = UPLINKS.map(|(near, _)| RawSender::new(near));
        let far = UPLINKS.map(|(_, far)| RawSender::new(far));
        let asks = |i: usize, port: u16| {
            near[i].send(frame(&format!("udp 192.0.2.1:4000 > 198.51.100.7:{port}")).bytes())
        };

        // A connection that leaves by one and is answered at the other.
        assert!(near[0].send(frame("tcp 192.0.2.1:4000 > 198.51.100.7:443 syn").bytes()));
        far[1].send(frame("tcp 198.51.100.7:443 > 192.0.2.1:4000 syn ack").bytes());
        read_when(sandbox, "up1", |c| c.totals[0].packets == 1);
        assert!(near[1].send(frame("tcp 192.0.2.1:4000 > 198.51.100.7:443 ack").bytes()));
        assert!(!asks(1, 54));

        // Another policy replaces the filters' programs, and the connection goes on.
        let next = put(
            "out tcp 443 to any accept\nout udp 54 to any accept",
            &options,
        );
        assert_eq!(next.outcome, Outcome::Replaced);
        assert_eq!((filters("up0"), filters("up1")), (1, 1));
        assert!(asks(0, 54) && !asks(0, 53) && asks(1, 54));
        far[0].send(frame("tcp 198.51.100.7:443 > 192.0.2.1:4000 ack").bytes());
        let c = read_when(sandbox, "up0", |c| c.totals[0].packets == 1);
        assert_adds_up(&c, 1, 3);
        assert_eq!(c.totals[0].accepted, 1, "a reply of the flow");
        assert_adds_up(&read_when(sandbox, "up1", |_| true), 1, 3);

        // One leaves, with the qdisc that was made for it, and the other goes on.
        take_out(sandbox, "up1");
        assert!(!has_qdisc("up1") && has_qdisc("up0"));
        assert_eq!(health(sandbox, "up0"), Health::Enforcing);
        assert!(!asks(0, 53) && asks(1, 53), "only up0 has a policy");

        // Somebody removes a filter: the other interface still enforces, and `apply` repairs it.
        put("out udp 54 to any accept", &options);
        run("tc", &["qdisc", "del", "dev", "up0", "clsact"]);
        assert_eq!(health(sandbox, "up0"), Health::Incomplete);
        assert_eq!(health(sandbox, "up1"), Health::Enforcing);
        assert!(asks(0, 53) && !asks(1, 53));
        put("out udp 54 to any accept", &options);
        for (i, name) in ["up0", "up1"].into_iter().enumerate() {
            assert_eq!(health(sandbox, name), Health::Enforcing);
            assert!(asks(i, 54) && !asks(i, 53));
        }

        for name in ["up0", "up1"] {
            take_out(sandbox, name);
            assert!(!has_qdisc(name));
        }
        assert!(!sandbox.pins().exists(), "nothing is left");
    });
}
