//! A bad network: passes connections on to an address, and slows, cuts up or breaks what comes back.
//!
//! What goes there is left alone: requests are small. The kernel's buffers are part of the path, as they are in a network.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};

/// What happens to the bytes that come back on a connection. The default: nothing.
#[derive(Debug, Clone, Copy)]
pub struct Conditions {
    /// Each byte comes so much later.
    pub latency: Duration,
    pub bytes_per_s: Option<u32>,
    /// The most that is passed on in one piece.
    pub slice: usize,
    /// RST, both ways, after so many bytes.
    pub reset_after: Option<usize>,
}

impl Default for Conditions {
    fn default() -> Conditions {
        Conditions { latency: Duration::ZERO, bytes_per_s: None, slice: 16 * 1024, reset_after: None }
    }
}

/// The conditions of the n-th connection, counted from 0.
type Choosing = dyn Fn(usize) -> Conditions + Send + Sync;

pub struct Toxic {
    pub address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Toxic {
    pub async fn new(
        behind: SocketAddr,
        choose: impl Fn(usize) -> Conditions + Send + Sync + 'static,
    ) -> Toxic {
        let choose: Arc<Choosing> = Arc::new(choose);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            for n in 0.. {
                let (socket, _) = listener.accept().await.unwrap();
                connections.spawn(pass(socket, behind, choose(n)));
            }
        });
        Toxic { address, accepting }
    }
}

impl Drop for Toxic {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Until either side has closed, or the connection is due to break.
async fn pass(mut near: TcpStream, behind: SocketAddr, conditions: Conditions) {
    let Ok(mut far) = TcpStream::connect(behind).await else { return };
    near.set_nodelay(true).unwrap();
    let broken = {
        let (mut near_reads, mut near_writes) = near.split();
        let (mut far_reads, mut far_writes) = far.split();
        let there = async {
            let whole = copy(&mut near_reads, &mut far_writes).await;
            // A client that leaves is heard of at once; one that is only done with asking still listens.
            if whole.is_err() || far_writes.shutdown().await.is_err() {
                return;
            }
            std::future::pending().await
        };
        let back = back(&mut far_reads, &mut near_writes, conditions);
        tokio::select! {
            () = there => false,
            broken = back => broken,
        }
    };
    if broken {
        for socket in [&near, &far] {
            socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO)).unwrap();
        }
    }
}

/// Passes on what comes back; true if the connection is to be broken.
async fn back(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    conditions: Conditions,
) -> bool {
    let (sender, mut receiver) = mpsc::channel::<(Instant, Vec<u8>)>(64);
    let read = async {
        let mut buffer = vec![0; conditions.slice];
        while let Ok(n) = from.read(&mut buffer).await
            && n > 0
            && sender.send((Instant::now() + conditions.latency, buffer[..n].to_vec())).await.is_ok()
        {
        }
        drop(sender);
        std::future::pending().await
    };
    let write = async {
        let mut left = conditions.reset_after.unwrap_or(usize::MAX);
        while let Some((due, mut bytes)) = receiver.recv().await {
            sleep_until(due).await;
            bytes.truncate(left);
            left -= bytes.len();
            if to.write_all(&bytes).await.is_err() || left == 0 {
                return left == 0;
            }
            if let Some(pace) = conditions.bytes_per_s {
                sleep(Duration::from_secs_f64(bytes.len() as f64 / f64::from(pace))).await;
            }
        }
        drop(to.shutdown().await);
        false
    };
    tokio::select! {
        () = read => unreachable!("it waits for the other half"),
        broken = write => broken,
    }
}
