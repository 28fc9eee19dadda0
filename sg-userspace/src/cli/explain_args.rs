//! The question of `sgctl explain`: direction, protocol and the two ends are the last four words.
//! The words before them are policies.

use std::net::{IpAddr, SocketAddr};

use clap::Args;
use sg_common::protocol::{IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP};
use sg_common::verdict::Direction;
use sg_policy::policy::{Endpoint, PolicyInput, Protocol, icmp_type, protocol_in};
use sg_userspace::observe::explain::{Question, Transport};
use sg_userspace::observe::filter::direction_in;

use super::context::Json;
use super::failure::Failure;
use super::policy_args::Sets;
use super::units::count;

/// Which rule decides a packet, and why
#[derive(Args)]
#[command(
    override_usage = "sgctl explain [OPTIONS] POLICY... DIRECTION PROTO REMOTE LOCAL\n       \
                      sgctl explain [OPTIONS] --iface IF [DIRECTION] PROTO REMOTE [LOCAL]",
    after_help = "\
Words:
  POLICY     a file, `-`, or builtin:NAME; with --iface the policy in force is
             asked instead
  DIRECTION  inbound or outbound (in, out); with --iface it may be left out
             where only one end has a port
  PROTO      tcp, udp, sctp, icmp[:TYPE[/CODE]], icmpv6[:TYPE[/CODE]] (an echo
             request unless said otherwise; TYPE is a number or a name as in
             policies), gre, esp, ah, a number 0-255, arp, or non-ip for other
             frames that are not IP
  REMOTE     ADDRESS[:PORT] of the other end: source of an inbound packet,
             destination of an outbound one
  LOCAL      ADDRESS[:PORT] of the node itself, or of what it forwards for; with
             --iface it may be :PORT alone, or left out, and is the address
             that the interface has
  PORT       the destination port is needed for tcp, udp and sctp;
             [2001:db8::1]:443 for IPv6

The packet is one that opens a flow: replies of an admitted flow pass whatever the rules say.

With --iface a private copy of the programs in force judges the packet in a test run, with the flow
that the flow table has for it. Nothing is counted, and no flow changes. Shown are also what becomes of
the reply, what becomes of the next segment of a flow that has exactly these ends, and the rules that
nearly decide, each with what it misses the packet by. --listening adds what listens at the port, and
what else on this machine keeps the packet from it.

Examples:
  sgctl explain builtin:tke inbound tcp 203.0.113.9 10.0.0.5:22
  sgctl explain policy.yaml outbound udp 192.0.2.53:53 10.0.0.5
  sgctl explain --iface eth0 tcp 203.0.113.9 :3306 --listening
  sgctl explain --iface eth0 inbound icmpv6:128 2001:db8::9 --json

Exit codes: 0 answered (accept and drop alike), 1 the policy or the state is wrong, 2 usage, 3 not
permitted."
)]
pub(super) struct Explain {
    /// Ask what this interface enforces at this moment, or those that match a pattern such as
    /// 'eth*'; may be repeated
    #[arg(long = "iface", value_name = "IF")]
    pub(super) ifaces: Vec<String>,

    /// With --iface: also look whether anything on this machine listens at the port
    #[arg(long, requires = "ifaces")]
    pub(super) listening: bool,

    #[command(flatten)]
    pub(super) sets: Sets,

    #[command(flatten)]
    pub(super) json: Json,

    /// Policies, then the packet
    #[arg(required = true, value_name = "WORD", hide = true)]
    words: Vec<String>,
}

/// The packet, and the policies that it is about. Without policies it is about the interface.
pub(super) struct Asked {
    pub(super) policies: Vec<PolicyInput>,
    pub(super) packet: Packet,
}

/// The packet as the user wrote it, parsed as far as that goes without an interface.
#[derive(Clone, Debug)]
pub(super) struct Packet {
    direction: Direction,
    /// As it was written.
    pub(super) protocol: String,
    transport: Transport,
    remote: (IpAddr, Option<u16>),
    /// `None` for the address of the interface.
    local: (Option<IpAddr>, Option<u16>),
}

impl Packet {
    /// The question, with this address in the place of one that was left out.
    pub(super) fn question(
        &self,
        own: impl FnOnce(IpAddr) -> Result<IpAddr, Failure>,
    ) -> Result<Question, Failure> {
        let (remote, remote_port) = self.remote;
        Ok(Question {
            direction: self.direction,
            transport: self.transport,
            remote,
            remote_port,
            local: match self.local.0 {
                Some(local) => local,
                None => own(remote)?,
            },
            local_port: self.local.1,
        })
    }

