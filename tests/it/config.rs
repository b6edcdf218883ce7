//! Configuration: the example file holds every key and its default, the environment lies over the file, mistakes are
//! named by their path, and secrets come from where they are said to be.

use std::collections::BTreeMap;
use std::io::Write;

use relaystream::config::{Config, Environment};
use relaystream::provider::Provider;
use toml::{Table, Value};

pub fn environment(pairs: &[(&str, &str)]) -> Environment {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(text.as_bytes()).expect("written");
    file
}

pub fn load(text: &str, pairs: &[(&str, &str)]) -> anyhow::Result<Config> {
    Config::load(Some(file(text).path()), &environment(pairs))
}

/// The message as `relaystream check` prints it, causes included.
pub fn refusal<T>(result: anyhow::Result<T>) -> String {
    match result {
        Ok(_) => panic!("accepted"),
        Err(error) => format!("{error:#}"),
    }
}

fn example() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config.example.toml");
    std::fs::read_to_string(path).expect("config.example.toml")
}

/// The example with every `# key = value` and `# [section]` un-commented; prose stays a comment.
fn uncommented() -> String {
    let key = |line: &str| {
        line.split_once(" = ").is_some_and(|(name, value)| {
            name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
                && !value.is_empty()
        })
    };
    let section = |line: &str| line.starts_with('[') && line.ends_with(']') && !line.contains(' ');
    let open = |line: &str| match line.strip_prefix("# ") {
        Some(rest) if key(rest) || section(rest) => rest.to_owned(),
        _ => line.to_owned(),
    };
    example().lines().map(open).collect::<Vec<_>>().join("\n")
}

fn table(config: &Config) -> Table {
    toml::to_string(config).expect("serializes").parse().expect("TOML")
}

/// Every key of a table with its path, tables within lists included.
fn keys(value: &Value, path: &str, found: &mut BTreeMap<String, Value>) {
    match value {
        Value::Table(table) => {
            for (name, value) in table {
                let inner = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                keys(value, &inner, found);
            }
        }
        Value::Array(items) if items.iter().any(Value::is_table) => {
            items.iter().for_each(|item| keys(item, &format!("{path}[]"), found));
        }
        other => {
            found.insert(path.to_owned(), other.clone());
        }
    }
}

fn all_keys(table: Table) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    keys(&Value::Table(table), "", &mut found);
    found
}

#[test]
fn the_example_as_it_stands_changes_nothing() {
    assert_eq!(load(&example(), &[]).expect("parses"), Config::default());
    assert_eq!(Config::load(None, &Environment::new()).expect("no file is needed"), Config::default());
}

#[test]
fn the_example_names_every_default_key_with_its_value() {
    let written = all_keys(example().parse().expect("TOML"));
    let defaults = all_keys(table(&Config::default()));
    for (path, value) in &defaults {
        // Empty maps and lists are shown by an example, behind a "#".
        let empty = value.as_array().is_some_and(Vec::is_empty) && !written.contains_key(path);
        assert!(empty || written.get(path) == Some(value), "{path} = {value}: {:?}", written.get(path));
    }
    for path in written.keys() {
        assert!(defaults.contains_key(path), "{path} is no key that has a default");
    }
}

/// What is written out by hand here is what the structs hold; a new optional key must be added to the example.
#[test]
fn the_example_uncommented_names_every_key_there_is() {
    let text = uncommented();
    let config = load(&text, &[]).unwrap_or_else(|error| panic!("{error:#}\n{text}"));
    let named = all_keys(text.parse().expect("TOML"));
    let all = all_keys(table(&config));
    let missing: Vec<_> = all.keys().filter(|path| !named.contains_key(*path)).collect();
    // Keys that the two kinds of entries in lists and maps leave out are optional and shown by the other.
    let optional = |path: &&&String| path.starts_with("auth.keys[]");
    // A model's other keys are those of the defaults.
    let inherited = |path: &&&String| {
        path.strip_prefix("models.fast.").is_some_and(|key| named.contains_key(&format!("defaults.{key}")))
    };
    let excused = |path: &&String| optional(&path) || inherited(&path);
    assert!(missing.iter().all(excused), "not in config.example.toml: {missing:?}");
    for path in [
        "limits.requests_per_minute",
        "limits.running_streams_per_user",
        "limits.viewers_per_user",
        "rooms.max_connections_per_user",
        "rooms.max_sessions_per_user",
        "auth.keys[].key",
        "auth.keys[].sha256",
        "auth.keys[].user",
        "auth.keys[].tenant",
        "auth.keys[].role",
        "auth.keys[].sessions",
        "auth.jwt.alg",
        "auth.jwt.secret",
        "auth.jwt.pem",
        "auth.jwt.jwks_url",
        "models.fast.targets[].provider",
        "models.fast.targets[].model",
        "models.fast.targets[].weight",
        "models.fast.prompt",
        "defaults.prefill",
        "providers.openai.dialect",
        "providers.openai.base_url",
        "providers.openai.keys",
        "providers.openai.pool.max_connections",
    ] {
        assert!(named.contains_key(path), "{path} is not in config.example.toml");
    }
    assert!(named.keys().any(|path| path.starts_with("providers.openai.headers.")));
}

