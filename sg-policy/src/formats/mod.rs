//! A loaded policy as text again: the YAML of a policy file, with its sets. Loading it gives the
//! same rules, the same digest and the same counters, without any of the files that the policy was
//! read from.
//!
//! The text is the policy as it is in force: files are joined to one, set files and `--set` are
//! written out, and trailing denies that were deferred are left out.
//!
//! ```
//! use sg_policy::formats::{Style, write};
//! use sg_policy::policy::{load_text, load_written};
//!
//! let text = "
//! name: web
//! address-sets: {admin: [198.51.100.7, 2001:db8::/32]}
//! inbound: [{protocol: tcp, ports: 22, from: admin, action: accept}]
//! ";
//! let policy = load_text("web.yaml", text, None, &[]).unwrap().policy;
//! let written = write(&policy, Style::default());
//! assert!(written.yaml.contains("  admin: [198.51.100.7, \"2001:db8::/32\"]\n"));
//! let again = load_written("web.yaml", &written).unwrap().policy;
//! assert_eq!(again.digest, policy.digest);
//! ```

mod fit;
mod names;
mod scalar;
mod write;

pub use fit::fit;
pub use write::{Style, write};
