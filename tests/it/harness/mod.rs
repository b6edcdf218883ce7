//! What every test stands on: the real server on a free port, a scripted provider, readers for what comes out.
//!
//! Nothing is mocked: requests go over sockets, to the router and the accept loop that `relaystream serve` uses. A test
//! ends with `finish()`, which fails if anything is left: a running stream, a permit, a viewer, a tail, a task.

pub mod cluster;
pub mod provider;
pub mod redis;
pub mod shared;
pub mod socket;
pub mod sse;
pub mod tls;
pub mod toxic;

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use relaystream::app::{App, Settings, settings, store};
use relaystream::config::{Config, Environment};
use relaystream::http::rate::Rate;
use relaystream::http::secure::Acceptor;
use relaystream::http::{connection, router};
use relaystream::reload::key_sets;
use relaystream::store::Store;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

pub use provider::{FakeProvider, Gate, Script};
pub use sse::{Event, Sse};
pub use tls::TlsFront;
pub use toxic::{Conditions, Toxic};

/// The longest any wait may take before its test fails. Far beyond what is needed: nothing here measures time.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Fails the test if `what` takes longer than [`PATIENCE`].
pub async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("waited in vain: {what}"),
    }
}

/// Looks again and again until `ready`; for state that announces nothing by itself.
pub async fn eventually(what: &str, mut ready: impl FnMut() -> bool) {
    let wait = async {
        while !ready() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    soon(what, wait).await;
}

/// The real router and accept loop, in this process.
pub struct Server {
    pub app: Arc<App>,
    pub address: SocketAddr,
    pub client: reqwest::Client,
    stop: CancellationToken,
    finished: bool,
    /// What its store keeps, when the configuration names no place; gone with the server.
    _data: tempfile::TempDir,
}

impl Server {
    /// With the configuration's defaults: the demo provider and open access.
    pub async fn demo() -> Server {
        Server::new("").await
    }

    /// With a configuration file's text.
    pub async fn new(config: &str) -> Server {
        Server::with(config, &[]).await
    }

    /// With `provider` as the only one beside the demo, `config` added.
    pub async fn before(provider: &FakeProvider, config: &str) -> Server {
        Server::new(&format!("{config}\n{}", provider.config())).await
    }

    /// With a configuration file's text and an environment.
    pub async fn with(config: &str, environment: &[(&str, &str)]) -> Server {
        Server::across(vec![Handle::current()], config, environment).await
    }

    /// One of the nodes that share a store. It helps the others for as long as it serves.
    pub async fn node(store: Arc<dyn Store>, config: &str) -> Server {
        let server = Server::over(Some(store), vec![Handle::current()], config, &[]).await;
        let helping = server.stop.clone().run_until_cancelled_owned(server.app.clone().cooperate());
        server.app.tracker.spawn(helping);
        server
    }

    /// With connections dealt out to these runtimes.
    pub async fn across(cores: Vec<Handle>, config: &str, environment: &[(&str, &str)]) -> Server {
        Server::over(None, cores, config, environment).await
    }

    async fn over(
        store: Option<Arc<dyn Store>>,
        cores: Vec<Handle>,
        config: &str,
        environment: &[(&str, &str)],
    ) -> Server {
        let data = tempfile::tempdir().unwrap();
        let app = assembled(store, config, environment, data.path());
        let rate = Rate::new(app.limits.requests_per_minute);
        let router = router(&app, rate.as_ref());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let acceptor = Acceptor::new(&app).unwrap();
        app.tracker.spawn(connection::serve(
            listener,
            cores,
            acceptor,
            router,
            app.tracker.clone(),
            stop.clone(),
        ));
        app.tracker.spawn(stop.clone().run_until_cancelled_owned(key_sets::keep(app.clone())));
        let client = relaystream::tls::client().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        Server { app, address, client, stop, finished: false, _data: data }
    }

    /// Lets another configuration file's text hold, as far as that needs no restart.
    pub fn reload(&self, config: &str) {
        let (_, settings) = read(config, &BTreeMap::new());
        self.app.settings.store(Arc::new(settings));
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn get(&self, path: &str) -> reqwest::RequestBuilder {
        self.client.get(self.url(path))
    }

    pub fn delete(&self, path: &str) -> reqwest::RequestBuilder {
        self.client.delete(self.url(path))
    }

    pub fn post(&self, path: &str, body: &Value) -> reqwest::RequestBuilder {
        self.client.post(self.url(path)).header("content-type", "application/json").body(body.to_string())
    }

    /// Sends it; the head of the answer must come.
    pub async fn send(&self, request: reqwest::RequestBuilder) -> reqwest::Response {
        soon("an answer", request.send()).await.unwrap()
    }

    /// `GET` that must give 200 and JSON.
    pub async fn json(&self, path: &str) -> Value {
        let answer = Answer::of(self.send(self.get(path)).await).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
        answer.json()
    }

    /// Starts a stream that must be accepted; returns its id.
    pub async fn start(&self, body: &Value) -> String {
        let answer = Answer::of(self.send(self.post("/v1/streams", body)).await).await;
        assert_eq!(answer.status, 201, "{}", answer.text);
        answer.json()["id"].as_str().unwrap().to_owned()
    }

    /// An event stream that must be one.
    pub async fn sse(&self, path: &str) -> Sse {
        self.sse_of(self.get(path)).await
    }

    pub async fn sse_of(&self, request: reqwest::RequestBuilder) -> Sse {
        let response = self.send(request).await;
        assert_eq!(response.status(), 200, "{}", response.url());
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Sse::new(response)
    }

    /// The events of a stream from its start to its end.
    pub async fn replay(&self, id: &str) -> Vec<Event> {
        self.sse(&format!("/v1/streams/{id}/events")).await.rest().await
    }

    /// Waits until the stream is over and returns its snapshot.
    pub async fn ended(&self, id: &str) -> Value {
        let log = id.parse().unwrap();
        if let Some(running) = self.app.relay.running(log) {
            soon("the end of a stream", running.finished.cancelled()).await;
        }
        // The log is closed; what reads it may be a moment behind.
        let over = async {
            loop {
                let snapshot = self.json(&format!("/v1/streams/{id}")).await;
                if snapshot["status"] != "running" {
                    return snapshot;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        soon("the end in a snapshot", over).await
    }

    pub async fn cancel(&self, id: &str) -> Value {
        let request = self.post(&format!("/v1/streams/{id}/cancel"), &Value::Null);
        Answer::of(self.send(request).await).await.json()
    }

    /// The value of a metric, its labels as printed; 0 if it was never touched.
    pub fn metric(&self, name: &str) -> f64 {
        metric(&self.app.metrics.exposition(), name)
    }

    /// What should not be there when nobody does anything.
    fn leftovers(&self) -> Vec<String> {
        let app = &self.app;
        let mut left = vec![
            ("running streams", app.relay.running_count() as u64),
            ("open tails", app.relay.tails_open() as u64),
            ("permits of running streams", app.running_permits.out()),
            ("permits of stream viewers", app.stream_viewers.out()),
            ("permits of session viewers", app.session_viewers.out()),
            ("permits of user viewers", app.user_viewers.out()),
            ("permits of user connections", app.user_connections.out()),
        ];
        let metrics = app.metrics.exposition();
        left.push(("streams_running", metric(&metrics, "relaystream_streams_running") as u64));
        left.push(("upstream", metric(&metrics, "relaystream_upstream_connections_open") as u64));
        for transport in ["sse", "poll", "websocket", "json"] {
            let name = format!("relaystream_viewers{{transport=\"{transport}\"}}");
            left.push(("viewers", metric(&metrics, &name) as u64));
        }
        left.into_iter().filter(|(_, n)| *n > 0).map(|(what, n)| format!("{n} {what}")).collect()
    }

    /// Takes no more connections, and closes each one after the answer that it is at.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Waits until nothing is left, then until the last task has ended.
    pub async fn finish(mut self) {
        self.finished = true;
        let quiet = async {
            while !self.leftovers().is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, quiet).await.is_err() {
            panic!("left behind: {}", self.leftovers().join(", "));
        }
        self.client = client();
        self.stop.cancel();
        self.app.hub.close();
        self.app.tracker.close();
        if tokio::time::timeout(PATIENCE, self.app.tracker.wait()).await.is_err() {
            panic!("{} tasks left behind", self.app.tracker.len());
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
        if !self.finished && !std::thread::panicking() {
            panic!("a test must end with Server::finish()");
        }
    }
}

fn read(text: &str, environment: &Environment) -> (Config, Settings) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let config = Config::load(Some(file.path()), environment).unwrap();
    let settings = settings(&config, false, environment).unwrap();
    (config, settings)
}

/// Everything but the network, from a configuration file's text and an environment. `data`: what its store keeps, when
/// the configuration names no place.
pub fn assembled(
    store: Option<Arc<dyn Store>>,
    config: &str,
    environment: &[(&str, &str)],
    data: &Path,
) -> Arc<App> {
    let environment: BTreeMap<String, String> =
        environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let (mut config, settings) = read(config, &environment);
    if config.store.path == Config::default().store.path {
        config.store.path = data.to_owned();
    }
    let store = store.unwrap_or_else(|| store::open(&config, &environment).unwrap());
    App::new(&config, settings, store)
}

fn metric(exposition: &str, name: &str) -> f64 {
    let line = exposition.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().unwrap())
}

/// An answer read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub text: String,
}

impl Answer {
    pub async fn of(response: reqwest::Response) -> Answer {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = soon("the body", response.text()).await.unwrap();
        Answer { status, headers, text }
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// `error.code` of an error, which must have its request id.
    pub fn code(&self) -> String {
        let error = &self.json()["error"];
        assert_eq!(error["request_id"], self.header("x-request-id"), "{}", self.text);
        error["code"].as_str().unwrap_or_default().to_owned()
    }
}

pub fn client() -> reqwest::Client {
    relaystream::tls::client().build().unwrap()
}

/// For tests of breaks as such: no answer is gone on with.
pub const BROKEN_FOR_GOOD: &str = "[defaults]\ncontinue = false\n";

/// The smallest request.
pub fn hi() -> Value {
    serde_json::json!({"model": "fake-1", "input": "Hi"})
}

/// The smallest chat completions request for a stream.
pub fn chat() -> Value {
    serde_json::json!({"model": "fake-1", "messages": [{"role": "user", "content": "Hi"}], "stream": true})
}