    /// What `--listening` asks about: protocol and local port of a packet that comes in. Says what
    /// is wrong otherwise.
    pub(super) fn service(&self) -> Result<(u8, u16), String> {
        match (self.direction, self.transport, self.local.1) {
            (
                Direction::Inbound,
                Transport::Protocol(protocol @ (IPPROTO_TCP | IPPROTO_UDP)),
                Some(port),
            ) => Ok((protocol, port)),
            _ => Err(
                "--listening is about inbound packets of tcp or udp: nothing else has a \
                      socket on this machine that listens at a port"
                    .into(),
            ),
        }
    }
}

impl Explain {
    /// Parses the words. Returns what is wrong with them, if anything.
    pub(super) fn asked(&self) -> Result<Asked, String> {
        let asked = match self.ifaces.is_empty() {
            true => self.of_policies()?,
            false => self.of_interface()?,
        };
        if self.listening {
            asked.packet.service()?;
        }
        Ok(asked)
    }

    fn of_policies(&self) -> Result<Asked, String> {
        let wanted = "expected DIRECTION PROTO REMOTE[:PORT] LOCAL[:PORT] at the end, such as \
                      `inbound tcp 203.0.113.9 10.0.0.5:22`";
        let given = self.words.len();
        if let [.., direction, protocol, remote] = self.words.as_slice()
            && is_direction(direction)
            && !self
                .words
                .iter()
                .rev()
                .skip(3)
                .any(|word| is_direction(word))
        {
            return Err(format!(
                "LOCAL, the address of the node itself, is missing behind `{direction} {protocol} \
                 {remote}`: {wanted}"
            ));
        }
        let (policies, packet) = self
            .words
            .split_at_checked(given.wrapping_sub(4))
            .ok_or_else(|| too_few(given, wanted))?;
        let [direction, protocol, remote, local] = packet else {
            return Err(wanted.to_owned());
        };
        if policies.is_empty() {
            return Err(
                "nothing to ask: name a POLICY before DIRECTION, or an interface with --iface"
                    .into(),
            );
        }
        let packet = packet_of(Some(direction), protocol, remote, Some(local))?;
        if packet.local.0.is_none() {
            return Err(format!(
                "`{local}` is no LOCAL: a policy has no address of its own, write ADDRESS:PORT"
            ));
        }
        Ok(Asked {
            policies: policies
                .iter()
                .map(|p| PolicyInput::from(p.as_str()))
                .collect(),
            packet,
        })
    }

    fn of_interface(&self) -> Result<Asked, String> {
        if !self.sets.sets.is_empty() {
            return Err("--set fits a POLICY, and with --iface there is none".into());
        }
        let words: Vec<&str> = self.words.iter().map(String::as_str).collect();
        let (direction, rest) = match words.as_slice() {
            [direction, rest @ ..] if is_direction(direction) => (Some(*direction), rest),
            all => (None, all),
        };
        let packet = match *rest {
            [protocol, remote] => packet_of(direction, protocol, remote, None)?,
            [protocol, remote, local] => packet_of(direction, protocol, remote, Some(local))?,
            [word, ..] if rest.len() > 3 => {
                return Err(format!(
                    "`{word}` is one word too many: with --iface the policy in force is asked, and \
                     only [DIRECTION] PROTO REMOTE [LOCAL] are given"
                ));
            }
            _ => {
                let wanted = "expected [DIRECTION] PROTO REMOTE[:PORT] [LOCAL][:PORT], such as \
                              `tcp 203.0.113.9 :22`";
                return Err(too_few(words.len(), wanted));
            }
        };
        Ok(Asked {
            policies: Vec::new(),
            packet,
        })
    }
}

fn too_few(words: usize, wanted: &str) -> String {
    let is = if words == 1 { "is" } else { "are" };
    format!("{} {is} too few: {wanted}", count(words, "word"))
}

fn is_direction(word: &str) -> bool {
    direction_in(word).is_some()
}

