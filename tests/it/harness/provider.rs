//! A provider that does as it is told: an OpenAI-compatible server on a raw socket, scripted byte by byte.
//!
//! One script for each request, in order, the last one again and again. It writes HTTP/1.1 by hand, so that it can
//! break every rule: stop inside a chunk, reset the connection, say nothing at all.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use super::soon;

/// Holds a script until the test opens it, any number of times.
#[derive(Debug, Clone)]
pub struct Gate(Arc<Semaphore>);

impl Default for Gate {
    fn default() -> Gate {
        Gate(Arc::new(Semaphore::new(0)))
    }
}

impl Gate {
    /// Lets one more waiting step pass.
    pub fn open(&self) {
        self.0.add_permits(1);
    }
}

#[derive(Debug, Clone)]
enum Step {
    Head(String),
    /// Bytes of the body, an HTTP chunk for each `usize` of them.
    Send(Vec<u8>, usize),
    /// Bytes as they are, below HTTP.
    Raw(Vec<u8>),
    Sleep(Duration),
    Wait(Gate),
    /// The final chunk.
    End,
    /// FIN, in the middle of a chunk.
    Cut,
    /// RST.
    Reset,
    /// Nothing more, until the client leaves.
    Stall,
}

/// What to do with one request.
#[derive(Debug, Clone, Default)]
pub struct Script(Vec<Step>);

impl Script {
    /// 200 and an event stream.
    pub fn stream() -> Script {
        Script::default()
            .head(200, &[("content-type", "text/event-stream"), ("transfer-encoding", "chunked")])
    }

    /// A whole streamed answer of these tokens, ended as it should.
    pub fn answer(tokens: &[&str]) -> Script {
        Script::stream().tokens(tokens).finish()
    }

    /// A whole answer with a body of its own.
    pub fn status(status: u16, headers: &[(&str, &str)], body: &str) -> Script {
        let length = body.len().to_string();
        let mut all = vec![("content-length", length.as_str())];
        all.extend(headers);
        Script::default().head(status, &all).raw(body)
    }

    pub fn json(status: u16, body: &Value) -> Script {
        Script::status(status, &[("content-type", "application/json")], &body.to_string())
    }

    /// Accepts, and never answers.
    pub fn silence() -> Script {
        Script::default().stall()
    }

    fn then(mut self, step: Step) -> Script {
        self.0.push(step);
        self
    }

    pub fn head(self, status: u16, headers: &[(&str, &str)]) -> Script {
        let mut head = format!("HTTP/1.1 {status} Scripted\r\nconnection: close\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        self.then(Step::Head(head))
    }

    pub fn send(self, bytes: impl AsRef<[u8]>) -> Script {
        self.send_in(bytes, usize::MAX)
    }

    /// Sends it in pieces of `size` bytes, cut wherever that falls.
    pub fn send_in(self, bytes: impl AsRef<[u8]>, size: usize) -> Script {
        self.then(Step::Send(bytes.as_ref().to_vec(), size))
    }

    pub fn raw(self, bytes: impl AsRef<[u8]>) -> Script {
        self.then(Step::Raw(bytes.as_ref().to_vec()))
    }

    pub fn token(self, text: &str) -> Script {
        self.send(frame(text))
    }

    pub fn tokens(self, tokens: &[&str]) -> Script {
        tokens.iter().fold(self, |script, text| script.token(text))
    }

    /// `finish_reason`, usage, `[DONE]` and the end of the body.
    pub fn finish(self) -> Script {
        self.send(closing()).end()
    }

    pub fn sleep(self, time: Duration) -> Script {
        self.then(Step::Sleep(time))
    }

    pub fn wait(self, gate: &Gate) -> Script {
        self.then(Step::Wait(gate.clone()))
    }

    pub fn end(self) -> Script {
        self.then(Step::End)
    }

    pub fn cut(self) -> Script {
        self.then(Step::Cut)
    }

    pub fn reset(self) -> Script {
        self.then(Step::Reset)
    }

    pub fn stall(self) -> Script {
        self.then(Step::Stall)
    }
}

/// One request as it came in, and what became of its connection.
#[derive(Debug, Clone, Default)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub text: String,
    /// The client closed the connection before the script was through.
    pub abandoned: bool,
    /// The script was through.
    pub done: bool,
}

