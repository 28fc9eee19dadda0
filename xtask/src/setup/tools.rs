//! The programs that the tests and the lab make networks and traffic with, and those that boot
//! older kernels. The enforcer itself calls none of them.

use std::process::Command;

use super::{
    apt::Apt,
    step::{Found, Missing, Needs},
};
use crate::{
    shell,
    term::{self, Colour},
};

struct Tool {
    program: &'static str,
    /// Debian's package that has it.
    package: &'static str,
    why: &'static str,
}

const TOOLS: [Tool; 17] = [
    Tool {
        program: "ip",
        package: "iproute2",
        why: "makes namespaces and veth pairs",
    },
    Tool {
        program: "tc",
        package: "iproute2",
        why: "puts other programs on an interface, to share it with",
    },
    Tool {
        program: "nft",
        package: "nftables",
        why: "the reference that the agreement tests compare verdicts with",
    },
    Tool {
        program: "nc",
        package: "netcat-openbsd",
        why: "opens and answers real connections (the OpenBSD version)",
    },
    Tool {
        program: "ping",
        package: "iputils-ping",
        why: "sends real ICMP",
    },
    Tool {
        program: "traceroute",
        package: "traceroute",
        why: "provokes the errors of real routers",
    },
    Tool {
        program: "nmap",
        package: "nmap",
        why: "scans all ports of a node from outside",
    },
    Tool {
        program: "ethtool",
        package: "ethtool",
        why: "turns on the offloads that real interfaces have",
    },
    Tool {
        program: "dnsmasq",
        package: "dnsmasq-base",
        why: "gives out addresses and advertises a router, beside a node",
    },
    Tool {
        program: "dhcpcd",
        package: "dhcpcd-base",
        why: "asks for an address, on a node",
    },
    Tool {
        program: "dropbear",
        package: "dropbear-bin",
        why: "is the SSH server through which an operator works",
    },
    Tool {
        program: "dbclient",
        package: "dropbear-bin",
        why: "is the operator's SSH client",
    },
    Tool {
        program: "dropbearkey",
        package: "dropbear-bin",
        why: "makes the keys of both",
    },
    Tool {
        program: "tmux",
        package: "tmux",
        why: "stands between an operator and a shell",
    },
    Tool {
        program: "strace",
        package: "strace",
        why: "lets single system calls fail",
    },
    Tool {
        program: "tshark",
        package: "tshark",
        why: "reads captures, and filters them by verdict and comment",
    },
    Tool {
        program: "capinfos",
        package: "wireshark-common",
        why: "checks captures and their statistics",
    },
];

/// What only tests outside of a guest call.
const HOST_TOOLS: [Tool; 9] = [
    Tool {
        program: "iptables",
        package: "iptables",
        why: "decides beside a policy that was migrated from it",
    },
    Tool {
        program: "ufw",
        package: "ufw",
        why: "the same; the package enables nothing",
    },
    Tool {
        program: "zsh",
        package: "zsh",
        why: "completes what is typed",
    },
    Tool {
        program: "fish",
        package: "fish",
        why: "completes what is typed",
    },
    Tool {
        program: "systemd-analyze",
        package: "systemd",
        why: "says how exposed the service is, and comes with what the boot tests boot",
    },
    Tool {
        program: "kubectl",
        package: "kubernetes-client",
        why: "builds and checks the manifests in deploy/kubernetes",
    },
    Tool {
        program: "capsh",
        package: "libcap2-bin",
        why: "starts a container's process with the capabilities of its manifest",
    },
    Tool {
        program: "prometheus",
        package: "prometheus",
        why: "scrapes metrics; where systemd runs, the package starts one on port 9090",
    },
    Tool {
        program: "promtool",
        package: "prometheus",
        why: "checks metrics and alert rules",
    },
];

const KERNEL_TOOLS: [Tool; 2] = [
    Tool {
        program: "busybox",
        package: "busybox-static",
        why: "is the first process of a guest",
    },
    Tool {
        program: "xz",
        package: "xz-utils",
        why: "unpacks kernel modules",
    },
];

const DIST_TOOLS: [Tool; 2] = [
    Tool {
        program: "ip",
        package: "iproute2",
        why: "makes the interface on which a new binary is tried",
    },
    Tool {
        program: "mandoc",
        package: "mandoc",
        why: "looks for mistakes in manual pages",
    },
];

