//! `sgctl templates`: lists the built-in policies and prints one. The output of `show` is a policy
//! file to edit and apply.

use std::fmt::Write as _;

use clap::{Args, Subcommand};
use serde::Serialize;
use sg_policy::formats::fit;
use sg_policy::policy::{PolicyInput, SetOverride, builtins, load};

use super::context::{Context, Json};
use super::failure::Failure;
use super::policy_args::Sets;
use super::screen::Paint;
use super::table::{Column, Table};

/// List the built-in policies, or print one
#[derive(Args)]
#[command(after_help = "\
Examples:
  sgctl templates
  sgctl templates show tke > policy.yaml
  sgctl templates show web --set clients=any --set admin=198.51.100.7
  sgctl apply builtin:tke --iface eth0")]
pub(super) struct Templates {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    json: Json,
}

#[derive(Subcommand)]
enum Command {
    /// Print a built-in policy as a file, with its sets as they are or as --set gives them
    Show {
        /// As `sgctl templates` lists it
        name: String,
        #[command(flatten)]
        sets: Sets,
        #[command(flatten)]
        json: Json,
    },
}

#[derive(Serialize)]
struct Listed {
    name: &'static str,
    description: &'static str,
    rules: usize,
}

#[derive(Serialize)]
struct Shown {
    name: &'static str,
    description: &'static str,
    text: String,
}

impl Templates {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        match self.command {
            None => list(context, self.json.json),
            Some(Command::Show { name, sets, json }) => {
                show(context, &name, &sets.sets, json.json || self.json.json)
            }
        }
    }
}

fn list(context: &Context, json: bool) -> Result<(), Failure> {
    let mut listed = Vec::new();
    for builtin in builtins() {
        let loaded = load(&[PolicyInput::Builtin(builtin.name.to_owned())], &[])?;
        listed.push(Listed {
            name: builtin.name,
            description: builtin.summary,
            rules: loaded.policy.rules.len(),
        });
    }
    let screen = &context.out;
    if json {
        return screen.json(&listed);
    }
    let columns = [
        Column::Text("NAME"),
        Column::Number("RULES"),
        Column::Flexible("DESCRIPTION"),
    ];
    let mut table = Table::new(screen, &columns);
    for one in listed {
        table.row(vec![
            (one.name.to_owned(), Some(Paint::Bold)),
            (one.rules.to_string(), None),
            (one.description.to_owned(), None),
        ]);
    }
    let mut out = table.render();
    let _ = write!(
        out,
        "\n`sgctl templates show NAME` prints one; `builtin:NAME` names it wherever a policy is asked for\n"
    );
    screen.say(&out)
}

fn show(context: &Context, name: &str, sets: &[SetOverride], json: bool) -> Result<(), Failure> {
    let name = name.strip_prefix("builtin:").unwrap_or(name);
    // The error of the library lists the names and suggests a similar one, of templates and of
    // sets.
    load(&[PolicyInput::Builtin(name.to_owned())], sets)?;
    let Some(builtin) = sg_policy::policy::builtin(name) else {
        return Ok(());
    };
    let text = fit(builtin, sets);
    match json {
        false => context.out.print(&text),
        true => context.out.json(&Shown {
            name: builtin.name,
            description: builtin.summary,
            text,
        }),
    }
}