impl Request {
    pub fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map_or("", |(_, value)| value)
    }

    pub fn body(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }
}

/// What to do with the n-th request.
type Answering = dyn Fn(usize, &Request) -> Script + Send + Sync;

pub struct FakeProvider {
    pub address: SocketAddr,
    seen: watch::Sender<Vec<Request>>,
    accepting: JoinHandle<()>,
}

impl FakeProvider {
    /// Answers requests by these scripts in order; the last one is used again and again.
    pub async fn new(scripts: impl Into<Vec<Script>>) -> FakeProvider {
        let scripts: Vec<Script> = scripts.into();
        FakeProvider::by(move |n, _| scripts[n.min(scripts.len() - 1)].clone()).await
    }

    /// Answers the n-th request, counted from 0, as it is told.
    pub async fn by(answer: impl Fn(usize, &Request) -> Script + Send + Sync + 'static) -> FakeProvider {
        let answer: Arc<Answering> = Arc::new(answer);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = watch::Sender::new(Vec::new());
        let shared = seen.clone();
        let accepting = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                connections.spawn(serve(socket, answer.clone(), shared.clone()));
            }
        });
        FakeProvider { address, seen, accepting }
    }

    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Its section of a configuration file. It is named `fake` and is where bare model names go.
    pub fn config(&self) -> String {
        self.named("fake")
    }

    /// The same under another name.
    pub fn named(&self, name: &str) -> String {
        format!(
            "[providers.{name}]\ndialect = \"openai-chat\"\nbase_url = \"{}\"\nkeys = [\"sk-fake\"]\n",
            self.base_url()
        )
    }

    /// The same in another dialect.
    pub fn speaking(&self, name: &str, dialect: &str) -> String {
        let base_url =
            if dialect.starts_with("openai") { self.base_url() } else { format!("http://{}", self.address) };
        format!(
            "[providers.{name}]\ndialect = \"{dialect}\"\nbase_url = \"{base_url}\"\nkeys = [\"sk-fake\"]\n"
        )
    }

    /// The generations that were asked for so far.
    pub fn requests(&self) -> Vec<Request> {
        self.seen.borrow().clone()
    }

    pub fn calls(&self) -> usize {
        self.seen.borrow().len()
    }

    /// The n-th request, counted from 0, once it is there.
    pub async fn request(&self, n: usize) -> Request {
        self.when(n, |_| true).await
    }

    /// Waits until the client has closed the n-th request's connection before its script was through.
    pub async fn abandoned(&self, n: usize) -> Request {
        self.when(n, |request| request.abandoned).await
    }

    async fn when(&self, n: usize, ready: impl Fn(&Request) -> bool) -> Request {
        let mut seen = self.seen.subscribe();
        let there = seen.wait_for(|all| all.get(n).is_some_and(&ready));
        soon("a request to the provider", there).await.unwrap()[n].clone()
    }
}

impl Drop for FakeProvider {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(mut socket: TcpStream, answer: Arc<Answering>, seen: watch::Sender<Vec<Request>>) {
    socket.set_nodelay(true).unwrap();
    let Some(request) = read(&mut socket).await else { return };
    if request.path.split('?').next().is_some_and(|path| path.ends_with("/models")) {
        let list = json!({"object": "list", "data": [{"id": "fake-1", "object": "model"}],
                          "models": [{"name": "models/gemini-fake"}]});
        let (_, mut write) = socket.into_split();
        for step in Script::json(200, &list).0 {
            play(step, &mut write).await;
        }
        return;
    }
    let mut n = 0;
    let asked = request.clone();
    seen.send_modify(|all| {
        n = all.len();
        all.push(request);
    });
    let script = answer(n, &asked);
    let (mut read, mut write) = socket.into_split();
    let left = async {
        let mut buffer = [0; 256];
        while read.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
    };
    let play = async move {
        for step in script.0 {
            if let Step::Reset = step {
                let socket: &TcpStream = write.as_ref();
                socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO)).unwrap();
                // Dropped, it would send a FIN first.
                write.forget();
                return;
            }
            play(step, &mut write).await;
        }
    };
    tokio::select! {
        biased;
        () = play => seen.send_modify(|all| all[n].done = true),
        () = left => seen.send_modify(|all| all[n].abandoned = true),
    }
}

