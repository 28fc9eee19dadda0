//! The errors because of which the lab has no report.

use std::io;

use sg_userspace::kernel::KernelError;

/// Why there is no report.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub(crate) enum LabError {
    #[error(transparent)]
    #[diagnostic(transparent)]
    Kernel(#[from] KernelError),

    #[error("{what}: {source}")]
    #[diagnostic(help(
        "the lab needs root, network namespaces and virtual Ethernet pairs (CONFIG_NET_NS, \
         CONFIG_VETH), and /proc/sys mounted for writing"
    ))]
    Setup {
        what: String,
        #[source]
        source: io::Error,
    },

    #[error("the lab's network does not work even without a policy: {what}")]
    #[diagnostic(help("nothing can be said about the policy here; nothing was left behind"))]
    Baseline { what: String },

    #[error("a thread of the lab ended early")]
    #[diagnostic(help("this is a defect of sgctl; what it printed above says where"))]
    Lost,
}

impl LabError {
    /// The kind of error for programs: kebab-case, and stable.
    pub(crate) fn code_name(&self) -> &'static str {
        match self {
            LabError::Kernel(error) => error.code_name(),
            LabError::Setup { .. } => "lab-setup",
            LabError::Baseline { .. } => "lab-baseline",
            LabError::Lost => "lab-lost",
        }
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            LabError::Kernel(error) => error.exit_code(),
            LabError::Setup { .. } | LabError::Baseline { .. } | LabError::Lost => 3,
        }
    }

    pub(super) fn setup(what: impl Into<String>, source: io::Error) -> LabError {
        let what = what.into();
        match source.kind() {
            io::ErrorKind::PermissionDenied => KernelError::may_not_enter(what).into(),
            _ => LabError::Setup { what, source },
        }
    }
}
