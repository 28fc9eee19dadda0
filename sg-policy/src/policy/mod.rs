//! Text → validated rules: reads policy files, resolves sets, joins groups, reports every error.
//! [`load`] is the way in; [`model`] is what comes out.
//!
//! A text becomes a tree whose nodes know their places (`yaml`), which is walked (`document`,
//! `rules`, `sets`) so that one reading finds every error; then the groups of all files are joined
//! (`join`).

mod address;
mod builtin;
mod clip;
mod cover;
mod dialect;
mod digest;
mod document;
mod duration;
mod endpoint;
mod errors;
mod fields;
mod finding;
mod guard;
mod input;
mod items;
mod join;
mod kind;
mod lines;
mod literals;
mod load;
mod loading;
mod matching;
pub mod model;
mod other_format;
mod ports;
mod protocol;
mod read;
mod rules;
mod schema;
mod set_name;
mod setfile;
mod sets;
mod source;
mod spelling;
mod yaml;

pub(crate) use address::{mask4, mask6, split as split_range};
pub use builtin::{Builtin, builtin, builtins};
pub use clip::{is_obeyed, moves_text};
pub(crate) use cover::{Cover, is_whole_family};
pub use duration::seconds_in;
pub use endpoint::Endpoint;
pub use errors::{PRINTED, PolicyError, PolicyErrors};
pub use fields::suggest;
pub use finding::{Decider, Finding, Lint, Location, Severity, Witness};
pub use input::{PolicyInput, SetOverride, SetOverrideError};
#[doc(hidden)]
pub use lines::{groups_from_lines, rules_from_lines};
pub use literals::{addresses_in, ports_in, protocol_in};
pub use load::{Loaded, PolicyText, SetText, load, load_believed, load_text, load_written};
pub use loading::{PORT_RANGES, PREFIXES, RULES};
pub use model::*;
pub use protocol::icmp_type_name;
pub use protocol::icmp_type_of as icmp_type;
pub use protocol::name as protocol_name;
pub use protocol::worded as protocol_worded;
pub use read::{ALL_SET_BYTES, Believe, Distrust, POLICY_BYTES, SET_BYTES, SET_FILES};
pub use schema::schema;
pub(crate) use set_name::is_set_name;
