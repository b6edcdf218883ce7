//! `relaystream store`: looks after a data directory that no server uses.

use std::io::{self, BufRead, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::config::{Config, environment};
use crate::log::LogId;
use crate::store::disk::offline::{Flaws, Offline, Whereabouts};
use crate::store::disk::text;

/// Look after a data directory that no server uses.
#[derive(Debug, clap::Args)]
pub struct Store {
    /// The configuration file that names the directory.
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// The data directory itself.
    #[arg(long, value_name = "DIRECTORY", global = true, conflicts_with = "config")]
    path: Option<PathBuf>,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Verify every checksum and say what is there, stream by stream. Exit code 1 if anything is damaged.
    Check,
    /// Write logs as JSON lines to standard output.
    Export {
        /// Only this one.
        log: Option<String>,
    },
    /// Read JSON lines from standard input into an empty directory.
    Import,
    /// Write everything anew, without what was deleted, replaced or trimmed.
    Compact,
}

pub fn run(command: &Store) -> Result<ExitCode> {
    let path = match &command.path {
        Some(path) => path.clone(),
        None => Config::load(command.config.as_deref(), &environment())?.store.path,
    };
    match &command.action {
        Action::Check => check(&Offline::open(&path)?),
        Action::Export { log } => export(&Offline::open(&path)?, log.as_deref()),
        Action::Import => import(&Offline::create(&path)?),
        Action::Compact => compact(&Offline::open(&path)?),
    }
}

fn check(store: &Offline) -> Result<ExitCode> {
    let mut out = BufWriter::new(io::stdout().lock());
    let (mut logs, mut damaged) = (0, 0);
    store.each(|log, whereabouts, state| {
        logs += 1;
        damaged += usize::from(state.damaged);
        let state_of = match (state.damaged, state.sealed_ms, state.created.meta.trim_bytes) {
            (true, ..) => "DAMAGED",
            (_, Some(_), _) => "finished",
            (_, None, Some(_)) => "room",
            (_, None, None) => "running",
        };
        let place = match whereabouts {
            Whereabouts::Journal => "journal".to_owned(),
            Whereabouts::Archive(number) => format!("archive {number}"),
        };
        writeln!(out, "{log}  {state_of:8}  {} records  {place}", state.drafts.len())
    })?;
    let Flaws { journal, archives, torn } = store.flaws()?;
    writeln!(out, "{logs} logs, {damaged} damaged")?;
    writeln!(out, "{journal} flaws in the journal, {archives} archives with a damaged index")?;
    if torn > 0 {
        writeln!(
            out,
            "{torn} bytes of an interrupted write at the journal's end: cut off at the next start"
        )?;
    }
    out.flush()?;
    Ok(if damaged + journal + archives == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn export(store: &Offline, only: Option<&str>) -> Result<ExitCode> {
    let only: Option<LogId> = only.map(str::parse).transpose()?;
    let mut out = BufWriter::new(io::stdout().lock());
    let (mut found, mut damaged) = (only.is_none(), 0);
    store.each(|log, _, state| {
        if only.is_some_and(|only| only != log) {
            return Ok(());
        }
        found = true;
        damaged += usize::from(state.damaged);
        if state.damaged { Ok(()) } else { out.write_all(text::write(log, &state).as_bytes()) }
    })?;
    out.flush()?;
    anyhow::ensure!(found, "there is no such log");
    anyhow::ensure!(damaged == 0, "{damaged} damaged logs were left out");
    Ok(ExitCode::SUCCESS)
}

#[expect(clippy::print_stdout, reason = "the command's output")]
fn import(store: &Offline) -> Result<ExitCode> {
    let lines = io::stdin().lock().lines().map(|line| line.map_err(anyhow::Error::from));
    let mut number = 0;
    let counted = lines.inspect(|_| number += 1);
    let count = store.import(text::Reader::new(counted));
    let count = count.with_context(|| format!("line {number} of the input"))?;
    println!("{count} logs");
    Ok(ExitCode::SUCCESS)
}

#[expect(clippy::print_stdout, reason = "the command's output")]
fn compact(store: &Offline) -> Result<ExitCode> {
    println!("{} logs", store.compact()?);
    Ok(ExitCode::SUCCESS)
}
