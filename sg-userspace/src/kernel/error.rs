//! Errors between userspace and the kernel, each with a remedy and an exit code. `os_error` makes
//! them of what the operating system says.

use std::io;
use std::path::PathBuf;

use super::attempted::Attempted;
use sg_policy::compile::TooLarge;

/// An error of the kernel side. `exit_code` is 1 if the input or the state is wrong, and 3 if the
/// kernel has refused something.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum KernelError {
    #[error("{what}: not permitted")]
    #[diagnostic(help("{help}"))]
    NotPermitted { what: String, help: String },

    #[error("{what}: {reason}")]
    #[diagnostic(help("{help}"))]
    Refused {
        what: String,
        reason: String,
        help: String,
    },

    #[error(
        "the self-check found a difference: {packet}: by the rules {expected}; the programs {found}"
    )]
    #[diagnostic(help(
        "nothing was changed; this is a mistake in sgctl, which should be reported together with the \
         policy: until it is mended, keep the policy that is in force"
    ))]
    SelfCheck {
        packet: String,
        expected: String,
        found: String,
    },

    #[error("{what}: {reason}")]
    #[diagnostic(help("{help}"))]
    Fixed {
        what: String,
        reason: String,
        help: String,
    },

    #[error("there is no interface `{name}` in this network namespace")]
    #[diagnostic(help("interfaces here: {known}; another namespace is named with --netns"))]
    NoInterface { name: String, known: String },

    #[error(
        "interface `{interface}` was moved to the network namespace {netns}{}, with what is attached to it",
        renamed(interface, name)
    )]
    #[diagnostic(help(
        "to change what is enforced on it run `sgctl --netns {netns} apply ... --iface {name}`"
    ))]
    MovedAway {
        interface: String,
        netns: String,
        /// The name of the interface in that namespace.
        name: String,
    },

    #[error("another `sgctl run` looks after `{interface}`{by}")]
    #[diagnostic(help(
        "end that one first; or apply the policy with `sgctl apply`, which it will notice and leave in force"
    ))]
    RunsAlready { interface: String, by: String },

    #[error(
        "a `sgctl run` that was killed has left filters on `{interface}`, which let everything pass; no policy \
         is in force there"
    )]
    #[diagnostic(help(
        "`{command}` removes them, and so does the next policy that is put in force there"
    ))]
    HoldLeft {
        interface: String,
        /// The one that removes them.
        command: String,
    },

    #[error("interface `{interface}` carries no Ethernet frames")]
    #[diagnostic(help(
        "tunnels such as WireGuard and tun have no link-layer header to find the packet behind; \
         enforce on the Ethernet interface that the tunnel runs over"
    ))]
    NotEthernet { interface: String },

    #[error("no network namespace `{name}`: {reason}")]
    #[diagnostic(help(
        "`ip netns list` shows the named ones; a path such as /proc/PID/ns/net works too"
    ))]
    NoNetns { name: String, reason: String },

    #[error("interface `{interface}` already runs the XDP program `{program}` (id {id})")]
    #[diagnostic(help("{}", how_to_free(interface, program, *link)))]
    OtherXdp {
        interface: String,
        program: String,
        id: u32,
        /// The link that attaches it, if there is one.
        link: Option<u32>,
    },

    #[error(
        "this process has a private mount namespace {}: what is pinned there would vanish with the \
         process, and enforcement with it",
        mounted_or_not(*.is_mounted, path)
    )]
    #[diagnostic(help(
        "instead of running sgctl under `ip netns exec NAME`, run `sgctl --netns NAME ...` from \
         outside; to pin in this mount namespace on purpose, mount a BPF file system elsewhere \
         (`mount -t bpf -o mode=0700 bpf DIR`) and name it with --bpffs DIR"
    ))]
    PrivateMount { path: PathBuf, is_mounted: bool },

    #[error(
        "this container has process ids of its own {}, and the machine's mounts cannot be seen: as far \
         as can be known, what is pinned there would vanish with the container, and enforcement with it",
        mounted_or_not(*.is_mounted, path)
    )]
    #[diagnostic(help(
        "give the container the machine's BPF file system with mount propagation: \
         `-v /sys/fs/bpf:/sys/fs/bpf:rslave` in Docker and Podman, a hostPath volume with \
         `mountPropagation: HostToContainer` in Kubernetes; where the machine has none, mount it there \
         first (`mount -t bpf -o mode=0700 bpf /sys/fs/bpf`). Or let the container see the machine's \
         processes (`--pid=host`, `hostPID: true`). To have enforcement end with the container on \
         purpose, mount one elsewhere in it and name it with --bpffs DIR"
    ))]
    Container { path: PathBuf, is_mounted: bool },

    #[error("{path} {}", if path.exists() { "is not a BPF file system" } else { "does not exist" })]
    #[diagnostic(help(
        "`{}mount -t bpf -o mode=0700 bpf {}` makes it one, or name another with --bpffs",
        if path.exists() { String::new() } else { format!("mkdir -p {} && ", path.display()) },
        path.display()
    ))]
    NotBpffs { path: PathBuf },

    #[error(
        "the BPF file system at {path} is mounted read-only: nothing can be changed through it"
    )]
    #[diagnostic(help(
        "run this where it is mounted for writing, or mount it so (`mount -o remount,rw {}`); commands \
         that only read work as it is",
        path.display()
    ))]
    ReadOnly { path: PathBuf },

    #[error("{path} belongs to user {owner}, who can put there what they like: it is not believed")]
    #[diagnostic(help(
        "sgctl's directory has to be root's; look at who made this one, remove it (`rm -r {}`) if it \
         is not yours, and mount the BPF file system with `mount -t bpf -o mode=0700`, so that \
         others cannot write to it",
        path.display()
    ))]
    OthersDirectory { path: PathBuf, owner: u32 },

    #[error("others than root can write to {path} (mode {mode:04o}): it is not believed")]
    #[diagnostic(help(
        "look at what is in it; `chmod 0700 {}` closes it, and `mount -t bpf -o mode=0700` mounts a BPF \
         file system that way",
        path.display()
    ))]
    WritableByOthers { path: PathBuf, mode: u32 },

    #[error("{path} is not a directory: it was not made by sgctl, and is not believed")]
    #[diagnostic(help(
        "look at who made it, remove it, and mount the BPF file system with `mount -t bpf -o \
         mode=0700`, so that others cannot write to it"
    ))]
    NotOurs { path: PathBuf },

    #[error(
        "{path} holds pins of layout version {found}, this sgctl speaks version {ours}; nothing is changed, \
         and what they enforce is enforced as before"
    )]
    #[diagnostic(help(
        "to leave no gap, keep the sgctl of version {found} until the machine restarts: no pin outlives \
         that, and a service that is enabled (`systemctl enable sgctl@IF`) puts its policy in force before \
         the network is set up. At once, with nothing enforced in between: `sgctl detach --iface IF` by the \
         sgctl of version {found}, then apply with this one"
    ))]
    OtherLayout {
        path: PathBuf,
        found: String,
        ours: u32,
    },

    #[error("the pinned map {path} is not what this sgctl expects: {difference}")]
    #[diagnostic(help(
        "`sgctl detach --iface IF` removes it and ends enforcement there; then apply again"
    ))]
    OtherMap { path: PathBuf, difference: String },

    #[error("{what}: it is not there")]
    #[diagnostic(help(
        "somebody has removed a part of what sgctl pinned; where applying again does not put it \
         back, `sgctl detach --iface IF` removes the rest and ends enforcement there; then apply \
         again"
    ))]
    MissingPin { what: String },

    #[error("the state record {path} is damaged: {reason}")]
    #[diagnostic(help(
        "what is attached goes on, but rules and counters can no longer be told apart; \
         `sgctl detach --iface IF` removes it and ends enforcement there, then apply again"
    ))]
    DamagedState { path: PathBuf, reason: String },

    #[error(
        "nothing is attached to {interface}, but there are maps: an apply or a detach is under way, or \
         was cut short"
    )]
    #[diagnostic(help(
        "`sgctl apply POLICY --iface {interface}` starts over, `sgctl detach --iface {interface}` \
         removes what is left"
    ))]
    CutShort { interface: String },

    /// Refused by the lock-out guard, or because of what the policy's own guard names (C6).
    #[error("{message}")]
    #[diagnostic(help("{help}"))]
    Guarded {
        /// `lock-out` or `guard`.
        code: &'static str,
        message: String,
        help: String,
    },

    #[error("what is kept at {path} cannot be used: {reason}")]
    #[diagnostic(help(
        "the policy in force is enforced as before; the next policy that is applied is kept anew"
    ))]
    DamagedHistory { path: PathBuf, reason: String },

    #[error("the zero of the counters at {path} cannot be used: {reason}")]
    #[diagnostic(help(
        "the counters themselves are whole: leave out --since-reset, or set a new zero with `sgctl \
         counters --reset`"
    ))]
    DamagedZero { path: PathBuf, reason: String },

    #[error("the policy of generation {generation} is not kept: {reason}")]
    #[diagnostic(help("`sgctl history` lists what is kept"))]
    NotKept { generation: u32, reason: String },

    #[error("nothing is attached to {scope}")]
    #[diagnostic(help(
        "`sgctl apply POLICY --iface IF` attaches, `sgctl status` shows what is where"
    ))]
    NotAttached { scope: String },

    #[error("no candidate is evaluated beside the policy on {scope}")]
    #[diagnostic(help(
        "`sgctl apply --candidate POLICY --iface IF` puts one there, and changes no verdict"
    ))]
    NoCandidate { scope: String },

    #[error("no policy on {scope} waits to be confirmed")]
    #[diagnostic(help(
        "`sgctl apply --confirm-within TIME` puts one in force that does; `sgctl status` shows what is \
         in force"
    ))]
    NothingToConfirm { scope: String },

    #[error("{undone}")]
    #[diagnostic(help(
        "run it again, and keep it by `sgctl confirm` from another session before its deadline"
    ))]
    NotConfirmed { undone: String },

    #[error("too late: {undone}")]
    #[diagnostic(help("apply the policy again to put it in force"))]
    TooLate { undone: String },

    #[error("another sgctl holds the lock on {path} for more than {seconds} s")]
    #[diagnostic(help(
        "wait for it, or look for a stuck process with `fuser {}`",
        path.display()
    ))]
    Locked { path: PathBuf, seconds: u64 },

    #[error(transparent)]
    #[diagnostic(help(
        "use fewer different port ranges and address sets, or raise --table-memory"
    ))]
    TooLarge(#[from] TooLarge),

    /// Another error, with what is in force after it.
    #[error("{source}; {standing}")]
    Halfway {
        #[source]
        source: Box<KernelError>,
        standing: String,
        /// The help of that error.
        #[help]
        help: Option<String>,
        /// The policy that was to be put in force, for each interface where its programs may run
        /// in one direction or both.
        attempted: Vec<Attempted>,
    },

    #[error("{what}: {source}")]
    Io {
        what: String,
        #[source]
        source: io::Error,
        #[help]
        help: Option<String>,
    },
}

