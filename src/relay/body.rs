//! The bytes of a provider's answer, as they come, and read ahead while whoever takes them is busy.
//!
//! Bodies are read to their end whether or not anybody looks: back-pressure from a browser never reaches the
//! provider. That of a store does, once enough has been read ahead.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;

use bytes::Bytes;
use tokio::time::{Instant, sleep_until};

use super::clients::Lease;
use super::upstream::{Fault, innermost};
use crate::provider::demo::Script;

/// So much is read ahead, in bytes.
const AHEAD_BYTES: usize = 64 * 1024;

#[derive(Debug)]
pub struct Body {
    source: Source,
    ahead: VecDeque<Result<Option<Bytes>, Fault>>,
    ahead_bytes: usize,
}

#[derive(Debug)]
enum Source {
    Http {
        response: reqwest::Response,
        /// The provider's configured name.
        name: String,
        /// Held as long as the answer is read.
        _lease: Lease,
    },
    Demo {
        script: Script,
        /// What it says next, and when.
        next: Option<(Instant, Bytes)>,
    },
}

impl Body {
    pub fn http(response: reqwest::Response, name: String, lease: Lease) -> Body {
        Body::new(Source::Http { response, name, _lease: lease })
    }

    pub fn demo(script: Script) -> Body {
        Body::new(Source::Demo { script, next: None })
    }

    fn new(source: Source) -> Body {
        Body { source, ahead: VecDeque::new(), ahead_bytes: 0 }
    }

    /// The next bytes, or None at a proper end of the body. Dropped while waiting, nothing is lost.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Fault> {
        match self.ahead.pop_front() {
            Some(chunk) => self.taken(chunk),
            None => self.source.chunk().await,
        }
    }

    /// The next bytes, if they were read ahead.
    pub fn at_hand(&mut self) -> Option<Bytes> {
        let bytes = self.ahead.pop_front_if(|chunk| matches!(chunk, Ok(Some(_))))?;
        self.taken(bytes).ok()?
    }

    fn taken(&mut self, chunk: Result<Option<Bytes>, Fault>) -> Result<Option<Bytes>, Fault> {
        if let Ok(Some(bytes)) = &chunk {
            self.ahead_bytes -= bytes.len();
        }
        chunk
    }

    /// Does `work`, and reads ahead as long as that takes.
    pub async fn ahead_of<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            let over = matches!(self.ahead.back(), Some(Ok(None) | Err(_)));
            tokio::select! {
                biased;
                done = &mut work => return done,
                chunk = self.source.chunk(), if !over && self.ahead_bytes < AHEAD_BYTES => {
                    self.ahead_bytes += chunk.as_ref().map_or(0, |bytes| bytes.as_ref().map_or(0, Bytes::len));
                    self.ahead.push_back(chunk);
                }
            }
        }
    }

    /// The whole body, up to `limit` bytes.
    pub async fn whole(&mut self, limit: usize) -> Result<Vec<u8>, Fault> {
        let mut body = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            body.extend_from_slice(&chunk);
            if body.len() > limit {
                return Err(Fault::new(
                    "too_large",
                    format!("the provider's answer is larger than {limit} bytes"),
                    false,
                ));
            }
        }
        Ok(body)
    }
}

impl Source {
    async fn chunk(&mut self) -> Result<Option<Bytes>, Fault> {
        match self {
            Source::Http { response, name, .. } => response.chunk().await.map_err(|error| {
                let error = error.without_url();
                let message = format!("provider {name} broke off its answer: {}", innermost(&error));
                Fault::new("upstream_truncated", message, true)
            }),
            Source::Demo { script, next } => {
                if next.is_none() {
                    *next = script.next().map(|(pause, bytes)| (Instant::now() + pause, bytes));
                }
                let Some((at, _)) = next else { return Ok(None) };
                if *at <= Instant::now() {
                    tokio::task::yield_now().await;
                } else {
                    sleep_until(*at).await;
                }
                Ok(next.take().map(|(_, bytes)| bytes))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::sleep;

    use super::*;

    fn demo(model: &str) -> Body {
        let request = format!(r#"{{"model": "{model}", "messages": [{{"role": "user", "content": "hi"}}]}}"#);
        Body::demo(Script::new(request.as_bytes(), 0))
    }

    async fn rest(body: &mut Body) -> Vec<Bytes> {
        let mut chunks = Vec::new();
        while let Some(chunk) = body.chunk().await.unwrap() {
            chunks.push(chunk);
        }
        chunks
    }

    fn at_hand(body: &mut Body) -> Vec<Bytes> {
        std::iter::from_fn(|| body.at_hand()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_lost_wherever_the_work_ends() {
        let whole = rest(&mut demo("demo")).await;
        for ms in (0..500).step_by(7) {
            let mut body = demo("demo");
            body.ahead_of(sleep(Duration::from_millis(ms))).await;
            let mut chunks = at_hand(&mut body);
            let ahead = chunks.len();
            body.ahead_of(async {}).await;
            body.ahead_of(sleep(Duration::from_millis(ms))).await;
            chunks.extend(rest(&mut body).await);
            assert_eq!(chunks, whole);
            assert!(ms < 100 || ahead > 1, "{ahead} in {ms} ms");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_is_read_ahead_too_but_is_not_at_hand() {
        let mut body = demo("demo");
        body.ahead_of(sleep(Duration::from_secs(3600))).await;
        let ahead = at_hand(&mut body);
        assert_eq!(ahead, rest(&mut demo("demo")).await);
        assert_eq!(body.at_hand(), None);
        assert!(body.chunk().await.unwrap().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn so_much_is_read_ahead_and_no_more() {
        let mut body = demo("demo-bulk");
        body.ahead_of(sleep(Duration::from_secs(3600))).await;
        let (held, chunks) = (body.ahead_bytes, at_hand(&mut body));
        assert_eq!(held, chunks.iter().map(Bytes::len).sum::<usize>());
        assert!(held >= AHEAD_BYTES && held - chunks.last().unwrap().len() < AHEAD_BYTES, "{held}");
        assert_eq!(body.ahead_bytes, 0);
    }
}
