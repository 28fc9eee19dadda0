//! `sgctl schema`: prints the JSON Schema of policy files, which editors check and complete by.

use clap::Args;
use sg_policy::policy::schema;

use super::context::Context;
use super::failure::Failure;

/// Print the JSON Schema of policy files, for editors
#[derive(Args)]
#[command(after_help = "\
An editor that knows the schema marks unknown keys and wrong values while you type, and completes both.
Those with a YAML language server take it from the first line of the policy:
  # yaml-language-server: $schema=policy.schema.json

`sgctl check` says more: a schema knows neither which sets there are nor what rules do.

Examples:
  sgctl schema > policy.schema.json")]
pub(super) struct Schema {}

impl Schema {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        context.out.json(&schema())
    }
}