fn packet_of(
    direction: Option<&str>,
    protocol: &str,
    remote: &str,
    local: Option<&str>,
) -> Result<Packet, String> {
    let direction = match direction {
        None => None,
        Some(word) => Some(
            direction_in(word)
                .ok_or_else(|| format!("`{word}` is no DIRECTION: expected inbound or outbound"))?,
        ),
    };
    let (remote, remote_port) = end("REMOTE", remote)?;
    let (local, local_port) = match local {
        None => (None, None),
        Some(text) => local_end(text)?,
    };
    if let Some(local) = local.filter(|local| local.is_ipv4() != remote.is_ipv4()) {
        return Err(format!(
            "REMOTE {remote} and LOCAL {local} are of different families: a packet is either IPv4 \
             or IPv6"
        ));
    }
    let transport = transport(protocol, remote)?;
    let has_ports = transport.has_ports();
    if !has_ports && (remote_port.is_some() || local_port.is_some()) {
        return Err(format!("{protocol} has no ports: give the addresses alone"));
    }
    let direction = match (direction, remote_port, local_port) {
        (Some(direction), ..) => direction,
        (None, None, Some(_)) => Direction::Inbound,
        (None, Some(_), None) => Direction::Outbound,
        _ => {
            return Err(format!(
                "say whether the packet is inbound or outbound: write it before `{protocol}`"
            ));
        }
    };
    let (destination, name, address) = match direction {
        Direction::Inbound => (local_port, "LOCAL", local),
        Direction::Outbound => (remote_port, "REMOTE", Some(remote)),
    };
    if has_ports && destination.is_none() {
        let example = match address {
            Some(address) => Endpoint::new(address, 443).to_string(),
            None => ":443".to_owned(),
        };
        return Err(format!(
            "{protocol} needs the destination port, which is {name}'s when the packet is {}: \
             write it like {example}",
            direction.name()
        ));
    }
    Ok(Packet {
        direction,
        protocol: protocol.to_owned(),
        transport,
        remote: (remote, remote_port),
        local: (local, local_port),
    })
}

/// Parses LOCAL, whose address may be missing.
fn local_end(text: &str) -> Result<(Option<IpAddr>, Option<u16>), String> {
    if let Some(port) = text.strip_prefix(':')
        && let Ok(port) = port.parse()
    {
        return Ok((None, Some(port)));
    }
    if text.parse::<u16>().is_ok() {
        return Err(format!(
            "`{text}` is no LOCAL: a port is written `:{text}`, behind its address if there is one"
        ));
    }
    let (address, port) = end("LOCAL", text)?;
    Ok((Some(address), port))
}

/// Parses an address with or without a port.
fn end(what: &str, text: &str) -> Result<(IpAddr, Option<u16>), String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok((address, None));
    }
    if let Ok(end) = text.parse::<SocketAddr>() {
        return Ok((end.ip(), Some(end.port())));
    }
    if let Some(inner) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'))
        && let Ok(address) = inner.parse::<IpAddr>()
    {
        return Ok((address, None));
    }
    Err(format!(
        "`{text}` is no {what}: expected an address such as 192.0.2.1 or 2001:db8::1, with a port \
         192.0.2.1:443 or [2001:db8::1]:443 (0-65535)"
    ))
}

fn transport(protocol: &str, address: IpAddr) -> Result<Transport, String> {
    let (name, detail) = match protocol.split_once(':') {
        Some((name, detail)) => (name, Some(detail)),
        None => (protocol, None),
    };
    let number = match name {
        "arp" if detail.is_none() => return Ok(Transport::Arp),
        "non-ip" if detail.is_none() => return Ok(Transport::NonIp),
        name => match protocol_in(name) {
            Ok(Protocol::Number(number)) => number,
            _ => {
                return Err(format!(
                    "`{protocol}` is no PROTO: expected tcp, udp, sctp, icmp, icmpv6, gre, esp, \
                     ah, a number 0-255, arp or non-ip"
                ));
            }
        },
    };
    let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
    match (number, address, detail) {
        (IPPROTO_ICMP, IpAddr::V4(_), detail) => icmp(detail, false),
        (IPPROTO_ICMPV6, IpAddr::V6(_), detail) => icmp(detail, true),
        (IPPROTO_ICMP, _, _) if name == "icmp" => Err(format!(
            "icmp is never in {family} packets: write icmpv6, or IPv4 addresses"
        )),
        (IPPROTO_ICMPV6, _, _) if name == "icmpv6" => Err(format!(
            "icmpv6 is never in {family} packets: write icmp, or IPv6 addresses"
        )),
        (_, _, Some(_)) => Err(format!(
            "`{protocol}` is no PROTO: only icmp and icmpv6 have a type, and ports belong to the \
             addresses"
        )),
        (number, _, None) => Ok(Transport::Protocol(number)),
    }
}

