//! The scripts that run inside Redis, one file each beside this one.
//!
//! What must happen at once, happens in one script, on the keys of one slot. A script is called by its hash; a server
//! that does not know it (restarted, or a replica that took over) is sent the text.

use redis::{Cmd, cmd};

pub struct Script {
    text: String,
    hash: String,
}

pub struct Scripts {
    pub create: Script,
    pub append: Script,
    /// The same, taken also when Redis is full.
    pub seal: Script,
    pub read: Script,
    pub remove: Script,
    pub take: Script,
    pub own: Script,
    pub beat: Script,
    pub dead: Script,
    pub retire: Script,
    pub claim: Script,
    pub claimed: Script,
    pub release: Script,
    pub list: Script,
    pub advance: Script,
    pub canary: Script,
}

/// Redis refuses it from the start when it is full: half of a script never happens.
const PLAIN: &str = "";
/// What gives room back, or must not stop when there is none.
const ALWAYS: &str = " flags=allow-oom";
const READS: &str = " flags=no-writes";

impl Default for Scripts {
    fn default() -> Scripts {
        let append = include_str!("scripts/append.lua");
        Scripts {
            create: Script::new(PLAIN, include_str!("scripts/create.lua")),
            append: Script::new(PLAIN, append),
            seal: Script::new(ALWAYS, append),
            read: Script::new(READS, include_str!("scripts/read.lua")),
            remove: Script::new(ALWAYS, include_str!("scripts/remove.lua")),
            take: Script::new(ALWAYS, include_str!("scripts/take.lua")),
            own: Script::new(ALWAYS, include_str!("scripts/own.lua")),
            beat: Script::new(ALWAYS, include_str!("scripts/beat.lua")),
            dead: Script::new(READS, include_str!("scripts/dead.lua")),
            retire: Script::new(ALWAYS, include_str!("scripts/retire.lua")),
            claim: Script::new(PLAIN, include_str!("scripts/claim.lua")),
            claimed: Script::new(READS, include_str!("scripts/claimed.lua")),
            release: Script::new(ALWAYS, include_str!("scripts/release.lua")),
            list: Script::new(READS, include_str!("scripts/list.lua")),
            advance: Script::new(PLAIN, include_str!("scripts/advance.lua")),
            canary: Script::new(PLAIN, include_str!("scripts/canary.lua")),
        }
    }
}

impl Script {
    fn new(flags: &str, body: &str) -> Script {
        let text = format!("#!lua{flags}\n{body}");
        let hash = redis::Script::new(&text).get_hash().to_owned();
        Script { text, hash }
    }

    /// By its hash, or with its text.
    pub fn command(&self, with_text: bool, keys: &[&str], args: &[&[u8]]) -> Cmd {
        let mut command = if with_text { cmd("EVAL") } else { cmd("EVALSHA") };
        command.arg(if with_text { &self.text } else { &self.hash }).arg(keys.len()).arg(keys).arg(args);
        command
    }
}
