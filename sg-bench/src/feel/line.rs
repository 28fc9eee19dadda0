//! A client and a node with a veth pair between them, and at the node's end one of the contenders.

use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use aya::programs::tc::TcAttachType;
use aya::programs::xdp::XdpMode;
use aya::programs::{SchedClassifier, Xdp};
use sg_common::verdict::Direction;
use sg_policy::policy::{Policy, rules_from_lines};
use sg_testbed::{Namespace, interfaces, set_sysctl};
use sg_userspace::kernel::DEFAULT_MAX_FLOWS;

use super::load::{Ends, PORT};
use crate::cores::Cores;
use crate::enforcer::Enforcer;
use crate::object::Floors;
use crate::policies;
use crate::rig;

/// In the private network, which the template accepts without a flow entry.
const NODE: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);

/// The ends' names in their namespaces.
const NODE_END: &str = "node0";
const CLIENT_END: &str = "client0";

/// What is attached to the node's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Contender {
    Nothing,
    /// XDP and tc programs that pass everything.
    Empty,
    /// The enforcer with a policy that needs no entry for the load's flows.
    Tke,
    /// The enforcer with a policy that needs an entry for each of them.
    State,
    /// nftables with rules of the same meaning as that policy.
    Nftables,
}

impl Contender {
    /// In the order of their turns.
    pub(super) const ALL: [Contender; 5] = [
        Contender::Nothing,
        Contender::Empty,
        Contender::Tke,
        Contender::State,
        Contender::Nftables,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Contender::Nothing => "nothing",
            Contender::Empty => "empty",
            Contender::Tke => "tke",
            Contender::State => "state",
            Contender::Nftables => "nft",
        }
    }
}

/// What frames may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Frames {
    /// As on a wire: neither end has segmentation offload, so that what passes the pair is at most
    /// as long as the MTU. What is received is put together again (GRO), as drivers do.
    Wire,
    /// With segmentation offload: up to 64 KiB pass the pair in one piece.
    Offload,
}

impl Frames {
    pub(super) const ALL: [Frames; 2] = [Frames::Wire, Frames::Offload];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Frames::Wire => "wire",
            Frames::Offload => "offload",
        }
    }
}

/// The policy of [`Contender::State`]: the server's replies pass because of the flow table only.
fn with_state() -> Policy {
    rules_from_lines(&format!(
        "in tcp {PORT} from any accept\nin udp {PORT} from any accept"
    ))
}

/// The rules of [`with_state`] for nftables.
fn nft_ruleset() -> String {
    format!(
        "table inet bench {{\n\
         chain input {{\n\
         type filter hook input priority 0; policy drop;\n\
         ct state established,related counter accept\n\
         ct state new tcp dport {PORT} counter accept\n\
         ct state new udp dport {PORT} counter accept\n\
         counter drop\n}}\n\
         chain output {{\n\
         type filter hook output priority 0; policy drop;\n\
         ct state established,related counter accept\n\
         counter drop\n}}\n}}\n"
    )
}

/// What holds the programs.
enum Attached {
    Nothing,
    Empty(Box<Floors>),
    Enforcer(Box<Enforcer>),
    Nftables,
}

impl Attached {
    fn inbound(&mut self) -> Result<Option<&mut Xdp>> {
        Ok(match self {
            Attached::Nothing | Attached::Nftables => None,
            Attached::Empty(floors) => Some(floors.pass()?),
            Attached::Enforcer(enforcer) => Some(enforcer.inbound()?),
        })
    }

    fn outbound(&mut self) -> Result<Option<&mut SchedClassifier>> {
        Ok(match self {
            Attached::Nothing | Attached::Nftables => None,
            Attached::Empty(floors) => Some(floors.tc_pass()?),
            Attached::Enforcer(enforcer) => Some(enforcer.outbound()?),
        })
    }

