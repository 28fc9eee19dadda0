//! Text → validated rules: reads policy files, resolves sets, joins groups, reports every error.

pub mod model;

pub use model::*;