impl KernelError {
    pub fn exit_code(&self) -> u8 {
        match self {
            KernelError::NotPermitted { .. }
            | KernelError::Refused { .. }
            | KernelError::SelfCheck { .. } => 3,
            KernelError::Io { source, .. } if is_short(source) => 3,
            KernelError::Halfway { source, .. } => source.exit_code(),
            _ => 1,
        }
    }

    /// The kind of error for programs: kebab-case, and stable.
    pub fn code_name(&self) -> &'static str {
        match self {
            KernelError::NotPermitted { .. } => "not-permitted",
            KernelError::Refused { .. } => "refused",
            KernelError::SelfCheck { .. } => "self-check",
            KernelError::Fixed { .. } => "fixed",
            KernelError::NoInterface { .. } | KernelError::MovedAway { .. } => "no-interface",
            KernelError::HoldLeft { .. } => "hold-left",
            KernelError::NotEthernet { .. } => "not-ethernet",
            KernelError::RunsAlready { .. } => "runs-already",
            KernelError::NoNetns { .. } => "no-netns",
            KernelError::OtherXdp { .. } => "other-xdp",
            KernelError::PrivateMount { .. } => "private-mount",
            KernelError::Container { .. } => "container",
            KernelError::NotBpffs { .. } => "not-bpffs",
            KernelError::ReadOnly { .. } => "read-only",
            KernelError::OthersDirectory { .. } => "others-directory",
            KernelError::WritableByOthers { .. } => "writable-by-others",
            KernelError::NotOurs { .. } => "not-ours",
            KernelError::OtherLayout { .. } => "other-layout",
            KernelError::OtherMap { .. } => "other-map",
            KernelError::MissingPin { .. } => "missing-pin",
            KernelError::DamagedState { .. } => "damaged-state",
            KernelError::CutShort { .. } => "cut-short",
            KernelError::DamagedHistory { .. } => "damaged-history",
            KernelError::DamagedZero { .. } => "damaged-zero",
            KernelError::NotKept { .. } => "not-kept",
            KernelError::Guarded { code, .. } => code,
            KernelError::NotAttached { .. } => "not-attached",
            KernelError::NoCandidate { .. } => "no-candidate",
            KernelError::NothingToConfirm { .. } => "nothing-to-confirm",
            KernelError::NotConfirmed { .. } => "not-confirmed",
            KernelError::TooLate { .. } => "too-late",
            KernelError::Locked { .. } => "locked",
            KernelError::TooLarge(_) => "tables-too-large",
            KernelError::Io { .. } => "io",
            KernelError::Halfway { .. } => "halfway",
        }
    }

    /// Adds what is in force after the error.
    pub(super) fn with_standing(self, standing: String) -> KernelError {
        let help = miette::Diagnostic::help(&self).map(|help| help.to_string());
        KernelError::Halfway {
            source: Box::new(self),
            standing,
            help,
            attempted: Vec::new(),
        }
    }

    /// Adds the attempted policy to an error that says what is in force.
    pub(super) fn with_attempted(mut self, what: Vec<Attempted>) -> KernelError {
        if let KernelError::Halfway { attempted, .. } = &mut self {
            *attempted = what;
        }
        self
    }

    /// The policy that was to be put in force, for each interface where its programs may run after
    /// this error.
    pub fn attempted(&self) -> &[Attempted] {
        match self {
            KernelError::Halfway { attempted, .. } => attempted,
            _ => &[],
        }
    }

    pub(super) fn none_named() -> Self {
        KernelError::Fixed {
            what: "applying a policy".into(),
            reason: "no interface was named".into(),
            help: "name one with --iface".into(),
        }
    }

    /// Whether another attempt may succeed, because the kernel was short of a resource or did not
    /// permit the step.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            KernelError::NotPermitted { .. } => true,
            KernelError::Io { source, .. } => is_short(source),
            _ => false,
        }
    }
}