    /// The ids of its own programs, inbound and outbound.
    fn programs(&mut self) -> Result<[Option<u32>; 2]> {
        let inbound = self.inbound()?.map(|program| program.info());
        let inbound = inbound.transpose()?.map(|info| info.id());
        let outbound = self.outbound()?.map(|program| program.info());
        Ok([inbound, outbound.transpose()?.map(|info| info.id())])
    }
}

/// Packets that a contender has counted as accepted, inbound and outbound, and those it dropped.
#[derive(Debug, Default)]
pub(super) struct Counted {
    pub(super) inbound: u64,
    pub(super) outbound: u64,
    pub(super) dropped: u64,
}

pub(super) struct Line {
    pub(super) contender: Contender,
    node: Namespace,
    client: Namespace,
    attached: Attached,
}

impl Line {
    pub(super) fn new(contender: Contender, frames: Frames, folder: &Path) -> Result<Self> {
        let (node, client) = (Namespace::new()?, Namespace::new()?);
        interfaces::add_veth((&node, NODE_END), (&client, CLIENT_END))
            .context("making a veth pair")?;
        client.inside(|| bring_up(CLIENT_END, CLIENT, frames))??;
        node.inside(|| bring_up(NODE_END, NODE, frames))??;
        let attached = node.inside(|| attach(contender, folder))??;
        Ok(Line {
            contender,
            node,
            client,
            attached,
        })
    }

    pub(super) fn ends(&self, cores: Cores) -> Ends<'_> {
        Ends {
            node: &self.node,
            client: &self.client,
            address: NODE,
            cores,
        }
    }

    /// Checks that the contender, and nothing else, is attached and has seen the load.
    pub(super) fn check(&mut self) -> Result<()> {
        let own = self.attached.programs()?;
        let found = self.node.inside(hooks)??;
        if found != own {
            bail!("programs {found:?} are at the hooks, and {own:?} should be");
        }
        let Some(counted) = self.counted()? else {
            return Ok(());
        };
        if counted.inbound == 0 || counted.outbound == 0 {
            bail!("it has not seen the packets of both directions: {counted:?}");
        }
        // A segment that is late may meet a connection that is gone.
        if counted.dropped > (counted.inbound + counted.outbound) / 10 {
            bail!("it drops what it should accept: {counted:?}");
        }
        Ok(())
    }

    /// None where nothing counts.
    pub(super) fn counted(&self) -> Result<Option<Counted>> {
        Ok(Some(match &self.attached {
            Attached::Nothing | Attached::Empty(_) => return Ok(None),
            Attached::Enforcer(enforcer) => {
                let inbound = enforcer.fates(Direction::Inbound)?;
                let outbound = enforcer.fates(Direction::Outbound)?;
                Counted {
                    inbound: inbound.accepted,
                    outbound: outbound.accepted,
                    dropped: inbound.dropped + outbound.dropped,
                }
            }
            Attached::Nftables => {
                let listed = self
                    .node
                    .inside(|| rig::read("nft", "list table inet bench"))??;
                nft_counted(&listed)?
            }
        }))
    }
}

/// Reads the counters of [`nft_ruleset`], in the order of its rules.
fn nft_counted(listed: &str) -> Result<Counted> {
    let counts: Vec<u64> = listed
        .split("counter packets ")
        .skip(1)
        .filter_map(|rest| rest.split_whitespace().next()?.parse().ok())
        .collect();
    let [established, tcp, udp, dropped_in, outbound, dropped_out] = counts[..] else {
        bail!("nft lists other counters than the ruleset has:\n{listed}");
    };
    Ok(Counted {
        inbound: established + tcp + udp,
        outbound,
        dropped: dropped_in + dropped_out,
    })
}

