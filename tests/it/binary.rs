//! The real binary, started in a folder of its own and ended by its process id.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};

use crate::harness::soon;

/// Killed if the test panics.
pub struct Binary {
    child: Child,
    /// Where it listens.
    pub address: String,
}

impl Drop for Binary {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// The program, without this process's environment.
pub fn command(directory: &tempfile::TempDir) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_relaystream"));
    command.env_clear().current_dir(directory.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

impl Binary {
    /// Serves on a free port.
    pub async fn serving(
        directory: &tempfile::TempDir,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Binary {
        Binary::serving_at("127.0.0.1:0", directory, arguments, environment).await
    }

    pub async fn serving_at(
        address: &str,
        directory: &tempfile::TempDir,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Binary {
        let mut command = command(directory);
        command.args(["serve", "--listen", address]).args(arguments).envs(environment.iter().copied());
        let mut child = command.spawn().unwrap();
        // It says where it listens, on whichever of the two it logs to.
        let (sender, mut lines) = tokio::sync::mpsc::unbounded_channel();
        let outputs: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for output in outputs {
            let sender = sender.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    let _test_over = sender.send(line);
                }
            });
        }
        drop(sender);
        let address = soon("the address", async {
            let mut said = Vec::new();
            loop {
                let line: Option<String> = lines.recv().await;
                let line = line.unwrap_or_else(|| panic!("it ended: {said:#?}"));
                said.push(line.clone());
                let at = line.split_once("127.0.0.1:").map(|(_, rest)| rest);
                let port: Option<String> =
                    at.map(|rest| rest.chars().take_while(char::is_ascii_digit).collect());
                if let Some(port) = port.filter(|port| !port.is_empty()) {
                    return format!("127.0.0.1:{port}");
                }
            }
        })
        .await;
        Binary { child, address }
    }

    /// Sends it a signal by name.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    pub async fn exit(mut self) -> ExitStatus {
        let ended = tokio::task::spawn_blocking(move || self.child.wait().unwrap());
        soon("the exit", ended).await.unwrap()
    }
}
