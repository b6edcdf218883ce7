//! `relaystream check`: what `serve` would do with this configuration, without doing it.

use std::path::PathBuf;
use std::process::ExitCode;

use super::refuse;
use crate::app::{Settings, settings, store};
use crate::config::{Config, environment};

#[derive(Debug, clap::Args)]
pub struct Check {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// As `serve --open` would be started.
    #[arg(long)]
    open: bool,
}

pub fn run(command: &Check) -> ExitCode {
    let environment = environment();
    let checked = Config::load(command.config.as_deref(), &environment)
        .and_then(|config| store::check(&config, &environment).map(|()| config))
        .and_then(|config| Ok((settings(&config, command.open, &environment)?, config)));
    match checked {
        Ok((settings, config)) => {
            report(&config, &settings);
            ExitCode::SUCCESS
        }
        Err(error) => refuse(&error),
    }
}

#[expect(clippy::print_stdout, reason = "the command's output")]
fn report(config: &Config, settings: &Settings) {
    println!("listen     {}", config.server.listen);
    println!("providers  {}", settings.routes.endpoints.keys().cloned().collect::<Vec<_>>().join(", "));
    println!("default    {}", settings.routes.default);
    println!("models     {}", settings.routes.names().join(", "));
    println!("prompts    {}", settings.prompts.names().collect::<Vec<_>>().join(", "));
    println!("keys       {}", settings.access.keys.len());
    println!("tokens     {}", if settings.access.jwt.is_some() { "yes" } else { "no" });
    println!("tls        {}", if settings.identity.is_some() { "yes" } else { "no" });
    println!("ok");
}
