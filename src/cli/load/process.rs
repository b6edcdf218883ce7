//! What the operating system has accounted to a process and its children: CPU time and resident memory.
//!
//! Linux only (`/proc`). A process that has ended is not counted.

use std::time::Duration;

use anyhow::Context;

/// `/proc/<pid>/stat` counts in units of 1/100 s on every Linux that user space sees (USER_HZ).
const TICK: Duration = Duration::from_millis(10);

/// What a group of processes has used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// User and system time of all threads.
    pub cpu: Duration,
    /// Resident memory in KiB. Pages that two of the processes share count for each.
    pub resident_kib: u64,
}

impl Usage {
    /// Of these processes and their descendants.
    pub(super) fn of(pids: &[u32]) -> anyhow::Result<Usage> {
        let mut pending = pids.to_vec();
        let mut sum = Usage::default();
        while let Some(pid) = pending.pop() {
            let stat = read(pid, "stat")?;
            let status = read(pid, "status")?;
            sum.cpu += TICK * cpu_ticks(&stat).with_context(|| format!("/proc/{pid}/stat"))?;
            sum.resident_kib += resident_kib(&status).with_context(|| format!("/proc/{pid}/status"))?;
            pending.extend(children(pid));
        }
        Ok(sum)
    }

    /// Of this very process.
    pub(super) fn own() -> anyhow::Result<Usage> {
        Usage::of(&[std::process::id()])
    }
}

fn read(pid: u32, file: &str) -> anyhow::Result<String> {
    let path = format!("/proc/{pid}/{file}");
    std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
}

/// Fields 14 and 15: utime and stime. The command before them may hold spaces and brackets.
fn cpu_ticks(stat: &str) -> Option<u32> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u32>().ok();
    Some(field(14)? + field(15)?)
}

fn resident_kib(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

fn children(pid: u32) -> Vec<u32> {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let lists =
        threads.flatten().filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_read_past_its_command() {
        let stat = "42 (a) b (c)) S 1 42 42 0 -1 4194560 100 0 0 0 17 25 0 0 20 0 3 0 100 0 0";
        assert_eq!(cpu_ticks(stat), Some(42));
    }

    #[test]
    fn resident_memory_is_read() {
        assert_eq!(resident_kib("VmPeak:\t 9 kB\nVmRSS:\t   5120 kB\n"), Some(5120));
        assert!(Usage::own().unwrap().resident_kib > 0);
    }
}