const PACKAGE_TOOLS: [Tool; 3] = [
    Tool {
        program: "mmdebstrap",
        package: "mmdebstrap",
        why: "makes the clean Debian system that packages are installed in",
    },
    Tool {
        program: "rpm",
        package: "rpm",
        why: "reads and unpacks a package for RPM",
    },
    Tool {
        program: "lintian",
        package: "lintian",
        why: "is Debian's own opinion of a package",
    },
];

const CLUSTER_TOOLS: [Tool; 6] = [
    Tool {
        program: "dpkg-source",
        package: "dpkg-dev",
        why: "unpacks a source package",
    },
    Tool {
        program: "make",
        package: "make",
        why: "builds an API server",
    },
    Tool {
        program: "rsync",
        package: "rsync",
        why: "is called by that build",
    },
    Tool {
        program: "iptables",
        package: "iptables",
        why: "is what kube-proxy translates addresses with",
    },
    Tool {
        program: "conntrack",
        package: "conntrack",
        why: "is called by kube-proxy when an endpoint goes",
    },
    Tool {
        program: "openssl",
        package: "openssl",
        why: "makes the key of an API server",
    },
];

/// The programs that tests in a guest call.
pub(crate) fn test_programs() -> impl Iterator<Item = &'static str> {
    TOOLS.iter().map(|tool| tool.program)
}

pub(super) fn step(apt: &mut Apt, needs: Needs) -> Result<Found, Missing> {
    let programs: Vec<_> = needed(needs).map(|tool| tool.program).collect();
    let text = programs.join(" ");
    let missing = missing(needs);
    if missing.is_empty() {
        return Ok(Found {
            text,
            installed: false,
        });
    }

    for tool in &missing {
        let line = format!("{} is not here: {}", tool.program, tool.why);
        term::say(Colour::Yellow, "setup", line);
    }
    let packages = packages(&missing);
    let why = match apt.install(&packages) {
        Ok(()) if self::missing(needs).is_empty() => {
            return Ok(Found {
                text,
                installed: true,
            });
        }
        Ok(()) => "the packages are installed, but the programs are not on the PATH".to_owned(),
        Err(error) => format!("{error:#}"),
    };
    let programs: Vec<_> = missing.iter().map(|tool| tool.program).collect();
    Err(Missing {
        what: programs.join(" "),
        why,
        by_hand: vec![
            "install them; on Debian and Ubuntu, as root:".to_owned(),
            format!("  apt-get install {}", packages.join(" ")),
        ],
    })
}

fn needed(needs: Needs) -> impl Iterator<Item = &'static Tool> {
    let groups: &[&'static [Tool]] = match needs {
        Needs::Build => &[],
        Needs::Tools => &[&TOOLS, &HOST_TOOLS],
        Needs::Kernels => &[&TOOLS, &HOST_TOOLS, &KERNEL_TOOLS],
        Needs::Dist => &[&DIST_TOOLS],
        Needs::Packages => &[&TOOLS, &DIST_TOOLS, &PACKAGE_TOOLS],
        Needs::Kubernetes => &[&TOOLS, &HOST_TOOLS, &CLUSTER_TOOLS],
    };
    groups.iter().copied().flatten()
}

fn missing(needs: Needs) -> Vec<&'static Tool> {
    needed(needs).filter(|tool| !is_there(tool)).collect()
}

fn is_there(tool: &Tool) -> bool {
    let Some(path) = shell::which(tool.program) else {
        return false;
    };
    if tool.program != "nc" {
        return true;
    }
    // The several programs of this name disagree about their options.
    Command::new(path).arg("-h").output().is_ok_and(|output| {
        [output.stdout, output.stderr]
            .iter()
            .any(|said| String::from_utf8_lossy(said).contains("OpenBSD"))
    })
}

/// The packages of the tools, each once.
fn packages(tools: &[&Tool]) -> Vec<String> {
    let mut packages: Vec<_> = tools.iter().map(|tool| tool.package.to_owned()).collect();
    packages.dedup();
    packages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_with_two_tools_is_installed_once() {
        let all: Vec<_> = TOOLS.iter().collect();
        let packages = packages(&all);
        for tool in TOOLS {
            let times = packages.iter().filter(|it| **it == tool.package).count();
            assert_eq!(times, 1, "{}: {packages:?}", tool.package);
        }
        assert!(packages.len() < TOOLS.len(), "ip and tc have one package");
    }
}
