//! The command line: `serve` (the default), `tail`, `load`, `check`, `store`.

mod check;
mod cores;
mod load;
mod serve;
mod store;
mod tail;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(
    name = "relaystream",
    version,
    about = "An LLM streaming proxy: every generation becomes a log to read live or later"
)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: serve::Serve,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve (the default).
    Serve(serve::Serve),
    /// Check the configuration and the prompts, and say what would be served.
    Check(check::Check),
    Store(store::Store),
    Tail(tail::Tail),
    Load(Box<load::Load>),
}

/// Runs the command that the process was started with. A bad configuration is exit code 2.
pub fn run() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.command.unwrap_or(Command::Serve(arguments.serve)) {
        Command::Serve(command) => serve::run(&command),
        Command::Check(command) => check::run(&command),
        Command::Store(command) => finish(store::run(&command)),
        Command::Tail(command) => finish(runtime().block_on(tail::run(command))),
        Command::Load(command) => finish(runtime().block_on(load::run(*command))),
    }
}

/// A client's exit code; 2 if it could not even begin.
fn finish(result: anyhow::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| refuse(&error))
}

/// Prints an error and its causes for a person; returns the exit code of bad configuration.
#[expect(clippy::print_stderr, reason = "the command line speaks to a person")]
fn refuse(error: &anyhow::Error) -> ExitCode {
    eprintln!("relaystream: {error:#}");
    ExitCode::from(2)
}

/// The runtime of commands that are clients.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("the system has threads to give")
}
