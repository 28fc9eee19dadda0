//! `sgctl`: parses the command line and hands over to one function per command.

fn main() {}
