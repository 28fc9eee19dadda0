//! The command line. Each command is a module that reads its arguments, calls the library and
//! prints. Shared parts are the arguments of several commands, the screen, failures and units.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgMatches, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use sg_userspace::kernel::{bpffs, netns::Netns};

// The commands.
mod apply;
mod check;
mod completions;
mod confirm;
mod counters;
mod detach;
mod diff;
mod explain;
mod flows;
mod history;
mod lab;
mod log;
mod man;
mod metrics;
mod promote;
mod rollback;
mod run;
mod schema;
mod show;
mod status;
mod templates;
mod top;

// Parts of one command or of several.
mod attachment;
mod candidate;
mod complete;
mod event_line;
mod explain_args;
mod filters;
mod guarded;
mod health;
mod impact;
mod policy_args;
mod probe;
mod rates;
mod remedy;
mod sarif;
mod unit;
mod words;

// Arguments, the screen, failures and units, for all.
mod context;
mod failure;
mod files;
mod interrupt;
mod journal;
mod json_rows;
mod locale;
mod patience;
mod placed;
mod reader;
mod report;
mod screen;
mod suggestions;
mod table;
mod units;

use context::Context;
use failure::Failure;
use screen::{ColorChoice, Screen};

const ABOUT: &str = "Cloud security groups enforced on a node's own interface";

const AFTER_HELP: &str = "\
Examples:
  sgctl check builtin:tke                     what the recommended policy says
  sgctl apply policy.yaml --iface eth0        enforce it, with no process needed
  sgctl counters --iface eth0 --watch         packets by rule, with rates
  sgctl explain policy.yaml inbound tcp 203.0.113.9 10.0.0.5:22
  sgctl detach                                remove everything from the machine

POLICY is a file, `-` for standard input, or builtin:NAME (see `sgctl templates`).

Exit codes: 0 done, 1 the input or the state is wrong, 2 usage, 3 not permitted or the kernel
refused.";

#[derive(Parser)]
#[command(
    name = "sgctl",
    version,
    about = ABOUT,
    after_help = AFTER_HELP,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
struct Global {
    /// Work in this network namespace: a name of `ip netns`, or a path such as /proc/PID/ns/net
    #[arg(
        long,
        global = true,
        value_name = "NAME|PATH",
        help_heading = "Global options"
    )]
    netns: Option<String>,

    /// The BPF file system that holds all state
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        default_value = bpffs::DEFAULT_PATH,
        help_heading = "Global options"
    )]
    bpffs: PathBuf,

    /// When to colour; NO_COLOR is honoured
    #[arg(
        long,
        global = true,
        value_enum,
        value_name = "WHEN",
        default_value_t = ColorChoice::Auto,
        help_heading = "Global options"
    )]
    color: ColorChoice,
}

#[derive(Subcommand)]
enum Command {
    Templates(templates::Templates),
    Check(check::Check),
    Schema(schema::Schema),
    Explain(explain_args::Explain),
    Diff(diff::Diff),
    Apply(apply::Apply),
    Run(run::Run),
    Confirm(confirm::Confirm),
    Rollback(rollback::Rollback),
    Promote(promote::Promote),
    Status(status::Status),
    Counters(counters::CountersCommand),
    Top(top::Top),
    Flows(flows::Flows),
    Log(log::Log),
    Metrics(metrics::Metrics),
    Show(show::Show),
    History(history::History),
    Detach(detach::Detach),
    Lab(lab::Lab),
    Completions(completions::Completions),
    Man(man::Man),
}

pub(crate) fn main() -> ExitCode {
    if let Some(answered) = complete::answer(command) {
        return answered;
    }
    let parsed = command().try_get_matches().and_then(|matches| {
        let cli = Cli::from_arg_matches(&matches)?;
        Ok((cli, wants_json(&matches)))
    });
    let (cli, json) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => return usage(error),
    };
    let context = Context {
        netns: cli.global.netns,
        bpffs: cli.global.bpffs,
        out: Screen::stdout(cli.global.color),
        err: Screen::stderr(cli.global.color).with_json(json),
    };
    placed::given(context.netns.as_deref(), &context.bpffs);
    let done = match enter(&context) {
        Ok(()) => run(cli.command, &context),
        Err(failure) if json => Err(refuse(cli.command.name(), failure, &context)),
        Err(failure) => Err(failure),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.report(&context.err);
            ExitCode::from(failure.exit_code())
        }
    }
}