/// A client that has left is noticed by the reading side: errors of writes say nothing new.
async fn play(step: Step, write: &mut OwnedWriteHalf) {
    match step {
        Step::Head(head) => drop(write.write_all(head.as_bytes()).await),
        Step::Raw(bytes) => drop(write.write_all(&bytes).await),
        Step::Send(bytes, size) => {
            for piece in bytes.chunks(size.min(bytes.len().max(1))) {
                let chunk = [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat();
                if write.write_all(&chunk).await.is_err() {
                    std::future::pending().await
                }
                tokio::task::yield_now().await;
            }
        }
        Step::Sleep(time) => tokio::time::sleep(time).await,
        Step::Wait(gate) => gate.0.acquire().await.unwrap().forget(),
        Step::End => drop(write.write_all(b"0\r\n\r\n").await),
        Step::Cut => {
            drop(write.write_all(b"ffff\r\nda").await);
            drop(write.shutdown().await);
        }
        Step::Stall => std::future::pending().await,
        Step::Reset => {}
    }
}

async fn read(socket: &mut TcpStream) -> Option<Request> {
    let mut bytes = Vec::new();
    let head_end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at;
        }
        if socket.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(bytes[..head_end].to_vec()).unwrap();
    let mut lines = head.split("\r\n");
    let mut first = lines.next()?.split(' ');
    let (method, path) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let mut request = Request { method, path, headers, ..Request::default() };
    let length: usize = request.header("content-length").parse().unwrap_or(0);
    let mut body = bytes[head_end + 4..].to_vec();
    while body.len() < length {
        if socket.read_buf(&mut body).await.ok()? == 0 {
            return None;
        }
    }
    request.text = String::from_utf8(body).unwrap();
    Some(request)
}

/// A chunk with one token.
pub fn frame(text: &str) -> String {
    chunk(&json!({"content": text}), &Value::Null)
}

pub fn chunk(delta: &Value, finish_reason: &Value) -> String {
    let chunk = json!({"id": "chatcmpl-fake", "object": "chat.completion.chunk", "created": 1_700_000_000,
        "model": "fake-1", "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]});
    format!("data: {chunk}\n\n")
}

/// The chunk that says nothing but token counts.
pub fn usage() -> String {
    let chunk = json!({"id": "chatcmpl-fake", "object": "chat.completion.chunk", "created": 1_700_000_000,
        "model": "fake-1", "choices": [],
        "usage": {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}});
    format!("data: {chunk}\n\n")
}

/// What follows the last token.
pub fn closing() -> String {
    format!("{}{}data: [DONE]\n\n", chunk(&json!({}), &json!("stop")), usage())
}

/// An address where nobody listens, nor can as long as this is kept: a free port is soon somebody's.
pub struct Nobody {
    pub address: SocketAddr,
    _bound: socket2::Socket,
}

pub fn nobody() -> Nobody {
    let bound = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    bound.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let address = bound.local_addr().unwrap().as_socket().unwrap();
    Nobody { address, _bound: bound }
}

impl Nobody {
    /// A provider's section that is at that address, with secrets in it.
    pub fn config(&self) -> String {
        format!(
            "[providers.fake]\ndialect = \"openai-chat\"\nbase_url = \"http://us3r:pa55w0rd@{}/v1\"\nkeys = [\"sk-s3cret\"]\n",
            self.address
        )
    }
}

/// An address whose queue of connections is full: the kernel drops every further attempt.
pub fn full() -> (SocketAddr, Vec<socket2::Socket>) {
    let new = || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let listener = new();
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let mut kept = vec![listener];
    for _ in 0..4 {
        let socket = new();
        socket.set_nonblocking(true).unwrap();
        let _in_progress = socket.connect(&address);
        kept.push(socket);
    }
    (address.as_socket().unwrap(), kept)
}