/// An ICMP message. Without its type it is an echo request.
fn icmp(detail: Option<&str>, is_v6: bool) -> Result<Transport, String> {
    let detail = detail.unwrap_or("echo-request");
    let (kind, code) = detail.split_once('/').unwrap_or((detail, "0"));
    match (icmp_type(kind, is_v6), code.parse()) {
        (Some(kind), Ok(code)) => Ok(Transport::Icmp { kind, code }),
        _ => Err(format!(
            "`{detail}` is no ICMP type: expected TYPE or TYPE/CODE, TYPE a number 0-255 or a name as \
             in policies, such as echo-request, CODE a number 0-255, such as 3/4"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(
        direction: &str,
        protocol: &str,
        remote: &str,
        local: &str,
    ) -> Result<Question, String> {
        let packet = packet_of(Some(direction), protocol, remote, Some(local))?;
        Ok(packet.question(Ok).expect("the address is there"))
    }

    fn fails(direction: &str, protocol: &str, remote: &str, local: &str) -> String {
        question(direction, protocol, remote, local).unwrap_err()
    }

    #[test]
    fn the_interface_has_what_is_left_out() {
        let own: IpAddr = "192.0.2.1".parse().unwrap();
        let ask = |protocol, remote, local| {
            let packet = packet_of(None, protocol, remote, local)?;
            let asked = packet.question(|_| Ok(own)).expect("there is an address");
            Ok::<_, String>((
                asked.direction,
                asked.local,
                asked.local_port,
                asked.remote_port,
            ))
        };
        let (inbound, outbound) = (Direction::Inbound, Direction::Outbound);
        let found = ask("tcp", "203.0.113.9", Some(":3306"));
        assert_eq!(found, Ok((inbound, own, Some(3306), None)));
        let found = ask("udp", "203.0.113.9:53", None);
        assert_eq!(found, Ok((outbound, own, None, Some(53))));
        let other: IpAddr = "192.0.2.7".parse().unwrap();
        let found = ask("tcp", "203.0.113.9", Some("192.0.2.7:80"));
        assert_eq!(found, Ok((inbound, other, Some(80), None)));
        for (protocol, remote, local, says) in [
            ("icmp", "203.0.113.9", None, "inbound or outbound"),
            (
                "tcp",
                "203.0.113.9",
                Some("3306"),
                "a port is written `:3306`",
            ),
            ("tcp", "203.0.113.9:1", Some(":2"), "inbound or outbound"),
            ("tcp", "203.0.113.9", None, "inbound or outbound"),
            ("tcp", "203.0.113.9", Some(":65536"), "no LOCAL"),
        ] {
            let error = ask(protocol, remote, local).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
        let error = packet_of(Some("in"), "tcp", "203.0.113.9", None).unwrap_err();
        assert!(error.contains("like :443"), "{error}");
    }

    #[test]
    fn ends_and_protocols_are_read() {
        let q = question("in", "tcp", "[2001:db8::1]:5", "[2001:db8::2]:443").unwrap();
        assert_eq!(q.direction, Direction::Inbound);
        assert_eq!((q.remote_port, q.local_port), (Some(5), Some(443)));
        let of = |protocol, address: &str| {
            let q = question("out", protocol, address, address).unwrap();
            q.transport
        };
        let icmp = |kind, code| Transport::Icmp { kind, code };
        assert_eq!(of("icmp", "192.0.2.1"), icmp(8, 0));
        assert_eq!(of("icmp:3/4", "192.0.2.1"), icmp(3, 4));
        assert_eq!(of("icmp:echo-reply", "192.0.2.1"), icmp(0, 0));
        assert_eq!(
            of("icmp:destination-unreachable/3", "192.0.2.1"),
            icmp(3, 3)
        );
        assert_eq!(of("icmpv6:echo-reply", "2001:db8::1"), icmp(129, 0));
        assert_eq!(of("1", "192.0.2.1"), icmp(8, 0));
        assert_eq!(of("icmpv6", "2001:db8::1"), icmp(128, 0));
        assert_eq!(of("1", "2001:db8::1"), Transport::Protocol(1));
        assert_eq!(of("gre", "[2001:db8::1]"), Transport::Protocol(47));
        assert_eq!(of("arp", "192.0.2.1"), Transport::Arp);
        assert_eq!(of("non-ip", "192.0.2.1"), Transport::NonIp);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let (a, b) = ("192.0.2.1", "192.0.2.2");
        assert!(fails("sideways", "tcp", a, b).contains("expected inbound or outbound"));
        assert!(fails("in", "tcp", a, b).contains("like 192.0.2.2:443"));
        assert!(fails("out", "udp", a, b).contains("like 192.0.2.1:443"));
        assert!(fails("in", "icmp", a, "192.0.2.2:1").contains("no ports"));
        assert!(fails("in", "icmp", "::1", "::2").contains("write icmpv6"));
        assert!(fails("in", "icmp:256", a, b).contains("no ICMP type"));
        assert!(fails("in", "icmp:echo", a, b).contains("such as echo-request"));
        assert!(fails("in", "tcp:22", a, b).contains("ports belong"));
        assert!(fails("in", "256", a, b).contains("no PROTO"));
        assert!(fails("in", "tcp", "::1", b).contains("different families"));
        assert!(fails("in", "tcp", a, "192.0.2.2:70000").contains("0-65535"));
    }
}
