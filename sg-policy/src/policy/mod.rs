//! Text → validated rules: reads policy files, resolves sets, joins groups, reports every error.
//! [`load`] is the way in; [`model`] is what comes out.
//!
//! A text becomes a tree whose nodes know their places (`yaml`), which is walked (`document`,
//! `rules`, `sets`) so that one reading finds every error; then the groups of all files are joined
//! (`join`) and linted (`lint`).

mod address;
mod builtin;
mod clip;
mod cover;
mod dialect;
mod digest;
mod document;
mod duration;
mod errors;
mod fields;
mod finding;
mod input;
mod items;
mod join;
mod kind;
mod lines;
mod lint;
mod load;
mod loading;
mod matching;
pub mod model;
mod other_format;
mod ports;
mod protocol;
mod reach;
mod read;
mod rules;
mod set_name;
mod setfile;
mod sets;
mod shadow;
mod source;
mod spelling;
mod yaml;

pub use builtin::{Builtin, builtin, builtins};
pub use errors::{PRINTED, PolicyError, PolicyErrors};
pub use finding::{Finding, Lint, Location, Severity};
pub use input::{PolicyInput, SetOverride, SetOverrideError};
#[doc(hidden)]
pub use lines::{groups_from_lines, rules_from_lines};
pub use load::{Loaded, load, load_text};
pub use loading::{PORT_RANGES, PREFIXES, RULES};
pub use model::*;
pub use protocol::icmp_type_of as icmp_type;
pub(crate) use protocol::is_ipv6_extension;
pub use read::{POLICY_BYTES, SET_BYTES};