/// Enters the network namespace that --netns names.
fn enter(context: &Context) -> Result<(), Failure> {
    // Threads inherit the namespace of the thread that starts them, so this has to come before the
    // first one.
    match &context.netns {
        Some(name) => Ok(Netns::from(name.as_str()).enter()?),
        None => Ok(()),
    }
}

fn run(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::Templates(command) => command.run(context),
        Command::Check(command) => command.run(context),
        Command::Schema(command) => command.run(context),
        Command::Explain(command) => command.run(context),
        Command::Diff(command) => command.run(context),
        Command::Apply(command) => command.run(context),
        Command::Run(command) => command.run(context),
        Command::Confirm(command) => command.run(context),
        Command::Rollback(command) => command.run(context),
        Command::Promote(command) => command.run(context),
        Command::Status(command) => command.run(context),
        Command::Counters(command) => command.run(context),
        Command::Top(command) => command.run(context),
        Command::Flows(command) => command.run(context),
        Command::Log(command) => command.run(context),
        Command::Metrics(command) => command.run(context),
        Command::Show(command) => command.run(context),
        Command::History(command) => command.run(context),
        Command::Detach(command) => command.run(context),
        Command::Lab(command) => command.run(context),
        Command::Completions(command) => command.run(context),
        Command::Man(command) => command.run(context, self::command()),
    }
}

/// With `--json`, an error that keeps a command from beginning is printed like its other errors:
/// `check` and `apply` always print a report. Returns the failure that is still to be printed.
fn refuse(command: &str, failure: Failure, context: &Context) -> Failure {
    match command {
        "check" => check::refuse(&context.out, failure),
        "apply" => apply::refuse(&context.out, failure),
        _ => failure,
    }
}

impl Command {
    fn name(&self) -> &'static str {
        match self {
            Command::Check(_) => "check",
            Command::Apply(_) => "apply",
            _ => "",
        }
    }
}

/// The command line, with help as wide as the terminal.
fn command() -> clap::Command {
    let flow = |command: clap::Command| {
        let help = command
            .get_after_help()
            .map(|help| flowing(&help.to_string()));
        match help {
            Some(help) => command.after_help(help),
            None => command,
        }
    };
    flow(Cli::command()).mut_subcommands(flow)
}

/// Joins each paragraph to one line, which clap then breaks at the terminal's width. Indented
/// lines, and lines before them, stay as they are.
fn flowing(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut joins = false;
    for line in text.lines() {
        let is_paragraph = !line.is_empty() && !line.starts_with(' ');
        if !out.is_empty() {
            out.push(if joins && is_paragraph { ' ' } else { '\n' });
        }
        out.push_str(line);
        joins = is_paragraph && !line.ends_with(':');
    }
    out
}

/// Whether `--json` was given to the command or to its subcommand, or that its log is to be JSON.
fn wants_json(matches: &ArgMatches) -> bool {
    let format = matches.try_get_one("log_format");
    matches!(matches.try_get_one::<bool>("json"), Ok(Some(true)))
        || matches!(format, Ok(Some(run::LogFormat::Json)))
        || matches
            .subcommand()
            .is_some_and(|(_, matches)| wants_json(matches))
}

/// Help and version are no errors. All other messages of clap are usage errors.
fn usage(error: clap::Error) -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let error = suggestions::mend(error, &words, &Cli::command());
    if !error.use_stderr() {
        // If standard output is closed, there is no reader to tell.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let json = asks_for_json(&words);
    let failure = Failure::Usage(Box::new(error));
    if !json {
        failure.report(&Screen::stderr(ColorChoice::Auto));
        return ExitCode::from(2);
    }
    let context = Context {
        netns: None,
        bpffs: PathBuf::new(),
        out: Screen::stdout(ColorChoice::Never),
        err: Screen::stderr(ColorChoice::Never).with_json(true),
    };
    refuse(command_of(&words), failure, &context).report(&context.err);
    ExitCode::from(2)
}

/// The first word that is neither an option nor the value of one.
fn command_of(words: &[String]) -> &str {
    let takes_value = |word: &String| ["--netns", "--bpffs", "--color"].contains(&word.as_str());
    let mut is_value = false;
    let command = words.iter().find(|word| {
        let is_command = !is_value && !word.starts_with('-');
        is_value = takes_value(word);
        is_command
    });
    command.map_or("", String::as_str)
}

/// Like [`wants_json`], for words that clap could not parse.
fn asks_for_json(words: &[String]) -> bool {
    let mut options = words.iter().take_while(|word| *word != "--");
    let mut before = "";
    options.any(|word| {
        let option = std::mem::replace(&mut before, word);
        word == "--json"
            || word == "--log-format=json"
            || (option == "--log-format" && word == "json")
    })
}
