//! One single-threaded runtime for each core, so that a token stays on its thread.
//!
//! A connection, the stream that it starts and the provider's connection live on one of them: no token wakes another
//! thread on its way, which would cost more than the relaying itself. Only viewers that came over another connection may
//! be woken across. Which connection lives where is decided in `http/connection`.

use std::io;
use std::thread;

use tokio::runtime::{Builder, Handle, Runtime};

pub struct Cores {
    /// On the calling thread; to be driven with `block_on`.
    pub first: Runtime,
    pub handles: Vec<Handle>,
}

impl Cores {
    /// Starts a thread for every core but the first. They end with the process.
    pub fn start() -> io::Result<Cores> {
        let count = thread::available_parallelism().map_or(1, |count| count.get());
        let runtime = || Builder::new_current_thread().enable_all().build();
        let first = runtime()?;
        let mut handles = vec![first.handle().clone()];
        for core in 1..count {
            let runtime = runtime()?;
            handles.push(runtime.handle().clone());
            let drive = move || runtime.block_on(std::future::pending::<()>());
            thread::Builder::new().name(format!("core-{core}")).spawn(drive)?;
        }
        Ok(Cores { first, handles })
    }
}