/// Whether the kernel was short of a resource, which may be available the next time.
fn is_short(error: &io::Error) -> bool {
    let short = [
        libc::ENOMEM,
        libc::ENOBUFS,
        libc::EBUSY,
        libc::EAGAIN,
        libc::EINTR,
        libc::EMFILE,
        libc::ENFILE,
    ];
    let code = error.raw_os_error();
    code.is_some_and(|code| short.contains(&code))
}

fn renamed(before: &str, now: &str) -> String {
    match before == now {
        true => String::new(),
        false => format!(", where it is called `{now}`"),
    }
}

fn mounted_or_not(is_mounted: bool, path: &std::path::Path) -> String {
    let path = path.display();
    match is_mounted {
        true => format!("with a BPF file system of its own at {path}"),
        false => format!("without a BPF file system at {path}"),
    }
}

/// The remedy for an XDP program of another tool on the interface.
fn how_to_free(interface: &str, program: &str, link: Option<u32>) -> String {
    let ours = match program == super::load::object::INBOUND {
        true => {
            "it is an sgctl's by its name, and may enforce a policy that is pinned in another BPF file \
             system (a container's, or one that was named with --bpffs): apply or detach with that \
             --bpffs; if there is none, "
        }
        false => "",
    };
    let how = match link {
        None => format!(
            "an interface runs one XDP program; remove that one with the tool that loaded it, or with \
             `ip link set dev {interface} xdp off`, and apply again"
        ),
        Some(link) => format!(
            "an interface runs one XDP program; end the tool that attached that one, which it did by a \
             link that `ip link set ... xdp off` cannot remove (`bpftool link detach id {link}` can), and \
             apply again"
        ),
    };
    format!("{ours}{how}")
}

/// The error for an embedded BPF object that lacks something.
pub(super) fn broken_object(what: &str) -> KernelError {
    KernelError::Refused {
        what: "reading the embedded BPF object".into(),
        reason: format!("it has no usable `{what}`"),
        help: "this build of sgctl is broken; build it again with `cargo xtask build`".into(),
    }
}