/// Gives an end its address and its offloads; an end that has a program cannot change them.
fn bring_up(end: &str, address: Ipv4Addr, frames: Frames) -> Result<()> {
    set_sysctl(&format!("net/ipv6/conf/{end}/disable_ipv6"), "1")?;
    let segmentation = match frames {
        Frames::Wire => "off",
        Frames::Offload => "on",
    };
    rig::run(
        "ethtool",
        &format!("-K {end} gro on tso {segmentation} gso {segmentation}"),
    )?;
    interfaces::add_address(end, address.into(), 24).context("adding an address")?;
    interfaces::set_up(end).with_context(|| format!("bringing {end} up"))
}

/// In the node's namespace.
fn attach(contender: Contender, folder: &Path) -> Result<Attached> {
    let enforcer = |policy: &Policy| -> Result<Attached> {
        let enforcer = Enforcer::load(policy, DEFAULT_MAX_FLOWS)?;
        Ok(Attached::Enforcer(Box::new(enforcer)))
    };
    let mut attached = match contender {
        Contender::Nothing => Attached::Nothing,
        Contender::Empty => Attached::Empty(Box::new(Floors::new()?)),
        Contender::Tke => enforcer(&policies::builtin("tke")?)?,
        Contender::State => enforcer(&with_state())?,
        Contender::Nftables => {
            let path = folder.join("feel.nft");
            std::fs::write(&path, nft_ruleset()).context("writing the rules of nftables")?;
            rig::run("nft", &format!("-f {}", path.display()))?;
            Attached::Nftables
        }
    };
    if let Some(program) = attached.inbound()? {
        program
            .attach(NODE_END, XdpMode::Driver)
            .context("attaching the inbound program")?;
    }
    if let Some(program) = attached.outbound()? {
        program
            .attach(NODE_END, TcAttachType::Egress)
            .context("attaching the outbound program (tcx, Linux 6.6)")?;
    }
    Ok(attached)
}

/// The ids of the programs at XDP and at tc egress of the node's end, in its namespace.
fn hooks() -> Result<[Option<u32>; 2]> {
    let text = rig::read("ip", &format!("-json link show dev {NODE_END}"))?;
    let inbound = xdp_program(&text)?;
    let (_, outbound) = SchedClassifier::query_tcx(NODE_END, TcAttachType::Egress)
        .context("asking for the tc programs")?;
    if outbound.len() > 1 {
        bail!("{} programs are at the tc egress hook", outbound.len());
    }
    Ok([inbound, outbound.first().map(|program| program.id())])
}

/// The id of the XDP program in what `ip -json link show` prints of one interface.
fn xdp_program(text: &str) -> Result<Option<u32>> {
    let links: serde_json::Value = serde_json::from_str(text).context("reading what ip prints")?;
    let id = links[0]["xdp"]["prog"]["id"].as_u64();
    id.map(|id| u32::try_from(id).context("the id of a program"))
        .transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_xdp_program_is_found_in_what_ip_prints() {
        let with =
            r#"[{"ifname":"node0","xdp":{"mode":1,"prog":{"id":27,"tag":"3b18","jited":1}}}]"#;
        assert_eq!(xdp_program(with).unwrap(), Some(27));
        assert_eq!(xdp_program(r#"[{"ifname":"node0"}]"#).unwrap(), None);
        assert!(xdp_program("Device does not exist").is_err());
    }

    #[test]
    fn the_counters_of_nftables_are_read_in_the_order_of_the_rules() {
        let listed = "ct state established,related counter packets 5 bytes 1 accept\n\
                      ct state new tcp dport 5001 counter packets 3 bytes 1 accept\n\
                      ct state new udp dport 5001 counter packets 2 bytes 1 accept\n\
                      counter packets 1 bytes 1 drop\n\
                      ct state established,related counter packets 7 bytes 1 accept\n\
                      counter packets 0 bytes 0 drop\n";
        let counted = nft_counted(listed).unwrap();
        assert_eq!(
            (counted.inbound, counted.outbound, counted.dropped),
            (10, 7, 1)
        );
        assert!(nft_counted("table inet bench {}").is_err());
    }
}
