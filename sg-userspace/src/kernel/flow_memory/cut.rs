//! Whether a policy has to reckon with cut flows.

use sg_common::flow::CUT;
use sg_common::flow_entry::{Contents, age, clock};
use sg_common::protocol::kind_of;
use sg_common::ruling::{Policy as _, is_cut_at_its_end};

use super::table::FlowTable;
use crate::kernel::load::generation::{Generation, ages};
use sg_policy::policy::Established;

impl FlowTable {
    /// Whether a TCP flow may be cut when the programs of `next` replace those of `in_force`
    /// (`None` if both directions do not run the same programs, so that nothing is known). Packets
    /// of a cut connection are dropped under every policy (K11). If the rules accept both
    /// directions, the programs would not look at the flow table (K7), so they have to be loaded
    /// with a lookup of cut flows. The programs are loaded after this check and before the swap,
    /// while those in force still run. Nothing is missed:
    ///
    /// - A flow that is cut now stays cut until it expires, by the longer timeout.
    /// - The programs in force cut flows of other generations and none of their own. These flows
    ///   are in the table already. With `keep` they cut none, and seeded ones only with `flush`.
    /// - The new programs cut flows whose packets or replies their rules do not accept, and for
    ///   these they look at the table anyway. Only with `flush` do they cut all flows entered
    ///   before the swap, including those that are not there yet.
    /// - While only one direction has been swapped, the programs in force may find a flow of the
    ///   new generation and cut it. That flow has an entry because the new rules do not accept both
    ///   of its directions.
    ///
    /// What userspace enters for the new policy, before and after the swap, is also a flow that its
    /// rules do not accept in both directions. A lock keeps other policies from coming in between.
    pub fn may_have_cut(&self, in_force: Option<&Generation>, next: &Generation, now: u64) -> bool {
        let flushes = next.established == Established::Flush;
        if flushes && in_force.is_none_or(|before| before.has_flows) {
            return true;
        }
        let timeouts = [Some(next), in_force].map(|g| g.map(|g| ages(&g.timeouts)));
        let mut may_have_cut = false;
        self.each_found(|key, found| {
            let Contents { head, rule, .. } = found.contents;
            let age = age(clock(now), head.last_seen());
            let is_live = timeouts
                .iter()
                .flatten()
                .any(|ages| age <= ages[usize::from(head.state())]);
            let may_be_cut = match in_force {
                _ if head.state() == CUT || flushes => true,
                None => true,
                Some(before) => before.in_force().may_cut(head, rule),
            };
            let is_tcp = is_cut_at_its_end(kind_of(key.protocol(), key.is_v6()) as u8);
            may_have_cut |= is_tcp && is_live && may_be_cut;
        });
        may_have_cut
    }
}
