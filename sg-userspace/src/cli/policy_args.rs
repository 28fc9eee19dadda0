//! The arguments that name and fit policies, shared by `check`, `apply` and `run`, and those that
//! say how to attach.

use std::path::Path;

use clap::{Args, ValueEnum};
use sg_policy::analysis;
use sg_policy::compile::Budget;
use sg_policy::policy::{
    AuditScope, Loaded, PolicyErrors, PolicyInput, SetOverride, load, load_believed,
};
use sg_userspace::kernel::{self, ApplyOptions, DEFAULT_MAX_FLOWS, KernelError, interfaces};
use sg_userspace::sources::trust::believe;

use super::context::Context;

#[derive(Args, Clone)]
pub(super) struct Policies {
    /// A file, `-` for standard input, or builtin:NAME; several bind their groups in this order
    #[arg(required = true, value_name = "POLICY")]
    policies: Vec<PolicyInput>,

    #[command(flatten)]
    pub(super) sets: Sets,
}

#[derive(Args, Clone)]
pub(super) struct Sets {
    /// Replace the contents of a named set; `NAME=` empties it
    #[arg(long = "set", value_name = "NAME=VALUE[,VALUE...]")]
    pub(super) sets: Vec<SetOverride>,
}

impl Policies {
    pub(super) fn of(policies: Vec<PolicyInput>, sets: Vec<SetOverride>) -> Policies {
        Policies {
            policies,
            sets: Sets { sets },
        }
    }

    /// Whether none is named, where a command allows that.
    pub(super) fn is_empty(&self) -> bool {
        self.policies.is_empty()
    }

    /// The policy, with all that `check` says of it.
    pub(super) fn load(&self) -> Result<Loaded, PolicyErrors> {
        Ok(with_findings(load(&self.policies, &self.sets.sets)?))
    }

    /// The policy that is to be put in force: its files must be such as nobody else can write
    /// (P11).
    pub(super) fn load_to_enforce(&self, trust: Trust) -> Result<Loaded, PolicyErrors> {
        let (policies, sets) = (&self.policies, &self.sets.sets);
        let loaded = match trust.trust_files {
            true => load(policies, sets)?,
            false => load_believed(policies, sets, believe)?,
        };
        Ok(with_findings(loaded))
    }

    /// The files among them.
    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        self.policies.iter().filter_map(|input| match input {
            PolicyInput::File(path) => Some(path.as_path()),
            _ => None,
        })
    }

    /// Whether one of the policies is standard input, which can be read only once.
    pub(super) fn are_from_stdin(&self) -> bool {
        self.policies.contains(&PolicyInput::Stdin)
    }

    /// These policies with one set replaced.
    pub(super) fn with_set(&self, set: SetOverride) -> Policies {
        let mut with = self.clone();
        with.sets.sets.retain(|other| other.name != set.name);
        with.sets.sets.push(set);
        with
    }

    /// The arguments as the user wrote them, for a suggested command.
    pub(super) fn spelled(&self) -> String {
        let spelled = self.policies.iter().map(|input| match input {
            PolicyInput::Stdin => "-".to_owned(),
            other => other.to_string(),
        });
        spelled.collect::<Vec<_>>().join(" ")
    }
}

fn with_findings(loaded: Loaded) -> Loaded {
    Loaded {
        findings: analysis::findings(&loaded),
        ..loaded
    }
}

/// Which files may say what is enforced.
#[derive(Args, Clone, Copy)]
pub(super) struct Trust {
    /// Read policy and set files that others than root and you can write or replace; they then
    /// decide what passes
    #[arg(long)]
    trust_files: bool,
}

#[derive(Args, Clone, Copy)]
pub(super) struct TableMemory {
    /// The most kernel memory that the lookup tables may take
    #[arg(
        long = "table-memory",
        value_name = "MiB",
        default_value_t = (Budget::default().table_bytes >> 20) as u32,
        value_parser = clap::value_parser!(u32).range(1..=1 << 20)
    )]
    table_memory: u32,
}