#[test]
fn optional_keys_of_the_example_show_their_defaults() {
    let config = load(&uncommented(), &[]).expect("parses");
    let fast = &config.models["fast"];
    assert_eq!((fast.timeouts, fast.retry), (Default::default(), Default::default()));
    let (by_default, shown) = (Config::default().limits(false), config.limits(false));
    assert_eq!(format!("{by_default:?}"), format!("{shown:?}"), "the limits with credentials");
}

#[test]
fn the_environment_lies_over_the_file() {
    let text = "[server]\ndrain_s = 5\nkeepalive_ms = 7\n";
    let config = load(
        text,
        &[
            ("RELAYSTREAM_SERVER__DRAIN_S", "9"),
            ("RELAYSTREAM_SERVER__DEFAULT_PROVIDER", "demo"),
            ("RELAYSTREAM_SERVER__ALLOWED_ORIGINS", r#"["https://a.example"]"#),
            ("RELAYSTREAM_LISTEN", "127.0.0.1:9000"),
            ("RELAYSTREAM_MODELS__FAST__TARGETS", r#"[{provider = "demo", model = "demo"}]"#),
            ("RELAYSTREAM_MODELS__FAST__RETRY__ATTEMPTS", "1"),
            ("RELAYSTREAM_AUTH__OPEN", "true"),
            ("RELAYSTREAM_PROMPTS__PATH", "/tmp/my prompts"),
            ("RELAYSTREAM_LOG", "not ours: one word"),
            ("OTHER__THING", "x"),
        ],
    )
    .expect("parses");
    assert_eq!((config.server.drain_s, config.server.keepalive_ms), (9, 7));
    assert_eq!(config.server.default_provider, "demo");
    assert_eq!(config.server.allowed_origins, ["https://a.example"]);
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:9000");
    assert_eq!(config.models["fast"].retry.attempts, 1);
    assert!(config.auth.open);
    assert_eq!(config.prompts.path.to_str(), Some("/tmp/my prompts"));
}

#[test]
fn mistakes_are_named_by_their_path() {
    for (text, pairs, path) in [
        ("[servre]\n", &[][..], "servre"),
        ("[server]\ndrain = 5\n", &[], "server.drain"),
        ("[server]\ndrain_s = \"long\"\n", &[], "server.drain_s"),
        ("[server]\nlisten = \"nowhere\"\n", &[], "server.listen"),
        ("[store]\nengine = \"paper\"\n", &[], "store.engine"),
        ("[store]\nsync = \"sometimes\"\n", &[], "store.sync: expected"),
        ("[store]\nsync = \"interval:0\"\n", &[], "store.sync: expected"),
        ("[store]\non_restart = \"forget\"\n", &[], "store.on_restart"),
        ("[store.redis]\nlease = 5\n", &[], "store.redis.lease"),
        ("[limits]\nstream_bytes = -1\n", &[], "limits.stream_bytes"),
        ("[models.m]\ntargets = []\nfoo = 1\n", &[], "models.m"),
        (
            "[models.m]\ntargets = [{provider = \"demo\", model = \"x\", wieght = 1}]\n",
            &[],
            "models.m.targets[0]",
        ),
        ("[models.m.retry]\nattempts = \"x\"\n", &[], "models.m"),
        ("[[auth.keys]]\nkey = \"k\"\nuser = \"u\"\nrole = \"king\"\n", &[], "auth.keys[0].role"),
        ("", &[("RELAYSTREAM_SERVER__DRAIN", "5")], "server.drain"),
        ("", &[("RELAYSTREAM_NOWHERE__KEY", "5")], "nowhere"),
        (
            "[server]\nlisten = 1\n",
            &[("RELAYSTREAM_SERVER__LISTEN__PORT", "5")],
            "RELAYSTREAM_SERVER__LISTEN__PORT",
        ),
    ] {
        let message = refusal(load(text, pairs));
        assert!(message.contains(path), "{text}{pairs:?}: {message}");
    }
    let broken = refusal(load("[server\n", &[]));
    assert!(broken.contains("is not TOML"), "{broken}");
    let missing = Config::load(Some(std::path::Path::new("/no/such/file.toml")), &Environment::new());
    assert!(refusal(missing).contains("/no/such/file.toml"));
}

#[test]
fn routes_come_from_the_environment_alone() {
    let routes = |pairs: &[(&str, &str)]| load("", pairs).expect("parses").routes(&environment(pairs));
    let none = routes(&[]).expect("the demo");
    assert_eq!((none.default.as_str(), none.endpoints.len()), ("demo", 1));
    assert_eq!(routes(&[("OPENAI_API_KEY", "")]).expect("an empty key is none").default, "demo");
    let openai = routes(&[("OPENAI_API_KEY", "sk-1")]).expect("a key is enough");
    let endpoint = &openai.endpoints["openai"];
    assert_eq!((openai.default.as_str(), endpoint.dialect), ("openai", Provider::OpenAiChat));
    assert_eq!(
        (endpoint.base_url.as_str(), &endpoint.keys[..]),
        ("https://api.openai.com/v1", &["sk-1".to_owned()][..])
    );
    let other = [("OPENAI_API_KEY", "sk-1"), ("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1/")];
    assert_eq!(routes(&other).expect("routes").endpoints["openai"].base_url, "http://127.0.0.1:8000/v1");
    let bad = [("OPENAI_API_KEY", "sk-1"), ("OPENAI_BASE_URL", "127.0.0.1:8000")];
    let message = refusal(routes(&bad));
    assert!(message.contains("OPENAI_BASE_URL") && !message.contains("sk-1"), "{message}");
    assert!(!format!("{:?}", openai.endpoints).contains("sk-1"), "keys are not printed");
}

#[test]
fn every_dialects_own_provider_comes_from_the_environment_alone() {
    let anthropic = ("https://api.anthropic.com", Provider::Anthropic);
    let gemini = ("https://generativelanguage.googleapis.com", Provider::Gemini);
    let ollama = |base| (base, Provider::Ollama);
    let cases = [
        (
            "openai-responses",
            &[("OPENAI_API_KEY", "k")][..],
            ("https://api.openai.com/v1", Provider::OpenAiResponses),
        ),
        ("anthropic", &[("ANTHROPIC_API_KEY", "k")], anthropic),
        (
            "anthropic",
            &[("ANTHROPIC_API_KEY", "k"), ("ANTHROPIC_BASE_URL", "http://a:1/")],
            ("http://a:1", anthropic.1),
        ),
        ("gemini", &[("GEMINI_API_KEY", "k")], gemini),
        ("gemini", &[("GOOGLE_API_KEY", "k")], gemini),
        ("gemini", &[("GEMINI_API_KEY", "k"), ("GEMINI_BASE_URL", "http://g:1")], ("http://g:1", gemini.1)),
        ("ollama", &[("OLLAMA_HOST", "http://o:1")], ollama("http://o:1")),
        ("ollama", &[("OLLAMA_HOST", "127.0.0.1:5000")], ollama("http://127.0.0.1:5000")),
        ("ollama", &[("OLLAMA_HOST", "127.0.0.1")], ollama("http://127.0.0.1:11434")),
    ];
    for (name, pairs, (base_url, dialect)) in cases {
        let routes = load("", pairs).expect("parses").routes(&environment(pairs)).expect("routes");
        let endpoint = &routes.endpoints[name];
        assert_eq!((endpoint.base_url.as_str(), endpoint.dialect), (base_url, dialect), "{pairs:?}");
        let keys: &[&str] = if name == "ollama" { &[] } else { &["k"] };
        assert_eq!(endpoint.keys, keys, "{pairs:?}");
        // A section of that name replaces it.
        let own = format!("[providers.{name}]\ndialect = \"openai-chat\"\nbase_url = \"http://own/v1\"\n");
        let routes = load(&own, pairs).expect("parses").routes(&environment(pairs)).expect("routes");
        assert_eq!(routes.endpoints[name].base_url, "http://own/v1");
    }
    let only_an_address = [("ANTHROPIC_BASE_URL", "http://a:1")];
    let routes = load("", &only_an_address).expect("parses").routes(&environment(&only_an_address));
    assert_eq!(routes.expect("routes").default, "demo", "an address without a key is no provider");
}

#[test]
fn a_provider_of_several_dialects_is_spoken_to_in_the_clients_own() {
    let pairs = [("OPENAI_API_KEY", "k"), ("ANTHROPIC_API_KEY", "k"), ("GEMINI_API_KEY", "k")];
    let routes = load("", &pairs).expect("parses").routes(&environment(&pairs)).expect("routes");
    let asked = |model: &str, dialect: Option<Provider>| {
        let route = routes.resolve(model, dialect.map(|dialect| dialect as u8)).expect(model);
        route.targets[0].endpoint.name.clone()
    };
    assert_eq!(asked("gpt-5", None), "openai");
    assert_eq!(asked("gpt-5", Some(Provider::OpenAiResponses)), "openai-responses");
    assert_eq!(
        asked("gpt-5", Some(Provider::Anthropic)),
        "openai",
        "the same keys elsewhere are another provider"
    );
    assert_eq!(asked("claude-sonnet-4-5", Some(Provider::OpenAiResponses)), "anthropic");
    assert_eq!(asked("gemini-2.5-pro", Some(Provider::Gemini)), "gemini");
}

#[test]
fn models_are_read_from_every_dialects_list() {
    let lists = [
        (Provider::OpenAiChat, r#"{"object": "list", "data": [{"id": "a"}, {"id": "b"}]}"#),
        (Provider::OpenAiResponses, r#"{"data": [{"id": "a"}, {"id": "b"}]}"#),
        (Provider::Anthropic, r#"{"data": [{"type": "model", "id": "a"}, {"id": "b"}], "has_more": false}"#),
        (Provider::Gemini, r#"{"models": [{"name": "models/a"}, {"name": "models/b"}]}"#),
        (Provider::Ollama, r#"{"models": [{"name": "a", "size": 1}, {"name": "b"}]}"#),
    ];
    for (dialect, list) in lists {
        assert_eq!(dialect.models(list.as_bytes()), ["a", "b"], "{}", dialect.name());
        assert!(dialect.models(b"not JSON").is_empty());
    }
}

#[test]
fn bare_names_go_where_they_belong() {
    let text = "[providers.zeta]\ndialect = \"openai-chat\"\nbase_url = \"http://z/v1\"\n\
                [providers.alpha]\ndialect = \"openai-chat\"\nbase_url = \"http://a/v1\"\n\
                [models.fast]\ntargets = [{provider = \"zeta\", model = \"tiny\"}]\n";
    let resolve = |text: &str, key: bool, model: &str| {
        let pairs = if key { vec![("OPENAI_API_KEY", "sk")] } else { vec![] };
        let routes = load(text, &[]).expect("parses").routes(&environment(&pairs)).expect("routes");
        routes
            .resolve(model, None)
            .map(|route| format!("{}:{}", route.targets[0].endpoint.name, route.targets[0].model))
    };
    let chosen = |text, key, model| resolve(text, key, model).expect(model);
    assert_eq!(chosen(text, false, "some-model"), "alpha:some-model", "the first one by name");
    assert_eq!(chosen(text, false, "gpt-4o"), "alpha:gpt-4o", "no provider is called openai");
    assert_eq!(chosen(text, true, "gpt-4o"), "openai:gpt-4o");
    assert_eq!(chosen(text, true, "o3-mini"), "openai:o3-mini");
    assert_eq!(chosen(text, true, "some-model"), "alpha:some-model");
    assert_eq!(chosen(text, false, "zeta/org/model:free"), "zeta:org/model:free");
    assert_eq!(chosen(text, false, "fast"), "zeta:tiny");
    assert_eq!(chosen(text, true, "demo-fast"), "demo:demo-fast");
    let named = format!("[server]\ndefault_provider = \"zeta\"\n{text}");
    assert_eq!(chosen(&named, true, "some-model"), "zeta:some-model");
    assert_eq!(chosen("", false, "whatever"), "demo:whatever");
    let unknown = resolve("", false, "nobody/model").expect_err("there is no such provider");
    assert!(unknown.to_string().contains("demo/demo"), "{unknown}");
    let config = load("[server]\ndefault_provider = \"nobody\"\n", &[]).expect("parses");
    assert!(refusal(config.routes(&Environment::new())).contains("server.default_provider"));
}

#[test]
fn mistakes_in_providers_and_models_are_named() {
    for (text, expected) in [
        ("[providers.p]\ndialect = \"smoke\"\n", "providers.p: dialect"),
        ("[providers.p]\ndialect = \"openai-chat\"\n", "providers.p: base_url"),
        ("[providers.p]\ndialect = \"openai-chat\"\nbase_url = \"ftp://x\"\n", "providers.p: base_url"),
        (
            "[providers.p]\ndialect = \"openai-chat\"\nbase_url = \"http://x\"\nkeys = [\"env:NONE\"]\n",
            "NONE",
        ),
        (
            "[providers.p]\ndialect = \"anthropic\"\nca = \"/no/such.pem\"\n",
            "providers.p: ca: cannot read /no/such.pem",
        ),
        ("[defaults]\ntargets = [{provider = \"demo\", model = \"x\"}]\n", "defaults.targets"),
        ("[defaults]\nretry = {attempts = 0}\n", "defaults: retry.attempts"),
        ("[models.m]\ntargets = []\n", "models.m: targets"),
        ("[models.m]\ntargets = [{provider = \"nobody\", model = \"x\"}]\n", "models.m: targets[0].provider"),
        (
            "[models.m]\ntargets = [{provider = \"demo\", model = \"x\"}]\nretry = {attempts = 0}\n",
            "retry.attempts",
        ),
    ] {
        let message = refusal(load(text, &[]).expect("parses").routes(&Environment::new()));
        assert!(message.contains(expected), "{text}: {message}");
    }
}

#[test]
fn what_a_model_leaves_out_is_as_the_defaults_say() {
    let text = "[defaults]\ncontinue = false\nretry = { attempts = 7, base_ms = 1 }\ntimeouts = { total_ms = 9 }\n\
                [models.a]\ntargets = [{provider = \"demo\", model = \"x\"}]\n\
                [models.b]\ntargets = [{provider = \"demo\", model = \"x\"}]\ncontinue = true\nretry = { attempts = 2 }\n";
    let routes = load(text, &[]).expect("parses").routes(&Environment::new()).expect("routes");
    let policy = |model: &str| routes.resolve(model, None).expect("known").policy;
    assert_eq!((policy("demo"), policy("demo").retry.attempts), (policy("a"), 7));
    let own = policy("b");
    assert_eq!((own.retry.attempts, own.retry.base.as_millis(), own.timeouts.total.as_millis()), (2, 1, 9));
    assert_eq!((own.continuing.most, policy("a").continuing.most), (3, 0));
}

#[test]
fn secrets_come_from_where_they_are_said_to_be() {
    let secret = file("from-a-file\r\n");
    let text = format!(
        "[providers.p]\ndialect = \"openai-chat\"\nbase_url = \"http://x/v1\"\n\
         keys = [\"plain\", \"env:P_KEY\", \"file:{}\"]\nheaders = {{ x-a = \"env:P_KEY\" }}\n",
        secret.path().display()
    );
    let pairs = [("P_KEY", "from-the-environment")];
    let config = load(&text, &pairs).expect("parses");
    let routes = config.routes(&environment(&pairs)).expect("routes");
    let endpoint = &routes.endpoints["p"];
    assert_eq!(endpoint.keys, ["plain", "from-the-environment", "from-a-file"]);
    assert_eq!(endpoint.headers, [("x-a".to_owned(), "from-the-environment".to_owned())]);
    let gone =
        "[providers.p]\ndialect = \"openai-chat\"\nbase_url = \"http://x/v1\"\nkeys = [\"file:/no/such\"]\n";
    let message = refusal(load(gone, &[]).expect("parses").routes(&Environment::new()));
    assert!(message.contains("providers.p") && message.contains("/no/such"), "{message}");
}

#[test]
fn limits_by_user_are_off_under_open_access_unless_set() {
    let config = load("", &[]).expect("parses");
    let (open, keyed) = (config.limits(true), config.limits(false));
    assert_eq!((open.requests_per_minute, open.running_streams_per_user, open.viewers_per_user), (0, 0, 0));
    assert_eq!((open.connections_per_user, keyed.connections_per_user), (0, 100));
    assert_eq!((open.sessions_per_user, keyed.sessions_per_user), (0, 1000));
    assert_eq!(
        (keyed.requests_per_minute, keyed.running_streams_per_user, keyed.viewers_per_user),
        (120, 20, 1000)
    );
    let set = load("[limits]\nrequests_per_minute = 3\nviewers_per_user = 0\n", &[]).expect("parses");
    assert_eq!((set.limits(true).requests_per_minute, set.limits(false).viewers_per_user), (3, 0));
}