impl TableMemory {
    pub(super) fn budget(self) -> Budget {
        Budget {
            table_bytes: (self.table_memory as usize).saturating_mul(1 << 20),
            ..Budget::default()
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum XdpMode {
    /// Native where the driver has it, else generic
    Auto,
    Native,
    Generic,
}

#[derive(Clone, Copy, ValueEnum)]
enum EgressHook {
    /// tcx where the kernel has it (Linux 6.6), else a clsact filter
    Auto,
    Tcx,
    Clsact,
}

#[derive(Clone, Copy, ValueEnum)]
enum Audit {
    /// What the policy would drop, but for what is malformed
    Policy,
    /// What is malformed too
    All,
}

#[derive(Args, Clone)]
pub(super) struct Attach {
    /// The interface to enforce the policy on, or those that match a pattern such as 'eth*'; may
    /// be repeated: all of them share one flow table
    #[arg(long = "iface", value_name = "IF", required = true)]
    pub(super) ifaces: Vec<String>,

    /// Established flows for which the flow table has room, fixed when it is created
    #[arg(
        long,
        value_name = "N",
        help = format!(
            "Established flows for which the flow table has room, fixed when it is created \
             [default: {DEFAULT_MAX_FLOWS}]"
        ),
        value_parser = clap::value_parser!(u32).range(1..=1 << 26)
    )]
    max_flows: Option<u32>,

    /// Cut connections that exist when the first policy is attached, unless its rules pass them
    #[arg(long)]
    cut_existing: bool,

    /// Drop nothing: let pass what the policy would drop, and count and log it as `audit`; what is
    /// malformed is dropped all the same, except with --audit=all
    #[arg(
        long,
        value_enum,
        value_name = "SCOPE",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "policy"
    )]
    audit: Option<Audit>,

    /// Before anything changes, let the new programs judge packets at each edge of each rule, and
    /// refuse them if they differ from the rules; `run` does so unless told otherwise
    #[arg(long, overrides_with = "no_self_check")]
    self_check: bool,

    /// Leave that out
    #[arg(long, overrides_with = "self_check")]
    pub(super) no_self_check: bool,

    /// Where in the receive path inbound packets are judged
    #[arg(long, value_enum, value_name = "MODE", default_value_t = XdpMode::Auto)]
    xdp_mode: XdpMode,

    /// What outbound packets are judged at; clsact adds a qdisc where there is none, which drops
    /// some frames of that moment
    #[arg(long, value_enum, value_name = "HOOK", default_value_t = EgressHook::Auto)]
    egress_hook: EgressHook,

    /// Apply it even where that would lock you out, or drops what the policy's own guard names
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    pub(super) trust: Trust,

    #[command(flatten)]
    memory: TableMemory,
}

impl Attach {
    /// An option that was given and that belongs to a policy, not to an attachment.
    pub(super) fn of_a_policy(&self) -> Option<&'static str> {
        match (&self.audit, self.force) {
            (Some(_), _) => Some("--audit"),
            (None, true) => Some("--force"),
            (None, false) => None,
        }
    }

    /// What outbound packets are to be judged at.
    pub(super) fn hook(&self) -> kernel::EgressHook {
        match self.egress_hook {
            EgressHook::Auto => kernel::EgressHook::Auto,
            EgressHook::Tcx => kernel::EgressHook::Tcx,
            EgressHook::Clsact => kernel::EgressHook::Clsact,
        }
    }

    /// # Errors
    /// Where no interface matches a pattern.
    pub(super) fn options(&self, context: &Context) -> Result<ApplyOptions, KernelError> {
        let mut options = ApplyOptions::on(&[]);
        options.interfaces = interfaces::expand(&self.ifaces)?;
        options.netns.clone_from(&context.netns);
        options.bpffs.clone_from(&context.bpffs);
        options.xdp_mode = match self.xdp_mode {
            XdpMode::Auto => kernel::XdpMode::Auto,
            XdpMode::Native => kernel::XdpMode::Native,
            XdpMode::Generic => kernel::XdpMode::Generic,
        };
        options.egress_hook = self.hook();
        options.max_flows = self.max_flows;
        options.cut_existing = self.cut_existing;
        options.forced = self.force;
        options.budget = self.memory.budget();
        options.self_check = self.self_check;
        options.audit = match self.audit {
            None => AuditScope::Rules,
            Some(Audit::Policy) => AuditScope::Policy,
            Some(Audit::All) => AuditScope::All,
        };
        Ok(options)
    }
}
